"""A session's interpreter: a child that stays between the steps, and what the agent knows of it.

It says on `oops`, where other children say why they could not start, `+` when it takes its first
step and `NUMBER CODE` at the end of each. What a program writes there itself can only tell an exit
code of its own step, which it may choose anyway.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from codecell.incell.child import Child

SANDBOX = "/sandbox"
INTERRUPT_S = 0.75  # what an interrupted step may take to end before its interpreter is killed
DRAIN_BYTES = 1024 * 1024  # most that is taken of a stream once a step is done: the largest pipe
LINE = 256


class Session:
    """What outlives the runs of a cell that a caller keeps."""

    __slots__ = ("_place", "_text", "begun", "boot", "child", "deaf", "died", "generation")

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self.child: Child | None = None  # the interpreter
        self.generation = 0  # how many there have been
        self.begun = False  # whether the present one has taken a step
        self.deaf = False  # whether it has closed its end: then only its death can be noticed
        self.died = ""  # how the last one ended between two steps
        self._text = b""
        self._place = place()

    def take(self, child: Child) -> None:
        """Make a waiting child the interpreter."""
        self.child = child
        self.generation += 1
        self.begun = self.deaf = False
        self._text = b""

    def is_child(self, pid: int) -> bool:
        return self.child is not None and self.child.pid == pid

    def ended(self, how: str = "") -> None:
        """Note that it is no more; `how` where that was nobody's step."""
        self.child = None
        self.died = how

    def heard(self, number: int) -> int | None:
        """Read what it says; return the exit code of step `number` once that is done."""
        assert self.child is not None
        try:
            data = os.read(self.child.oops, 4096)
        except BlockingIOError:
            return None
        self.deaf = not data
        self._text += data
        *lines, self._text = self._text.split(b"\n")
        self._text = self._text[-LINE:]
        for line in lines:
            if line.lstrip(b"+") == b"":
                self.begun = True
                continue
            step, _, code = line.partition(b" ")
            if step == b"%d" % number and code.isdigit():
                return int(code[:3]) & 0xFF
        return None

    def failure(self) -> str:
        """Say why the interpreter never came to its first step, or nothing."""
        return "" if self.begun else self._text.lstrip(b"+").decode("utf-8", "replace")

    def facts(self, held_bytes: int) -> dict[str, object]:
        """Tell what there is now, each thing looked at now."""
        facts = {
            "boot": self.boot,
            "generation": self.generation,
            "alive": self.child is not None,
            "files": self._place == place() != (0, 0),
            "died": self.died,
            "memory_bytes": held_bytes,
        }
        self.died = ""
        return facts


def place() -> tuple[int, int]:
    """Identify the directory that the files are in."""
    try:
        found = os.stat(SANDBOX)
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
