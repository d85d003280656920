"""What a caller that waits is told about every second: where its run is, and its newest line.

Nothing here runs for a caller that did not ask. What a program printed is hostile: one complete
line of it is shown, cut to a bound and with its control characters made visible.
"""

import time
from collections.abc import Awaitable, Callable

import anyio

from codecell.observer import Phase, Place, Run, Stream, Watch
from codecell.visible import harmless

EVERY_S = 1.0
LINE_CHARS = 160
_LINE_BYTES = 4 * LINE_CHARS

Report = Callable[[float, float | None, str], Awaitable[None]]


class Progress(Watch):
    """One run as its caller may see it while it goes.

    Output is followed as far as the result keeps it; past that the line stays the same.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._since = clock()
        self._phase = Phase.QUEUED
        self._place: Place | None = None
        self._run: Run | None = None
        self._lines: dict[Stream, _Newest] = {}
        self._newest = b""
        self._last = 0.0

    def planned(self, run: Run) -> None:
        """Know its limits."""
        self._run = run

    def queued(self, place: Place) -> None:
        """Know its position from now on."""
        self._place = place

    def phase(self, phase: Phase) -> None:
        """Begin a phase; what was printed in the one before is no longer news."""
        self._phase = phase
        self._since = self._clock()
        self._lines = {}
        self._newest = b""

    def output(self, stream: Stream, data: bytes) -> None:
        """Take what was printed."""
        newest = self._lines.setdefault(stream, _Newest()).add(data)
        self._newest = newest or self._newest

    def report(self) -> tuple[float, float | None, str]:
        """Return progress (seconds since the call, strictly rising), total if known, message."""
        now = self._clock()
        self._last = max(now - self._began, self._last + 0.001)
        in_phase = now - self._since
        limit = self._limit_s()
        total = self._since - self._began + limit if limit is not None else None
        if total is not None and total < self._last:
            total = None
        return round(self._last, 3), total, self._message(in_phase, limit)

    def _limit_s(self) -> float | None:
        if self._run is None or self._phase not in (Phase.COMPILING, Phase.RUNNING):
            return None
        kind = "compile" if self._phase is Phase.COMPILING else "run"
        return next(step.timeout_s for step in self._run.plan.steps if step.kind == kind)

    def _message(self, in_phase_s: float, limit_s: float | None) -> str:
        match self._phase:
            case Phase.QUEUED:
                position = self._place() if self._place is not None else 0
                return f"queued at position {position}" if position else "queued"
            case Phase.STARTING:
                return "starting a sandbox"
            case Phase.COLLECTING:
                return "collecting the results"
            case Phase.COMPILING | Phase.RUNNING:
                words = f"{self._phase} {in_phase_s:.0f} s of {limit_s:g} s"
                line = shown(self._newest)
                return f"{words}: {line}" if line else words


class _Newest:
    """The newest complete line of a stream; a carriage return ends one too (progress bars)."""

    def __init__(self) -> None:
        self._pending = b""

    def add(self, data: bytes) -> bytes:
        """Return the last line that `data` completes and that is not blank, or nothing."""
        head, ended, rest = data.replace(b"\r", b"\n").rpartition(b"\n")
        if not ended:
            self._pending += data[: _LINE_BYTES - len(self._pending)]
            return b""
        before, _, line = head.rstrip().rpartition(b"\n")
        if not before and not head.startswith(b"\n"):  # it began in an earlier piece
            line = self._pending + line
        self._pending = rest[:_LINE_BYTES]
        return line.strip()[:_LINE_BYTES]


def shown(line: bytes) -> str:
    """Return a line of a program's as a client may show it; pure."""
    text = harmless(line.decode(errors="replace").replace("\t", " "))
    return text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 3] + "..."


async def reporting(progress: Progress, send: Report, every_s: float = EVERY_S) -> None:
    """Send a report about every second until cancelled."""
    while True:
        await anyio.sleep(every_s)
        await send(*progress.report())
