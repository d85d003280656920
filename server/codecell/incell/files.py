"""The files of a run, on PID 1's side: what is written before it, and what it has changed.

A run's files are written here and not by its own process, so that what was there before the program
began is known beyond its reach. Afterwards the tree is looked through relative to descriptors and
nothing is ever followed: only a regular file is opened, without blocking, so that it does no harm
if somebody else is alive in the cell and puts something else in its place.

    tree.begin(); tree.open(payload); tree.write(data); tree.close()   # before a run
    tree.accept()        # after a compile step, or to start afresh: what is there is the baseline
    tree.changes()       # after a run: [(path, change)], against the baseline and the files sent
    tree.send(...)       # steps that send the manifest and the contents

For a session: `changes()` after each step, then `accept()` (both look only at what `stat` tells of
a file, so an unchanged tree costs some 3 us a file), then `send`. What is not seen: a file changed
in place through a mapping that was first read from, or changed within one tick of the kernel's
clock (4 ms) with its size, inode and times put back. Files sent with the run are compared by their
SHA-256 up to HASHED bytes each; that sees both.
"""

from __future__ import annotations

import os
import stat
import time

from codecell.incell.channel import COLLECTED, CONTENT, ENTRY, SEALED
from codecell.incell.libc import unforked_buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from hashlib import sha256

    from codecell.incell.channel import Channel
else:
    try:
        from _sha2 import sha256  # the interpreter's own: `hashlib` would load OpenSSL
    except ImportError:
        from _sha256 import sha256  # before 3.12

ROOT = "/sandbox"
HASHED = 1024 * 1024
CHUNK = 64 * 1024
SECONDS = 1.0  # for one look through the tree
ENTRIES = 50_000
DEPTH = 32
PATH_BYTES = 4096
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
SPECIAL = {stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}


class AsOwner:
    """Within it files are made as the program would make them, whom /sandbox belongs to.

    The agent is that user itself, but for gVisor, where it is root (see Runtime.agent_apart).
    """

    __slots__ = ("_apart", "_root")

    def __init__(self, root: str = ROOT) -> None:
        self._root, self._apart = root, False

    def __enter__(self) -> None:
        if os.geteuid() == 0 and (uid := os.stat(self._root).st_uid) != 0:
            self._apart = True
            os.setegid(uid)
            os.seteuid(uid)

    def __exit__(self, *_: object) -> None:
        if self._apart:
            os.seteuid(0)
            os.setegid(0)


BUFFER = unforked_buffer(CHUNK)  # no later run finds in its heap what an earlier one wrote


class Tree:
    """What is under /sandbox, and what was there before."""

    __slots__ = (
        "_before", "_fd", "_now", "_path", "_root", "_sent", "_unlocked", "failure", "whole",
    )  # fmt: skip

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        self._fd, self._path = -1, ""
        self._before: dict[str, int] = {}  # path -> what stat told of it
        self._now: dict[str, int] = {}
        self._sent: dict[str, tuple[bytes, int]] = {}  # path -> SHA-256 and mode
        self._unlocked: list[tuple[str, int]] = []  # what had a mode that was in the way
        self.failure = ""  # why a file could not be written
        self.whole = True  # whether the last look saw everything

    # before a run

    def begin(self) -> None:
        """Expect the files of the next run."""
        self.close()
        self.failure = ""

    def open(self, payload: memoryview) -> None:
        """Begin a file: u32 mode, u16 length of the path, SHA-256, path, first bytes."""
        self.close()
        mode = int.from_bytes(payload[:4], "big")
        end = 38 + int.from_bytes(payload[4:6], "big")
        path = str(payload[38:end], "utf-8")
        try:
            with AsOwner(self._root):
                parent, name = self._descend(path, make=True)
                try:
                    self._fd = os.open(name, CREATE, mode, dir_fd=parent)
                finally:
                    os.close(parent)
            self._path = path
            self._sent[path] = bytes(payload[6:38]), os.fstat(self._fd).st_mode
            self._before.pop(path, None)
        except OSError as error:
            self.failure = self.failure or f"{path}: {error.strerror}"
        self.write(payload[end:])

    def remove(self, path: str) -> None:
        """Remove a file that another cell of the session has lost; it may be gone already."""
        try:
            parent, name = self._descend(path)
            try:
                os.unlink(name, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError:
            pass
        self._before.pop(path, None)
        self._sent.pop(path, None)

    def write(self, data: memoryview) -> None:
        """Append to the file."""
        try:
            while self._fd >= 0 and data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self.failure = self.failure or f"a file of the request: {error.strerror}"
            self.close()

    def close(self) -> None:
        """End the file that is being written, and note what tells a large one's change."""
        if self._fd >= 0:
            info = os.fstat(self._fd)
            if info.st_size > HASHED:
                self._before[self._path] = identity(info)
            os.close(self._fd)
            self._fd = -1

    # after a run

    def accept(self, *, look: bool = True) -> None:
        """Take what is there now, or what the last look saw, for the baseline."""
        self._before = self._look() if look else self._now
        self._sent.clear()

    def forget(self) -> None:
        """Start with an empty baseline, as after a wipe."""
        self._before, self._now = {}, {}
        self._sent.clear()

    def changes(self) -> list[tuple[str, str]]:
        """Return the path and `created`, `modified` or `deleted` of all that is not as before.

        The list is in the order of the paths. Nothing is called deleted that was not looked for.
        """
        before, now = self._before, self._look()
        found: list[tuple[str, str]] = []
        if self.whole and not self._sent and now == before:
            return found
        for path, seen in now.items():
            if path in self._sent:
                if not self._as_sent(path):
                    found.append((path, "modified"))
            elif path not in before:
                found.append((path, "created"))
            elif before[path] != seen:
                found.append((path, "modified"))
        if self.whole:
            gone = (path for paths in (before, self._sent) for path in paths if path not in now)
            found += [(path, "deleted") for path in dict.fromkeys(gone)]
        found.sort()
        return found

    def _as_sent(self, path: str) -> bool:
        """Tell whether a file still has the content that was sent."""
        if self._now[path] == self._before.get(path):  # noted by `settle`
            return True
        try:
            fd = self._open_file(path)
        except OSError:
            return False
        try:
            info, sent = os.fstat(fd), self._sent[path]
            left = info.st_size
            if left > HASHED or info.st_mode != sent[1]:
                return False
            digest = sha256()
            while left > 0 and (count := os.readv(fd, [BUFFER])):
                digest.update(BUFFER[:count])
                left -= count
            return left == 0 and digest.digest() == sent[0]
        finally:
            os.close(fd)

    def _look(self) -> dict[str, int]:
        """Return what stat tells of everything but directories."""
        self._now = {}
        self.whole = True
        fd = os.open(self._root, DIRECTORY)
        try:
            self._walk("", fd, time.monotonic() + SECONDS, DEPTH)
        finally:
            os.close(fd)
        return self._now

    def _walk(self, prefix: str, fd: int, deadline: float, depth: int) -> None:
        found, below = self._now, []
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.name)
                        continue
                    info = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone meanwhile
                # `identity`, written out: a call costs a fifth of all that a file costs here.
                found[prefix + entry.name] = hash(
                    (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_mode)
                )
        for name in below:
            if depth == 0 or len(found) > ENTRIES or time.monotonic() > deadline:
                self.whole = False
                return
            try:
                child = self._unlocking(prefix + name, name, fd, DIRECTORY)
            except OSError:
                self.whole = False
                continue
            try:
                self._walk(f"{prefix}{name}/", child, deadline, depth - 1)
            finally:
                os.close(child)

    def _open_file(self, path: str) -> int:
        parent, name = self._descend(path)
        try:
            return self._unlocking(path, name, parent, REGULAR)
        finally:
            os.close(parent)

    def _unlocking(self, path: str, name: str, parent: int, flags: int) -> int:
        """Open something of ours, whatever its mode; `restore` gives that back."""
        try:
            return os.open(name, flags, dir_fd=parent)
        except PermissionError:
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            mode = os.fstat(handle).st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                os.chmod(f"/proc/self/fd/{handle}", stat.S_IMODE(mode) | 0o700)
                self._unlocked.append((path, stat.S_IMODE(mode)))
            return os.open(name, flags, dir_fd=parent)
        finally:
            os.close(handle)

    def restore(self) -> None:
        """Give back the modes that were in the way; below first."""
        while self._unlocked:
            path, mode = self._unlocked.pop()
            try:
                parent, name = self._descend(path)
            except OSError:
                continue
            try:
                handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                os.chmod(f"/proc/self/fd/{handle}", mode)
                os.close(handle)
            except OSError:
                pass
            finally:
                os.close(parent)

    def _descend(self, path: str, *, make: bool = False) -> tuple[int, str]:
        """Open the directory of a path, component by component; return it and the last name."""
        *above, name = path.split("/")
        fd = os.open(self._root, DIRECTORY)
        for part in above:
            try:
                if make:
                    try:
                        os.mkdir(part, dir_fd=fd)
                    except FileExistsError:
                        pass
                child = os.open(part, DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = child
        return fd, name

    # sending

    def send(
        self, channel: Channel, run: int, changes: list[tuple[str, str]], limits: dict[str, int]
    ) -> Iterator[None]:
        """Send what changed; yields before everything that needs room in the channel.

        Args:
            channel: where to.
            run: the number that the frames carry.
            changes: what `changes` returned.
            limits: `count` files are described, each with up to `file` bytes of content and
                `size` bytes in all.
        """
        left = limits["size"]
        for path, change in changes[: limits["count"]]:
            yield
            entry, fd = self._describe(path, change, min(limits["file"], left))
            channel.tell(ENTRY, run, **entry)
            if fd < 0:
                continue
            try:
                before = os.fstat(fd)
                sent = 0
                while True:
                    yield
                    # One byte more than there should be is asked for: a file that grows is seen.
                    most = min(CHUNK, before.st_size - sent + 1)
                    count = os.readv(fd, [channel.chunk()[:most]])
                    if count == 0 or sent + count > before.st_size:
                        break
                    channel.pass_on(CONTENT, run, count)
                    sent += count
                same = sent == before.st_size and identity(os.fstat(fd)) == identity(before)
                yield
                channel.tell(SEALED, run, whole=same)
                left -= sent
            finally:
                os.close(fd)
        self.restore()
        yield
        more = max(0, len(changes) - limits["count"])
        channel.tell(COLLECTED, run, more=more, whole=self.whole)

    def _describe(self, path: str, change: str, most: int) -> tuple[dict[str, object], int]:
        """Return what there is to say of a path, and its content's descriptor or -1."""
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        entry: dict[str, object] = {"path": shown, "change": change}
        if shown != path:
            entry["reason"] = "name_not_utf8"
        if change == "deleted":
            return entry, -1
        try:
            parent, name = self._descend(path)
        except OSError:
            entry["reason"] = "unreadable"
            return entry, -1
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            entry["size"], entry["mode"] = info.st_size, self._mode(path, info)
            if not stat.S_ISREG(info.st_mode):
                entry.setdefault("reason", SPECIAL.get(stat.S_IFMT(info.st_mode), "device"))
            if stat.S_ISLNK(info.st_mode):
                target = os.fsencode(os.readlink(name, dir_fd=parent))
                entry["target"] = target.decode("utf-8", "backslashreplace")
            if info.st_size > most:
                entry.setdefault("reason", "too_large")
            if "reason" in entry:
                return entry, -1
            fd = self._unlocking(path, name, parent, REGULAR)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return entry, fd
            os.close(fd)  # it has become something else meanwhile
        except OSError:
            pass
        finally:
            os.close(parent)
        entry["reason"] = "unreadable"
        return entry, -1

    def _mode(self, path: str, info: os.stat_result) -> int:
        """Return a mode as the program left it."""
        return dict(self._unlocked).get(path, stat.S_IMODE(info.st_mode))


def identity(info: os.stat_result) -> int:
    """Return one number for what tells a change; equal for equal, and else never by chance."""
    return hash((info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_mode))
