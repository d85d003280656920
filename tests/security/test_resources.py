"""Bombs and endless loops: each ends as promised, and nobody else notices."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from codecell.model import Outcome, Status
from codecell.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
Facts = Callable[..., Awaitable[Any]]

MEMORY_BOMB = """
print("begin", flush=True)
hoard = []
while True:
    hoard.append(b"x" * (4 << 20))
"""
FORK_BOMB = """
import os
print("begin", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


@pytest.mark.requirement("res:memory")
@pytest.mark.requirement("out:partial")
async def test_memory_bomb_ends_as_out_of_memory_and_keeps_its_output(execute: Execute) -> None:
    outcome = await execute(MEMORY_BOMB, timeout_s=60)
    assert outcome.status is Status.OUT_OF_MEMORY
    assert outcome.stdout.text == "begin\n"
    assert outcome.usage.peak_memory_bytes <= outcome.plan.cell.limits.memory_bytes


@pytest.mark.requirement("res:memory")
@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("javascript", "const a = []; for (;;) a.push(Buffer.alloc(4 << 20, 1));"),
        ("bash", "a=x; while :; do a=$a$a; done"),
    ],
)
async def test_memory_bomb_in_another_language_ends_as_out_of_memory(
    execute: Execute, language: str, code: str
) -> None:
    outcome = await execute(code, language, timeout_s=60)
    assert outcome.status is Status.OUT_OF_MEMORY


@pytest.mark.requirement("res:memory")
async def test_filling_every_scratch_place_and_memory_stays_within_the_limit(
    execute: Execute,
) -> None:
    outcome = await execute(
        """
block = b"x" * (1 << 20)
for place, blocks in (("/sandbox", 60), ("/tmp", 30), ("/dev/shm", 15)):
    with open(place + "/fill", "wb", buffering=0) as file:
        for _ in range(blocks):
            file.write(block)
hoard = []
for _ in range(60):
    hoard.append(b"x" * (4 << 20))
print("past the limit")
""",
        timeout_s=60,
    )
    assert outcome.status is Status.OUT_OF_MEMORY
    assert outcome.stdout.text == ""


@pytest.mark.requirement("res:shared-memory")
async def test_filling_dev_shm_ends_with_no_space(facts: Facts) -> None:
    found = await facts("""
import errno, json
written = 0
try:
    with open("/dev/shm/fill", "wb", buffering=0) as file:
        for _ in range(40):
            written += file.write(b"x" * (1 << 20))
except OSError as error:
    print(json.dumps([errno.errorcode[error.errno], written]))
else:
    print(json.dumps(["never full", written]))
""")
    assert found == ["ENOSPC", 16 << 20]


@pytest.mark.requirement("res:fork-bomb")
async def test_forking_until_it_fails_stops_at_the_process_limit(
    facts: Facts, settings: Settings
) -> None:
    made, why = await facts("""
import errno, json, os, time
made = 0
while made < 5000:
    try:
        pid = os.fork()
    except OSError as error:
        print(json.dumps([made, errno.errorcode[error.errno]]))
        break
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    made += 1
""")
    assert why == "EAGAIN"
    assert 1 < made <= settings.limits.processes


@pytest.mark.requirement("res:fork-bomb")
async def test_starting_threads_until_it_fails_stops_at_the_process_limit(
    facts: Facts, settings: Settings
) -> None:
    made = await facts("""
import json, threading, time, os
made = 0
try:
    while made < 5000:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        made += 1
except RuntimeError:
    pass
print(json.dumps(made), flush=True)
os._exit(0)
""")
    assert 1 < made <= settings.limits.processes


@pytest.mark.requirement("res:fork-bomb")
@pytest.mark.parametrize(
    ("language", "code"), [("python", FORK_BOMB), ("bash", "echo begin; b() { b | b & }; b; wait")]
)
async def test_exponential_fork_bomb_is_ended(execute: Execute, language: str, code: str) -> None:
    with anyio.fail_after(30):
        outcome = await execute(code, language, timeout_s=3)
    # A bomb that outgrows the limit may also end by itself; what counts is that it is over.
    assert outcome.status in {Status.TIMEOUT, Status.EXECUTION_ERROR, Status.SUCCESS}
    assert outcome.stdout.text.startswith("begin\n")


@pytest.mark.requirement("res:others-undisturbed")
@pytest.mark.parametrize("bomb", [FORK_BOMB, MEMORY_BOMB], ids=["fork", "memory"])
async def test_runs_beside_a_bomb_succeed(execute: Execute, bomb: str) -> None:
    ended: dict[str, Outcome] = {}

    async def explode() -> None:
        ended["bomb"] = await execute(bomb, timeout_s=4)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(explode)
            for _ in range(3):
                outcome = await execute("print(sum(range(100_000)))")
                assert outcome.status is Status.SUCCESS
                assert outcome.stdout.text == "4999950000\n"
    assert ended["bomb"].status in {Status.TIMEOUT, Status.OUT_OF_MEMORY}


@pytest.mark.requirement("res:cpu")
async def test_burning_on_four_processes_gets_the_cells_share_of_cpu(execute: Execute) -> None:
    outcome = await execute("""
import os, time
end = time.monotonic() + 3
for _ in range(3):
    if os.fork() == 0:
        break
while time.monotonic() < end:
    pass
""")
    assert outcome.status is Status.SUCCESS
    share = outcome.usage.cpu_s / outcome.usage.wall_s
    assert 0 < share < outcome.plan.cell.limits.cpus * 1.3


@pytest.mark.requirement("res:time")
@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "print('begin', flush=True)\nwhile True: pass"),
        ("javascript", "process.stdout.write('begin\\n'); for (;;);"),
        ("bash", "echo begin; while :; do :; done"),
        ("python", "import time; print('begin', flush=True); time.sleep(600)"),
    ],
    ids=["python", "javascript", "bash", "sleeping"],
)
async def test_endless_loop_ends_at_its_timeout(execute: Execute, language: str, code: str) -> None:
    with anyio.fail_after(20):
        outcome = await execute(code, language, timeout_s=1)
    assert outcome.status is Status.TIMEOUT
    assert outcome.stdout.text == "begin\n"
    assert 1 <= outcome.usage.wall_s < 2


@pytest.mark.requirement("res:time")
async def test_ignoring_every_signal_does_not_prolong_a_run(execute: Execute) -> None:
    with anyio.fail_after(20):
        outcome = await execute(
            """
import signal, time
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
print("deaf", flush=True)
while True:
    time.sleep(60)
""",
            timeout_s=1,
        )
    assert outcome.status is Status.TIMEOUT
    assert outcome.stdout.text == "deaf\n"


@pytest.mark.requirement("res:open-files")
async def test_opening_files_without_end_stops_at_the_limit(facts: Facts) -> None:
    found = await facts("""
import errno, json, os, resource
before = resource.getrlimit(resource.RLIMIT_NOFILE)
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] + 1, before[1] + 1))
    raised = True
except ValueError:
    raised = False
fds = []
try:
    while len(fds) < 100_000:
        fds.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    count = len(fds)
    for fd in fds:
        os.close(fd)
    print(json.dumps([raised, errno.errorcode[error.errno], count]))
""")
    assert found[:2] == [False, "EMFILE"]
    assert found[2] < 1024


@pytest.mark.requirement("res:no-core-dumps")
async def test_crash_leaves_no_core_file_and_the_limit_cannot_be_raised(facts: Facts) -> None:
    found = await facts("""
import json, os, resource
try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    raised = True
except ValueError:
    raised = False
pid = os.fork()
if pid == 0:
    os.abort()
status = os.waitpid(pid, 0)[1]
print(json.dumps([raised, os.WTERMSIG(status), os.WCOREDUMP(status), os.listdir("/sandbox")]))
""")
    assert found == [False, 6, False, ["main.py"]]
