"""Cells made before anyone asks; leased for one run each, refilled behind it.

A cell that becomes ready goes to whoever has waited longest. Making, wiping and discarding happen
in the background, in the pool's own tasks: a caller that gives up loses nothing for anyone else.
With `reuse = "caller"` a cell that was wiped goes back to its own caller, never to another.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import anyio
import structlog
from anyio.abc import TaskGroup

from codecell.errors import SandboxError
from codecell.link import Codes, Link
from codecell.model import CellSpec
from codecell.observer import CellEvent, Census, Observers, Reason
from codecell.policy import cell_spec
from codecell.sandbox import Backend
from codecell.settings import Settings
from codecell.shelf import Shelf, Waiter

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
CLOSE_S = 1.5
HANG_UP_S = 0.2  # that is all it takes; the backend waits for cells to be gone
REFILL_S = 0.02  # spares are begun only when a short run and its answer are out of the way
RECYCLE_S = 2.0

log = structlog.get_logger(__name__)


class Pool:
    """All the cells of this server."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        tasks: TaskGroup,
        *,
        warm: bool,
        observers: Observers | None = None,
    ) -> None:
        self.backend = backend
        self._observers = observers if observers is not None else Observers()
        self._settings = settings.pool
        self.tasks = tasks  # of the whole server: they outlive every call
        self._tasks = tasks
        self._warm = warm
        self._starting = 0
        self._leased = 0
        self._closed = False
        self._refilling = False
        self._links: set[Link] = set()
        self._codes: Codes = {}
        self._shelves: dict[CellSpec, Shelf] = {}
        for name in settings.pool.languages:
            self._shelf(cell_spec(settings.table[name], settings), floor=settings.pool.min)

    async def keep_ready(self) -> None:
        """Clear up after dead instances, fill the shelves, let idle cells go now and then."""
        try:
            await self.backend.sweep()
        except SandboxError as error:
            log.warning("nothing swept", error=str(error))
        self._balance()
        while True:
            await anyio.sleep(self._settings.idle_s)
            self._settle()

    def ready(self, spec: CellSpec) -> int:
        """Count the cells of a kind that could take a run at once."""
        shelf = self._shelves.get(spec)
        return sum(link.usable for link in shelf.ready) if shelf else 0

    def census(self) -> dict[str, Census]:
        """Count the cells of each language."""
        found: dict[str, Census] = {}
        for shelf in self._shelves.values():
            language = shelf.spec.language
            counted = Census(
                ready=len(shelf.ready),
                kept=len(shelf.kept),
                starting=shelf.starting,
                leased=sum(link.spec is shelf.spec and link.leased for link in self._links),
                target=shelf.target,
            )
            found[language] = found[language] + counted if language in found else counted
        return found

    @asynccontextmanager
    async def lease(self, spec: CellSpec, caller: str) -> AsyncIterator[Link]:
        """Give one cell to one run of a caller.

        Raises:
            SandboxError: no cell could be made; the text says why.
        """
        link, waited_s = await self._take(spec, caller)
        link.bind(caller)
        self._leased += 1
        link.leased = True
        self._observers.leased(spec.language, waited_s)
        self._refill_soon()  # a long run must not keep the next callers waiting
        after: Callable[[Link], Coroutine[None, None, None]] = self._discard
        try:
            yield link
            if link.lost is None and link.wiping:
                self._shelf(spec).recycling[caller] += 1  # now: the next call comes before the task
                after = self._recycle
            elif link.lost is None:
                after = self._retire
        finally:
            self._leased -= 1
            link.leased = False
            if not self._closed:  # else all are discarded, and the tasks may be over
                self._tasks.start_soon(after, link)
            self._refill_soon()

    async def keep(self, spec: CellSpec, caller: str) -> Link:
        """Give a cell to a caller for as long as it likes; `let_go` ends it.

        Raises:
            SandboxError: as `lease` does.
        """
        link, waited_s = await self._take(spec, caller)
        link.bind(caller)
        self._observers.leased(spec.language, waited_s)
        self._refill_soon()
        return link

    def let_go(self, link: Link) -> None:
        """Throw away a cell that was kept."""
        if not self._closed:
            self._tasks.start_soon(self._discard, link)

    async def _take(self, spec: CellSpec, caller: str) -> tuple[Link, float | None]:
        """Return a cell, and how long it had to be waited for; None for one that stood ready."""
        if self._closed:
            raise SandboxError("the server is shutting down")
        shelf = self._shelf(spec)
        link = shelf.take(caller)
        while shelf.dead:
            self._tasks.start_soon(self._discard, shelf.dead.pop(), "lost")
        if link is not None:
            return link, None
        asked = time.monotonic()
        link = await self._wait(shelf, caller)
        return link, time.monotonic() - asked

    async def _wait(self, shelf: Shelf, caller: str) -> Link:
        waiter = Waiter(caller)
        shelf.waiters.append(waiter)
        self._balance()
        try:
            await waiter.served.wait()
        except anyio.get_cancelled_exc_class():
            if waiter in shelf.waiters:
                shelf.waiters.remove(waiter)
            if waiter.link is not None:
                self._shelve(shelf, waiter.link)
            raise
        if waiter.link is None:
            raise waiter.error or SandboxError("the server is shutting down")
        return waiter.link

    def _shelf(self, spec: CellSpec, *, floor: int = 0) -> Shelf:
        shelf = self._shelves.get(spec)
        if shelf is None:
            floor = floor if self._warm else 0
            ceiling = max(floor, self._settings.max) if self._warm else 0
            shelf = self._shelves[spec] = Shelf(spec, floor, ceiling, target=floor)
        return shelf

    def _shelve(self, shelf: Shelf, link: Link) -> None:
        """Hand a cell to the longest waiting caller that may have it, or keep it, or let it go."""
        if self._closed:
            return
        if not link.usable:
            self._tasks.start_soon(self._discard, link, "lost")
            self._balance()
        elif (waiter := shelf.waiter_for(link)) is not None:
            waiter.serve(link)
        elif link.caller is not None and len(shelf.kept) < self._settings.max:
            shelf.kept.append(link)
        elif link.caller is None and len(shelf.ready) < shelf.target:
            shelf.ready.append(link)
        else:
            self._tasks.start_soon(self._discard, link, "idle")

    # making

    def _refill_soon(self) -> None:
        if not self._refilling and not self._closed:
            self._refilling = True
            self._tasks.start_soon(self._refill)

    async def _refill(self) -> None:
        await anyio.sleep(REFILL_S)
        self._refilling = False
        self._balance()

    def _balance(self) -> None:
        """Begin what is missing, kinds with waiting callers first, so many at a time."""
        if self._closed:
            return
        for shelf in sorted(self._shelves.values(), key=lambda shelf: -len(shelf.waiters)):
            for waiter, link in shelf.left_over():
                waiter.serve(link)
            # A spare yields the processors to the runs in flight; a waiting caller does not.
            most = self._settings.starting
            if not shelf.waiters:
                most = 1 if self._leased else max(most // 2, 1)
            while shelf.wanted() > 0 and self._starting < most and self._has_room(shelf):
                shelf.starting += 1
                self._starting += 1
                self._tasks.start_soon(self._make, shelf)

    def _has_room(self, wanting: Shelf) -> bool:
        """Keep the memory of waiting cells within its budget; a waiting caller is always served."""
        if wanting.waiters:
            return True
        idle = sum(shelf.idle_bytes() for shelf in self._shelves.values())
        typical = idle // max(sum(len(shelf.ready) for shelf in self._shelves.values()), 1)
        return idle + (self._starting + 1) * typical <= self._settings.memory

    async def _make(self, shelf: Shelf) -> None:
        began = time.monotonic()
        try:
            link = await self._open(shelf.spec)
        except SandboxError as error:
            self._failed(shelf, error)
        except Exception as error:
            log.exception("making a cell failed")
            self._failed(shelf, SandboxError(f"making a cell failed: {type(error).__name__}"))
        else:
            shelf.failures = 0
            took = time.monotonic() - began
            self._observers.cell_created(
                CellEvent(cell_id=link.cell.id, language=shelf.spec.language, took_s=took)
            )
            if self._closed:  # too late for `aclose` to have seen it
                await self._discard_now(link)
            self._shelve(shelf, link)
        finally:
            shelf.starting -= 1
            self._starting -= 1
        self._balance()  # not when cancelled: what that begins would be cancelled in its turn

    async def _open(self, spec: CellSpec) -> Link:
        cell = await self.backend.create(spec)
        link = Link(cell, spec, self._codes)
        self._links.add(link)
        self._tasks.start_soon(self._listen, link)
        try:
            await link.boot(self._settings.boot_s)
        except BaseException:
            self._links.discard(link)  # it never was one
            await self._discard_now(link)
            raise
        return link

    async def _listen(self, link: Link) -> None:
        """Read a cell to its end; a spare that ends on its own is replaced."""
        await link.listen()
        shelf = self._shelf(link.spec)
        if self._closed or not (link in shelf.ready or link in shelf.kept):
            return
        if link in shelf.kept:
            shelf.kept.remove(link)
        else:
            shelf.ready.remove(link)
            self._failed(shelf, link.lost or SandboxError("the cell ended"))
        await self._discard(link, "lost")
        self._balance()

    def _failed(self, shelf: Shelf, error: SandboxError) -> None:
        """Tell the longest waiting caller, and let the spares rest for a while."""
        if self._closed:
            return
        log.warning("no cell", language=shelf.spec.language, error=str(error))
        if shelf.waiters:
            waiter = shelf.waiters.popleft()
            waiter.error = error
            waiter.served.set()
        if not shelf.resting:
            shelf.resting = True
            pause = BACKOFF_S[min(shelf.failures, len(BACKOFF_S) - 1)]
            shelf.failures += 1
            self._tasks.start_soon(self._rest, shelf, pause)

    async def _rest(self, shelf: Shelf, pause: float) -> None:
        await anyio.sleep(pause)
        shelf.resting = False
        self._balance()

    # letting go

    async def _recycle(self, link: Link) -> None:
        """Take a cell back for its caller once its agent has proved it empty."""
        shelf = self._shelf(link.spec)
        with anyio.move_on_after(RECYCLE_S):
            await link.recycled()
        shelf.recycling -= Counter((link.caller or "",))
        if link.usable and not self._closed:
            self._shelve(shelf, link)
        else:
            await self._discard(link, "lost")
        self._balance()

    def _settle(self) -> None:
        """Let go what nobody needed in the last period."""
        for shelf in self._shelves.values():
            shelf.settle()
            stale, shelf.kept = (
                [link for link in shelf.kept if link.stale],
                [link for link in shelf.kept if not link.stale],
            )
            for link in shelf.kept:
                link.stale = True
            for link in (*shelf.surplus(), *stale):
                self._tasks.start_soon(self._discard, link, "idle")
        self._balance()

    async def _discard_now(self, link: Link) -> None:
        """Discard a cell, bounded, also where the task that made it is being cancelled."""
        with anyio.move_on_after(HANG_UP_S if self._closed else CLOSE_S, shield=True):
            await self._discard(link, "closing" if self._closed else "lost")

    async def _retire(self, link: Link) -> None:
        """Discard a used cell, whose processes are dead already, when its answer is out."""
        await anyio.sleep(REFILL_S)
        await self._discard(link)

    async def _discard(self, link: Link, reason: Reason = "used") -> None:
        if link in self._links:
            self._links.remove(link)
            if reason == "used" and link.lost is not None:
                reason = "lost"
            self._observers.cell_discarded(
                CellEvent(
                    cell_id=link.cell.id,
                    language=link.spec.language,
                    caller=link.caller,
                    runs=link.runs,
                    reason=reason,
                )
            )
        await link.cell.discard()

    async def aclose(self) -> None:
        """Throw away every cell, in parallel and bounded; callers that wait are told."""
        self._closed = True
        for shelf in self._shelves.values():
            for waiter in shelf.waiters:
                waiter.served.set()
            shelf.waiters.clear()
        with anyio.move_on_after(HANG_UP_S):
            async with anyio.create_task_group() as tasks:
                for link in list(self._links):
                    tasks.start_soon(self._discard, link, "closing")
