"""Attacks across runs and cells, what is told of the host, and what is left behind: nothing."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import docker
import docker.errors
import pytest

from codecell.app import open_runner
from codecell.backends.docker import spec
from codecell.backends.docker.owners import LABEL_OWNER
from codecell.model import Outcome, Request, Status
from codecell.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Coroutine[Any, Any, Outcome]]
Facts = Callable[..., Awaitable[Any]]


def _exists(engine: docker.APIClient, identifier: str) -> bool:
    """Ask for the container itself: Docker 20.10's list can show one that is long gone."""
    try:
        engine.inspect_container(identifier)
    except docker.errors.NotFound:
        return False
    return True


def _containers(engine: docker.APIClient, pid: int) -> list[str]:
    """Return the containers that a server process made."""
    found = engine.containers(all=True, filters={"label": LABEL_OWNER})
    own = [item["Id"] for item in found if f"/{pid}/" in item["Labels"][LABEL_OWNER]]
    return [identifier for identifier in own if _exists(engine, identifier)]


async def _gone(engine: docker.APIClient, identifier: str) -> None:
    with anyio.fail_after(5):
        while _exists(engine, identifier):
            await anyio.sleep(0.05)


LEAVE = """
import ctypes, json, os
for place in ("/sandbox", "/tmp", "/dev/shm"):
    with open(place + "/left-behind", "w") as file:
        file.write("secret")
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    "uid": os.getuid(),
    "shm": libc.shmget(0x5EC, 4096, 0o1666),
    "sem": libc.semget(0x5EC, 1, 0o1666),
    "msg": libc.msgget(0x5EC, 0o1666),
    "mq": libc.mq_open(b"/left-behind", os.O_CREAT | os.O_RDWR, 0o666, None),
}), flush=True)
"""
LOOK = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    "uid": os.getuid(),
    "files": [p for p in ("/sandbox", "/tmp", "/dev/shm", "/dev/mqueue")
              if os.path.isdir(p) and "left-behind" in os.listdir(p)],
    "sandbox": os.listdir("/sandbox"),
    "ipc": [libc.shmget(0x5EC, 0, 0), libc.semget(0x5EC, 0, 0), libc.msgget(0x5EC, 0),
            libc.mq_open(b"/left-behind", os.O_RDWR)],
}))
"""


@pytest.mark.requirement("cell:used-once")
async def test_looking_for_an_earlier_runs_leavings_finds_nothing(
    facts: Facts, gvisor: bool
) -> None:
    left = await facts(LEAVE)
    assert min(left["shm"], left["sem"], left["msg"]) >= 0
    assert (left["mq"] >= 0) is not gvisor  # there are no queues there
    for _ in range(3):
        found = await facts(LOOK)
        assert found["files"] == []
        assert found["sandbox"] == ["main.py"]
        assert found["ipc"] == [-1, -1, -1, -1]
        assert found["uid"] != left["uid"]


@pytest.mark.requirement("cell:ipc-apart")
async def test_looking_for_a_live_neighbours_ipc_finds_nothing(
    execute: Execute, facts: Facts
) -> None:
    neighbour: list[Outcome] = []
    # By the time of day: under gVisor each cell has a monotonic clock of its own.
    stay = "import time; begin = time.time(); time.sleep(5); end = time.time()\n"

    async def live() -> None:
        neighbour.append(
            await execute(LEAVE + stay + "print(json.dumps([begin, end]))", timeout_s=20)
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await anyio.sleep(1.5)
        found = await facts(LOOK)
        now = await facts("import time, json; print(json.dumps(time.time()))")
    begin, end = json.loads(neighbour[0].stdout.text.splitlines()[1])
    assert begin < now < end
    assert (found["files"], found["ipc"]) == ([], [-1, -1, -1, -1])


@pytest.mark.requirement("cell:verified")
async def test_cell_made_with_a_wall_missing_is_not_used(
    engine: docker.APIClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect = docker.APIClient.inspect_container

    def without_process_limit(self: docker.APIClient, container: str) -> Any:
        found = inspect(self, container)
        found["HostConfig"]["PidsLimit"] = None  # as an engine says whose kernel cannot
        return found

    monkeypatch.setattr(docker.APIClient, "inspect_container", without_process_limit)
    async with open_runner(settings, warm=False) as runner:
        outcome = await runner.execute(Request(language="python", code="print('ran')"))
    assert outcome.status is Status.SETUP_ERROR
    assert outcome.stdout.text == ""
    assert outcome.error_message is not None
    assert "PidsLimit" in outcome.error_message


@pytest.mark.requirement("host:no-info")
async def test_looking_for_the_host_finds_constants(facts: Facts, engine: docker.APIClient) -> None:
    found = await facts("""
import json, os, socket
def read(path):
    try:
        return open(path, errors="replace").read()
    except OSError:
        return ""
print(json.dumps({
    "names": [socket.gethostname(), os.uname().nodename, read("/etc/hostname").strip()],
    "hosts": read("/etc/hosts") + read("/etc/resolv.conf"),
    "cgroups": sorted({line.rpartition(":")[2] for line in read("/proc/self/cgroup").split()}),
    "masked": {path: read(path)[:50] for path in (
        "/proc/sys/kernel/random/boot_id", "/proc/cmdline", "/proc/keys", "/proc/kcore",
        "/proc/interrupts", "/proc/modules", "/proc/kallsyms", "/proc/diskstats",
        "/proc/partitions", "/proc/timer_list", "/dev/kmsg")},
    "empty": {path: os.listdir(path) for path in (
        "/sys/firmware", "/sys/class", "/sys/block", "/sys/bus", "/sys/module",
        "/sys/devices/virtual") if os.path.isdir(path)},
}))
""")
    assert set(found["names"]) == {"cell"}
    assert socket.gethostname() not in found["hosts"]
    assert "nameserver" not in found["hosts"].replace("nameserver 127.0.0.1", "")
    assert found["cgroups"] == ["/"]
    assert set(found["masked"].values()) == {""}, found["masked"]
    assert not any(found["empty"].values()), found["empty"]


@pytest.mark.requirement("host:no-environment")
async def test_secret_in_the_servers_environment_is_not_in_a_cell(
    settings: Settings, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    del engine
    monkeypatch.setenv("TOP_SECRET", "do-not-tell")
    monkeypatch.setenv("HTTP_PROXY", "http://user:do-not-tell@127.0.0.1:9")
    async with open_runner(settings) as runner:
        for language, code in (
            ("python", "import json, os; print(json.dumps(dict(os.environ)))"),
            ("javascript", "console.log(JSON.stringify(process.env))"),
        ):
            outcome = await runner.execute(Request(language=language, code=code))
            found = json.loads(outcome.stdout.text)
            assert "do-not-tell" not in outcome.stdout.text
            assert set(found) <= set(spec.ENVIRONMENT) | {"PWD", "LC_CTYPE"}


@pytest.mark.requirement("clean:finished")
@pytest.mark.requirement("clean:timed-out")
@pytest.mark.parametrize("timeout_s", [20.0, 2.0], ids=["finished", "timed out"])
async def test_ended_run_leaves_no_process_and_no_container(
    execute: Execute, engine: docker.APIClient, host: Any, timeout_s: float
) -> None:
    token = f"{secrets.randbelow(10**9)}"
    wait = "0.7" if timeout_s > 10 else "300"
    ended: list[Outcome] = []

    async def run() -> None:
        ended.append(
            await execute(f"sh -c 'sleep {wait}; : {token}'; :", "bash", timeout_s=timeout_s)
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        container = host.container(await host.appears(token))
    assert ended[0].status is (Status.SUCCESS if timeout_s > 10 else Status.TIMEOUT)
    await host.disappears(token)
    await _gone(engine, container)


@pytest.mark.requirement("clean:cancelled")
async def test_cancelled_run_leaves_no_process_and_no_container(
    execute: Execute, engine: docker.APIClient, host: Any
) -> None:
    token = f"{secrets.randbelow(10**9)}"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(execute, f"sh -c 'sleep 300; : {token}'; :", "bash")
        container = host.container(await host.appears(token))
        tasks.cancel_scope.cancel()
    await host.disappears(token)
    await _gone(engine, container)


@pytest.mark.requirement("clean:closed")
async def test_closing_the_server_leaves_no_container(
    engine: docker.APIClient, settings: Settings
) -> None:
    async with open_runner(settings) as runner:
        outcome = await runner.execute(Request(language="python", code="print(1)"))
        assert outcome.status is Status.SUCCESS
        assert _containers(engine, os.getpid())
    with anyio.fail_after(5):
        while _containers(engine, os.getpid()):
            await anyio.sleep(0.05)


SERVER = """
import sys
import anyio
from codecell.app import open_runner
from codecell.model import Request
from codecell.settings import load

async def main():
    async with open_runner(load()) as runner:
        code = "sh -c 'sleep 300; : " + sys.argv[1] + "'; :"
        await runner.execute(Request(language="bash", code=code))

anyio.run(main)
"""


@pytest.mark.requirement("clean:server-killed")
async def test_kill_9_of_the_server_leaves_nothing_behind_within_5_seconds(
    engine: docker.APIClient, host: Any, tmp_path: Path
) -> None:
    token = secrets.token_hex(8)
    script = tmp_path / "server.py"  # so that the token is on nobody's command line but the cell's
    script.write_text(SERVER.replace("sys.argv[1]", repr(token)), encoding="utf-8")
    server = subprocess.Popen([sys.executable, str(script)])  # noqa: ASYNC220  returns at once
    try:
        await host.appears(token)
        assert _containers(engine, server.pid)
        server.send_signal(signal.SIGKILL)
        with anyio.fail_after(5):
            while _containers(engine, server.pid) or host.pids(token):
                await anyio.sleep(0.05)
    finally:
        server.kill()
        server.wait()
