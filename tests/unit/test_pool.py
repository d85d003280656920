"""Cells are used once, go to whoever waited longest, and none is ever left over."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.unit.over_fake import tasks_within

from codecell import pool as pool_module
from codecell.backends.fake import (
    HELLO,
    READY,
    End,
    FakeBackend,
    FakeCell,
    Raw,
    Script,
    Scripts,
    Wait,
)
from codecell.errors import CellLost, ImageMissing, SandboxError
from codecell.languages import LANGUAGES
from codecell.link import Link
from codecell.model import Launch, RunLimits, Step
from codecell.policy import cell_spec
from codecell.pool import Pool
from codecell.settings import PoolSettings, Settings

pytestmark = pytest.mark.anyio


def settings_of(
    size: int, starting: int = 4, languages: tuple[str, ...] = ("python",), **more: Any
) -> Settings:
    fields = {"min": size, "max": size, "starting": starting, "languages": languages, **more}
    return Settings.model_construct(pool=PoolSettings(**fields))


SPEC = cell_spec(LANGUAGES["python"], settings_of(0))
KEPT = cell_spec(LANGUAGES["python"], settings_of(0, reuse="caller"))
OTHER = cell_spec(LANGUAGES["bash"], settings_of(0))
PLAIN = Script()
settle = anyio.wait_all_tasks_blocked


@pytest.fixture(autouse=True)
def refill_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "REFILL_S", 0)


class Opened:
    def __init__(self, pool: Pool, backend: FakeBackend) -> None:
        self.pool = pool
        self.backend = backend

    @property
    def cells(self) -> list[FakeCell]:
        return self.backend.engine.cells

    @property
    def created(self) -> list[FakeCell]:
        return self.backend.engine.created


@asynccontextmanager
async def opened(
    scripts: Scripts = PLAIN,
    *,
    size: int = 0,
    starting: int = 4,
    languages: tuple[str, ...] = ("python",),
    close: bool = True,
    **more: Any,
) -> AsyncIterator[Opened]:
    """A pool over a fake engine; behind it, whatever happened, no cell is left."""
    backend = FakeBackend(scripts=scripts)
    async with tasks_within(5) as tasks:
        pool = Pool(backend, settings_of(size, starting, languages, **more), tasks, warm=True)
        tasks.start_soon(pool.keep_ready)
        try:
            yield Opened(pool, backend)
        finally:
            if close:
                with anyio.CancelScope(shield=True):
                    await pool.aclose()
    assert backend.engine.cells == []
    assert all(cell.discards for cell in backend.engine.created), "a stream was left open"


async def lease_once(it: Opened) -> FakeCell:
    async with it.pool.lease(SPEC, "me") as link:
        assert isinstance(link.cell, FakeCell)
        return link.cell


# --- spares


async def test_spares_are_made_ahead_and_refilled_behind_a_run() -> None:
    async with opened(size=2) as it:
        await settle()
        assert it.pool.ready(SPEC) == 2
        async with it.pool.lease(SPEC, "me"):
            await settle()
            assert it.pool.ready(SPEC) == 2
            assert len(it.cells) == 3
        await settle()
        assert (it.pool.ready(SPEC), len(it.cells), len(it.created)) == (2, 2, 3)


async def test_nothing_is_made_ahead_when_no_spare_is_wanted() -> None:
    async with opened(size=0) as it:
        await settle()
        assert it.created == []


async def test_each_kind_of_cell_has_its_own_spares() -> None:
    async with opened(size=1, languages=("python", "bash")) as it:
        await settle()
        assert sorted(cell.spec.language for cell in it.cells) == ["bash", "python"]
        async with it.pool.lease(OTHER, "me") as link:
            assert link.spec.language == "bash"


async def test_no_more_cells_start_at_a_time_than_allowed() -> None:
    gate = anyio.Event()
    script = Script(boot=(Wait(gate), HELLO, READY))
    async with opened(script, size=5, starting=4) as it, anyio.create_task_group() as tasks:
        await settle()
        assert len(it.created) == 2  # spares, of which half as many start at a time

        async def use() -> None:
            async with it.pool.lease(SPEC, "me"):
                pass

        for _ in range(6):
            tasks.start_soon(use)
        await settle()
        assert len(it.created) == 4
        gate.set()


async def test_a_kind_that_somebody_waits_for_is_started_before_spares() -> None:
    gate = anyio.Event()
    async with opened(
        Script(boot=(Wait(gate), HELLO, READY)), size=3, starting=1, languages=("python",)
    ) as it:
        await settle()
        async with anyio.create_task_group() as tasks:

            async def use() -> None:
                async with it.pool.lease(OTHER, "me"):
                    pass

            tasks.start_soon(use)
            await settle()
            gate.set()
        assert it.created[1].spec.language == "bash"


async def test_the_dead_instances_cells_are_swept_before_the_first_is_made() -> None:
    dead = FakeBackend()
    await dead.create(SPEC)
    dead.dead = True
    backend = FakeBackend(dead.engine)
    async with anyio.create_task_group() as tasks:
        pool = Pool(backend, settings_of(1), tasks, warm=True)
        tasks.start_soon(pool.keep_ready)
        await settle()
        assert [cell.owner for cell in dead.engine.cells] == [backend]
        await pool.aclose()
        tasks.cancel_scope.cancel()


async def test_a_sweep_that_fails_keeps_nobody_from_working(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sweep(self: FakeBackend) -> int:
        raise SandboxError("the engine is away")

    monkeypatch.setattr(FakeBackend, "sweep", sweep)
    async with opened(size=1) as it:
        await lease_once(it)


# --- used once


async def test_no_cell_is_ever_leased_twice() -> None:
    async with opened(size=2) as it:
        used: list[FakeCell] = []

        async def use() -> None:
            for _ in range(5):
                used.append(await lease_once(it))  # noqa: PERF401  one after the other

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(use)
        assert len(used) == 20
        assert len(set(used)) == 20
        await settle()
        assert all(cell not in it.cells for cell in used)


async def test_a_cell_is_discarded_when_its_run_fails() -> None:
    async with opened() as it:
        with pytest.raises(ZeroDivisionError):
            async with it.pool.lease(SPEC, "me"):
                raise ZeroDivisionError
        await settle()
        assert it.cells == []


async def test_a_cell_is_discarded_when_its_run_is_cancelled() -> None:
    async with opened() as it:
        async with anyio.create_task_group() as tasks:

            async def use() -> None:
                async with it.pool.lease(SPEC, "me"):
                    await anyio.sleep_forever()

            tasks.start_soon(use)
            await settle()
            assert len(it.cells) == 1
            tasks.cancel_scope.cancel()
        await settle()
        assert it.cells == []


# --- waiting


async def waiters(it: Opened, count: int, tasks: Any) -> tuple[list[int], list[anyio.CancelScope]]:
    """Callers that come one after the other; the list says in which order they were served."""
    served: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(count)]

    async def wait(number: int) -> None:
        with scopes[number]:
            async with it.pool.lease(SPEC, "me"):
                served.append(number)

    for number in range(count):
        tasks.start_soon(wait, number)
        await settle()
    return served, scopes


async def test_callers_are_served_in_the_order_in_which_they_came() -> None:
    gate = anyio.Event()
    script = Script(boot=(Wait(gate), HELLO, READY))
    async with opened(script, starting=1) as it, anyio.create_task_group() as tasks:
        served, _ = await waiters(it, 6, tasks)
        assert served == []
        gate.set()
        await settle()
        assert served == [0, 1, 2, 3, 4, 5]


async def test_a_caller_that_gives_up_loses_no_cell_for_the_next() -> None:
    gate = anyio.Event()
    script = Script(boot=(Wait(gate), HELLO, READY))
    async with opened(script, starting=1) as it, anyio.create_task_group() as tasks:
        served, scopes = await waiters(it, 3, tasks)
        scopes[0].cancel()
        await settle()
        gate.set()
        await settle()
        assert served == [1, 2]
        assert len(it.created) == 2


async def test_a_caller_that_gives_up_just_when_it_is_served_passes_the_cell_on() -> None:
    gate = anyio.Event()
    script = Script(boot=(Wait(gate), HELLO, READY))
    async with opened(script, starting=1) as it, anyio.create_task_group() as tasks:
        served, scopes = await waiters(it, 2, tasks)
        shelve = it.pool._shelve

        def shelve_and_cancel(*args: Any) -> None:
            scopes[0].cancel()  # cancelled, but still first in the queue when it is served
            shelve(*args)

        it.pool._shelve = shelve_and_cancel  # type: ignore[method-assign,assignment]
        gate.set()
        await settle()
        assert served == [1]
        assert len(it.created) <= 2


async def test_the_cell_of_a_caller_that_gave_up_serves_a_later_one() -> None:
    gate = anyio.Event()
    async with opened(Script(boot=(Wait(gate), HELLO, READY)), max=4) as it:
        async with anyio.create_task_group() as tasks:
            _, scopes = await waiters(it, 1, tasks)
            scopes[0].cancel()
        gate.set()
        await settle()
        before = list(it.created)
        assert await lease_once(it) in before


# --- failures


def fails_until(count: int, error: SandboxError) -> Callable[[int], Script | SandboxError]:
    return lambda number: error if number <= count else Script()


async def test_a_creation_that_fails_reaches_the_caller_as_it_is() -> None:
    error = ImageMissing("the image for python is not built; run `codecell images build python`")
    async with opened(fails_until(1, error)) as it:
        with pytest.raises(ImageMissing) as raised:
            await lease_once(it)
        assert raised.value is error
        await lease_once(it)  # and the next caller has its own attempt


async def test_each_failure_is_told_to_one_caller() -> None:
    async with opened(fails_until(2, SandboxError("no space")), starting=1) as it:
        results: list[str] = []

        async def use() -> None:
            try:
                await lease_once(it)
            except SandboxError as error:
                results.append(str(error))
            else:
                results.append("served")

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(use)
        assert results == ["no space", "no space", "served", "served"]


async def test_a_cell_that_comes_up_wrong_reaches_the_caller_and_is_removed() -> None:
    async with opened(Script(boot=(Raw(b"bash: not found, bash: not found"),))) as it:
        with pytest.raises(SandboxError, match="not a frame"):
            await lease_once(it)
        assert it.cells == []


async def test_a_cell_that_never_comes_up_is_removed() -> None:
    async with opened(Script(boot=(HELLO,)), boot_s=0.01) as it:
        with pytest.raises(CellLost, match="did not come up"):
            await lease_once(it)
        assert it.cells == []


async def test_spares_rest_longer_after_each_failure_and_callers_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    rested: list[anyio.Event] = []

    original = anyio.sleep

    async def sleep(delay: float) -> None:
        asks = sys._getframe(1).f_globals["__name__"]  # what else sleeps in here is not the pool's
        if asks != pool_module.__name__ or delay not in pool_module.BACKOFF_S:
            return await original(delay)
        pauses.append(delay)
        rested.append(anyio.Event())
        return await rested[-1].wait()

    monkeypatch.setattr(anyio, "sleep", sleep)
    async with opened(fails_until(8, SandboxError("no space")), size=1, starting=1) as it:
        await settle()
        assert len(pauses) == 1
        for count in range(2, 7):
            with pytest.raises(SandboxError, match="no space"):
                await lease_once(it)  # tried at once, whoever rests
            await settle()
            assert it.backend.asked == count
            assert len(pauses) == 1
        rested[-1].set()
        await settle()
        rested[-1].set()
        await settle()
        assert it.backend.asked == 8
        assert len(pauses) == 3
        rested[-1].set()
        await settle()
        assert it.pool.ready(SPEC) == 1
        assert pauses == sorted(pauses)
        assert pauses[0] < pauses[2]
        it.cells[0].end()  # a success has reset the pause
        await settle()
        assert pauses[3] == pauses[0]


async def test_a_spare_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BACKOFF_S", (0.0,))
    async with opened(size=1) as it:
        await settle()
        first = it.cells[0]
        first.end()
        with anyio.fail_after(2):
            while not (first.discards and it.cells and it.pool.ready(SPEC)):
                await anyio.lowlevel.checkpoint()
        assert first.discards == 1


async def test_a_spare_that_breaks_the_protocol_is_neither_leased_nor_left_behind() -> None:
    async with opened(size=1) as it:
        await settle()
        broken = it.cells[0]
        broken.play(Raw(b"this is no frame at all"))
        await settle()
        assert it.pool.ready(SPEC) == 0
        assert await lease_once(it) is not broken
        await settle()
        assert broken not in it.cells
        assert broken.discards == 1


async def test_a_dead_cell_of_a_caller_that_gave_up_is_not_kept_as_a_spare() -> None:
    gate = anyio.Event()
    script = Script(boot=(Wait(gate), HELLO, READY))
    async with opened(script, starting=1) as it, anyio.create_task_group() as tasks:
        _, scopes = await waiters(it, 1, tasks)
        shelve = it.pool._shelve

        def shelve_then_die(shelf: Any, link: Link) -> None:
            shelve(shelf, link)
            link.lost = CellLost("gone")
            it.created[0].end()
            scopes[0].cancel()

        it.pool._shelve = shelve_then_die  # type: ignore[method-assign]
        gate.set()
        await settle()
        it.pool._shelve = shelve  # type: ignore[method-assign]
        assert it.created[0].discards == 1
        assert await lease_once(it) is it.created[1]


# --- closing


async def test_closing_leaves_no_cell_and_tells_who_waits() -> None:
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(
            opened(Script(boot=(HELLO, Wait(anyio.Event()))), size=2, close=False)
        )
        errors: list[str] = []

        async def use() -> None:
            try:
                await lease_once(it)
            except SandboxError as error:
                errors.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use)
            tasks.start_soon(use)
            await settle()
            await it.pool.aclose()
        assert errors == ["the server is shutting down"] * 2
        assert it.cells == []
        with pytest.raises(SandboxError, match="shutting down"):
            await lease_once(it)


async def test_closing_under_a_run_in_flight_ends_its_cell_once() -> None:
    async with opened(size=1) as it:
        await settle()
        async with it.pool.lease(SPEC, "me") as link:
            await it.pool.aclose()
            assert it.cells == []
            assert not link.usable


async def test_a_run_that_outlives_its_pool_ends_quietly() -> None:
    release = anyio.Event()
    async with anyio.create_task_group() as outside:
        async with opened(size=1) as it:

            async def use() -> None:
                async with it.pool.lease(SPEC, "me"):
                    await release.wait()

            outside.start_soon(use)
            await settle()
        release.set()


async def test_closing_is_bounded_when_cells_do_not_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CLOSE_S", 0.01)
    async with opened(size=2) as it:
        await settle()
        it.backend.hold("discard")
        await it.pool.aclose()
        assert it.cells == []


async def test_a_cell_that_comes_up_while_the_pool_closes_is_not_left() -> None:
    gate = anyio.Event()
    script = Script(boot=(Wait(gate), HELLO, READY))
    scripts = {1: Script()}
    async with opened(lambda n: scripts.get(n, script), size=2, starting=2, close=False) as it:
        await settle()
        assert it.pool.ready(SPEC) == 1
        created = it.backend.hold("attach")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lease_once, it)
            await settle()
            gate.set()
            discarding = it.backend.hold("discard")
            tasks.start_soon(it.pool.aclose)
            await settle()
            created.set()
            await settle()
            discarding.set()
        await settle()
    assert it.cells == []


# --- cancellation at every await of making a cell


@pytest.mark.parametrize("stage", ["create", "attach", "send", "boot", "discard"])
async def test_cancelling_while_a_cell_is_made_leaves_nothing(stage: str) -> None:
    boot = (
        (HELLO, Wait(anyio.Event())) if stage == "boot" else (End(),) if stage == "discard" else ()
    )
    backend = FakeBackend(scripts=Script(boot=boot or (HELLO, READY)))
    release = anyio.Event()
    if stage != "boot":
        release = backend.hold(stage)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            pool = Pool(backend, settings_of(2), tasks, warm=True)
            tasks.start_soon(pool.keep_ready)
            await settle()
            assert backend.asked == 2
            if stage != "boot":
                assert backend.reached[stage].is_set()
            tasks.cancel_scope.cancel()
            release.set()  # a discard under way is shielded: it ends when the engine lets it
    assert backend.engine.cells == []


# --- cells that a caller uses again


STEP = Step(kind="run", launch=Launch.FORK, argv=("python3", "main.py"), timeout_s=30)
LIMITS = RunLimits(timeout_s=30, output_chars=10, output_kill_bytes=1000)


async def run_in(it: Opened, caller: str = "me") -> FakeCell:
    async with it.pool.lease(KEPT, caller) as link:
        await link.run(STEP, job=b"", stdin=b"", limits=LIMITS, on_output=print)
        assert isinstance(link.cell, FakeCell)
        return link.cell


async def test_a_caller_waits_for_its_own_cell_rather_than_take_a_new_one() -> None:
    gate = anyio.Event()
    wiped = Script(wiped=(Wait(gate), READY))
    async with opened(wiped, size=2, reuse="caller") as it, anyio.create_task_group() as tasks:
        await settle()
        first = await run_in(it)
        again: list[FakeCell] = []

        async def once_more() -> None:
            again.append(await run_in(it))

        tasks.start_soon(once_more)
        await settle()
        assert again == []
        other = await run_in(it, "someone else")  # whom no cell is being wiped for
        assert other is not first
        gate.set()
        await settle()
        assert again == [first]
        assert len(it.created) == 4, "two at first, and a spare for each that became a caller's"


async def test_a_caller_whose_cell_cannot_be_wiped_gets_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "RECYCLE_S", 0.05)
    async with opened(Script(wiped=()), size=1, reuse="caller") as it:
        await settle()
        first = await run_in(it)
        assert await run_in(it) is not first


async def test_callers_whose_own_cells_serve_them_raise_no_number_of_spares() -> None:
    async with opened(size=1, max=4, reuse="caller") as it:
        await settle()
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(run_in, it)
            await settle()
        assert it.pool.census()["python"].target == 1
        assert len(it.created) == 4
