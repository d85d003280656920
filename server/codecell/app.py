"""The composition root: opens backend, pool and runner, and closes them in reverse."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import current_token

from codecell import log
from codecell.backends import open_backend
from codecell.observer import Observer, Observers
from codecell.pool import Pool
from codecell.recent import Recent
from codecell.runner import Runner
from codecell.settings import Settings
from codecell.store import Store

if TYPE_CHECKING:
    from codecell.audit.witness import Witness

EXPIRE_EVERY_S = 60.0


@asynccontextmanager
async def open_runner(
    settings: Settings, *, warm: bool = True, observers: Sequence[Observer] = ()
) -> AsyncIterator[Runner]:
    """Open everything a surface needs; leaving removes every cell.

    Args:
        settings: the whole configuration.
        warm: False makes no cell ahead of time (a one-shot call has no use for spares).
        observers: who is told of runs and cells.

    An engine that is away is no error here: each run reports it until it is back.
    """
    log.keep_quiet()
    recent = Recent()
    told = Observers([recent, *observers])  # made first: the witness may be in trouble at once
    witness = await _witness(settings, lambda text: told.trouble("audit", text))
    if witness is not None:
        told.join(witness)
    backend = open_backend(settings)
    store = Store(settings.store)
    raised: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            pool = Pool(backend, settings, tasks, warm=warm, observers=told)
            tasks.start_soon(pool.keep_ready)
            tasks.start_soon(_keep_clean, store)
            try:
                runner = Runner(pool, settings, store, told, recent)
                tasks.start_soon(runner.sessions.keep_time)
                yield runner
            except Exception as error:  # noqa: BLE001  raised below, where no task group wraps it
                raised = error
            finally:
                with anyio.CancelScope(shield=True):
                    await pool.aclose()
                tasks.cancel_scope.cancel()
    finally:
        store.close()
        with anyio.CancelScope(shield=True):
            await backend.aclose()
            if witness is not None:
                await anyio.to_thread.run_sync(witness.close)
    if raised is not None:
        raise raised


async def _witness(settings: Settings, tell: Callable[[str | None], None]) -> "Witness | None":
    """Open the audit log, where there is to be one; `tell` hears of its troubles."""
    folder = settings.audit.folder
    if folder is None:
        return None
    from codecell.audit.witness import Witness

    loop = current_token()

    def alarm(text: str | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            anyio.from_thread.run_sync(tell, text, token=loop)

    return await anyio.to_thread.run_sync(Witness, folder, settings, alarm)


async def _keep_clean(store: Store) -> None:
    """Remove stored results in time, whether or not anybody asks for one."""
    while True:
        await anyio.sleep(EXPIRE_EVERY_S)
        store.expire()
