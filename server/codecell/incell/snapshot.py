"""What a compile step has left in /sandbox, kept to be laid out anew before each test case."""

from __future__ import annotations

import os
import stat

from codecell.incell.files import AsOwner
from codecell.incell.libc import unforked_buffer

ROOT = "/sandbox"
ENTRIES = 5_000
MOST_BYTES = 64 * 1024 * 1024


class TooMuch(Exception):
    """More than can be kept."""


class Unkept:
    """Stands for what could not be kept: the first case finds it there, the next needs a new cell.

    Raising ends the cell, as with every failure of its agent; the server compiles again elsewhere.
    """

    def lay_out(self) -> None:
        raise TooMuch


def take(root: str = ROOT) -> Snapshot | Unkept:
    """Keep what is there, if that can be done."""
    try:
        return Snapshot(root)
    except (TooMuch, OSError):
        return Unkept()


def _fail(error: OSError) -> None:
    raise error


class Snapshot:
    """Directories, regular files and symlinks, in memory that a fork does not inherit.

    Taken and laid out while no other process is alive.
    """

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        self._directories: list[tuple[str, int]] = []
        self._links: list[tuple[str, str]] = []
        self._files: list[tuple[str, int, int, int]] = []  # path, mode, mtime in ns, size
        for folder, names, files in os.walk(root, onerror=_fail):
            for name in names + files:
                self._note(os.path.join(folder, name))
        size = sum(size for *_, size in self._files)
        if size > MOST_BYTES:
            raise TooMuch
        self._data = unforked_buffer(max(size, 1))
        self._read()

    def _note(self, path: str) -> None:
        info = os.lstat(path)
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            self._directories.append((path, mode))
        elif stat.S_ISLNK(info.st_mode):
            self._links.append((path, os.readlink(path)))
        elif stat.S_ISREG(info.st_mode):
            self._files.append((path, mode, info.st_mtime_ns, info.st_size))
        else:
            raise TooMuch(path)  # what nobody could lay out as it was
        if len(self._directories) + len(self._links) + len(self._files) > ENTRIES:
            raise TooMuch

    def _read(self) -> None:
        start = 0
        for path, _, _, size in self._files:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            end = start + size
            while start < end:
                count = os.readv(fd, [self._data[start:end]])
                if not count:
                    raise TooMuch(path)
                start += count
            os.close(fd)

    def lay_out(self) -> None:
        """Put everything where it was; the place is empty."""
        with AsOwner(self._root):
            self._lay_out()

    def _lay_out(self) -> None:
        for path, _ in self._directories:
            os.mkdir(path, 0o700)
        start = 0
        for path, mode, mtime, size in self._files:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path, flags, 0o600)
            end = start + size
            while start < end:
                start += os.write(fd, self._data[start:end])
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime, mtime))
            os.close(fd)
        for path, target in self._links:
            os.symlink(target, path)
        for path, mode in reversed(self._directories):
            os.chmod(path, mode)
