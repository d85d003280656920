"""One frozen `Settings` value, made once at the edge: flags, then `CODECELL_*`, then codecell.toml.

Nothing below `cli` reads the environment. Every field's description becomes a row of the README's
table (`codecell settings --markdown`, compared in the tests).
"""

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from codecell.errors import ConfigurationError
from codecell.language import PLACEHOLDERS, Language, Languages
from codecell.languages import DEFAULT_SET, LANGUAGES
from codecell.model import Launch

KIB = 1024
MIB = 1024 * KIB
ENV_PREFIX, ENV_DELIMITER = "CODECELL_", "__"


def _whole_bytes(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite size")
    return value


Size = Annotated[ByteSize, BeforeValidator(_whole_bytes), Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of codecell.toml: unknown keys are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class LimitSettings(Section):
    """Defaults for every run and the ceilings that nothing may pass."""

    timeout_s: Seconds = Field(30.0, description="Default time limit of a run, in seconds")
    max_timeout_s: Seconds = Field(300.0, description="Ceiling for a request's timeout, in seconds")
    compile_timeout_s: Seconds = Field(
        60.0, description="Default time limit of a compile step, in seconds"
    )
    max_compile_timeout_s: Seconds = Field(
        300.0, description="Ceiling for the compile time limit that a language may declare"
    )
    memory: Size = Field(ByteSize(256 * MIB), description="Memory of a cell; swap is never added")
    max_memory: Size = Field(
        ByteSize(2048 * MIB), description="Ceiling for the memory a language may declare"
    )
    cpus: Annotated[float, Field(gt=0, le=64)] = Field(0.5, description="CPUs of a cell")
    max_cpus: Annotated[float, Field(gt=0, le=64)] = Field(
        2.0, description="Ceiling for the CPUs a language may declare"
    )
    processes: Count = Field(50, description="Processes and threads in a cell")
    max_processes: Count = Field(
        512, description="Ceiling for the processes a language may declare"
    )
    output_chars: Count = Field(
        100_000, description="Characters of stdout, and of stderr, that a result keeps"
    )
    max_output_chars: Count = Field(400_000, description="Ceiling for output_chars")
    output_kill: Size = Field(
        ByteSize(64 * MIB), description="Bytes of output after which a run is ended (output_limit)"
    )
    code: Size = Field(ByteSize(MIB), description="Largest program accepted")
    stdin: Size = Field(ByteSize(MIB), description="Largest standard input accepted")
    sandbox: Size = Field(ByteSize(64 * MIB), description="Size of the working directory /sandbox")
    tmp: Size = Field(ByteSize(32 * MIB), description="Size of /tmp")
    max_tmpfs: Size = Field(
        ByteSize(1024 * MIB), description="Ceiling for /sandbox and /tmp together"
    )

    @model_validator(mode="after")
    def _defaults_within_ceilings(self) -> Self:
        pairs = (
            ("timeout_s", "max_timeout_s"),
            ("compile_timeout_s", "max_compile_timeout_s"),
            ("memory", "max_memory"),
            ("cpus", "max_cpus"),
            ("processes", "max_processes"),
            ("output_chars", "max_output_chars"),
        )
        for default, ceiling in pairs:
            if getattr(self, default) > getattr(self, ceiling):
                raise ValueError(f"limits.{default} is larger than its ceiling limits.{ceiling}")
        if self.sandbox + self.tmp > self.max_tmpfs:
            raise ValueError(
                "limits.sandbox and limits.tmp together are larger than limits.max_tmpfs"
            )
        if self.sandbox + self.tmp >= self.memory:
            raise ValueError("limits.sandbox and limits.tmp together must stay below limits.memory")
        return self


class RunSettings(Section):
    """How many runs at a time, and how many may wait."""

    concurrent: Count = Field(8, description="Runs in flight at a time; further callers wait")
    queue: Annotated[int, Field(ge=0)] = Field(
        64, description="Callers that may wait; a further one is told to retry"
    )


class PoolSettings(Section):
    """Cells kept ready before anyone asks."""

    languages: tuple[str, ...] = Field(
        DEFAULT_SET, description="Languages whose cells are made ahead of time"
    )
    min: Annotated[int, Field(ge=0, le=256)] = Field(
        2, description="Ready cells always kept per language; 0 lets idle languages go cold"
    )
    max: Annotated[int, Field(ge=0, le=256)] = Field(
        8,
        description="Ready cells kept per language while it is much used; 0 makes every cell cold",
    )
    memory: Size = Field(
        ByteSize(1024 * MIB), description="Memory that waiting cells may take together"
    )
    idle_s: Seconds = Field(
        30.0, description="Period after which cells that nobody needed begin to go, in seconds"
    )
    starting: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="Cells that may be starting at a time"
    )
    reuse: Literal["never", "caller"] = Field(
        "never",
        description="`never`: a cell serves one run; `caller`: one caller's runs share cells",
    )

    @model_validator(mode="after")
    def _least_within_most(self) -> Self:
        if self.min > self.max:
            raise ValueError("pool.min is larger than pool.max")
        return self


class EngineSettings(Section):
    """The container engine and how its images are named."""

    host: str | None = Field(
        None, description="Engine address; by default found as the Docker CLI finds it"
    )
    runtime: str | None = Field(
        None, description="OCI runtime (`runc`, `runsc`, `kata-*`); by default the engine's"
    )
    image_prefix: Annotated[str, Field(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$")] = Field(
        "codecell", description="Images are called PREFIX/LANGUAGE"
    )
    timeout_s: Seconds = Field(30.0, description="Deadline of every call to the engine, in seconds")


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
            values["standby"] = None
        return replace(known, **values)


class LogSettings(Section):
    """Log lines go to stderr as JSON."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Least severe level that is logged"
    )


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        frozen=True,
        extra="forbid",
        validate_default=True,
        nested_model_default_partial_update=True,
    )

    limits: LimitSettings = LimitSettings()
    runs: RunSettings = RunSettings()
    pool: PoolSettings = PoolSettings()
    engine: EngineSettings = EngineSettings()
    log: LogSettings = LogSettings()
    languages: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")], LanguageSettings] = (
        Field(default={}, description="Languages added or changed")
    )

    @cached_property
    def table(self) -> Languages:
        """The languages of this server: ours and the operator's."""
        ours = [
            self.languages[name].apply(name, language) if name in self.languages else language
            for name, language in LANGUAGES.items()
        ]
        new = [
            given.apply(name, None)
            for name, given in self.languages.items()
            if name not in LANGUAGES
        ]
        return Languages([*ours, *new])

    @model_validator(mode="after")
    def _languages_fit(self) -> Self:
        for name in self.pool.languages:
            if name not in self.table:
                raise ValueError(
                    f"pool.languages: unknown language {name!r}; known: {', '.join(self.table)}"
                )
        pairs = (
            ("memory", "max_memory"),
            ("cpus", "max_cpus"),
            ("processes", "max_processes"),
            ("compile_timeout_s", "max_compile_timeout_s"),
        )
        for name, given in self.languages.items():
            for key, ceiling in pairs:
                value, most = getattr(given, key), getattr(self.limits, ceiling)
                if value is not None and value > most:
                    raise ValueError(
                        f"languages.{name}.{key} is larger than its ceiling limits.{ceiling}"
                    )
            sandbox, tmp = given.sandbox or self.limits.sandbox, given.tmp or self.limits.tmp
            if sandbox + tmp > self.limits.max_tmpfs:
                raise ValueError(
                    f"languages.{name}.sandbox and tmp together are larger than limits.max_tmpfs"
                )
        return self


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings in their precedence: flags, environment, file.

    Args:
        config: a codecell.toml; None takes ./codecell.toml where there is one.
        flags: nested values that win over everything, as `{"engine": {"runtime": "runsc"}}`.

    Raises:
        ConfigurationError: naming the key that is unknown, malformed or contradictory.
    """
    path = config if config is not None else Path("codecell.toml")
    if config is not None and not config.is_file():
        raise ConfigurationError(f"configuration file {config} does not exist")

    class _Sources(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            toml = TomlConfigSettingsSource(settings_cls, toml_file=path)
            return init_settings, env_settings, toml

    _check_environment()
    try:
        return _Sources(**(flags or {}))
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    except SettingsError as error:
        raise ConfigurationError(f'{error}; a list is written as ["a", "b"]') from error


def _check_environment() -> None:
    """Refuse variables that would be ignored: pydantic-settings reads only the names it knows."""
    for name in sorted(os.environ):
        section = name.removeprefix(ENV_PREFIX).partition(ENV_DELIMITER)[0].lower()
        if name.startswith(ENV_PREFIX) and section not in Settings.model_fields:
            raise ConfigurationError(
                f"{name}: unknown; {ENV_PREFIX}<SECTION>{ENV_DELIMITER}<KEY> is read, with the "
                f"sections {', '.join(Settings.model_fields).upper()}"
            )


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in item["loc"])
        text = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        parts.append(f"{key}: {text.removeprefix('Value error, ')}" if key else text)
    return "; ".join(parts)


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, meaning) of every setting, for the README's generated table."""
    for section, field in Settings.model_fields.items():
        model = field.annotation
        if section == "languages":
            model, section = LanguageSettings, "languages.NAME"
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        for name, info in model.model_fields.items():
            yield f"{section}.{name}", _show(info.default), info.description or ""


def _show(value: object) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, ByteSize):
        return value.human_readable().replace(".0", "")
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
