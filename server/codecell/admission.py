"""A bounded waiting room in front of the runs: first come, first served, refused when full."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from codecell.errors import BusyError
from codecell.observer import Place


class Admission:
    """At most `concurrent` holders at a time and at most `queue` waiting."""

    def __init__(self, *, concurrent: int, queue: int) -> None:
        self._slots = anyio.CapacityLimiter(concurrent)
        self._queue = queue
        self._waiting: dict[object, None] = {}  # in their order
        self._typical_s = 1.0  # moving average of how long a slot is held

    @asynccontextmanager
    async def slot(self, on_wait: Callable[[Place], None] | None = None) -> AsyncIterator[None]:
        """Hold a place for the length of one run.

        Args:
            on_wait: called once if there is no place at once, with what tells the position.

        Raises:
            BusyError: everyone is busy and the queue is full.
        """
        waiting = self._slots.statistics().tasks_waiting
        if waiting >= self._queue and self._slots.available_tokens < 1:
            turns = 1 + waiting // self._slots.total_tokens
            retry = round(max(0.1, min(60.0, turns * self._typical_s)), 1)
            raise BusyError(
                f"busy: {self._slots.borrowed_tokens} runs in flight and {waiting} waiting; "
                f"retry after {retry:g} s",
                retry_after_s=retry,
            )
        holder = object()
        try:
            self._slots.acquire_on_behalf_of_nowait(holder)
        except anyio.WouldBlock:
            await self._wait(holder, on_wait)
        started = time.monotonic()
        try:
            yield
        finally:
            self._slots.release_on_behalf_of(holder)
            self._typical_s += 0.1 * (time.monotonic() - started - self._typical_s)

    async def _wait(self, holder: object, on_wait: Callable[[Place], None] | None) -> None:
        self._waiting[holder] = None

        def place() -> int:
            return next((n for n, other in enumerate(self._waiting, 1) if other is holder), 0)

        if on_wait is not None:
            on_wait(place)
        try:
            await self._slots.acquire_on_behalf_of(holder)
        finally:
            del self._waiting[holder]
