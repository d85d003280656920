"""What the cells of one session bring each other: which files changed where; pure.

A session has a cell per language, and its files are the same in all of them. What a step changed is
noted here with the address of its content; a cell that comes next is given what it has not seen.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from codecell.model import Change, ChangedFile, File, FileReport

HELD_BYTES = 16 * 1024 * 1024  # of files that came with requests: nowhere else are they kept


@dataclass(frozen=True, slots=True)
class Piece:
    """The newest state of one path.

    Attributes:
        origin: the language whose cell has it.
        content: the file itself, where it can be read, or None for one that is gone.
        left: why it can't be carried, or empty.
    """

    version: int
    origin: str
    content: File | ChangedFile | None
    left: str = ""


class Luggage:
    """The journal of one session's files."""

    def __init__(self) -> None:
        self.version = 0
        self._pieces: dict[str, Piece] = {}
        self._held = 0

    def pack(self, origin: str, brought: Iterable[File], report: FileReport) -> None:
        """Note what came with a request and what its step then changed."""
        self.version += 1
        for file in brought:
            if self._held + len(file.content) <= HELD_BYTES:
                self._held += len(file.content)
                self._pieces[file.path] = Piece(self.version, origin, file)
            else:
                self._pieces[file.path] = Piece(self.version, origin, None, "too_large")
        for changed in report.changed:
            gone = changed.change is Change.DELETED
            self._pieces[changed.path] = Piece(self.version, origin, None if gone else changed)
        for omitted in report.omitted:
            name = omitted.path if omitted.path is not None else "(others)"
            self._pieces[name] = Piece(self.version, origin, None, omitted.reason.value)

    def drop(self, origin: str) -> None:
        """Forget what only a cell that was lost had."""
        for path in [path for path, piece in self._pieces.items() if piece.origin == origin]:
            del self._pieces[path]

    def waiting(self, language: str, since: int) -> Iterator[tuple[str, Piece]]:
        """Yield what a cell that knows everything up to a version has not seen."""
        for path, piece in self._pieces.items():
            if piece.version > since and piece.origin != language:
                yield path, piece
