"""Observers hear everything once and in order, and can't harm a run unless they are asked."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.unit.over_fake import runner_over

from codecell.backends.fake import HELLO, READY, FakeBackend, Script, Scripts, Wait, leave, say
from codecell.errors import BusyError, CodecellError, Leaving, RequestError, SandboxError
from codecell.model import Outcome, Request, Status
from codecell.observer import CellEvent, Observer, Observers, Phase, Place, Run, Watch
from codecell.runner import Runner
from codecell.settings import PoolSettings, RunSettings, Settings
from codecell.store import uri_of

pytestmark = pytest.mark.anyio
SETTINGS = Settings.model_construct(
    pool=PoolSettings(min=0, max=0), runs=RunSettings(concurrent=1, queue=1)
)
REQUEST = Request(language="python", code="print(1)", caller="ann")


class Diary(Observer):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.outcomes: list[Outcome] = []
        self.runs: set[str] = set()

    def refused(self, caller: str, request: Request | None, error: CodecellError) -> None:
        self.lines.append(f"refused {caller} {type(error).__name__}")

    def queued(self, run: Run, place: Place) -> None:
        self.lines.append(f"queued {place()}")

    def left(self, run: Run) -> None:
        self.lines.append("left")

    def admitted(self, run: Run) -> Awaitable[None] | None:
        self.runs.add(run.run_id)
        self.lines.append(f"admitted {run.request.caller}")
        return None

    def phase(self, run: Run, phase: Phase) -> None:
        self.lines.append(phase)

    def ended(self, run: Run, outcome: Outcome) -> None:
        assert run.run_id == outcome.run_id
        self.outcomes.append(outcome)
        self.lines.append(f"ended {outcome.status}")

    def leased(self, language: str, waited_s: float | None) -> None:
        self.lines.append("warm" if waited_s is None else "cold")

    def cell_created(self, event: CellEvent) -> None:
        self.lines.append(f"created {event.language}")

    def cell_discarded(self, event: CellEvent) -> None:
        self.lines.append(f"discarded {event.caller} {event.reason}")


class Broken(Observer):
    """Fails at everything that it may fail at."""

    def phase(self, run: Run, phase: Phase) -> None:
        raise ValueError("a bug")

    def ended(self, run: Run, outcome: Outcome) -> None:
        raise ValueError("a bug")

    def cell_created(self, event: CellEvent) -> None:
        raise ValueError("a bug")


class Refusing(Observer):
    """Lets nothing run."""

    def admitted(self, run: Run) -> Awaitable[None] | None:
        return self._refuse()

    async def _refuse(self) -> None:
        raise SandboxError("the audit log can't be written")


@asynccontextmanager
async def opened(*observers: Observer, scripts: Scripts) -> AsyncIterator[Runner]:
    async with runner_over(FakeBackend(scripts=scripts), SETTINGS, Observers(observers)) as runner:
        yield runner
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep(0.05)  # used cells go a moment after their runs


async def test_the_life_of_a_run_is_told_in_its_order() -> None:
    diary = Diary()
    async with opened(diary, scripts=Script(run=(say("hi"), leave(stdout_bytes=2)))) as runner:
        outcome = await runner.execute(REQUEST)
    assert diary.lines == [
        "admitted ann", "starting", "created python", "cold", "running", "collecting",
        "ended success", "discarded ann used",
    ]  # fmt: skip
    assert diary.outcomes == [outcome]
    assert diary.runs == {outcome.run_id}


async def test_what_is_refused_is_told_with_its_caller_and_never_admitted() -> None:
    diary = Diary()
    async with opened(diary, scripts=Script()) as runner:
        with pytest.raises(RequestError):
            await runner.execute(Request(language="cobol", code="x", caller="bob"))
    assert diary.lines == ["refused bob RequestError"]


async def test_queue_positions_are_told_and_a_caller_that_leaves_is_not_admitted() -> None:
    diary, never = Diary(), anyio.Event()
    async with (
        opened(diary, scripts=Script(run=(Wait(never), leave()))) as runner,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(runner.execute, REQUEST)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01):
            await runner.execute(REQUEST)
        assert diary.lines[-2:] == ["queued 1", "left"]
        tasks.start_soon(runner.execute, REQUEST)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(BusyError):
            await runner.execute(REQUEST)
        assert diary.lines[-1] == "refused ann BusyError"
        never.set()
    assert diary.lines.count("admitted ann") == 2
    assert diary.lines.count("ended success") == 2
    assert diary.lines.count("left") == 1


async def test_a_cancelled_run_is_told_with_what_it_had_printed() -> None:
    diary, never = Diary(), anyio.Event()
    script = Script(run=(say("partial"), Wait(never), leave()))
    async with opened(diary, scripts=script) as runner:
        with anyio.move_on_after(0.05):
            await runner.execute(REQUEST)
    (outcome,) = diary.outcomes
    assert outcome.status is Status.CANCELLED
    assert outcome.stdout.text == "partial"
    assert outcome.usage.cpu_s == 0.125  # as the cell reported when it was stopped
    kept = runner.store.find(uri_of(outcome.run_id, "stdout"), "ann")
    assert runner.store.read(kept) == b"partial"  # nobody was answered: it can be read later
    runner.store.close()
    assert "discarded ann used" in diary.lines


async def test_a_server_that_leaves_stops_its_runs_and_their_calls_are_told() -> None:
    diary, never = Diary(), anyio.Event()
    script = Script(run=(say("partial"), Wait(never), leave()))
    told: list[str] = []

    async def call(runner: Runner) -> None:
        with pytest.raises(Leaving):
            await runner.execute(REQUEST)
        told.append("told")

    async with opened(diary, scripts=script) as runner, anyio.create_task_group() as tasks:
        tasks.start_soon(call, runner)
        tasks.start_soon(call, runner)  # this one waits: there is one place
        await anyio.wait_all_tasks_blocked()
        await runner.stop()
        await call(runner)
    assert told == ["told"] * 3
    (outcome,) = diary.outcomes
    assert (outcome.status, outcome.stdout.text) == (Status.CANCELLED, "partial")
    assert diary.lines.count("left") == 1
    assert diary.lines.count("refused ann Leaving") == 1
    runner.store.close()


async def test_a_run_cancelled_before_its_cell_was_there_is_ended_too() -> None:
    diary, up = Diary(), anyio.Event()
    async with opened(diary, scripts=Script(boot=(Wait(up), HELLO, READY))) as runner:
        with anyio.move_on_after(0.05):
            await runner.execute(REQUEST)
        up.set()
    assert diary.lines[:3] == ["admitted ann", "starting", "ended cancelled"]


async def test_an_observer_that_fails_harms_nothing() -> None:
    diary = Diary()
    async with opened(Broken(), diary, scripts=Script()) as runner:
        assert (await runner.execute(REQUEST)).status is Status.SUCCESS
    assert diary.lines[-2:] == ["ended success", "discarded ann used"]


async def test_an_observer_may_refuse_a_run_before_anything_of_it_runs() -> None:
    diary = Diary()
    async with opened(diary, Refusing(), scripts=Script()) as runner:
        outcome = await runner.execute(REQUEST)
    assert outcome.status is Status.SETUP_ERROR
    assert outcome.error_message == "the audit log can't be written"
    assert diary.lines == ["admitted ann", "ended setup_error"]


async def test_our_own_bug_still_ends_the_run_for_its_observers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diary = Diary()

    def bug(*_: object) -> None:
        raise ZeroDivisionError

    async with opened(diary, scripts=Script()) as runner:
        monkeypatch.setattr("codecell.tale.verdict", bug)
        with pytest.raises(ZeroDivisionError):
            await runner.execute(REQUEST)
    assert "ended setup_error" in diary.lines


async def test_a_watch_sees_its_own_run_only() -> None:
    class Own(Watch):
        def __init__(self) -> None:
            self.heard: list[object] = []

        def planned(self, run: Run) -> None:
            self.heard.append(run.request.language)

        def phase(self, phase: Phase) -> None:
            self.heard.append(phase)

        def output(self, stream: str, data: bytes) -> None:
            self.heard.append((stream, data))

    own = Own()
    async with opened(scripts=Script(run=(say("hi"), leave(stdout_bytes=2)))) as runner:
        await runner.execute(REQUEST)
        await runner.execute(REQUEST, watch=own)
    assert own.heard == [
        "python", "starting", "running", ("stdout", b"hi"), "collecting"
    ]  # fmt: skip
