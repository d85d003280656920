"""What a cell starts with, as text behind `python3 -c`: makes the agent of what comes over stdin.

Its modules import each other as usual; none of them stays in `sys.modules` for a program to see.
"""

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

CODE = b"\xcc\x47\0\0\0\0"  # how its frames begin: see frames.py
PIECE = 65536


def take(size: int) -> bytes:
    """Read so many bytes of stdin."""
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            os._exit(0)  # the server is gone
        data += more
    return data


def read(parcel: bytes) -> "tuple[dict[str, CodeType], dict[str, str]]":
    """Return the modules' code by name, and the sources of those that are put by for `lazy`.

    A parcel is u32 length and so many bytes of code, marshalled by an interpreter of this image;
    then names and sources by turns, between NULs. A name that begins with ~ is put by.
    """
    size = int.from_bytes(parcel[:4], "big")
    codes = marshal.loads(parcel[4 : 4 + size]) if size else {}
    parts = parcel[4 + size :].decode().split("\0")
    later = {}
    for name, source in zip(parts[::2], parts[1::2]):  # noqa: B905  strict= came with 3.10
        if name[0] == "~":
            later[name[1:]] = source
        else:
            codes[name] = compile(source, "<" + name + ">", "exec", dont_inherit=True)
    return codes, later


def load(codes: "dict[str, CodeType]", later: "dict[str, str]") -> "dict[str, ModuleType]":
    """Make the modules, each after those it imports."""
    made = {}
    for name, code in codes.items():
        module = made[name] = sys.modules[name] = type(sys)(name)
        exec(code, module.__dict__)
    for name in made:
        del sys.modules[name]
    made["codecell.incell.lazy"].LOADED.update(made)
    made["codecell.incell.lazy"].SOURCES.update(later)
    return made


def tell(codes: "dict[str, CodeType]") -> None:
    """Send the server what compiling took 20 ms for: the next cell of this image is sent it."""
    data = marshal.dumps(codes)
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        frame = CODE + len(piece).to_bytes(4, "big") + piece
        while frame:  # gVisor takes a part of what a pipe has no room for
            frame = frame[os.write(1, frame) :]


def boot() -> "dict[str, ModuleType]":
    """Make the agent of what comes first."""
    parcel = take(int.from_bytes(take(4), "big"))
    codes, later = read(parcel)
    if parcel.startswith(b"\0\0\0\0"):  # it brought no code
        tell(codes)
    return load(codes, later)


if __name__ == "__main__":
    agent = boot()
    agent["codecell.incell.program"].begin(agent["codecell.incell.agent"].main(), agent)
