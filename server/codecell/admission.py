"""A bounded, fair waiting room in front of the runs.

A place that becomes free goes to the caller with the fewest runs in flight; among equals, to the
one that was served longest ago. So a caller with a single call waits for one run to end, however
many calls another has waiting. A full room makes space the same way: the newest call of whoever has
most waiting is turned away for one of somebody who has fewer.
"""

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from codecell.errors import BusyError
from codecell.observer import Place
from codecell.quota import Quotas
from codecell.settings import CallerSettings


@dataclass(slots=True, eq=False)
class _Waiter:
    caller: str
    called: anyio.Event = field(default_factory=anyio.Event)
    admitted: bool = False


def no_quotas() -> Quotas:
    """Return quotas that limit nobody."""
    free = CallerSettings()
    return Quotas(lambda _: free, time.monotonic)


class Admission:
    """At most `concurrent` runs at a time and at most `queue` waiting, shared fairly by callers."""

    def __init__(self, *, concurrent: int, queue: int, quotas: Quotas | None = None) -> None:
        self._concurrent = concurrent
        self._queue = queue
        self._quotas = quotas if quotas is not None else no_quotas()
        self._inside: Counter[str] = Counter()
        self._taken = 0
        self._waiting: dict[str, deque[_Waiter]] = {}  # callers that wait, each first come first
        self._served: dict[str, int] = {}  # of callers inside or waiting: when they last got in
        self._turn = 0
        self._typical_s = 1.0  # moving average of how long a place is held

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def slot(
        self, caller: str = "local", on_wait: Callable[[Place], None] | None = None
    ) -> AsyncIterator[None]:
        """Hold a place for the length of one run.

        Args:
            caller: whose run it is.
            on_wait: called once if there is no place at once, with what tells the position.

        Raises:
            BusyError: everyone is busy and there is no room to wait.
            RateLimited: the caller has used up what it may use in a minute.
        """
        self._quotas.begin(caller)
        if self._taken < self._concurrent and self._may_enter(caller):
            self._enter(caller)
        else:
            try:
                await self._wait(caller, on_wait)
            except BaseException:
                self._quotas.undo(caller)
                raise
        started = time.monotonic()
        try:
            yield
        finally:
            self._typical_s += 0.1 * (time.monotonic() - started - self._typical_s)
            self._leave(caller)

    def charge(self, caller: str, cpu_s: float) -> None:
        """Count what a run of this caller used, in CPU seconds."""
        self._quotas.charge(caller, cpu_s)

    async def _wait(self, caller: str, on_wait: Callable[[Place], None] | None) -> None:
        if self.waiting >= self._queue:
            self._make_room(caller)
        waiter = _Waiter(caller)
        self._waiting.setdefault(caller, deque()).append(waiter)
        try:
            if on_wait is not None:
                on_wait(lambda: self._position(waiter))
            await waiter.called.wait()
        except BaseException:
            if waiter.admitted:  # its turn came in the moment it gave up
                self._leave(caller)
            else:
                self._forget(waiter)
            raise
        if not waiter.admitted:
            raise self._busy()

    def _make_room(self, caller: str) -> None:
        """Turn away the newest call of whoever has most waiting, or else this one.

        Raises:
            BusyError: nobody has clearly more waiting than this caller would have.
        """
        greediest = max(self._waiting.values(), key=len, default=deque())
        own = len(self._waiting.get(caller, ()))
        if len(greediest) <= own + 1:
            raise self._busy()
        waiter = greediest[-1]
        self._forget(waiter)
        waiter.called.set()

    def _forget(self, waiter: _Waiter) -> None:
        line = self._waiting.get(waiter.caller)
        if line is not None and waiter in line:
            line.remove(waiter)
            if not line:
                del self._waiting[waiter.caller]
                self._prune(waiter.caller)

    def _may_enter(self, caller: str) -> bool:
        most = self._quotas.concurrent(caller)
        return most is None or self._inside[caller] < most

    def _enter(self, caller: str) -> None:
        self._taken += 1
        self._inside[caller] += 1
        self._turn += 1
        self._served[caller] = self._turn

    def _leave(self, caller: str) -> None:
        self._taken -= 1
        self._inside[caller] -= 1
        self._prune(caller)
        while self._taken < self._concurrent:
            following = self._next(self._inside, self._served, self._waiting)
            if following is None:
                return
            waiter = self._waiting[following][0]
            self._enter(following)
            self._forget(waiter)
            waiter.admitted = True
            waiter.called.set()

    def _prune(self, caller: str) -> None:
        """Remember nothing of a caller that is neither inside nor waiting, long after its turn."""
        if not self._inside[caller] and caller not in self._waiting:
            del self._inside[caller]
            if len(self._served) > 2 * (self._concurrent + self._queue):
                self._served = {
                    name: turn
                    for name, turn in self._served.items()
                    if name in self._inside or name in self._waiting
                }

    def _next(
        self, inside: Counter[str], served: dict[str, int], waiting: dict[str, deque[_Waiter]]
    ) -> str | None:
        """Return whose turn it is among those that may enter."""
        able = [
            caller
            for caller, line in waiting.items()
            if line and ((most := self._quotas.concurrent(caller)) is None or inside[caller] < most)
        ]
        return min(able, key=lambda name: (inside[name], served.get(name, 0)), default=None)

    def _position(self, waiter: _Waiter) -> int:
        """Return how many places must become free until it is this one's turn; 0 when it is in.

        A caller at a limit of its own comes after all that may enter: its turn depends on its own.
        """
        if waiter.caller not in self._waiting or waiter not in self._waiting[waiter.caller]:
            return 0
        inside, served = Counter(self._inside), dict(self._served)
        lines = {caller: deque(line) for caller, line in self._waiting.items()}
        for position in range(1, self.waiting + 1):
            caller = self._next(inside, served, lines)
            if caller is None:
                return self.waiting
            if lines[caller].popleft() is waiter:
                return position
            inside[caller] += 1
            served[caller] = self._turn + position
        return self.waiting

    def _busy(self) -> BusyError:
        waiting = self.waiting
        turns = 1 + waiting // self._concurrent
        retry = round(max(0.1, min(60.0, turns * self._typical_s)), 1)
        return BusyError(
            f"busy: {self._taken} runs in flight and {waiting} waiting; retry after {retry:g} s",
            retry_after_s=retry,
        )
