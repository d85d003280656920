"""Leave nothing of a run in a cell that its caller uses again; what can't be wiped ends the cell.

The processes are dead already (agent.Agent.end), and with them what belongs to processes: sockets,
timers, locks, rlimits, signal dispositions. What outlives a process is wiped here: files and what
hangs on them, POSIX shared memory and message queues (files too), System V IPC.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from codecell.incell.files import AsOwner
from codecell.incell.libc import make_ipc, remove_ipc
from codecell.incell.program import content_of

PLACES = ("/sandbox", "/tmp", "/dev/shm", "/dev/mqueue")
# As they were before the first program. The kernel alone sets the last time of change: of mode,
# attributes or times, and of what is in a directory.
FIRST = {place: os.stat(place) for place in PLACES if os.path.isdir(place)}
SECONDS = 0.5  # a tree that takes longer is a new cell's work
DEPTH = 64
GONE = (errno.EINVAL, errno.EIDRM)
UNLISTED_MOST = 50_000  # of one kind in one run
SYSV = (
    ("/proc/sysvipc/shm", "shmctl"),
    ("/proc/sysvipc/sem", "semctl"),
    ("/proc/sysvipc/msg", "msgctl"),
)


class Unwiped(Exception):
    """Something of the run is still there."""


def wipe(places: tuple[str, ...] = PLACES) -> None:
    """Empty every writable place and remove System V IPC.

    Raises:
        Unwiped: it took too long, or something withstood.
        OSError: the same, in the kernel's words.
    """
    deadline = time.monotonic() + SECONDS
    for place in places:
        try:
            now = os.stat(place)
        except FileNotFoundError:
            continue
        if not _untouched(place, now):
            _reset(place, now)
            _empty(place, deadline, DEPTH)
            if os.listdir(place):
                raise Unwiped(place)
    for table, control in SYSV:
        _remove_ipc(table, control)


def _untouched(place: str, now: os.stat_result) -> bool:
    first = FIRST.get(place)
    return first is not None and now.st_ctime_ns == first.st_ctime_ns and not os.listdir(place)


def _reset(place: str, now: os.stat_result) -> None:
    """Undo what the owner of the directory itself can set: mode, attributes, times."""
    if now.st_uid == 0 != os.getuid():
        return  # nothing that the program, who has our uid, could set
    first = FIRST.get(place)
    os.chmod(place, stat.S_IMODE(first.st_mode) if first else 0o700)
    for name in os.listxattr(place):
        os.removexattr(place, name)
    os.utime(place)


def _empty(path: str, deadline: float, depth: int) -> None:
    """Remove what is in a directory; nothing is followed, for nothing else is running."""
    if depth == 0 or time.monotonic() > deadline:
        raise Unwiped(path)
    with os.scandir(path) as entries:
        found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for child, is_dir in found:
        if is_dir:
            if stat.S_IMODE(os.lstat(child).st_mode) & 0o700 != 0o700:
                os.chmod(child, 0o700)
            _empty(child, deadline, depth - 1)
            os.rmdir(child)
        else:
            os.unlink(child)


def _remove_ipc(table: str, control: str) -> None:
    try:
        rows = content_of(table).splitlines()[1:]
    except OSError:
        with AsOwner():
            _remove_unlisted(control)
        return
    for row in rows:
        remove_ipc(control, int(row.split()[1]))


_newest: dict[str, int] = {}  # identifier by kind, at the last wipe


def _remove_unlisted(control: str) -> None:
    """Remove what a kernel does not list (gVisor): it counts identifiers up, and we take the next.

    Every one between our last and this one was the run's.
    """
    try:
        newest = make_ipc(control)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return  # a kernel without it
        raise
    oldest = _newest.get(control, -1) + 1
    if newest - oldest > UNLISTED_MOST:
        raise Unwiped(control)
    for identifier in range(oldest, newest + 1):
        try:
            remove_ipc(control, identifier)
        except OSError as error:
            if error.errno not in GONE:
                raise
    _newest[control] = newest
