"""Who else may know what goes on: audit log, metrics, traces, status page, progress.

An `Observer` sees everything that a runner and its pool do; a `Watch` sees one call's own run. Both
are told synchronously, on the event loop, between two steps of a run: what they do must be quick.
What goes wrong in them never harms a run, with one exception: `admitted` may refuse it.

The life of a run, as observers see it:

    refused                                     planned badly, or no room: there never was a run
    queued ─ left                               it waited for a place and its caller gave up
    [queued] ─ admitted ─ phase... ─ ended      `ended` comes exactly once for each `admitted`
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, ParamSpec

import structlog

from codecell.errors import CodecellError, SandboxError
from codecell.model import Outcome, Plan, Request

log = structlog.get_logger(__name__)

P = ParamSpec("P")
Stream = Literal["stdout", "stderr"]
Reason = Literal["", "used", "idle", "lost", "closing"]
Place = Callable[[], int]  # the position in the queue at the time of asking; 1 is next, 0 is in


class Phase(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    STARTING = "starting"  # it has a place and waits for a cell
    COMPILING = "compiling"
    RUNNING = "running"
    COLLECTING = "collecting"  # the program has ended; what it made is put together


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One run, as far as it is known before it begins.

    Attributes:
        request: what was asked for; code and input are in it, so take care what you keep.
        started: `time.monotonic()` when the request came.
    """

    run_id: str
    request: Request
    plan: Plan
    started: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEvent:
    """A cell came to be, or went.

    Attributes:
        caller: whose it was; None for one that nobody ever used.
        reason: why it went: `used` (its run is over), `idle` (nobody needed it), `lost` (it ended
            on its own or broke the protocol), `closing` (the server leaves); "" for a new one.
        took_s: for a new one, seconds from the decision to make it until it stood ready.
    """

    cell_id: str
    language: str
    caller: str | None = None
    runs: int = 0
    reason: Reason = ""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent:
    """Something happened to a caller's session."""

    action: Literal["opened", "closed", "expired", "evicted", "lost"]
    session_id: str
    caller: str
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The cells of one language, counted.

    Attributes:
        ready: they wait for a run.
        kept: used ones that wait for their own caller.
        starting: they are being made.
        leased: they serve a run.
        target: how many ready ones are wanted.
    """

    ready: int = 0
    kept: int = 0
    starting: int = 0
    leased: int = 0
    target: int = 0

    def __add__(self, other: "Census") -> "Census":
        return Census(
            ready=self.ready + other.ready,
            kept=self.kept + other.kept,
            starting=self.starting + other.starting,
            leased=self.leased + other.leased,
            target=self.target + other.target,
        )


class Observer:
    """Base of all observers: each overrides what it wants to know."""

    def refused(self, caller: str, request: Request | None, error: CodecellError) -> None:
        """A call was turned away and nothing ran.

        Args:
            caller: who called.
            request: what was asked for; None where it did not even have the right shape.
            error: a RequestError or a BusyError (or a surface's own); its text is safe to show.
        """

    def queued(self, run: Run, place: Place) -> None:
        """A run waits for a place."""

    def left(self, run: Run) -> None:
        """A caller gave up while its run waited: it was never admitted."""

    def admitted(self, run: Run) -> Awaitable[None] | None:
        """A run has its place and is about to begin; nothing of it has run.

        Returns:
            None, or what must be awaited first (for one who has to write something down).

        Raises:
            SandboxError: the run must not be; it ends as `setup_error` with this text.
        """
        return None

    def phase(self, run: Run, phase: Phase) -> None:
        """An admitted run goes on."""

    def ended(self, run: Run, outcome: Outcome) -> None:
        """An admitted run is over, whatever became of it: also cancelled, refused or failed."""

    def leased(self, language: str, waited_s: float | None) -> None:
        """A run got its cell: one that stood ready (None), or after so many seconds."""

    def cell_created(self, event: CellEvent) -> None:
        """A cell stands ready."""

    def cell_discarded(self, event: CellEvent) -> None:
        """A cell is being removed."""

    def session(self, event: SessionEvent) -> None:
        """Something happened to a session."""

    def trouble(self, part: str, text: str | None) -> None:
        """A part of the server (`audit`) can't do its work, or can again (None)."""


class Watch:
    """Base of what one call wants to know of its own run."""

    def planned(self, run: Run) -> None:
        """The request is valid; always the first to come."""

    def queued(self, place: Place) -> None:
        """The run waits for a place."""

    def phase(self, phase: Phase) -> None:
        """The run goes on."""

    def output(self, stream: Stream, data: bytes) -> None:
        """The program (while compiling, the compiler) printed something: hostile bytes, bounded."""


class Observers(Observer):
    """Any number of observers as one; only those are called that listen to an event.

    Attributes:
        troubles: what can't do its work just now, by part of the server, and why.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self.troubles: dict[str, str] = {}
        self._sort(observers)

    def join(self, observer: Observer) -> None:
        """Tell one more from now on."""
        self._sort([*self._all, observer])

    def _sort(self, observers: Sequence[Observer]) -> None:
        self._all = observers
        self._refused = [o.refused for o in observers if _listens(o, "refused")]
        self._queued = [o.queued for o in observers if _listens(o, "queued")]
        self._left = [o.left for o in observers if _listens(o, "left")]
        self._admitted = [o.admitted for o in observers if _listens(o, "admitted")]
        self._phase = [o.phase for o in observers if _listens(o, "phase")]
        self._ended = [o.ended for o in observers if _listens(o, "ended")]
        self._leased = [o.leased for o in observers if _listens(o, "leased")]
        self._created = [o.cell_created for o in observers if _listens(o, "cell_created")]
        self._discarded = [o.cell_discarded for o in observers if _listens(o, "cell_discarded")]
        self._session = [o.session for o in observers if _listens(o, "session")]
        self._trouble = [o.trouble for o in observers if _listens(o, "trouble")]

    def refused(self, caller: str, request: Request | None, error: CodecellError) -> None:
        """Tell all."""
        _tell(self._refused, caller, request, error)

    def queued(self, run: Run, place: Place) -> None:
        """Tell all."""
        _tell(self._queued, run, place)

    def left(self, run: Run) -> None:
        """Tell all."""
        _tell(self._left, run)

    async def admit(self, run: Run) -> None:
        """Ask all, so that each hears of the run that it will hear the end of.

        Raises:
            SandboxError: an observer refused; of several, the first.
        """
        refusal: SandboxError | None = None
        more: list[Awaitable[None]] = []
        for admitted in self._admitted:
            try:
                if (rest := admitted(run)) is not None:
                    more.append(rest)
            except SandboxError as error:
                refusal = refusal or error
            except Exception:
                log.exception("an observer failed")
        for rest in more:
            await rest
        if refusal is not None:
            raise refusal

    def phase(self, run: Run, phase: Phase) -> None:
        """Tell all."""
        _tell(self._phase, run, phase)

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Tell all."""
        _tell(self._ended, run, outcome)

    def leased(self, language: str, waited_s: float | None) -> None:
        """Tell all."""
        _tell(self._leased, language, waited_s)

    def cell_created(self, event: CellEvent) -> None:
        """Tell all."""
        _tell(self._created, event)

    def cell_discarded(self, event: CellEvent) -> None:
        """Tell all."""
        _tell(self._discarded, event)

    def session(self, event: SessionEvent) -> None:
        """Tell all."""
        _tell(self._session, event)

    def trouble(self, part: str, text: str | None) -> None:
        """Take note, and tell all."""
        if text is None:
            self.troubles.pop(part, None)
        else:
            self.troubles[part] = text
        _tell(self._trouble, part, text)


def _listens(observer: Observer, name: str) -> bool:
    return getattr(type(observer), name) is not getattr(Observer, name)


def _tell(listeners: Sequence[Callable[P, None]], *args: P.args, **kwargs: P.kwargs) -> None:
    for listener in listeners:
        try:
            listener(*args, **kwargs)
        except Exception:
            log.exception("an observer failed")
