"""`[languages.NAME]`: a language of the operator's, or a change to one of ours."""

import re
from dataclasses import replace
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from codecell.language import PLACEHOLDERS, Language
from codecell.model import Launch
from codecell.settings.sections import Count, Seconds, Section, Size

Command = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+#._-]{0,31}$")]
Variables = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str]


class LanguageSettings(Section):
    """One `[languages.NAME]`: a language of the operator's, or a change to one of ours."""

    title: str | None = Field(None, description="Name for people")
    aliases: tuple[Name, ...] | None = Field(None, description="Other names that are accepted")
    extensions: tuple[Annotated[str, Field(pattern=r"^\.[^./\s]+$")], ...] | None = Field(
        None, description="File name extensions, for the command-line's guess"
    )
    image: Annotated[str, Field(pattern=r"^[\w][\w./:@-]*$")] | None = Field(
        None, description="Image that has the toolchain and a python3; never fetched"
    )
    python: Annotated[str, Field(pattern=r"^/?[\w./-]+$")] | None = Field(
        None, description="The image's Python 3.9 or newer, for codecell's agent"
    )
    file_name: Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")] | None = Field(
        None, description="What the program is called in /sandbox"
    )
    compile: Command | None = Field(None, description="Command of the compile step")
    run: Command | None = Field(None, description="Command that runs the program")
    compile_env: Variables | None = Field(None, description="Environment of the compile step")
    env: Variables | None = Field(None, description="Environment of the program")
    memory: Size | None = Field(None, description="Memory of its cells")
    cpus: Annotated[float, Field(gt=0, le=64)] | None = Field(None, description="CPUs of its cells")
    processes: Count | None = Field(None, description="Processes and threads in its cells")
    sandbox: Size | None = Field(None, description="Size of /sandbox")
    tmp: Size | None = Field(None, description="Size of /tmp")
    compile_timeout_s: Seconds | None = Field(None, description="Time limit of the compile step")
    notes: str | None = Field(None, description="What list_languages says about it")

    @model_validator(mode="after")
    def _commands_can_be_executed(self) -> Self:
        for key in ("compile", "run"):
            command: tuple[str, ...] = getattr(self, key) or ()
            if command and not command[0].startswith(("/", "{")):
                raise ValueError(f"{key} must begin with an absolute path, such as /usr/bin/env")
            for unknown in re.findall(r"\{\w*\}", " ".join(command)):
                if unknown not in PLACEHOLDERS:
                    raise ValueError(
                        f"{key} has the unknown placeholder {unknown}; "
                        f"known: {', '.join(PLACEHOLDERS)}"
                    )
        return self

    def apply(self, name: str, known: Language | None) -> Language:
        """Return the language that this describes.

        Raises:
            ValueError: it is new and lacks what a new one needs.
        """
        given = {key: value for key, value in self if value is not None}
        renamed = {
            "memory": "memory_bytes", "processes": "pids",
            "sandbox": "sandbox_bytes", "tmp": "tmp_bytes",
        }  # fmt: skip
        values: dict[str, Any] = {renamed.get(key, key): value for key, value in given.items()}
        for key in ("env", "compile_env"):
            if key in values:
                values[key] = tuple(values[key].items())
        if known is None:
            for key in ("image", "file_name", "run"):
                if key not in values:
                    raise ValueError(f"languages.{name}.{key} is required for a new language")
            values = {"id": name, "title": name, "python": "python3", **values}
            return Language(**values)
        if "run" in values:  # what waits would still be the old one
            values["launch"] = Launch.EXEC
        if "compile" in values:
            values["compile_launch"] = Launch.EXEC
        if "image" in values:
            values.setdefault("python", "python3")
        if not {"run", "compile"}.isdisjoint(values):
            values["standby"] = values["kernel"] = None
        return replace(known, **values)
