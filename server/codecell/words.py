"""The placeholders of a language's commands, and what stands for them in one program."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from codecell.ceilings import cell_limits
from codecell.language import PLACEHOLDERS, SANDBOX, Language
from codecell.settings import Policy

# {others} is no part of a word: see Words.fill.
_PLACEHOLDER = re.compile("|".join(re.escape(name) for name in PLACEHOLDERS if name != "{others}"))


@dataclass(frozen=True, slots=True)
class Words:
    """What the placeholders of a language's commands stand for, for one program."""

    file_name: str  # relative to /sandbox
    entry: str
    memory_mib: int
    others: tuple[str, ...] = ()  # further files to compile, the same way

    @classmethod
    def of(
        cls, language: Language, rules: Policy, code: str = "", path: str | None = None
    ) -> "Words":
        """Find them out; without a path a program may say what its file must be called."""
        given = PurePosixPath(path or language.file_name)
        name = language.naming(code, given.stem) if language.naming else None
        file_name = str(given) if path or not name else f"{name.stem}{given.suffix}"
        return cls(
            file_name=file_name,
            entry=name.entry if name else given.stem,
            memory_mib=cell_limits(language, rules.limits).memory_bytes // 2**20,
        )

    @property
    def main(self) -> str:
        """The program's path in the cell."""
        return f"{SANDBOX}/{self.file_name}"

    def fill(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """Put them into a command."""
        values = self._values()
        filled: list[str] = []
        for part in command:
            if part == "{others}":
                filled += [f"{SANDBOX}/{path}" for path in self.others]
            else:
                filled.append(_PLACEHOLDER.sub(lambda match: values[match[0]], part))
        return tuple(filled)

    def fill_values(self, env: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """Put them into the values of an environment."""
        values = self._values() if env else {}
        return tuple(
            (name, _PLACEHOLDER.sub(lambda match: values[match[0]], value)) for name, value in env
        )

    def _values(self) -> dict[str, str]:
        return {
            "{main}": self.main,
            "{stem}": str(PurePosixPath(self.file_name).with_suffix("")),
            "{entry}": self.entry,
            "{memory_mib}": str(self.memory_mib),
            "{heap_mib}": str(self.memory_mib * 5 // 4),
            "{soft_mib}": str(self.memory_mib * 9 // 10),
        }
