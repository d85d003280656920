"""Cells that callers keep between runs: found by caller and name, used by one call at a time.

A session is opened by the first call that names it and closed by its caller, by time, by eviction
or with the server. Its cells are leased from the pool and never go back: closing throws them away.
A session has one cell per language that it has used. What to refuse, what to close and what to say
is decided in `tenure`; what one call does in its session is `turn`.
"""

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import structlog

from codecell import tenure
from codecell.errors import RequestError, SessionBusy
from codecell.model import Plan, SessionInfo, SessionState
from codecell.observer import Observers, SessionEvent
from codecell.pool import Pool
from codecell.settings import Settings
from codecell.store import Store
from codecell.turn import Action, HeldCell, Session, Turn

NEW = "new"
REMEMBERED = 256  # closed sessions whose end a later call of the same name is told

log = structlog.get_logger(__name__)


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

    def _cells(self) -> list[HeldCell]:
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
