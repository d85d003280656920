"""Cells that callers keep between runs: found by caller and name, used by one call at a time.

A session is opened by the first call that names it and closed by its caller, by time, by eviction
or with the server. Its cells are leased from the pool and never go back: closing throws them away.
A session has one cell per language that it has used. What to refuse, what to close and what to say
is decided in `tenure`.
"""

import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import structlog

from codecell import tenure
from codecell.errors import RequestError, ResourceNotFound, SandboxError, SessionBusy
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
    SessionInfo,
    SessionReport,
    SessionState,
)
from codecell.observer import Observers, SessionEvent
from codecell.pool import Pool
from codecell.settings import Settings
from codecell.store import Store

NEW = "new"
Action = Literal["opened", "closed", "expired", "evicted", "lost"]
RUNS = 20_000  # remembered of one session
REMEMBERED = 256  # closed sessions whose end a later call of the same name is told

log = structlog.get_logger(__name__)


class _Cell:
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
        self.cells: dict[CellSpec, _Cell] = {}
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


class Turn:
    """One call's time in a session, from its being alone in it to its report."""

    def __init__(self, sessions: "Sessions", session: Session, plan: Plan) -> None:
        self._sessions = sessions
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

    async def _open(self) -> _Cell:
        session, spec = self._session, self._plan.cell
        link = await self._sessions.pool.keep(spec, session.caller)
        if session.closed is not None:
            self._sessions.pool.let_go(link)
            raise SandboxError(f"session {session.id} was closed while it waited for a cell")
        held = session.cells[spec] = _Cell(link)
        return held

    def _lost(self, how: str) -> None:
        held = self._session.cells.pop(self._plan.cell)
        self._session.luggage.drop(self._plan.language)
        self._sessions.pool.let_go(held.link)
        self._sessions.tell("lost", self._session, self._plan.language)
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
        due, _ = tenure.expiry(session, self._sessions.settings)
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
                self._sessions.end(session, "closed", reason)

    def note(self, facts: Facts) -> None:
        """Take in what there is after a call that nobody waits for any more."""
        held = self._session.cells.get(self._plan.cell)
        if held is not None:
            held.note(facts.kept)


class Sessions:
    """All the sessions of this server."""

    def __init__(self, pool: Pool, settings: Settings, observers: Observers, store: Store) -> None:
        self.pool = pool
        self._store = store
        self._most_of = settings.sessions_of
        self.observers = observers
        self.settings = settings.sessions
        self._open: dict[tuple[str, str], Session] = {}
        self._past: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._changed = anyio.Event()
        self._soonest = float("inf")  # when time is looked at next

    @asynccontextmanager
    async def turn(self, plan: Plan, name: str) -> AsyncIterator[Turn]:
        """Wait until this call is alone in its session, which is opened where there is none.

        Raises:
            RequestError: no further session may be opened.
            SessionBusy: earlier calls of the session took too long.
        """
        session, turn = await self._enter(plan, name)
        try:
            yield turn
        finally:
            session.used = anyio.current_time()
            session.turn.release()
            if not session.cells:  # no cell could be had: there is nothing to come back to
                self.end(session, "closed", "it never had a cell")
            self._wake(session)

    async def _enter(self, plan: Plan, name: str) -> tuple[Session, Turn]:
        name = secrets.token_hex(16) if name == NEW else name
        started = anyio.current_time()
        while True:
            session = self._open.get((plan.caller, name))
            turn = None
            if session is None:
                session, reason = self._begin(name, plan)
                turn = Turn(self, session, plan)
                turn.state = SessionState.CREATED
                turn.news += [reason] if reason else []
            behind = session.busy
            await self._alone(session, started)
            if session.closed is not None:
                session.turn.release()
                continue
            if session.cells and plan.cell not in session.cells:
                try:
                    self._make_room(plan.caller, further=session)
                except RequestError:
                    session.turn.release()
                    raise
            turn = turn or Turn(self, session, plan)
            if behind:
                turn.waited_s = anyio.current_time() - started
                turn.news.append(f"This call waited {turn.waited_s:.1f} s for an earlier one.")
            return session, turn

    def _begin(self, name: str, plan: Plan) -> tuple[Session, str | None]:
        self._make_room(plan.caller)
        key = (plan.caller, name)
        session = self._open[key] = Session(name, plan.caller)
        self._wake(session)
        self.tell("opened", session, plan.language)
        past = self._past.pop(key, None)
        return session, past and f"An earlier session of this name is gone: {past}."

    def _make_room(self, caller: str, further: Session | None = None) -> None:
        """Evict, where that is configured, until one more session or cell may be had."""
        now = anyio.current_time()
        needed = max((cell.memory_bytes for cell in self._cells()), default=0)
        for victim in tenure.place_for(
            caller, self._open.values(), needed, now, self.settings, self._most_of(caller), further
        ):
            self.end(victim, "evicted", f"evicted, it was idle for {now - victim.used:.0f} s")

    async def _alone(self, session: Session, started: float) -> None:
        if session.turn.locked() and (
            session.turn.statistics().tasks_waiting >= self.settings.queue
        ):
            raise SessionBusy(
                f"session {session.id} has {self.settings.queue} calls waiting", retry_after_s=1.0
            )
        left = started + self.settings.wait_s - anyio.current_time()
        with anyio.move_on_after(left) as scope:
            await session.turn.acquire()
        if scope.cancelled_caught:
            raise SessionBusy(
                f"session {session.id} was busy with earlier calls for {self.settings.wait_s:g} s",
                retry_after_s=1.0,
            )

    def _cells(self) -> list[_Cell]:
        return [cell for session in self._open.values() for cell in session.cells.values()]

    # what is open

    def listing(self, caller: str) -> tuple[SessionInfo, ...]:
        """List the sessions of a caller, the oldest first."""
        now = anyio.current_time()
        return tuple(
            self._info(session, now) for session in self._open.values() if session.caller == caller
        )

    def _info(self, session: Session, now: float) -> SessionInfo:
        due, _ = tenure.expiry(session, self.settings)
        return SessionInfo(
            id=session.id,
            languages=session.languages,
            busy=session.busy,
            waiting=session.turn.statistics().tasks_waiting,
            age_s=now - session.opened,
            idle_s=0.0 if session.busy else now - session.used,
            expires_in_s=max(due - now, 0.0),
            runs=session.runs,
            memory_bytes=session.memory_bytes,
        )

    def tell(self, action: Action, session: Session, language: str) -> None:
        """Tell the observers."""
        self.observers.session(
            SessionEvent(
                action=action, session_id=session.id, caller=session.caller, language=language
            )
        )

    # the end

    async def close(self, caller: str, name: str) -> SessionInfo:
        """Close one session of a caller; a call that is in it is stopped first.

        Raises:
            RequestError: there is none of that name; the text lists those there are.
        """
        session = self._open.get((caller, name))
        if session is None:
            own = [session for session in self._open.values() if session.caller == caller]
            have = tenure.listed(own, anyio.current_time()) if own else "none"
            raise RequestError(f"There is no session {name[:64]!r}. Your sessions: {have}.")
        info = self._info(session, anyio.current_time())
        await self._close(session, "close_session was called")
        return info

    async def _close(self, session: Session, reason: str) -> None:
        session.closed = reason
        self._forget(session)
        try:
            for cell in list(session.cells.values()):
                await cell.link.cancel()
        finally:
            self.end(session, "closed", reason)

    def end(self, session: Session, action: Action, reason: str) -> None:
        """Throw a session's cells away and remember why."""
        session.closed = session.closed or reason
        self._forget(session)
        if session.cells or action != "closed":
            self.tell(action, session, "/".join(session.languages))
        for cell in session.cells.values():
            self.pool.let_go(cell.link)
        session.cells.clear()

    def _forget(self, session: Session) -> None:
        key = (session.caller, session.id)
        if self._open.get(key) is not session:
            return
        del self._open[key]
        self._store.forget(session.caller, session.told)
        self._past[key] = session.closed or ""
        while len(self._past) > REMEMBERED:
            self._past.popitem(last=False)
        log.info("session closed", caller=session.caller, runs=session.runs, reason=session.closed)

    # time

    def _wake(self, session: Session) -> None:
        """Have time looked at again where this session's is over sooner than that of the others."""
        if tenure.expiry(session, self.settings)[0] < self._soonest:
            self._changed.set()

    async def keep_time(self) -> None:
        """Close what has been idle too long or is too old, as long as the server is up."""
        while True:
            now = anyio.current_time()
            soonest = float("inf")
            for session in list(self._open.values()):
                due, why = tenure.expiry(session, self.settings)
                if session.busy:
                    continue  # looked at again when its call is over
                if due <= now:
                    self.end(session, "expired", why)
                else:
                    soonest = min(soonest, due)
            self._changed = anyio.Event()
            self._soonest = soonest
            with anyio.move_on_after(soonest - now):
                await self._changed.wait()
