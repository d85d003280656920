"""What a language is to codecell: one frozen value; and the table of those a server works with."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from codecell.errors import RequestError
from codecell.model import Kernel, Launch, Standby
from codecell.naming import Rule

SANDBOX = "/sandbox"
TMP = "/tmp"  # noqa: S108  the cell's own tmpfs, not this machine's
PYTHON = "/usr/bin/python3"
PLACEHOLDERS = (
    "{main}",
    "{others}",
    "{stem}",
    "{entry}",
    "{memory_mib}",
    "{heap_mib}",
    "{soft_mib}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """How one language is run.

    Commands are argument vectors, never shell lines. In them {main} is the program's path, {stem}
    the same relative to /sandbox and without the extension, {others} (an argument of its own) the
    further files with one of the language's extensions, {entry} the name it is started by (a Java
    class with its package), {memory_mib} the cell's memory, {heap_mib} a quarter more: a heap of
    that size is bounded by the kernel, whose counter proves why a program was ended; {soft_mib} a
    tenth less, for what should begin to save before that. They stand in the values of `env` too.

    Attributes:
        id: the name in requests and of the folder in images/.
        file_name: what the program is called in /sandbox, unless `naming` finds its name in it.
        run: the command; the request's args follow it.
        launch: how the process that runs it comes to be.
        compile: the command of a compile step, or empty.
        compile_project: the same where there are `others`; by default `compile`.
        sources: extensions of what `{others}` stands for; by default `extensions`.
        compile_launch: the same of the compiler's process.
        standby: what is started ahead of time and waits, for the step launched by `Launch.STANDBY`.
        kernel: how it lives through a session; None keeps files alone.
        start_variables: prefixes of environment variables that only a fresh start obeys; a run that
            sets one gets its own process.
        compile_env, env: environment of the steps; the request's own is the program's alone.
        takes_args: whether a program can see arguments at all.
        version: the command that prints the installed version, run once when the image is built.
        oom_mark: the file by which a runtime with a heap limit of its own tells that it ran out;
            empty where the kernel alone judges.
        preinstalled: what a program can import beyond the standard library.
        image: an operator's own image; None is ours.
        python: the interpreter in the image that the agent runs on.
        memory_bytes, cpus, pids, sandbox_bytes, tmp_bytes, compile_timeout_s: own limits where the
            toolchain needs them.
    """

    id: str
    title: str
    aliases: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    file_name: str
    naming: Rule | None = None
    run: tuple[str, ...]
    launch: Launch = Launch.EXEC
    compile: tuple[str, ...] = ()
    compile_project: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    compile_launch: Launch = Launch.EXEC
    standby: Standby | None = None
    kernel: Kernel | None = None
    start_variables: tuple[str, ...] = ()
    compile_env: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    takes_args: bool = True
    version: tuple[str, ...] = ()
    oom_mark: str = ""
    preinstalled: tuple[str, ...] = ()
    image: str | None = None
    python: str = PYTHON
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    sandbox_bytes: int | None = None
    tmp_bytes: int | None = None
    compile_timeout_s: float | None = None
    notes: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it answers to."""
        return (self.id, *self.aliases)


class Languages(Mapping[str, Language]):
    """The table: languages by id, in a fixed order, none sharing a name or an extension."""

    def __init__(self, languages: Iterable[Language]) -> None:
        self._by_id = {language.id: language for language in languages}
        self._by_name: dict[str, Language] = {}
        self._by_extension: dict[str, Language] = {}
        for language in self._by_id.values():
            for name in language.names:
                self._claim(self._by_name, "name", name, language)
            for extension in language.extensions:
                self._claim(self._by_extension, "extension", extension, language)

    @staticmethod
    def _claim(claims: dict[str, Language], what: str, claim: str, language: Language) -> None:
        other = claims.setdefault(claim, language)
        if other is not language:
            raise ValueError(f"{what} {claim!r} of {language.id} is {other.id}'s already")

    def __getitem__(self, name: str) -> Language:
        """Return the language of that id."""
        return self._by_id[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the ids in the order of the table."""
        return iter(self._by_id)

    def __len__(self) -> int:
        """Count the languages."""
        return len(self._by_id)

    def named(self, name: str) -> Language | None:
        """Return the language that answers to a name, however it is capitalised."""
        return self._by_name.get(name.strip().lower())

    def of_extension(self, extension: str) -> Language | None:
        """Return the language whose files end so; `.C` is not `.c`."""
        return self._by_extension.get(extension) or self._by_extension.get(extension.lower())

    def find(self, name: str) -> Language:
        """Return the language called `name` or one of its aliases.

        Raises:
            RequestError: listing the languages there are and suggesting the nearest.
        """
        found = self.named(name)
        if found is not None:
            return found
        near = difflib.get_close_matches(name.strip().lower(), self._by_name, n=1)
        hint = f" Did you mean {self._by_name[near[0]].id!r}?" if near else ""
        known = ", ".join(self)
        raise RequestError(
            f"language {name[:40]!r} is not supported. Supported languages: {known}.{hint}"
        )
