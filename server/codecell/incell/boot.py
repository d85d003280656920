"""What a cell starts with, as text behind `python3 -c`: makes the agent of what comes over stdin.

Its modules import each other as usual; none of them stays in `sys.modules` for a program to see.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def take(size: int) -> bytes:
    """Read so many bytes of stdin."""
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            os._exit(0)  # the server is gone
        data += more
    return data


def load(parcel: bytes) -> "dict[str, ModuleType]":
    """Make the modules: names and sources by turns, between NULs, each after those it imports.

    Those whose name begins with ~ are put by, for `lazy` to make.
    """
    parts = parcel.decode().split("\0")
    made = {}
    later = {}
    for name, source in zip(parts[::2], parts[1::2]):  # noqa: B905  strict= came with 3.10
        if name[0] == "~":
            later[name[1:]] = source
            continue
        module = made[name] = sys.modules[name] = type(sys)(name)
        exec(compile(source, "<" + name + ">", "exec", dont_inherit=True), module.__dict__)
    for name in made:
        del sys.modules[name]
    made["codecell.incell.lazy"].LOADED.update(made)
    made["codecell.incell.lazy"].SOURCES.update(later)
    return made


if __name__ == "__main__":
    agent = load(take(int.from_bytes(take(4), "big")))
    agent["codecell.incell.program"].begin(agent["codecell.incell.agent"].main(), agent)
