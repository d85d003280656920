"""Many mixed runs, and faults by others: containers, descriptors, threads and memory stay flat.

80 runs by default; `make soak` does 2,000.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from codecell.app import open_runner
from codecell.backends.docker.owners import LABEL_OWNER, Owner
from codecell.model import Request, Status
from codecell.runner import Runner
from codecell.settings import load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
RUNS = int(os.environ.get("SOAK", "80"))
POOL = {"languages": ["python", "bash"], "min": 1, "max": 2}

MIX: tuple[tuple[str, str, float, set[Status]], ...] = (
    ("python", "print(sum(range(1000)))", 10, {Status.SUCCESS}),
    ("bash", "echo $((6 * 7)); exit 3", 10, {Status.EXECUTION_ERROR}),
    ("python", "while True: pass", 0.2, {Status.TIMEOUT}),
    ("python", "print('x' * 300_000)", 10, {Status.SUCCESS}),
    ("python", "import os; os.kill(os.getpid(), 11)", 10, {Status.EXECUTION_ERROR}),
    ("bash", "sleep 60 & disown; echo on", 10, {Status.SUCCESS}),
    ("python", "a = bytearray(1 << 40)", 10, {Status.EXECUTION_ERROR}),
    ("python", "import sys; print(len(sys.stdin.read()))", 10, {Status.SUCCESS}),
    ("python", "import os\nfor _ in range(20): os.fork() or os._exit(0)", 10, {Status.SUCCESS}),
    ("bash", "kill -9 $$", 10, {Status.EXECUTION_ERROR}),
)


@pytest.fixture
async def runner(engine: docker.APIClient) -> AsyncIterator[Runner]:
    async with open_runner(load(flags={"pool": POOL, "runs": {"concurrent": 4}})) as opened:
        yield opened


async def _some(runner: Runner, count: int) -> None:
    async def one(number: int) -> None:
        language, code, timeout_s, expected = MIX[number % len(MIX)]
        outcome = await runner.execute(
            Request(language=language, code=code, timeout_s=timeout_s, stdin="x" * 1000)
        )
        assert outcome.status in expected, (code, outcome.status, outcome.error_message)

    for start in range(0, count, 4):
        async with anyio.create_task_group() as tasks:
            for number in range(start, min(start + 4, count)):
                tasks.start_soon(one, number)


async def _settled(resources: Any, engine: docker.APIClient, most: int) -> Any:
    """Wait until the cells that are on their way out are gone."""
    with anyio.fail_after(30):
        while True:
            found = await anyio.to_thread.run_sync(resources.now, engine)
            if found.containers <= most:
                return found
            await anyio.sleep(0.1)


async def test_many_mixed_runs_leave_resources_flat(
    runner: Runner, engine: docker.APIClient, resources: Any
) -> None:
    most = len(POOL["languages"]) * 2  # type: ignore[arg-type]
    await _some(runner, 20)  # threads and caches that are made once
    before = await _settled(resources, engine, most)
    await _some(runner, RUNS)
    after = await _settled(resources, engine, most)
    sys.stderr.write(f"\n{RUNS} runs: before {before}, after {after}\n")  # `make soak` shows it
    assert after.containers <= most
    assert after.descriptors <= before.descriptors + 2 * most
    assert after.threads <= before.threads + 4
    assert after.memory_mib <= before.memory_mib + 8 + RUNS / 200


def _runs(token: str) -> bool:
    """Whether a process of any cell has this on its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"sleep\0{token}".encode() in path.read_bytes():
                return True
    return False


async def test_cells_killed_or_removed_by_someone_else_cost_a_run_at_most(
    runner: Runner, engine: docker.APIClient, resources: Any
) -> None:
    label = f"{LABEL_OWNER}={Owner.current().label()}"

    async def others(action: str) -> None:
        for item in engine.containers(filters={"label": label}):
            try:
                if action == "kill":
                    await anyio.to_thread.run_sync(engine.kill, item["Id"])
                else:
                    await anyio.to_thread.run_sync(
                        lambda found=item: engine.remove_container(found["Id"], force=True)
                    )
            except docker.errors.APIError:
                pass  # it has gone by itself

    await _some(runner, 4)  # what is made once
    before = await _settled(resources, engine, 4)
    for action, token in (("kill", "98765.25"), ("remove", "98765.75")):
        await others(action)  # the ones that wait
        outcome = await runner.execute(Request(language="python", code="print(1)"))
        if outcome.status is Status.SETUP_ERROR:  # it met one that nobody knew was dying
            outcome = await runner.execute(Request(language="python", code="print(1)"))
        assert outcome.stdout.text == "1\n", outcome.error_message
        async with anyio.create_task_group() as tasks:

            async def doomed(token: str = token) -> None:
                lost = await runner.execute(
                    Request(language="bash", code=f"echo on; sleep {token}", timeout_s=60)
                )
                assert lost.status is Status.SETUP_ERROR
                assert lost.stdout.text == "on\n"

            tasks.start_soon(doomed)
            with anyio.fail_after(50):
                while not _runs(token):
                    await anyio.sleep(0.1)
            await others(action)  # the one that runs, too
        outcome = await runner.execute(Request(language="python", code="print(2)"))
        assert outcome.stdout.text == "2\n", outcome.error_message
    after = await _settled(resources, engine, 4)
    # The engine's client keeps as many connections as it once needed at a time, 25 at most.
    assert after.descriptors <= before.descriptors + 25 + 8
    assert after.threads <= before.threads + 4


@pytest.mark.requirement("clean:others")
async def test_two_servers_on_one_engine_leave_each_others_cells_alone(
    engine: docker.APIClient,
) -> None:
    flags = {"pool": {"languages": ["python"], "min": 1, "max": 1}}
    async with open_runner(load(flags=flags)) as first:
        running = Request(language="python", code="import time; time.sleep(3); print('whole')")
        async with anyio.create_task_group() as tasks:
            told: list[str] = []

            async def long() -> None:
                told.append((await first.execute(running)).stdout.text)

            tasks.start_soon(long)
            await anyio.sleep(1)
            for _ in range(2):  # another comes, sweeps, works and goes: an upgrade, say
                async with open_runner(load(flags=flags)) as second:
                    outcome = await second.execute(Request(language="python", code="print(1)"))
                    assert outcome.stdout.text == "1\n"
        assert told == ["whole\n"]
