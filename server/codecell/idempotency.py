"""A call that carries an idempotency key runs once, however often its caller repeats it.

The first call with a key begins the run; the same caller's further calls with it join the run while
it goes and get its result while it is kept. Such a run belongs to its key, not to a connection: a
caller that hangs up, or cancels, leaves it going to its own limits, so that the retry finds it.
What never began (refused, no room, no cell) is not kept: the retry is a first call again.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import anyio
from anyio.abc import TaskGroup

from codecell.errors import BusyError, KeyReused, RequestError
from codecell.model import Outcome, Request, Status
from codecell.observer import Phase, Place, Run, Stream, Watch
from codecell.settings import RetrySettings

MAX_KEY_CHARS = 128
Execute = Callable[[Request, Watch | None], Awaitable[Outcome]]


class Retries:
    """The keyed runs of all callers: in flight, or over and kept for a while.

    Results go when their time is over, and the oldest first when they are too many or too large.
    """

    def __init__(
        self,
        settings: RetrySettings,
        tasks: TaskGroup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._clock = clock
        self._flights: dict[tuple[str, str], _Flight] = {}  # in the order of their results
        self._size = 0

    async def execute(
        self, request: Request, key: str, execute: Execute, watch: Watch | None
    ) -> Outcome:
        """Return the outcome of the one run that has this key.

        Args:
            request: what is asked for; under a known key it must be the same as then.
            key: unique among one caller's.
            execute: begins the run, if there is none.
            watch: of this call.

        Raises:
            KeyReused: the key stands for another request.
            RequestError: this one is not valid.
            BusyError: no place and no room to wait.
        """
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise RequestError(f"idempotency_key must have 1 to {MAX_KEY_CHARS} characters")
        self._expire()
        name, digest = (request.caller, key), _digest(request)
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight(digest)
            self._tasks.start_soon(self._fly, name, flight, request, execute)
        elif flight.digest != digest:
            raise KeyReused(
                "idempotency_key was used for a different request: repeat that request exactly, "
                "or send a new key"
            )
        return await flight.outcome_for(watch)

    async def _fly(
        self, name: tuple[str, str], flight: "_Flight", request: Request, execute: Execute
    ) -> None:
        kept = False
        try:
            flight.outcome = await execute(request, flight.watches)
            kept = flight.watches.began or flight.outcome.status is not Status.SETUP_ERROR
        except (RequestError, BusyError) as error:
            flight.error = error
        except Exception as error:  # noqa: BLE001  each who waits gets it, as without a key
            flight.error = error
        finally:
            del self._flights[name]
            if kept:
                self._keep(name, flight)
            flight.over.set()

    def _keep(self, name: tuple[str, str], flight: "_Flight") -> None:
        flight.expires = self._clock() + self._settings.ttl_s
        flight.size = _size(flight.outcome)
        self._flights[name] = flight
        self._size += flight.size
        done = [name for name, flight in self._flights.items() if flight.is_over]
        while done and (len(done) > self._settings.count or self._size > self._settings.size):
            self._forget(done.pop(0))

    def _expire(self) -> None:
        now = self._clock()
        for name, flight in list(self._flights.items()):
            if flight.expires is not None:
                if flight.expires > now:
                    return
                self._forget(name)

    def _forget(self, name: tuple[str, str]) -> None:
        self._size -= self._flights.pop(name).size


class _Watches(Watch):
    """The watches of every call that waits for one run; who joins late learns where it is."""

    def __init__(self) -> None:
        self.began = False
        self._all: list[Watch] = []
        self._run: Run | None = None
        self._place: Place | None = None
        self._phase: Phase | None = None

    def join(self, watch: Watch) -> None:
        self._all.append(watch)
        if self._run is not None:
            watch.planned(self._run)
        if self._place is not None:
            watch.queued(self._place)
        if self._phase is not None:
            watch.phase(self._phase)

    def leave(self, watch: Watch) -> None:
        self._all.remove(watch)

    def planned(self, run: Run) -> None:
        self._run = run
        for watch in self._all:
            watch.planned(run)

    def queued(self, place: Place) -> None:
        self._place = place
        for watch in self._all:
            watch.queued(place)

    def phase(self, phase: Phase) -> None:
        self._phase = phase
        self.began = self.began or phase in (Phase.COMPILING, Phase.RUNNING)
        for watch in self._all:
            watch.phase(phase)

    def output(self, stream: Stream, data: bytes) -> None:
        for watch in self._all:
            watch.output(stream, data)


@dataclass(slots=True, eq=False)
class _Flight:
    """One keyed run."""

    digest: bytes
    watches: _Watches = field(default_factory=_Watches)
    over: anyio.Event = field(default_factory=anyio.Event)
    outcome: Outcome | None = None
    error: Exception | None = None
    expires: float | None = None
    size: int = 0

    @property
    def is_over(self) -> bool:
        return self.expires is not None

    async def outcome_for(self, watch: Watch | None) -> Outcome:
        if watch is not None:
            self.watches.join(watch)
        try:
            await self.over.wait()
        finally:
            if watch is not None:
                self.watches.leave(watch)
        if self.outcome is not None:
            return self.outcome
        raise self.error or BusyError("the server is shutting down", retry_after_s=1.0)


def _digest(request: Request) -> bytes:
    """Tell requests apart by everything but their key."""
    same = repr(replace(request, idempotency_key=None))
    return hashlib.sha256(same.encode("utf-8", "surrogatepass")).digest()


def _size(outcome: Outcome | None) -> int:
    """Estimate what a result takes in memory, the plan with its files included."""
    if outcome is None:
        return 0
    texts = [outcome.stdout.text, outcome.stderr.text]
    if outcome.compile is not None:
        texts.append(outcome.compile.output.text)
    for test in outcome.tests:
        texts += [test.stdout.text, test.stderr.text]
    texts += [case.expected or "" for case in outcome.plan.cases]
    files = sum(len(file.content) for file in outcome.plan.files)
    stdin = len(outcome.plan.stdin) + sum(len(case.stdin) for case in outcome.plan.cases)
    return 4096 + 4 * sum(map(len, texts)) + files + stdin
