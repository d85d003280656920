"""Calls that take their time: what the caller hears meanwhile, and how fast a run can be stopped.

Over every transport and in both protocol eras. Processes are watched from the host, by their pids.
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import docker
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

WITHIN_S = 0.1
ONE_LANGUAGE = {"CODECELL_POOL__LANGUAGES": '["bash"]'}
WAYS = [(way, era) for way in ("stdio", "mcp", "sse") for era in ("auto", "legacy")]


@pytest.fixture(scope="module")
def server(serve_http: Callable[..., Any]) -> Any:
    return serve_http("http", **ONE_LANGUAGE)


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
async def client(server: Any, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    way, era = request.param
    if way == "stdio":
        command = ["-m", "codecell", "serve"]
        target: Any = StdioServerParameters(
            command=sys.executable, args=command, env={**os.environ, **ONE_LANGUAGE}
        )
    else:
        target = sse_client(f"{server.base}/sse") if way == "sse" else f"{server.base}/mcp"
    async with Client(target, mode=era) as connected:
        yield connected


async def test_progress_carries_the_newest_line(client: Client) -> None:
    seen: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total is None or total > progress
        seen.append((progress, message))

    with anyio.fail_after(60):
        await client.call_tool(
            "execute_code",
            {
                "language": "bash",
                "code": "printf 'step one\\n\\e[31mred\\nunfinished'; sleep 2.3",
                "timeout": 20,
            },
            progress_callback=note,
        )
    values = [progress for progress, _ in seen]
    assert values == sorted(set(values))
    assert 2 <= len(seen) <= 15  # about one a second; a busy machine takes longer
    assert seen[-1][1] is not None
    assert seen[-1][1].startswith("running ")
    assert seen[-1][1].endswith(" s of 20 s: \u241b[31mred")


def pids_of(marker: str) -> list[int]:
    """Return the processes whose command line has a word; a scan of /proc takes its time."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in words and b"pytest" not in words:
                found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stubborn() -> tuple[str, str]:
    """Return a word of its own and a program of four processes that have it on their command line.

    They ignore signals, and some have left for a session of their own.
    """
    marker = f"9{secrets.randbelow(10**8):08}"
    return marker, (
        f"trap '' TERM INT HUP; setsid bash -c 'trap \"\" TERM INT HUP; sleep {marker}; :' & "
        f"sleep {marker} & sleep {marker}"
    )


async def test_a_cancelled_call_stops_its_processes_at_once(
    client: Client, engine: docker.APIClient
) -> None:
    """Among them some that ignore signals and have left for a session of their own."""
    del engine
    took = []
    for _ in range(5):
        marker, code = stubborn()
        scope = anyio.CancelScope()

        async def call(code: str = code, scope: anyio.CancelScope = scope) -> None:
            with scope:
                await client.call_tool("execute_code", {"language": "bash", "code": code})

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                while len(pids := await anyio.to_thread.run_sync(pids_of, marker)) < 4:
                    await anyio.sleep(0.05)
                began = time.monotonic()
                scope.cancel()
                while any(map(alive, pids)):
                    await anyio.sleep(0.002)
                took.append(time.monotonic() - began)
    assert median(took) < WITHIN_S, took


CALL = """
import sys, anyio
from mcp import Client
from mcp.client.sse import sse_client

async def main(url, mode, code):
    async with Client(sse_client(url) if url.endswith("/sse") else url, mode=mode) as client:
        await client.call_tool("execute_code", {"language": "bash", "code": code})

anyio.run(main, *sys.argv[1:])
"""


def calling(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CALL, *arguments])


# The connection carries the call in these: its end is the client's. In the handshake era of
# Streamable HTTP a client may come back for its answer, so that a cut says nothing.
@pytest.mark.parametrize(("way", "era"), [("mcp", "auto"), ("sse", "auto"), ("sse", "legacy")])
async def test_a_client_that_is_killed_takes_its_run_with_it(
    server: Any, way: str, era: str
) -> None:
    took = []
    for _ in range(3):
        marker, code = stubborn()
        code = f"echo partial {marker}; {code}"
        with anyio.fail_after(60):
            client = calling(f"{server.base}/{way}", era, code)
            while len(pids := await anyio.to_thread.run_sync(pids_of, marker)) < 5:
                await anyio.sleep(0.05)
            pids.remove(client.pid)
            client.kill()
            began = time.monotonic()
            while any(map(alive, pids)):
                await anyio.sleep(0.002)
            took.append(time.monotonic() - began)
            client.wait()
    assert median(took) < WITHIN_S, took
    async with httpx2.AsyncClient(base_url=server.base) as http:
        latest = (await http.get("/status.json")).json()["recent"][0]
    assert latest["status"] == "cancelled"
    async with Client(f"{server.base}/mcp") as client_again:
        kept = await client_again.read_resource(f"codecell://runs/{latest['run_id']}/stdout")
    assert kept.contents[0].text == f"partial {marker}\n"


async def test_after_cancelled_calls_the_connection_serves_on(client: Client) -> None:
    with anyio.fail_after(60):
        answer = await client.call_tool("execute_code", {"language": "bash", "code": "echo on"})
    assert answer.structured_content["stdout"] == "on\n"
