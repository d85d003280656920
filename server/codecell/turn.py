"""A session and one call's turn in it: its cell, the files that came with it, its report.

What is said of a session is decided in `tenure`; who else has sessions is `sessions`.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Literal, Protocol

import anyio

from codecell import tenure
from codecell.errors import ResourceNotFound, SandboxError
from codecell.language import SANDBOX
from codecell.link import Link
from codecell.luggage import Luggage
from codecell.model import (
    CellSpec,
    Ending,
    Facts,
    File,
    FileReport,
    Kept,
    Plan,
    SessionReport,
    SessionState,
)
from codecell.pool import Pool
from codecell.settings import SessionSettings
from codecell.store import Store

Action = Literal["opened", "closed", "expired", "evicted", "lost"]
RUNS = 20_000  # remembered of one session


class HeldCell:
    """A cell of a session and what was last found in it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.generation = 0
        self.memory_bytes = link.idle_bytes
        self.seen = 0  # the version of the session's files that it has

    def note(self, found: Kept | None) -> None:
        if found is not None:
            self.generation = found.generation if found.alive else 0
            self.memory_bytes = found.memory_bytes or self.memory_bytes


class Session:
    """One caller's cells under one name."""

    def __init__(self, name: str, caller: str) -> None:
        self.id = name
        self.caller = caller
        self.opened = self.used = anyio.current_time()
        self.runs = 0
        self.closed: str | None = None  # why, once it is
        self.cells: dict[CellSpec, HeldCell] = {}
        self.luggage = Luggage()
        self.told: deque[str] = deque(maxlen=RUNS)  # what may have left results in the store
        self.turn = anyio.Lock()  # fair: calls run in the order of their coming

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages it has cells of."""
        return tuple(spec.language for spec in self.cells)

    @property
    def busy(self) -> bool:
        """Whether a call is in it now."""
        return self.turn.locked()

    @property
    def memory_bytes(self) -> int:
        """What its cells held when last looked at."""
        return sum(cell.memory_bytes for cell in self.cells.values())


class Keeper(Protocol):
    """Who a turn's session belongs to: `sessions.Sessions`."""

    pool: Pool
    settings: SessionSettings

    def tell(self, action: Action, session: Session, language: str) -> None:
        """Tell the observers."""

    def end(self, session: Session, action: Action, reason: str) -> None:
        """Throw the session's cells away and remember why."""


class Turn:
    """One call's time in a session, from its being alone in it to its report."""

    def __init__(self, keeper: Keeper, session: Session, plan: Plan) -> None:
        self._keeper = keeper
        self._session = session
        self._plan = plan
        self.state = SessionState.REUSED
        self.news: list[str] = []
        self.waited_s = 0.0

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Link]:
        """Give the session's cell of the plan's kind, a new one where there is none or it died.

        Raises:
            SandboxError: no cell could be made.
        """
        session, spec = self._session, self._plan.cell
        held = session.cells.get(spec)
        if held is not None and held.link.lost is not None:
            self._lost(f"The cell was lost since the last call ({held.link.lost})")
            held = None
        if held is None:
            held = await self._open()
        yield held.link

    def begin(self, run_id: str) -> None:
        """Note the call's run: what it stores goes with the session, if not before."""
        self._session.told.append(run_id)

    def bring(self, store: Store) -> tuple[tuple[File, ...], tuple[str, ...]]:
        """Return what other languages' steps changed since this cell last saw it.

        Returns:
            The files to write, and the paths to remove.
        """
        session, language = self._session, self._plan.language
        held = session.cells[self._plan.cell]
        files, gone, left = [], [], []
        for path, piece in session.luggage.waiting(language, held.seen):
            match piece.content:
                case None if piece.left:
                    left.append(f"{path} ({piece.left})")
                case None:
                    gone.append(path)
                case File() as file:
                    files.append(file)
                case changed:
                    try:
                        content = store.read(store.find(changed.uri or "", session.caller))
                    except ResourceNotFound:
                        left.append(f"{path} (no longer stored)")
                        continue
                    files.append(File(path=path, content=content, mode=changed.mode or 0o644))
        if left:
            self.news.append(tenure.left_behind(left, language))
        held.seen = session.luggage.version
        return tuple(files), tuple(gone)

    def pack(self, brought: Iterable[File], report: FileReport) -> None:
        """Note what this call's files and its program have changed, for the other languages."""
        session, main = self._session, self._plan.main
        others = [file for file in brought if f"{SANDBOX}/{file.path}" != main]
        session.luggage.pack(self._plan.language, others, report)
        held = session.cells.get(self._plan.cell)
        if held is not None:
            held.seen = session.luggage.version

    async def _open(self) -> HeldCell:
        session, spec = self._session, self._plan.cell
        link = await self._keeper.pool.keep(spec, session.caller)
        if session.closed is not None:
            self._keeper.pool.let_go(link)
            raise SandboxError(f"session {session.id} was closed while it waited for a cell")
        held = session.cells[spec] = HeldCell(link)
        return held

    def _lost(self, how: str) -> None:
        held = self._session.cells.pop(self._plan.cell)
        self._session.luggage.drop(self._plan.language)
        self._keeper.pool.let_go(held.link)
        self._keeper.tell("lost", self._session, self._plan.language)
        self.state = SessionState.LOST_AND_RECREATED
        self.news.append(f"{how}: files and variables of {self._plan.language} are lost.")

    async def report(self, facts: Facts | None) -> SessionReport:
        """Say what became of the session; `facts` are the last step's, None when we failed."""
        session, plan = self._session, self._plan
        interpreter = plan.cell.kernel is not None
        held = session.cells.get(plan.cell)
        found = facts.kept if facts else None
        if held is not None and found is not None and found.boot_id != held.link.boot_id:
            held.link.lost = held.link.lost or SandboxError("another agent answered")
        if held is not None and facts is not None and held.link.lost is None:
            said = tenure.news(facts, known=held.generation, interpreter=interpreter)
            self.news += [said] if said else []
            held.note(found)
        elif held is not None and held.link.lost is not None and session.closed is None:
            oom = facts is not None and facts.ending is Ending.OUT_OF_MEMORY
            self._lost(f"The cell {'ran out of memory' if oom else 'was lost'} in this call")
            found = None
            await self._recreate()
        session.runs += 1
        if session.closed is not None:
            self.state = SessionState.CLOSED
            self.news = [f"The session was closed: {session.closed}."]
            found = None
        now = anyio.current_time()
        session.used = now
        due, _ = tenure.expiry(session, self._keeper.settings)
        return SessionReport(
            id=session.id,
            state=self.state,
            reason=" ".join(self.news) or None,
            kept=tenure.kept(found, interpreter=interpreter),
            age_s=now - session.opened,
            expires_in_s=max(due - now, 0.0) if session.closed is None else 0.0,
            runs=session.runs,
            waited_s=self.waited_s,
        )

    async def _recreate(self) -> None:
        """Have another cell ready for the next call, or close a session that has none left."""
        session = self._session
        try:
            await self._open()
        except SandboxError as error:
            if not session.cells and session.closed is None:
                reason = f"its cell was lost and no other came ({error})"
                self._keeper.end(session, "closed", reason)

    def note(self, facts: Facts) -> None:
        """Take in what there is after a call that nobody waits for any more."""
        held = self._session.cells.get(self._plan.cell)
        if held is not None:
            held.note(facts.kept)
