"""A bounded waiting room in front of the runs: first come, first served, refused when full."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from codecell.errors import BusyError


class Admission:
    """At most `concurrent` holders at a time and at most `queue` waiting."""

    def __init__(self, *, concurrent: int, queue: int) -> None:
        self._slots = anyio.CapacityLimiter(concurrent)
        self._queue = queue
        self._typical_s = 1.0  # moving average of how long a slot is held

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a place for the length of one run.

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
        await self._slots.acquire_on_behalf_of(holder)
        started = time.monotonic()
        try:
            yield
        finally:
            self._slots.release_on_behalf_of(holder)
            self._typical_s += 0.1 * (time.monotonic() - started - self._typical_s)
