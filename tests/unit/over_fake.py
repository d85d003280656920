"""A runner over the fake backend, with everything that it needs, for as long as a test takes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from codecell.backends.fake import FakeBackend
from codecell.observer import Observers
from codecell.pool import Pool
from codecell.runner import Runner
from codecell.settings import Settings


@asynccontextmanager
async def tasks_within(seconds: float) -> AsyncIterator[TaskGroup]:
    """A task group that ends with the test's body, and whose errors are the body's own."""
    raised: Exception | None = None
    with anyio.fail_after(seconds):
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except Exception as error:  # noqa: BLE001  raised below, where no task group wraps it
                raised = error
            finally:
                tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised


@asynccontextmanager
async def runner_over(
    backend: FakeBackend,
    settings: Settings,
    observers: Observers | None = None,
    *,
    within_s: float = 5,
) -> AsyncIterator[Runner]:
    """Open a runner whose pool is closed behind it."""
    observers = observers if observers is not None else Observers()
    async with tasks_within(within_s) as tasks:
        pool = Pool(backend, settings, tasks, warm=True, observers=observers)
        try:
            yield Runner(pool, settings, observers=observers)
        finally:
            await pool.aclose()
