"""Everything that goes wrong, for real: each run ends as promised and no other notices."""

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import docker
import docker.errors
import pytest

from codecell.app import open_runner
from codecell.backends.docker.owners import LABEL_OWNER, Owner
from codecell.model import Outcome, Request, Status
from codecell.output import mark
from codecell.runner import Runner
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
COLD = {"languages": ["python"], "min": 0, "max": 0}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load(flags={"pool": {"languages": ["python"], "min": 2, "max": 2}})


@pytest.fixture(scope="module")
async def runner(engine: docker.APIClient, settings: Settings) -> AsyncIterator[Runner]:
    """One for all attacks: each must leave it as good as new."""
    # First used behind the tests that count this process's containers.
    async with open_runner(settings) as opened:
        yield opened


def containers(engine: docker.APIClient, owner: Owner) -> list[str]:
    """Return what exists of a server process; Docker 20.10's list alone can show what is gone."""
    found = engine.containers(all=True, filters={"label": f"{LABEL_OWNER}={owner.label()}"})
    names = []
    for item in found:
        with suppress(docker.errors.NotFound):
            names.append(engine.inspect_container(item["Id"])["Name"])
    return names


async def none_left(engine: docker.APIClient, owner: Owner, within_s: float = 5) -> None:
    with anyio.fail_after(within_s):
        while await anyio.to_thread.run_sync(containers, engine, owner):
            await anyio.sleep(0.05)


# --- the server is killed

SERVER = """
import sys, anyio
from codecell.app import open_runner
from codecell.model import Request
from codecell.settings import load

async def main():
    settings = load(flags={"pool": {"languages": ["python"], "min": 2, "max": 4}})
    async with open_runner(settings) as runner, anyio.create_task_group() as tasks:
        async def again():
            while True:
                code = "import time; time.sleep(0.1); print('ran')"
                outcome = await runner.execute(Request(language="python", code=code))
                print(outcome.stdout.text.strip(), flush=True)
        for _ in range(3):
            tasks.start_soon(again)
        print("open", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


class Server:
    """A server process that makes cells and runs programs without a pause."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        started = stat.rpartition(")")[2].split()[19]
        self.owner = replace(Owner.current(), pid=self.process.pid, started=started)

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            return [int(pid) for pid in path.read_text(encoding="ascii").split()]
        return []

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def threads_children(pid: int) -> list[int]:
    """Return the children of every thread of a process: the reaper is started from a worker."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in path.read_text(encoding="ascii").split()]
    return found


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] != "Z"
    return False


@pytest.mark.parametrize(
    "delays_s", [(0.0, 0.15, 0.3), (0.45, 0.6, 0.9), (1.3, 1.7, 2.1)], ids=["early", "mid", "late"]
)
async def test_a_killed_server_leaves_no_container_and_no_reaper(
    engine: docker.APIClient, delays_s: tuple[float, ...]
) -> None:
    async def one(delay_s: float) -> None:
        server = Server()
        try:
            assert await anyio.to_thread.run_sync(server.said) == "open"
            await anyio.sleep(delay_s)  # anywhere in its life, on purpose
            reapers = threads_children(server.process.pid)
        finally:
            server.kill()
        await none_left(engine, server.owner)
        with anyio.fail_after(10):
            while any(is_alive(pid) for pid in reapers):
                await anyio.sleep(0.05)
        assert containers(engine, server.owner) == []

    async with anyio.create_task_group() as tasks:
        for delay_s in delays_s:
            tasks.start_soon(one, delay_s)


async def test_a_server_killed_while_runs_are_in_flight_leaves_nothing(
    engine: docker.APIClient,
) -> None:
    server = Server()
    try:
        while await anyio.to_thread.run_sync(server.said) != "ran":
            pass
        reapers = threads_children(server.process.pid)
        assert len(reapers) == 1
        assert containers(engine, server.owner)
    finally:
        server.kill()
    await none_left(engine, server.owner)
    with anyio.fail_after(10):
        while is_alive(reapers[0]):
            await anyio.sleep(0.05)


# --- a run is given up

ENDLESS = "import time\nprint('begin', flush=True)\nwhile True: time.sleep(1)"


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.25, 0.4, 0.8])
async def test_a_cancelled_run_leaves_no_container(
    engine: docker.APIClient, delay_s: float
) -> None:
    async with open_runner(load(flags={"pool": COLD})) as runner:
        with anyio.move_on_after(delay_s) as scope:
            await runner.execute(Request(language="python", code=ENDLESS))
        assert scope.cancelled_caught
        await none_left(engine, Owner.current())


async def test_a_timed_out_run_leaves_no_container(engine: docker.APIClient) -> None:
    async with open_runner(load(flags={"pool": COLD})) as runner:
        outcome = await runner.execute(Request(language="python", code=ENDLESS, timeout_s=0.5))
        assert outcome.status is Status.TIMEOUT
        assert outcome.stdout.text == "begin\n"
        await none_left(engine, Owner.current())


async def test_closing_under_runs_in_flight_is_quick_and_leaves_nothing(
    engine: docker.APIClient, settings: Settings
) -> None:
    async with anyio.create_task_group() as tasks, open_runner(settings) as runner:
        for _ in range(3):
            tasks.start_soon(runner.execute, Request(language="python", code=ENDLESS))
        await anyio.sleep(1.0)  # some run, some wait for a cell
        tasks.cancel_scope.cancel()
        began = time.monotonic()
    assert time.monotonic() - began < 3
    await none_left(engine, Owner.current())


# --- attacks, and a neighbour that must not notice

NEIGHBOUR = """
import hashlib, sys, time
text = sys.stdin.read()
for number in range(12):
    time.sleep(0.1)
    print(number, hashlib.sha256((text + str(number)).encode()).hexdigest(), flush=True)
"""


@pytest.fixture
async def attacked(execute: Execute) -> Execute:
    """Run an attack; meanwhile another program runs, and ends with exactly what it should print."""
    import hashlib

    async def run(code: str, language: str = "python", **fields: Any) -> Outcome:
        ended: dict[str, Outcome] = {}
        nonce = secrets.token_hex(8)

        async def neighbour() -> None:
            ended["neighbour"] = await execute(NEIGHBOUR, stdin=nonce, timeout_s=20)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(neighbour)
                ended["attack"] = await execute(code, language, **{"timeout_s": 20, **fields})
        beside = ended["neighbour"]
        lines = [f"{n} {hashlib.sha256(f'{nonce}{n}'.encode()).hexdigest()}\n" for n in range(12)]
        assert beside.status is Status.SUCCESS, beside.error_message
        assert beside.stdout.text == "".join(lines)
        assert beside.stderr.text == ""
        assert beside.usage.wall_s < 6
        return ended["attack"]

    return run


async def test_a_fork_bomb_ends_at_its_timeout(attacked: Execute) -> None:
    outcome = await attacked(
        """
import os
print("begin", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        timeout_s=2,
    )
    assert outcome.status is Status.TIMEOUT
    assert outcome.stdout.text == "begin\n"
    assert outcome.usage.wall_s < 3


async def test_a_shells_fork_bomb_ends_by_its_timeout(attacked: Execute) -> None:
    outcome = await attacked("echo begin; b() { b | b & }; b; wait; sleep 9", "bash", timeout_s=2)
    assert outcome.status in {Status.TIMEOUT, Status.EXECUTION_ERROR}  # it may break of itself
    assert outcome.stdout.text.startswith("begin\n")
    assert outcome.usage.wall_s < 3


@pytest.mark.parametrize(
    "code",
    [
        "print('begin', flush=True)\na = []\nwhile True: a.append(b'x' * (4 << 20))",
        (
            "print('begin', flush=True)\nimport os\nfor _ in range(4): os.fork()\n"
            "a = []\nwhile True: a.append(b'x' * (1 << 20))"
        ),
        (
            "print('begin', flush=True)\na = b'x' * (120 << 20)\n"
            "for place, size in (('/sandbox', 60), ('/tmp', 30), ('/dev/shm', 15)):\n"
            "    with open(place + '/fill', 'wb', buffering=0) as file:\n"
            "        for _ in range(size): file.write(b'x' * (1 << 20))\n"
            "a += b'x' * (200 << 20)"
        ),
    ],
    ids=["heap", "many heaps", "tmpfs and heap"],
)
async def test_a_memory_bomb_ends_as_out_of_memory(attacked: Execute, code: str) -> None:
    outcome = await attacked(code)
    assert outcome.status is Status.OUT_OF_MEMORY
    assert outcome.stdout.text.startswith("begin\n")


async def test_filling_the_tmpfs_is_the_programs_own_error(attacked: Execute) -> None:
    outcome = await attacked(
        "with open('/sandbox/fill', 'wb') as file:\n    while True: file.write(b'x' * (1 << 20))"
    )
    assert outcome.status is Status.EXECUTION_ERROR
    assert outcome.exit_code == 1
    assert (
        "No space left on device" in outcome.stderr.text or "File too large" in outcome.stderr.text
    )


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "print('begin', flush=True)\nwhile True: pass"),
        ("javascript", "process.stdout.write('begin\\n'); for (;;);"),
        ("bash", "echo begin; while :; do :; done"),
    ],
)
async def test_an_endless_loop_ends_at_its_timeout(
    attacked: Execute, language: str, code: str
) -> None:
    outcome = await attacked(code, language, timeout_s=1)
    assert outcome.status is Status.TIMEOUT
    assert outcome.stdout.text == "begin\n"
    assert 1 <= outcome.usage.wall_s < 1.5
    assert outcome.error_message == "Execution timed out after 1 seconds."


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_an_output_flood_is_bounded(
    attacked: Execute, settings: Settings, stream: str
) -> None:
    outcome = await attacked(
        f"import sys\nline = 'é' * 4095 + '\\n'\nwhile True: sys.{stream}.write(line)"
    )
    assert outcome.status is Status.OUTPUT_LIMIT
    captured = getattr(outcome, stream)
    assert len(captured.text.replace(mark(captured.elided_bytes), "")) == (
        settings.limits.output_chars
    )
    assert captured.truncated
    assert captured.text.startswith("é" * 4095 + "\n")
    assert captured.total_bytes >= settings.limits.output_kill


async def test_closing_stdout_is_not_the_end(attacked: Execute) -> None:
    code = "import os, time\nprint('begin', flush=True)\n"
    code += "for fd in (0, 1, 2): os.close(fd)\ntime.sleep({})\nos._exit(7)"
    outcome = await attacked(code.format(1))
    assert (outcome.status, outcome.exit_code) == (Status.EXECUTION_ERROR, 7)
    assert outcome.stdout.text == "begin\n"
    assert outcome.usage.wall_s >= 1
    outcome = await attacked(code.format(600), timeout_s=1)
    assert outcome.status is Status.TIMEOUT
    assert outcome.usage.wall_s < 1.5


async def test_ignoring_every_signal_is_of_no_use(attacked: Execute) -> None:
    outcome = await attacked(
        "trap '' HUP INT QUIT TERM PIPE ALRM; echo begin; while :; do sleep 60; done",
        "bash",
        timeout_s=1,
    )
    assert outcome.status is Status.TIMEOUT
    assert outcome.usage.wall_s < 1.5


async def test_a_daemon_that_holds_stdout_does_not_hold_the_run(attacked: Execute) -> None:
    outcome = await attacked(
        """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(0.2)
            os.write(1, b"still here\\n")
    os._exit(0)
time.sleep(0.5)
print("done", flush=True)
"""
    )
    assert outcome.status is Status.SUCCESS
    assert outcome.stdout.text.endswith("done\n")
    assert outcome.usage.wall_s < 2
    assert outcome.execution_time_s < 4


async def test_a_background_job_of_a_shell_does_not_hold_the_run(attacked: Execute) -> None:
    outcome = await attacked("sleep 300 & nohup setsid sleep 300 & echo done", "bash")
    assert outcome.status is Status.SUCCESS
    assert outcome.stdout.text == "done\n"
    assert outcome.execution_time_s < 4


# --- forgeries


@pytest.mark.parametrize("code", [1, 2, 124, 125, 126, 127, 137, 139, 143, 255])
async def test_an_exit_code_means_what_the_program_says(execute: Execute, code: int) -> None:
    words = "docker: Error response from daemon: Cannot connect to the Docker daemon. OOMKilled"
    outcome = await execute(f"echo '{words}' >&2; exit {code}", "bash")
    assert outcome.status is Status.EXECUTION_ERROR
    assert (outcome.exit_code, outcome.signal) == (code, None)
    assert outcome.stderr.text == words + "\n"
    assert outcome.error_message == f"The program exited with code {code}."


async def test_frames_in_the_output_are_output(execute: Execute) -> None:
    outcome = await execute(
        """
import json, os, struct
exit = json.dumps({"ending": "out_of_memory", "code": None, "signal": 9, "oom_kills": 1,
    "wall_s": 0, "cpu_s": 0, "peak_memory_bytes": 0, "stdout_bytes": 0, "stderr_bytes": 0}).encode()
for run in (0, 1, 2):
    for kind in (69, 70, 65, 66, 67):
        frame = struct.pack(">BBII", 0xCC, kind, run, len(exit)) + exit
        for fd in (1, 2):
            os.write(fd, frame)
            os.write(fd, struct.pack(">BxxxL", 1, len(frame)) + frame)
os._exit(3)
"""
    )
    assert outcome.status is Status.EXECUTION_ERROR
    assert outcome.exit_code == 3
    assert outcome.stdout.repaired
    assert outcome.stdout.total_bytes == outcome.stderr.total_bytes > 15 * 200
    assert "out_of_memory" in outcome.stdout.text


async def test_the_agents_descriptors_and_life_are_out_of_reach(attacked: Execute) -> None:
    outcome = await attacked(
        """
import ctypes, os, signal, struct
frame = struct.pack(">BBII", 0xCC, 69, 1, 2) + b"{}"
for pid in (1, os.getppid()):
    for fd in range(80):
        for flags in (os.O_WRONLY, os.O_RDWR):
            try:
                os.write(os.open(f"/proc/{pid}/fd/{fd}", flags), frame)
                print("wrote to", fd)
            except OSError:
                pass
for fd in range(3, 256):
    try:
        os.write(fd, frame)
        print("wrote to own", fd)
    except OSError:
        pass
libc = ctypes.CDLL(None, use_errno=True)
print("traced" if libc.ptrace(16, 1, 0, 0) == 0 else "refused", flush=True)
for number in signal.valid_signals():
    try:
        os.kill(1, number)
    except OSError:
        pass
try:
    os.kill(-1, signal.SIGTERM)
except ProcessLookupError:
    pass  # there is nobody else
os._exit(5)
"""
    )
    assert outcome.status is Status.EXECUTION_ERROR
    assert (outcome.exit_code, outcome.stdout.text) == (5, "refused\n")


@pytest.mark.parametrize("senders", [1, 40])
async def test_a_flood_of_signals_to_the_agent_does_not_put_off_the_end(
    attacked: Execute, senders: int
) -> None:
    outcome = await attacked(
        f"""
import os, signal
print("begin", flush=True)
for _ in range({senders} - 1):
    if os.fork() == 0:
        break
while True:
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        os.kill(1, number)
""",
        timeout_s=1,
    )
    assert outcome.status is Status.TIMEOUT, outcome.error_message
    assert outcome.stdout.text == "begin\n"
    assert outcome.usage.wall_s < 2


async def test_a_storm_of_short_lived_children_does_not_put_off_the_end(attacked: Execute) -> None:
    outcome = await attacked(
        """
import os
print("begin", flush=True)
while True:
    try:
        if os.fork() == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.wait()
    except OSError:
        pass
""",
        timeout_s=1,
    )
    assert outcome.status is Status.TIMEOUT
    assert outcome.usage.wall_s < 2


async def test_stopping_oneself_does_not_put_off_the_end(execute: Execute) -> None:
    outcome = await execute(
        "import os, signal\nprint('begin', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)",
        timeout_s=1,
    )
    assert outcome.status is Status.TIMEOUT
    assert outcome.stdout.text == "begin\n"


# --- many at once


async def test_many_concurrent_runs_are_neither_lost_nor_crossed(execute: Execute) -> None:
    programs = {
        "python": "import sys; n = sys.stdin.read()\n"
        "print(n + sys.argv[1]); print(n, file=sys.stderr)",
        "javascript": "const n = require('fs').readFileSync(0, 'utf8');"
        "console.log(n + process.argv[2]); console.error(n);",
        "bash": 'read -r n || :; echo "$n$1"; echo "$n" >&2',
    }
    results: dict[int, tuple[str, str, Outcome]] = {}

    async def one(number: int) -> None:
        language = list(programs)[number % 3]
        first, second = secrets.token_hex(16), secrets.token_hex(16)
        outcome = await execute(programs[language], language, stdin=first, args=(second,))
        results[number] = (first, second, outcome)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(24):
                tasks.start_soon(one, number)
    assert len(results) == 24
    for first, second, outcome in results.values():
        assert outcome.status is Status.SUCCESS, outcome.error_message
        assert outcome.stdout.text == f"{first}{second}\n"
        assert outcome.stderr.text == f"{first}\n"
    assert len({outcome.run_id for _, _, outcome in results.values()}) == 24


# --- the engine goes away


@pytest.fixture
async def on_second(second_engine: Any, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    spares = getattr(request, "param", 0)
    settings = load(
        flags={
            "engine": {"host": second_engine.address},
            "pool": {"languages": ["python"], "min": spares, "max": spares},
        }
    )
    async with open_runner(settings) as runner:
        yield runner


# docker-py leaves its socket to the garbage collector where connecting fails (transport/unixconn).
docker_leaks = pytest.mark.filterwarnings("ignore:unclosed <socket.*family=1:ResourceWarning")


@pytest.mark.requirement("clean:faults")
@docker_leaks
@pytest.mark.parametrize("on_second", [0, 1], indirect=True, ids=["cold", "with a spare"])
async def test_an_engine_that_dies_under_a_run_is_our_failure_until_it_is_back(
    second_engine: Any, on_second: Any
) -> None:
    async def run(code: str, timeout_s: float = 60) -> Outcome:
        outcome: Outcome = await on_second.execute(
            Request(language="python", code=code, timeout_s=timeout_s)
        )
        return outcome

    assert (await run("print(1)")).stdout.text == "1\n"
    ended: list[Outcome] = []

    async def in_flight() -> None:
        ended.append(await run(ENDLESS))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_flight)
            await anyio.sleep(1.5)  # it runs
            await anyio.to_thread.run_sync(second_engine.kill)
    (lost,) = ended
    assert lost.status is Status.SETUP_ERROR
    assert lost.stdout.text == "begin\n"
    assert "engine" in (lost.error_message or "")
    assert (lost.exit_code, lost.stderr.text) == (None, "")

    with anyio.fail_after(20):
        away = await run("print(2)")
    assert away.status is Status.SETUP_ERROR
    assert "container engine" in (away.error_message or "")
    assert "codecell doctor" in (away.error_message or "")

    await anyio.to_thread.run_sync(second_engine.start)
    with anyio.fail_after(20):
        back = await run("print(3)")
    assert back.status is Status.SUCCESS, back.error_message
    assert back.stdout.text == "3\n"


@pytest.mark.requirement("clean:faults")
@docker_leaks
async def test_an_engine_that_hangs_does_not_hold_up_closing(second_engine: Any) -> None:
    settings = load(
        flags={
            "engine": {"host": second_engine.address},
            "pool": {"languages": ["python"], "min": 2, "max": 2},
        }
    )
    assert second_engine.process is not None
    try:
        async with anyio.create_task_group() as tasks, open_runner(settings) as runner:
            outcome = await runner.execute(Request(language="python", code="print(1)"))
            assert outcome.status is Status.SUCCESS
            second_engine.process.send_signal(signal.SIGSTOP)
            tasks.start_soon(runner.execute, Request(language="python", code=ENDLESS))
            await anyio.sleep(0.5)
            tasks.cancel_scope.cancel()
            began = time.monotonic()
        assert time.monotonic() - began < 7
    finally:
        second_engine.process.send_signal(signal.SIGCONT)
    with anyio.fail_after(30):  # what the engine could not do at the time it does now
        client = docker.APIClient(base_url=second_engine.address, version="auto")
        while await anyio.to_thread.run_sync(containers, client, Owner.current()):
            await anyio.sleep(0.1)
        client.close()


async def test_an_engine_that_is_away_at_the_start_is_no_reason_not_to_start(
    tmp_path: Path,
) -> None:
    flags = {"engine": {"host": f"unix://{tmp_path}/none.sock"}}
    with anyio.fail_after(20):
        async with open_runner(load(flags=flags)) as runner:
            outcome = await runner.execute(Request(language="python", code="print(1)"))
    assert outcome.status is Status.SETUP_ERROR
    assert "none.sock" in (outcome.error_message or "")
