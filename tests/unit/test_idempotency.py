"""A keyed call runs once: joined while it goes, answered again while its result is kept."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.unit.over_fake import runner_over

from codecell.backends.fake import FakeBackend, Script, Wait, leave, say
from codecell.errors import BusyError, EngineUnavailable, KeyReused, RequestError, SandboxError
from codecell.idempotency import Retries
from codecell.model import Outcome, Request, Status
from codecell.observer import Phase, Watch
from codecell.runner import Runner
from codecell.settings import PoolSettings, RetrySettings, RunSettings, Settings

pytestmark = pytest.mark.anyio


RETRIES = RetrySettings()


def keyed(key: str = "k", code: str = "print(1)", caller: str = "ann") -> Request:
    return Request(language="python", code=code, caller=caller, idempotency_key=key)


@asynccontextmanager
async def opened(
    scripts: Script | Callable[[int], Script | SandboxError] = Script(),
    retries: RetrySettings = RETRIES,
) -> AsyncIterator[tuple[Runner, FakeBackend]]:
    settings = Settings.model_construct(
        pool=PoolSettings(min=0, max=0), runs=RunSettings(concurrent=1, queue=0), retries=retries
    )
    backend = FakeBackend(scripts=scripts)
    async with runner_over(backend, settings, within_s=10) as runner:
        yield runner, backend


async def test_a_repeated_call_gets_the_first_ones_result_and_runs_nothing() -> None:
    async with opened() as (runner, backend):
        first = await runner.execute(keyed())
        assert await runner.execute(keyed()) is first
        assert backend.asked == 1
        assert (await runner.execute(keyed("other"))).run_id != first.run_id


async def test_a_key_is_one_callers_own() -> None:
    async with opened() as (runner, _):
        first = await runner.execute(keyed())
        second = await runner.execute(keyed(caller="bob", code="print(2)"))
        assert first.run_id != second.run_id


@pytest.mark.parametrize("in_flight", [True, False])
async def test_another_body_under_a_known_key_is_refused(*, in_flight: bool) -> None:
    go = anyio.Event()
    async with opened(Script(run=(Wait(go), leave()))) as (runner, backend):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.execute, keyed())
            await anyio.wait_all_tasks_blocked()
            if not in_flight:
                go.set()
                await anyio.wait_all_tasks_blocked()
            with pytest.raises(KeyReused, match="different request"):
                await runner.execute(keyed(code="print(2)"))
            go.set()
        assert backend.asked == 1


async def test_calls_join_the_run_in_flight_and_hear_where_it_is() -> None:
    go = anyio.Event()
    results: list[Outcome] = []

    class Heard(Watch):
        def __init__(self) -> None:
            self.phases: list[Phase] = []

        def phase(self, phase: Phase) -> None:
            self.phases.append(phase)

    heard = [Heard(), Heard()]

    async def call(runner: Runner, watch: Watch) -> None:
        results.append(await runner.execute(keyed(), watch=watch))

    async with opened(Script(run=(say("x"), Wait(go), leave()))) as (runner, backend):
        async with anyio.create_task_group() as tasks:
            for watch in heard:
                tasks.start_soon(call, runner, watch)
                await anyio.wait_all_tasks_blocked()
            go.set()
        assert backend.asked == 1
    assert results[0] is results[1]
    assert heard[0].phases == [Phase.STARTING, Phase.RUNNING, Phase.COLLECTING]
    assert heard[1].phases == [Phase.RUNNING, Phase.COLLECTING]


async def test_the_run_goes_on_when_its_caller_hangs_up() -> None:
    go = anyio.Event()
    async with opened(Script(run=(Wait(go), leave()))) as (runner, backend):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.execute, keyed())
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert not backend.engine.created[0].jobs[0].cancelled
        go.set()
        assert (await runner.execute(keyed())).status is Status.SUCCESS
        assert backend.asked == 1


async def test_what_never_began_is_tried_again() -> None:
    away = EngineUnavailable("away")
    async with opened(lambda number: away if number == 1 else Script()) as (runner, _):
        assert (await runner.execute(keyed())).status is Status.SETUP_ERROR
        assert (await runner.execute(keyed())).status is Status.SUCCESS
        for _ in range(2):
            with pytest.raises(RequestError, match="code is empty"):
                await runner.execute(keyed("bad", code=" "))


async def test_what_began_and_failed_by_our_fault_is_not_run_again() -> None:
    async with opened(Script(run=(say("x"), leave(code=1, failure="ENOENT")))) as (runner, backend):
        first = await runner.execute(keyed())
        assert first.status is Status.SETUP_ERROR
        assert await runner.execute(keyed()) is first
        assert backend.asked == 1


async def test_no_room_is_told_and_the_key_stays_free() -> None:
    go = anyio.Event()
    async with opened(Script(run=(Wait(go), leave()))) as (runner, _):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.execute, keyed("first"))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyError):
                await runner.execute(keyed("second"))
            go.set()
        await anyio.wait_all_tasks_blocked()
        assert (await runner.execute(keyed("second"))).status is Status.SUCCESS


@pytest.mark.parametrize(
    "retries",
    [RetrySettings(count=2), RetrySettings(size=10_000)],  # type: ignore[arg-type]
    ids=["count", "size"],
)
async def test_results_are_bounded_and_the_oldest_go_first(retries: RetrySettings) -> None:
    async with opened(retries=retries) as (runner, _):
        runs = {key: (await runner.execute(keyed(key))).run_id for key in "abc"}
        for key, same in (("c", True), ("b", True), ("a", False)):
            assert ((await runner.execute(keyed(key))).run_id == runs[key]) is same


async def test_results_go_when_their_time_is_over() -> None:
    now = 0.0
    ran = 0

    async def execute(request: Request, watch: Watch | None) -> Outcome:
        nonlocal ran
        ran += 1
        async with opened() as (runner, _):
            return await runner.execute(Request(language="python", code="1"))

    async with anyio.create_task_group() as tasks:
        retries = Retries(RetrySettings(ttl_s=10), tasks, lambda: now)
        for now, total in ((0.0, 1), (9.0, 1), (10.5, 2)):  # noqa: B007  the clock reads it
            await retries.execute(keyed(), "k", execute, None)
            assert ran == total


@pytest.mark.parametrize("key", ["", "x" * 129])
async def test_a_key_has_a_length(key: str) -> None:
    async with opened() as (runner, _):
        with pytest.raises(RequestError, match="1 to 128 characters"):
            await runner.execute(keyed(key))
