"""One chain on disk: a file being written, older ones, and the head; blocking.

In the folder, for chain N: `audit.N.jsonl` is being written, `audit.N.000000000001.jsonl` is an
older one, named by its first line, `audit.N.head` is the anchor. One server writes one chain: it
holds a lock on the head. A second server in the same folder takes the next N.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from codecell.audit.chain import Head, Place, digest, encode
from codecell.errors import ConfigurationError

MOST_CHAINS = 64
HEAD_BYTES = 256  # one sector and less: it is replaced in one go
_NEW = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

log = structlog.get_logger(__name__)


class Book:
    """A chain that this process writes.

    Attributes:
        head: where the chain stands.
        name: of the chain, for logs.
        dropped: bytes of an unfinished last line that a killed server had left.
    """

    def __init__(self, folder: Path, number: int, head_fd: int, *, rotate: int, keep: int) -> None:
        self.name = f"audit.{number}"
        self._folder, self._rotate, self._keep = folder, rotate, keep
        self._head_fd = head_fd
        self._current = folder / f"{self.name}.jsonl"
        (folder / f"{self.name}.new").unlink(missing_ok=True)
        self._fd = os.open(self._current, _NEW, 0o600)
        os.fchmod(self._fd, 0o600)
        self.dropped = self._drop_unfinished()
        self.head = self._continue()
        self._size = os.fstat(self._fd).st_size

    # writing

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records as the next lines; all of them or, when that fails, none.

        Raises:
            OSError: no space, or whatever else the disk says.
        """
        if os.fstat(self._fd).st_size != self._size:  # left by a failure that could not be undone
            os.ftruncate(self._fd, self._size)
        if self._size >= self._rotate:
            self._turn()
        head, lines = self.head, []
        for record in records:
            line = encode(record, head)
            head = head.then(line)
            lines.append(line)
        data = b"\n".join([*lines, b""])
        try:
            _write_all(self._fd, data)
            self._anchor(head)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        self.head = head

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._fd)
        os.fsync(self._head_fd)

    def close(self) -> None:
        """Let go; the lock goes with the head's descriptor."""
        os.close(self._fd)
        os.close(self._head_fd)

    def _anchor(self, head: Head) -> None:
        data = head.text().encode().ljust(HEAD_BYTES - 1) + b"\n"
        if os.pwrite(self._head_fd, data, 0) != len(data):
            raise OSError("the head could not be written whole")

    def _turn(self) -> None:
        """Put the full file aside and begin the next; the chain goes on."""
        os.fsync(self._fd)
        first = _first_seq(self._current)
        new = self._folder / f"{self.name}.new"
        fd = os.open(new, _NEW | os.O_EXCL, 0o600)
        self._current.rename(self._folder / f"{self.name}.{first:012}.jsonl")
        new.rename(self._current)
        os.close(self._fd)
        self._fd, self._size = fd, 0
        self._forget()

    def _forget(self) -> None:
        """Remove the oldest files past `keep`; the head says so before they go."""
        old = older(self._folder, self.name)
        if not self._keep or len(old) <= self._keep:
            return
        gone, kept = old[: -self._keep], old[-self._keep]
        self.head = replace(self.head, first=_first_seq(kept))
        self._anchor(self.head)
        for path in gone:
            path.unlink(missing_ok=True)

    # going on where the last server stopped

    def _drop_unfinished(self) -> int:
        """Cut off a last line that has no end: its server was killed while it wrote."""
        size = os.fstat(self._fd).st_size
        whole = _whole_bytes(self._current)
        if whole < size:
            os.ftruncate(self._fd, whole)
        return size - whole

    def _continue(self) -> Head:
        files = [*older(self._folder, self.name), self._current]
        last = next((line for path in reversed(files) if (line := _last_line(path))), None)
        head = read_head(self._head_fd)
        if last is None and head is None:
            new = Head(secrets.token_hex(8))
            self._anchor(new)  # before the first line: a chain without a head is a broken one
            return new
        if last is None and head is not None and head.seq == 0:
            return head
        if head is None or last is None:
            raise BrokenChain
        seq, chain = _seq_and_chain(last)
        if chain != head.chain or seq < head.seq:
            raise BrokenChain
        if seq == head.seq and digest(last) != head.hash:
            raise BrokenChain
        return Head(chain, head.first, seq, digest(last))


class BrokenChain(Exception):
    """The end of a chain is not what its head says; going on would hide that."""


def open_book(folder: Path, *, rotate: int, keep: int) -> tuple[Book, list[str]]:
    """Open the first chain that no other server writes; also name those that are broken.

    Raises:
        ConfigurationError: the folder can't be written, or every chain is taken.
    """
    broken: list[str] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(MOST_CHAINS):
            path = folder / f"audit.{number}.head"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return Book(folder, number, fd, rotate=rotate, keep=keep), broken
            except BlockingIOError:
                os.close(fd)
            except BrokenChain:
                os.close(fd)
                broken.append(f"audit.{number}")
    except OSError as error:
        raise ConfigurationError(f"audit.folder {folder}: {error.strerror or error}") from error
    raise ConfigurationError(
        f"audit.folder {folder}: all {MOST_CHAINS} chains are taken or broken; "
        "see `codecell audit verify`, and give this server a folder of its own"
    )


# reading


def chains(folder: Path) -> list[str]:
    """Name the chains in a folder."""
    names = {".".join(path.name.split(".")[:2]) for path in folder.glob("audit.*.*")}
    return sorted(names, key=lambda name: (len(name), name))


def older(folder: Path, name: str) -> list[Path]:
    """Return a chain's files that are not written any more, oldest first."""
    return sorted(folder.glob(f"{name}.{'[0-9]' * 12}.jsonl"))


def lines(folder: Path, name: str) -> Iterator[tuple[Place, bytes]]:
    """Yield a chain's lines, oldest first; one that is being written has no end and is left out."""
    for path in (*older(folder, name), folder / f"{name}.jsonl"):
        if not path.exists():
            continue
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield Place(path.name, number), line[:-1]


def head_of(folder: Path, name: str) -> Head | None:
    """Read a chain's head; None where it is missing or is none."""
    try:
        fd = os.open(folder / f"{name}.head", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return read_head(fd)
    finally:
        os.close(fd)


def read_head(fd: int) -> Head | None:
    """Read a head from its file; None where there is none yet."""
    try:
        return Head.parse(os.pread(fd, HEAD_BYTES, 0).decode())
    except ValueError:
        return None


def _seq_and_chain(line: bytes) -> tuple[int, str]:
    try:
        record = json.loads(line)
        return int(record["seq"]), str(record["chain"])
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenChain from error


def _first_seq(path: Path) -> int:
    with path.open("rb") as file:
        return _seq_and_chain(file.readline())[0]


def _last_line(path: Path) -> bytes | None:
    """Return the last whole line, read from the end."""
    end = _whole_bytes(path)
    if end == 0:
        return None
    start = _newline_before(path, end - 1)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - 1 - start)


def _whole_bytes(path: Path) -> int:
    """Count the bytes up to the end of the last whole line."""
    return _newline_before(path, path.stat().st_size) if path.exists() else 0


def _newline_before(path: Path, end: int) -> int:
    """Return the offset after the last newline before `end`; 0 where there is none."""
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
