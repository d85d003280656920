"""Leave nothing of a run in a cell that its caller uses again; whatever can't be wiped ends the cell.

The processes are dead already (agent.Agent.end), and with them what belongs to processes: sockets,
timers, locks, rlimits, signal dispositions. What outlives a process is wiped here: files and what
hangs on them, POSIX shared memory and message queues (files too), System V IPC.
"""

from __future__ import annotations

import ctypes
import os
import stat
import time

PLACES = ("/sandbox", "/tmp", "/dev/shm", "/dev/mqueue")
SECONDS = 0.5  # a tree that takes longer is a new cell's work
DEPTH = 64
IPC_RMID = 0
SYSV = (
    ("/proc/sysvipc/shm", "shmctl"),
    ("/proc/sysvipc/sem", "semctl"),
    ("/proc/sysvipc/msg", "msgctl"),
)


class Unwiped(Exception):
    """Something of the run is still there."""


def wipe(places=PLACES):
    """Empty every writable place and remove System V IPC.

    Raises:
        Unwiped: it took too long, or something withstood.
        OSError: the same, in the kernel's words.
    """
    deadline = time.monotonic() + SECONDS
    for place in places:
        if os.path.isdir(place):
            _reset(place)
            _empty(place, deadline, DEPTH)
            if os.listdir(place):
                raise Unwiped(place)
    for table, control in SYSV:
        _remove_ipc(table, control)


def _reset(place):
    """Undo what the owner of the directory itself can set: mode, attributes, times."""
    if os.stat(place).st_uid != os.getuid():
        return
    os.chmod(place, 0o700)
    for name in os.listxattr(place):
        os.removexattr(place, name)
    os.utime(place)


def _empty(path, deadline, depth):
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


def _remove_ipc(table, control):
    try:
        with open(table, encoding="ascii") as file:
            rows = file.read().splitlines()[1:]
    except OSError:
        return  # a kernel without it
    function = getattr(ctypes.CDLL(None, use_errno=True), control)
    for row in rows:
        identifier = int(row.split()[1])
        arguments = (
            (identifier, 0, IPC_RMID, 0) if control == "semctl" else (identifier, IPC_RMID, 0)
        )
        if function(*arguments) != 0:
            raise Unwiped(table)
