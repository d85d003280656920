"""Cells made before anyone asks, one shelf per kind; used once, refilled behind the run.

A cell that becomes ready goes to whoever has waited longest. Making and discarding happen in the
background, in the pool's own tasks: a caller that gives up loses nothing for anyone else.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import structlog
from anyio.abc import TaskGroup

from codecell.errors import SandboxError
from codecell.languages import LANGUAGES
from codecell.link import Link
from codecell.model import CellSpec
from codecell.policy import cell_spec
from codecell.sandbox import Backend
from codecell.settings import Settings

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
CLOSE_S = 2.0

log = structlog.get_logger(__name__)


class _Waiter:
    """A caller that waits for a cell."""

    def __init__(self) -> None:
        self.served = anyio.Event()
        self.link: Link | None = None
        self.error: SandboxError | None = None


@dataclass(slots=True)
class _Shelf:
    """The cells of one kind."""

    spec: CellSpec
    target: int
    ready: deque[Link] = field(default_factory=deque)
    waiters: deque[_Waiter] = field(default_factory=deque)
    starting: int = 0
    failures: int = 0
    resting: bool = False  # after a failure spares wait; callers never do

    def wanted(self) -> int:
        spares = 0 if self.resting else self.target - len(self.ready)
        return len(self.waiters) + max(spares, 0) - self.starting


class Pool:
    """All the cells of this server."""

    def __init__(
        self, backend: Backend, settings: Settings, tasks: TaskGroup, *, warm: bool
    ) -> None:
        self.backend = backend
        self._settings = settings
        self._tasks = tasks
        self._starting = 0
        self._closed = False
        self._links: set[Link] = set()
        self._shelves: dict[CellSpec, _Shelf] = {}
        if warm:
            for name in settings.pool.languages:
                self._shelf(cell_spec(LANGUAGES[name], settings)).target = settings.pool.size

    async def keep_ready(self) -> None:
        """Clear up after dead instances, then begin to fill the shelves."""
        try:
            await self.backend.sweep()
        except SandboxError as error:
            log.warning("nothing swept", error=str(error))
        self._balance()

    def ready(self, spec: CellSpec) -> int:
        """Count the cells of a kind that could take a run at once."""
        shelf = self._shelves.get(spec)
        return sum(link.usable for link in shelf.ready) if shelf else 0

    @asynccontextmanager
    async def lease(self, spec: CellSpec) -> AsyncIterator[Link]:
        """Give one cell to one run; behind it the cell is thrown away.

        Raises:
            SandboxError: no cell could be made; the text says why.
        """
        link = await self._take(self._shelf(spec))
        try:
            yield link
        finally:
            self._tasks.start_soon(self._discard, link)

    async def _take(self, shelf: _Shelf) -> Link:
        while shelf.ready:
            link = shelf.ready.popleft()
            if link.usable:
                self._balance()
                return link
        waiter = _Waiter()
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

    def _shelf(self, spec: CellSpec) -> _Shelf:
        return self._shelves.setdefault(spec, _Shelf(spec, target=0))

    def _shelve(self, shelf: _Shelf, link: Link) -> None:
        """Hand a ready cell to the longest waiting caller, or keep it."""
        if shelf.waiters:
            waiter = shelf.waiters.popleft()
            waiter.link = link
            waiter.served.set()
        else:
            shelf.ready.append(link)

    def _balance(self) -> None:
        """Start what is missing, kinds with waiting callers first, so many at a time."""
        if self._closed:
            return
        for shelf in sorted(self._shelves.values(), key=lambda s: -len(s.waiters)):
            while shelf.wanted() > 0 and self._starting < self._settings.pool.starting:
                shelf.starting += 1
                self._starting += 1
                self._tasks.start_soon(self._make, shelf)

    async def _make(self, shelf: _Shelf) -> None:
        try:
            link = await self._open(shelf.spec)
        except SandboxError as error:
            self._failed(shelf, error)
        else:
            shelf.failures = 0
            self._shelve(shelf, link)
        finally:
            shelf.starting -= 1
            self._starting -= 1
            self._balance()

    async def _open(self, spec: CellSpec) -> Link:
        cell = await self.backend.create(spec)
        link = Link(cell, spec)
        self._links.add(link)
        self._tasks.start_soon(self._listen, link)
        try:
            await link.boot()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._discard(link)
            raise
        return link

    async def _listen(self, link: Link) -> None:
        """Read a cell to its end; a spare that ends on its own is replaced."""
        await link.listen()
        shelf = self._shelf(link.spec)
        if link in shelf.ready and not self._closed:
            shelf.ready.remove(link)
            await self._discard(link)
            self._failed(shelf, link.lost or SandboxError("the cell ended"))
            self._balance()

    def _failed(self, shelf: _Shelf, error: SandboxError) -> None:
        """Tell the longest waiting caller, or let the spares rest for a while."""
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

    async def _rest(self, shelf: _Shelf, pause: float) -> None:
        await anyio.sleep(pause)
        shelf.resting = False
        self._balance()

    async def _discard(self, link: Link) -> None:
        self._links.discard(link)
        await link.cell.discard()

    async def aclose(self) -> None:
        """Throw away every cell, in parallel and bounded; callers that wait are told."""
        self._closed = True
        for shelf in self._shelves.values():
            for waiter in shelf.waiters:
                waiter.served.set()
            shelf.waiters.clear()
        with anyio.move_on_after(CLOSE_S):
            async with anyio.create_task_group() as tasks:
                for link in list(self._links):
                    tasks.start_soon(self._discard, link)
