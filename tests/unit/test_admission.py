"""The waiting room: first come, first served, and a clear refusal when it is full."""

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from codecell.admission import Admission
from codecell.errors import BusyError, RateLimited
from codecell.quota import Quotas
from codecell.settings import CallerSettings

if TYPE_CHECKING:
    from codecell.observer import Place

pytestmark = pytest.mark.anyio
settle = anyio.wait_all_tasks_blocked


class Hall:
    """Callers that hold their slot until they are told to leave."""

    def __init__(self, concurrent: int, queue: int) -> None:
        self.admission = Admission(concurrent=concurrent, queue=queue)
        self.inside: list[int] = []
        self.most = 0
        self.leave = [anyio.Event() for _ in range(12)]
        self.scopes = [anyio.CancelScope() for _ in range(12)]

    async def visit(self, number: int) -> None:
        with self.scopes[number]:
            async with self.admission.slot():
                self.inside.append(number)
                self.most = max(self.most, len(self.inside))
                await self.leave[number].wait()
                self.inside.remove(number)


async def test_so_many_are_inside_and_the_rest_come_in_their_order() -> None:
    hall = Hall(concurrent=2, queue=10)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(hall.visit, number)
                await settle()
            assert hall.inside == [0, 1]
            hall.leave[0].set()
            await settle()
            assert hall.inside == [1, 2]
            for number in range(1, 6):
                hall.leave[number].set()
                await settle()
    assert hall.most == 2
    assert hall.inside == []


async def test_past_the_queue_a_caller_is_refused_and_told_when_to_come_back() -> None:
    hall = Hall(concurrent=1, queue=2)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(hall.visit, number)
            await settle()
            with pytest.raises(BusyError) as refused:
                await hall.visit(3)
            assert refused.value.retry_after_s == 3.0  # three turns of a second
            assert str(refused.value) == "busy: 1 runs in flight and 2 waiting; retry after 3 s"
            hall.leave[0].set()
            await settle()
            tasks.start_soon(hall.visit, 4)  # there is room again
            await settle()
            for event in hall.leave:
                event.set()


async def test_without_a_queue_nobody_waits() -> None:
    hall = Hall(concurrent=1, queue=0)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hall.visit, 0)
            await settle()
            with pytest.raises(BusyError):
                await hall.visit(1)
            hall.leave[0].set()
        async with hall.admission.slot():
            pass


@pytest.mark.parametrize("who", ["inside", "waiting"])
async def test_a_caller_that_gives_up_frees_its_place(who: str) -> None:
    hall = Hall(concurrent=1, queue=1)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hall.visit, 0)
            await settle()
            tasks.start_soon(hall.visit, 1)
            await settle()
            hall.scopes[0 if who == "inside" else 1].cancel()
            await settle()
            tasks.start_soon(hall.visit, 2)  # not refused
            await settle()
            for event in hall.leave:
                event.set()
        async with hall.admission.slot():
            pass


async def test_a_run_that_fails_frees_its_place() -> None:
    admission = Admission(concurrent=1, queue=0)
    with pytest.raises(ZeroDivisionError):
        async with admission.slot():
            raise ZeroDivisionError
    async with admission.slot():
        pass


async def test_one_task_may_hold_several_places() -> None:
    admission = Admission(concurrent=2, queue=0)
    async with admission.slot(), admission.slot():
        with pytest.raises(BusyError):
            async with admission.slot():
                pass


async def test_the_advice_follows_how_long_runs_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("codecell.admission.time.monotonic", lambda: now[0])
    admission = Admission(concurrent=1, queue=0)
    for _ in range(80):
        async with admission.slot():
            now[0] += 20
    async with admission.slot():
        with pytest.raises(BusyError) as refused:
            async with admission.slot():
                pass
    assert refused.value.retry_after_s == pytest.approx(20, abs=0.5)


class Crowd:
    """Calls of several callers, each held until it is told to leave."""

    def __init__(self, concurrent: int, queue: int, **limits: int) -> None:
        own = {name: CallerSettings(concurrent=most) for name, most in limits.items()}
        quotas = Quotas(lambda name: own.get(name, CallerSettings()), lambda: 0.0)
        self.admission = Admission(concurrent=concurrent, queue=queue, quotas=quotas)
        self.got_in: list[str] = []
        self.refused: list[str] = []
        self.places: dict[str, Place] = {}
        self._leave: dict[str, anyio.Event] = {}

    async def call(self, name: str) -> None:
        """Call as the caller whose letter begins the name."""
        self._leave[name] = anyio.Event()
        try:
            async with self.admission.slot(
                name[0], lambda place: self.places.update({name: place})
            ):
                self.got_in.append(name)
                await self._leave[name].wait()
        except BusyError:
            self.refused.append(name)

    async def arrive(self, tasks: TaskGroup, *names: str) -> None:
        for name in names:
            tasks.start_soon(self.call, name)
            await settle()

    async def end(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
            await settle()


@pytest.mark.requirement("fair:queue")
@pytest.mark.parametrize("concurrent", [1, 2, 4])
async def test_a_single_call_waits_for_one_run_of_a_greedy_caller(concurrent: int) -> None:
    crowd = Crowd(concurrent, queue=64)
    async with anyio.create_task_group() as tasks:
        await crowd.arrive(tasks, *[f"g{n}" for n in range(40)], "s")
        assert crowd.places["s"]() == 1
        await crowd.end("g0")
        assert crowd.got_in[-1] == "s"
        tasks.cancel_scope.cancel()


async def test_callers_take_turns() -> None:
    crowd = Crowd(1, queue=64)
    async with anyio.create_task_group() as tasks:
        await crowd.arrive(tasks, "a0", "a1", "a2", "a3", "b0", "b1", "c0")
        expected = ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
        waiting = [name for name in expected if name in crowd.places]
        assert [crowd.places[name]() for name in waiting] == [1, 2, 3, 4, 5, 6]
        for name in expected:
            await crowd.end(name)
        assert crowd.got_in == expected
        assert [crowd.places[name]() for name in waiting] == [0] * 6


async def test_a_full_room_makes_space_for_who_has_less_in_it() -> None:
    crowd = Crowd(1, queue=3)
    async with anyio.create_task_group() as tasks:
        await crowd.arrive(tasks, "g0", "g1", "g2", "g3", "g4", "s0")
        assert crowd.refused == ["g4", "g3"]  # its own fifth call, and its newest for the other's
        await crowd.arrive(tasks, "t0")
        assert crowd.refused == ["g4", "g3", "g2"]
        await crowd.arrive(tasks, "u0", "s1")  # each has one waiting
        assert crowd.refused == ["g4", "g3", "g2", "u0", "s1"]
        await crowd.end("g0", "s0", "t0", "g1")
        assert crowd.got_in == ["g0", "s0", "t0", "g1"]


async def test_a_callers_own_limit_leaves_places_to_others() -> None:
    crowd = Crowd(3, queue=8, g=1)
    async with anyio.create_task_group() as tasks:
        await crowd.arrive(tasks, "g0", "g1", "s0", "s1")
        assert crowd.got_in == ["g0", "s0", "s1"]
        await crowd.end("s0")
        assert crowd.got_in == ["g0", "s0", "s1"]
        await crowd.end("g0")
        assert crowd.got_in[-1] == "g1"
        await crowd.end("g1", "s1")
    assert crowd.admission.waiting == 0


async def test_what_a_caller_gave_up_is_not_counted_against_it() -> None:
    quotas = Quotas(lambda _: CallerSettings(runs_per_minute=2), lambda: 0.0)
    admission = Admission(concurrent=1, queue=1, quotas=quotas)
    async with admission.slot("a"):
        with anyio.move_on_after(0):
            async with admission.slot("a"):
                pass
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hold, admission)
            await settle()
            with pytest.raises(BusyError):
                async with admission.slot("b"):
                    pass
            tasks.cancel_scope.cancel()
    async with admission.slot("a"):
        pass
    with pytest.raises(RateLimited):
        async with admission.slot("a"):
            pass
    async with admission.slot("b"), anyio.create_task_group():
        pass


async def _hold(admission: Admission) -> None:
    async with admission.slot("a"):
        pass


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_places_are_neither_lost_nor_made(seed: int) -> None:
    chance = random.Random(seed)
    admission = Admission(concurrent=3, queue=6)
    inside = most = done = 0

    async def visit(caller: str) -> None:
        nonlocal inside, most, done
        with anyio.move_on_after(chance.choice([0, 0.001, 1])), suppress(BusyError):
            async with admission.slot(caller):
                inside += 1
                most = max(most, inside)
                try:
                    for _ in range(chance.randrange(4)):
                        await anyio.lowlevel.checkpoint()
                finally:
                    inside -= 1
                    done += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(visit, chance.choice("aaaabc"))
            if chance.random() < 0.5:
                await anyio.lowlevel.checkpoint()
    assert (inside, admission.waiting) == (0, 0)
    assert most <= 3
    assert done
    async with admission.slot("a"), admission.slot("b"), admission.slot("c"):
        pass
    assert not admission._inside
