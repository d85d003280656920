"""The system calls that Python has no name for."""

from __future__ import annotations

import os

# `ctypes` without its package, which is a millisecond of a cell's start and nothing we need.
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    Array,
    CFuncPtr,
    _SimpleCData,
    dlopen,
    dlsym,
    get_errno,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
CAPABILITIES = 64  # more than there are: asking for one that is not there ends the list
PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS = 0x3, 0x22
MADV_DONTFORK = 10
F_SETPIPE_SZ = 1031
IPC_PRIVATE = 0
IPC_RMID = 0


def _simple(code: str) -> Any:
    return type("Simple", (_SimpleCData,), {"_type_": code})


_Int, _Long, _Size, _Pointer, _Byte = map(_simple, "ilLPc")


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Int


_LIBC = dlopen(None, 0)  # type: ignore[arg-type]  # this process's own, as dlopen(3) has it


def _function(name: str) -> Any:
    """Return a function of the C library; what it takes and returns are ints if nothing is said."""
    return _Function(dlsym(_LIBC, name))


_prctl, _fcntl = _function("prctl"), _function("fcntl")
_mmap, _madvise = _function("mmap"), _function("madvise")
_mmap.restype = _Pointer
_mmap.argtypes = (_Pointer, _Size, _Int, _Int, _Int, _Long)
_madvise.argtypes = (_Pointer, _Size, _Int)


def set_dumpable(*, dumpable: bool) -> None:
    """Say whether others of our uid may trace us, and read our memory and descriptors in /proc."""
    if _prctl(PR_SET_DUMPABLE, int(dumpable), 0, 0, 0) != 0:
        raise OSError(get_errno(), "prctl")


def drop_bounds() -> None:
    """Empty the set of capabilities that this process and its children could ever get."""
    for number in range(CAPABILITIES):
        if _prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            return


def widen(pipe: int, size: int) -> bool:
    """Have a pipe hold so many bytes; false where that is not to be had."""
    return bool(_fcntl(pipe, F_SETPIPE_SZ, size) >= size)


def unforked_buffer(size: int) -> memoryview:
    """Return a writable view of memory that a fork does not inherit, and that is never unmapped.

    Not `mmap.mmap`: a child has a hole at the address, and freeing the object there, when the
    child's interpreter ends, would unmap whatever the program has had put into the hole since.
    """
    address = _mmap(None, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
    if address in (None, _Pointer(-1).value) or _madvise(address, size, MADV_DONTFORK) != 0:
        raise OSError(get_errno(), "mmap")
    array: Any = type("Bytes", (Array,), {"_type_": _Byte, "_length_": size})
    return memoryview(array.from_address(address)).cast("B")


def make_ipc(control: str) -> int:
    """Make a System V object that nobody else finds, and return its identifier."""
    sizes = {"shmctl": (os.sysconf("SC_PAGESIZE"),), "semctl": (1,), "msgctl": ()}[control]
    identifier: int = _function(control.replace("ctl", "get"))(IPC_PRIVATE, *sizes, 0o600)
    if identifier < 0:
        raise OSError(get_errno(), control)
    return identifier


def remove_ipc(control: str, identifier: int) -> None:
    """Remove a System V object by `shmctl`, `semctl` or `msgctl`."""
    call = _function(control)
    first = (identifier, 0) if control == "semctl" else (identifier,)
    if call(*first, IPC_RMID, 0) != 0:
        raise OSError(get_errno(), control)
