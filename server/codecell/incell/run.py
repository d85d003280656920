"""The run in flight: its limits, what was measured, and how it ended."""

from __future__ import annotations

import os
import time

from codecell.incell.channel import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from codecell.incell.child import Child
    from codecell.incell.counters import Reading

NEVER = float("inf")


class Run:
    """One run of one child."""

    __slots__ = (
        "again", "before", "bytes", "child", "deadline", "ended", "ending", "kill_bytes", "left",
        "maxrss_bytes", "number", "started", "status", "timeout_s",
    )  # fmt: skip

    def __init__(self, number: int, child: Child, limits: dict[str, Any]) -> None:
        self.number = number
        self.child = child
        self.timeout_s: float = limits["timeout_s"]
        self.again: bool = limits["again"]  # the cell serves its caller once more
        self.kill_bytes: int = limits["kill_bytes"]
        self.left: dict[int, int] = {STDOUT: limits["keep"], STDERR: limits["keep"]}
        self.bytes = {STDOUT: 0, STDERR: 0}
        self.ending = "exited"
        self.status: int | None = None  # as wait4 has it, once the program is dead
        self.maxrss_bytes = 0
        self.before: Reading | None = None  # None until the program is told to go
        self.started = self.ended = 0.0
        self.deadline = NEVER  # of the program, then of its output

    def go(self, before: Reading) -> None:
        """Let the program begin."""
        self.before = before
        self.started = time.monotonic()
        self.deadline = self.started + self.timeout_s
        self.child.start()

    def count(self, kind: int, size: int) -> int:
        """Count what the program printed; return how much of it is kept."""
        self.bytes[kind] += size
        keep = min(size, self.left[kind])
        self.left[kind] -= keep
        return keep

    @property
    def too_much(self) -> bool:
        """Whether it printed more than a program may."""
        return self.bytes[STDOUT] + self.bytes[STDERR] > self.kill_bytes

    def over(self, ending: str) -> None:
        """Note why the program ends; the first reason is the one."""
        if not self.ended:
            self.ending = ending
            self.ended = time.monotonic()

    def reaped(self, pid: int, status: int, maxrss_kib: int) -> bool:
        """Note one dead process; true when it was the program itself, and not one of its own."""
        self.maxrss_bytes = max(self.maxrss_bytes, maxrss_kib * 1024)
        if pid != self.child.pid or self.status is not None:  # the pid can come again
            return False
        self.status = status
        return True

    def facts(self, after: Reading) -> dict[str, object]:
        """Return what there is to say of it; every process is dead."""
        before, peak = self.before or after, after.peak_bytes
        code, signal = exit_or_signal(self.status)
        return {
            "ending": self.ending,
            "code": code,
            "signal": signal,
            "oom_kills": after.oom_kills - before.oom_kills,
            "wall_s": max(self.ended - (self.started or self.ended), 0.0),
            "cpu_s": after.cpu_since(before),
            "peak_memory_bytes": peak if peak > before.peak_bytes else self.maxrss_bytes,
            "stdout_bytes": self.bytes[STDOUT],
            "stderr_bytes": self.bytes[STDERR],
            "failure": self.child.failure(),
        }


def exit_or_signal(status: int | None) -> tuple[int | None, int | None]:
    """Return the exit code or the signal in a wait status, and None for the other."""
    if status is None or os.WIFSIGNALED(status):
        return None, 9 if status is None else os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None
