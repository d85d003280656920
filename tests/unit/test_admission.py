"""The waiting room: first come, first served, and a clear refusal when it is full."""

import anyio
import pytest

from codecell.admission import Admission
from codecell.errors import BusyError

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
