"""The run in flight: its limits, what was measured, and how it ended."""

from __future__ import annotations

import os
import stat
import time

from codecell.incell.channel import NEVER, STDERR, STDOUT, VALUES
from codecell.incell.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from codecell.incell.child import Child
    from codecell.incell.counters import Reading

ENDED_WELL = b"((ended well)"  # as /proc/PID/stat shows it, less the last bracket
PF_EXITING = 4  # in include/linux/sched.h; /proc/PID/stat shows it
LOOKS, LOOK_S = 20, 0.0001
VALUES_FILE = "/tmp/.codecell-values"  # not open in a program that shows none


class Run:
    """One run of one child."""

    __slots__ = (
        "again", "before", "case", "child", "compiles", "deadline", "done", "drained", "ended",
        "ending", "kill_bytes", "looked", "maxrss_bytes", "number", "oom_mark", "outputs",
        "parting", "session", "started", "status", "step", "timeout_s", "told", "values",
        "wide",
    )  # fmt: skip

    def __init__(self, number: int, child: Child, limits: dict[str, Any]) -> None:
        self.number = number
        self.child = child
        self.timeout_s: float = limits["timeout_s"]
        self.again: bool = limits["again"]  # the cell serves its caller once more
        self.compiles: bool = limits["compiles"]  # what it leaves is not the program's doing
        self.case: str = limits.get("case", "")  # one of several: `compile`, `next` or `last`
        self.kill_bytes: int = limits["kill_bytes"]
        self.session: str = limits.get("session", "")  # what of it stays: see model.Keep
        self.step: str = limits.get("step", "")  # what the interpreter of a session is told
        self.done = False  # the interpreter of a session has ended the step, and lives
        self.drained = 0  # bytes taken since then
        keep, tail = limits["keep"], limits["tail"]
        self.outputs = {kind: Output(kind, keep, tail) for kind in (STDOUT, STDERR)}
        self.told = False  # whether the ends of its output are on their way
        self.wide: dict[int, bool] = {}  # pipes that much came through; whether they hold more now
        self.values: int = limits["values"]  # bytes of them that the server takes
        self.ending = "exited"
        self.status: int | None = None  # as wait4 has it, once the program is dead
        self.looked = False
        self.parting = False  # whether its end was seen before it was reaped
        self.maxrss_bytes = 0
        self.before: Reading | None = None  # None until the program is told to go
        self.oom_mark: str = limits.get("oom_mark", "")
        self.started = self.ended = 0.0
        self.deadline = NEVER  # of the program, then of its output

    def go(self, before: Reading) -> None:
        """Let the program begin."""
        if self.oom_mark and os.path.exists(self.oom_mark):  # of an earlier run in a session
            os.unlink(self.oom_mark)
        self.before = before
        self.started = time.monotonic()
        self.deadline = self.started + self.timeout_s
        if self.step:
            self.child.step(self.step.encode())
        else:
            self.child.start()

    @property
    def too_much(self) -> bool:
        """Whether it printed more than a program may."""
        return self.outputs[STDOUT].size + self.outputs[STDERR].size > self.kill_bytes

    def over(self, ending: str) -> None:
        """Note why the program ends; the first reason is the one."""
        if not self.ended:
            self.ending = ending
            self.ended = time.monotonic()

    def parts(self) -> bool:
        """Look whether the program is ending at this moment, as its interpreter has hinted.

        A hint is worth nothing by itself: what counts is what the kernel shows of the program's own
        process. One look a run, of 2 ms at most.
        """
        if self.before is None or self.status is not None or self.looked:
            return False
        self.looked = True
        held = resident_peak_bytes(self.child.pid)
        status = None
        for _ in range(LOOKS):
            status = ending_status(self.child.pid)
            if status is not None:
                break
            time.sleep(LOOK_S)
        if status is None or held == 0:  # it goes on, or is dead already
            return False
        self.parting = True
        self.over("exited")
        self.status = status
        self.maxrss_bytes = max(self.maxrss_bytes, held)
        return True

    def reaped(self, pid: int, status: int, maxrss_kib: int) -> bool:
        """Note one dead process; true when it was the program itself, and not one of its own."""
        self.maxrss_bytes = max(self.maxrss_bytes, maxrss_kib * 1024)
        if pid != self.child.pid or self.status is not None:  # the pid can come again
            return False
        self.status = status
        return True

    def gather(self) -> None:
        """The program, or its step in a session, has ended: take in what it has shown."""
        if self.values:
            fd = values_file()
            if fd >= 0:
                self.outputs[VALUES] = Output(VALUES, self.values, 0)
                self.child.pipes[fd] = VALUES

    def facts(self, after: Reading) -> dict[str, object]:
        """Return what there is to say of it; every process is dead."""
        before, peak = self.before or after, after.peak_bytes
        code, signal = exit_or_signal(self.status)
        return {
            "ending": self.ending,
            "code": code,
            "signal": signal,
            "oom_kills": after.kills_since(before),
            "heap_full": bool(self.oom_mark) and os.path.exists(self.oom_mark),
            "wall_s": max(self.ended - (self.started or self.ended), 0.0),
            "cpu_s": after.cpu_since(before),
            "peak_memory_bytes": peak if peak > before.peak_bytes else self.maxrss_bytes,
            "stdout_bytes": self.outputs[STDOUT].size,
            "stderr_bytes": self.outputs[STDERR].size,
            "stdout_sha256": self.outputs[STDOUT].sha256,
            "stderr_sha256": self.outputs[STDERR].sha256,
            "failure": self.child.failure(),
        }


def resident_peak_bytes(pid: int) -> int:
    """Return the most memory that a living process has held at a time; 0 if it is gone."""
    _, _, rest = _read(pid, "status").partition(b"\nVmHWM:")
    return int(rest.split(None, 1)[0]) * 1024 if rest else 0


def ending_status(pid: int) -> int | None:
    """Return the wait status that a process is ending with, or None while it goes on.

    It ends if the kernel is taking it apart, or if it bears the name that standby.js gives itself
    as its last act. A program that makes itself unreadable or takes that name, and has PID 1 look
    then, is found to have ended with 0: the same as if it did.
    """
    name, _, rest = _read(pid, "stat").rpartition(b")")
    if name.endswith(ENDED_WELL):
        return 0
    fields = rest.split()
    return int(fields[49]) if fields and int(fields[6]) & PF_EXITING else None


def _read(pid: int, name: str) -> bytes:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)  # neither has as much
    except OSError:
        return b""
    finally:
        os.close(fd)


def exit_or_signal(status: int | None) -> tuple[int | None, int | None]:
    """Return the exit code or the signal in a wait status, and None for the other."""
    if status is None or os.WIFSIGNALED(status):
        return None, 9 if status is None else os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def values_file() -> int:
    """Open what a program has written of its values, whoever did; -1 where there is none."""
    try:
        fd = os.open(VALUES_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.unlink(VALUES_FILE)  # what comes after belongs to the next step
        return fd
    os.close(fd)
    return -1
