"""The runs in flight and the latest ones, for the status page and for `codecell://runs/RUN_ID`.

What is kept of a run is small and holds neither its code nor what it printed.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from codecell.errors import BusyError, CodecellError
from codecell.model import Outcome, Request, Status
from codecell.observer import CellEvent, Observer, Phase, Place, Run

KEPT = 500
RATE_S = 60
BUCKET_S, BUCKETS = 5, 120


@dataclass(slots=True, kw_only=True, eq=False)
class Summary:
    """One run in short.

    Attributes:
        began: seconds since the epoch.
        phase: where it is; `ended` when it is over.
        elapsed_s: of a run that is over, from request to outcome.
    """

    run_id: str
    caller: str
    language: str
    began: float
    started: float  # on the monotonic clock
    timeout_s: float
    phase: str = Phase.QUEUED.value
    place: Place | None = None
    status: Status | None = None
    exit_code: int | None = None
    signal: str | None = None
    error_message: str | None = None
    elapsed_s: float | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0

    def as_json(self) -> dict[str, object]:
        """Return what may be shown to its caller and to the operator."""
        over = self.elapsed_s is not None
        elapsed = self.elapsed_s if self.elapsed_s is not None else time.monotonic() - self.started
        shown: dict[str, object] = {
            "run_id": self.run_id,
            "caller": self.caller,
            "language": self.language,
            "began": round(self.began, 3),
            "elapsed_s": round(elapsed, 3),
            "timeout_s": self.timeout_s,
            "phase": self.phase,
        }
        if not over:
            return shown | {"position": self.place() if self.place is not None else 0}
        return shown | {
            "status": self.status,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "error_message": self.error_message,
            "usage": {
                "wall_s": round(self.wall_s, 6),
                "cpu_s": round(self.cpu_s, 6),
                "peak_memory_bytes": self.peak_memory_bytes,
            },
            "stdout_bytes": self.stdout_bytes,
            "stderr_bytes": self.stderr_bytes,
        }


class Recent(Observer):
    """Keeps the runs in flight and the latest so many, and counts the last minute."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self.started = time.monotonic()
        self.troubles: dict[str, str] = {}
        self._kept = kept
        self._in_flight: dict[str, Summary] = {}
        self._over: OrderedDict[str, Summary] = OrderedDict()  # the latest last
        self._ends: dict[int, int] = {}  # how many runs ended, by their five seconds
        self._totals = {"runs": 0, "failed": 0, "refused": 0, "busy": 0, "cells": 0}

    def in_flight(self) -> list[Summary]:
        """Return the runs that go or wait, the oldest first."""
        return list(self._in_flight.values())

    def over(self, caller: str | None = None) -> Iterator[Summary]:
        """Yield the runs that are over, the latest first; of one caller, or of all."""
        for summary in reversed(self._over.values()):
            if caller in (None, summary.caller):
                yield summary

    def find(self, run_id: str, caller: str) -> Summary | None:
        """Return a caller's own run."""
        found = self._in_flight.get(run_id) or self._over.get(run_id)
        return found if found is not None and found.caller == caller else None

    def totals(self) -> dict[str, int]:
        """Count since the start: runs, failed ones (ours), refusals, busy ones, cells made."""
        return dict(self._totals)

    def per_minute(self) -> int:
        """Count the runs that ended in the last minute."""
        self._trim()
        return sum(self._counted(RATE_S // BUCKET_S))

    def series(self) -> list[int]:
        """Count the runs that ended in each five seconds of the last ten minutes, oldest first."""
        self._trim()
        return self._counted(BUCKETS)

    def _counted(self, buckets: int) -> list[int]:
        last = self._bucket()
        return [self._ends.get(number, 0) for number in range(last - buckets + 1, last + 1)]

    @staticmethod
    def _bucket() -> int:
        return int(time.monotonic() // BUCKET_S)

    # what is observed

    def refused(self, caller: str, request: Request | None, error: CodecellError) -> None:
        """Count it."""
        self._totals["busy" if isinstance(error, BusyError) else "refused"] += 1

    def queued(self, run: Run, place: Place) -> None:
        """Note that it waits."""
        self._note(run).place = place

    def left(self, run: Run) -> None:
        """Forget it: nothing of it ran."""
        self._in_flight.pop(run.run_id, None)

    def admitted(self, run: Run) -> None:
        """Note that it goes."""
        self._note(run).place = None

    def phase(self, run: Run, phase: Phase) -> None:
        """Note where it is."""
        self._in_flight[run.run_id].phase = phase.value

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Keep what it came to."""
        summary = self._in_flight.pop(run.run_id)
        summary.phase = "ended"
        summary.status = outcome.status
        summary.exit_code, summary.signal = outcome.exit_code, outcome.signal
        summary.error_message = outcome.error_message
        summary.elapsed_s = outcome.execution_time_s
        summary.wall_s, summary.cpu_s = outcome.usage.wall_s, outcome.usage.cpu_s
        summary.peak_memory_bytes = outcome.usage.peak_memory_bytes
        summary.stdout_bytes = outcome.stdout.total_bytes
        summary.stderr_bytes = outcome.stderr.total_bytes
        self._over[run.run_id] = summary
        if len(self._over) > self._kept:
            self._over.popitem(last=False)
        self._totals["runs"] += 1
        self._totals["failed"] += outcome.status is Status.SETUP_ERROR
        bucket = self._bucket()
        if bucket not in self._ends:
            self._trim()
        self._ends[bucket] = self._ends.get(bucket, 0) + 1

    def trouble(self, part: str, text: str | None) -> None:
        """Keep what is wrong until it is not."""
        if text is None:
            self.troubles.pop(part, None)
        else:
            self.troubles[part] = text

    def cell_created(self, event: CellEvent) -> None:
        """Count it."""
        self._totals["cells"] += 1

    def _note(self, run: Run) -> Summary:
        summary = self._in_flight.get(run.run_id)
        if summary is None:
            summary = self._in_flight[run.run_id] = Summary(
                run_id=run.run_id,
                caller=run.request.caller,
                language=run.plan.language,
                began=time.time() - (time.monotonic() - run.started),
                started=run.started,
                timeout_s=run.plan.limits.timeout_s,
            )
        return summary

    def _trim(self) -> None:
        oldest = self._bucket() - BUCKETS
        for bucket in [bucket for bucket in self._ends if bucket < oldest]:
            del self._ends[bucket]
