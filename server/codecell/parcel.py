"""What a cell is sent so that there is an agent in it: a command, then the agent's modules."""

from functools import cache
from importlib import resources

# Each after those that it imports; `modules` before everything else, as it says why.
PARTS = (
    "modules", "lazy", "compact", "libc", "counters", "channel", "output", "program", "files",
    "child", "run", "session", "wipe", "agent",
)  # fmt: skip
LAZY = ("values", "figures", "snapshot")  # made where a program wants them


@cache
def source(name: str) -> str:
    """Return the text of a file in incell/."""
    return (resources.files("codecell.incell") / name).read_text(encoding="utf-8")


def boot() -> str:
    """Return the program, for `python3 -c`, that takes the parcel from its stdin."""
    return source("boot.py")


def parcel(code: bytes = b"") -> bytes:
    """Return what goes first over the stream; boot.py's `read` says how it is laid out.

    Args:
        code: the modules as an earlier cell of the same image compiled them.
    """
    body = len(code).to_bytes(4, "big") + code + texts(compiled=bool(code))
    return len(body).to_bytes(4, "big") + body


@cache
def texts(*, compiled: bool) -> bytes:
    """Return names and sources, between NULs, of what is not compiled yet."""
    for file in resources.files("codecell.incell").iterdir():
        if file.is_file():
            source(file.name)  # all now: an upgrade may replace them under us
    names = {} if compiled else {part: f"codecell.incell.{part}" for part in PARTS}
    names |= {part: f"~codecell.incell.{part}" for part in LAZY}
    words = [word for part, name in names.items() for word in (name, source(f"{part}.py"))]
    return "\0".join(words).encode()
