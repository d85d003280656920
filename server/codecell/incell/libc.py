"""The system calls that Python has no name for."""

from __future__ import annotations

import ctypes
import mmap

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
CAPABILITIES = 64  # more than there are: asking for one that is not there ends the list
MADV_DONTFORK = 10
F_SETPIPE_SZ = 1031
IPC_PRIVATE = 0
IPC_RMID = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def set_dumpable(*, dumpable: bool) -> None:
    """Say whether others of our uid may trace us, and read our memory and descriptors in /proc."""
    if _libc.prctl(PR_SET_DUMPABLE, int(dumpable), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def drop_bounds() -> None:
    """Empty the set of capabilities that this process and its children could ever get."""
    for number in range(CAPABILITIES):
        if _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            return


def widen(pipe: int, size: int) -> bool:
    """Have a pipe hold so many bytes; false where that is not to be had."""
    return bool(_libc.fcntl(pipe, F_SETPIPE_SZ, size) >= size)


def unforked_buffer(size: int) -> memoryview:
    """Return a writable view of memory that a fork does not inherit, and that is never unmapped.

    Not `mmap.mmap`: a child has a hole at the address, and freeing the object there, when the
    child's interpreter ends, would unmap whatever the program has had put into the hole since.
    """
    address = _libc.mmap(
        None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
    )
    if (
        address in (None, ctypes.c_void_p(-1).value)
        or _libc.madvise(address, size, MADV_DONTFORK) != 0
    ):
        raise OSError(ctypes.get_errno(), "mmap")
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def make_ipc(control: str) -> int:
    """Make a System V object that nobody else finds, and return its identifier."""
    sizes = {"shmctl": (mmap.PAGESIZE,), "semctl": (1,), "msgctl": ()}[control]
    identifier: int = getattr(_libc, control.replace("ctl", "get"))(IPC_PRIVATE, *sizes, 0o600)
    if identifier < 0:
        raise OSError(ctypes.get_errno(), control)
    return identifier


def remove_ipc(control: str, identifier: int) -> None:
    """Remove a System V object by `shmctl`, `semctl` or `msgctl`."""
    call = getattr(_libc, control)
    first = (identifier, 0) if control == "semctl" else (identifier,)
    if call(*first, IPC_RMID, 0) != 0:
        raise OSError(ctypes.get_errno(), control)
