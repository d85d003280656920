"""The server as clients meet it: a subprocess on stdio, the SDK's client, real cells."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self

import anyio
import docker
import pytest
from docker.errors import APIError
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import INVALID_PARAMS, TextContent

from codecell.backends.docker.owners import LABEL_OWNER, Owner
from codecell.languages import DEFAULT_SET

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

SERVE = [sys.executable, "-m", "codecell", "serve"]
ENDLESS = "print('begun', flush=True)\nwhile True: pass"
HELLO = {
    "python": "import sys\nprint('hello', *sys.argv[1:], input())",
    "javascript": "const line = require('fs').readFileSync(0, 'utf8').trim();\n"
    "console.log('hello', ...process.argv.slice(2), line);",
    "bash": 'read -r line\necho hello "$@" "$line"',
}


@pytest.fixture(scope="module", params=["auto", "legacy"])
async def client(engine: docker.APIClient, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of one server for the whole module, in each protocol era."""
    del engine  # its absence is what the fixture reports
    server = StdioServerParameters(command=SERVE[0], args=SERVE[1:], env=dict(os.environ))
    async with Client(server, mode=request.param) as connected:
        yield connected


async def run(client: Client, language: str, code: str, **arguments: Any) -> dict[str, Any]:
    with anyio.fail_after(60):
        answer = await client.call_tool(
            "execute_code", {"language": language, "code": code, **arguments}
        )
    assert isinstance(answer.structured_content, dict), answer.content
    return answer.structured_content


@pytest.mark.parametrize("language", DEFAULT_SET)
async def test_every_language_runs(client: Client, language: str) -> None:
    result = await run(client, language, HELLO[language], args=["a b"], stdin="in\n")
    assert (result["status"], result["stdout"], result["stderr"]) == (
        "success",
        "hello a b in\n",
        "",
    )
    assert result["exit_code"] == 0
    assert result["isolation"]["network"] == "none"
    assert result["isolation"]["image_digest"].startswith("sha256:")


async def test_a_traceback_names_the_file_in_the_sandbox(client: Client) -> None:
    result = await run(client, "python", "1 / 0")
    assert (result["status"], result["exit_code"]) == ("execution_error", 1)
    assert 'File "/sandbox/main.py", line 1' in result["stderr"]


@pytest.mark.parametrize("code", [125, 137])
async def test_a_program_can_not_pass_its_failure_off_as_ours(client: Client, code: int) -> None:
    result = await run(client, "bash", f"echo 'docker daemon: setup_error' >&2; exit {code}")
    assert (result["status"], result["exit_code"]) == ("execution_error", code)


async def test_a_timeout_keeps_what_was_printed(client: Client) -> None:
    result = await run(client, "python", ENDLESS, timeout=0.5)
    assert (result["status"], result["stdout"]) == ("timeout", "begun\n")
    assert result["limits"]["timeout_s"] == 0.5


async def test_an_output_flood_fits_the_wire(client: Client) -> None:
    with anyio.fail_after(60):
        answer = await client.call_tool(
            "execute_code",
            {"language": "python", "code": "print('\\x1b' * 10_000_000)\nprint('漢' * 1_000_000)"},
        )
    assert answer.structured_content["status"] == "success"
    assert answer.structured_content["stdout_truncated"]
    assert answer.structured_content["stdout_bytes"] == 13_000_002
    assert len(answer.model_dump_json().encode()) < 900_000


async def test_bytes_that_are_not_text(client: Client) -> None:
    result = await run(client, "bash", r"printf 'a\xff\x1b[31mb\n'; printf '\xe6\xbc\xa2' >&2")
    assert (result["stdout"], result["stdout_repaired"]) == ("a\ufffd\x1b[31mb\n", True)
    assert (result["stderr"], result["stderr_repaired"]) == ("漢", False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"language": "pyhton"}, ["python, javascript, bash", "Did you mean 'python'?"]),
        ({"code": " \n"}, ["code is empty"]),
        ({"code": "#" * (1 << 21)}, ["code is 2,097,152 bytes", "at most 1,048,576"]),
        ({"stdin": "x" * (1 << 21)}, ["stdin is 2,097,152 bytes", "at most 1,048,576"]),
        ({"timeout": 0}, ["timeout must be a finite number of seconds greater than 0"]),
        ({"timeout": -5}, ["timeout must be a finite number of seconds greater than 0"]),
        ({"timeout": 301}, ["timeout", "at most 300"]),
        ({"timeout": "30"}, ["timeout must be", "not a string"]),
        ({"args": "x"}, ["args must be an array of strings"]),
        ({"memory": "1G"}, ['Unknown field "memory"', "valid fields are language, code"]),
    ],
)
async def test_bad_input_is_answered_in_one_sentence(
    client: Client, change: dict[str, Any], words: list[str]
) -> None:
    answer = await client.call_tool(
        "execute_code", {"language": "python", "code": "print(1)", **change}
    )
    assert answer.is_error
    assert answer.structured_content is None
    (block,) = answer.content
    assert isinstance(block, TextContent)
    assert all(word in block.text for word in words), block.text
    assert len(block.text) < 400
    assert "\n" not in block.text


async def test_an_unknown_tool(client: Client) -> None:
    with pytest.raises(MCPError) as caught:
        await client.call_tool("run_code", {})
    assert caught.value.error.code == INVALID_PARAMS


async def test_the_languages_as_installed(client: Client) -> None:
    with anyio.fail_after(60):
        answer = await client.call_tool("list_languages")
    found = {language["id"]: language for language in answer.structured_content["languages"]}
    assert tuple(found)[:3] == DEFAULT_SET
    assert all(language["installed"] and language["version"] for language in found.values())
    assert found["python"]["version"].startswith("3.")


class Server:
    """A server whose process and wire a test holds in its own hands (handshake era)."""

    def __init__(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            SERVE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **environment},
        )
        self.lines: list[bytes] = []
        self._rest = b""

    def __enter__(self) -> Self:
        self.send(
            "initialize",
            id=0,
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "test", "version": "1"},
        )
        assert self.answer(0)["result"]["serverInfo"]["name"] == "codecell"
        self.send("notifications/initialized")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def send(self, method: str, *, id: int | None = None, **params: Any) -> None:  # noqa: A002
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        self.send_raw(json.dumps(message if id is None else {**message, "id": id}).encode())

    def send_raw(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    def execute(self, id: int, language: str, code: str) -> None:  # noqa: A002
        arguments = {"language": language, "code": code}
        self.send("tools/call", id=id, name="execute_code", arguments=arguments)

    def answer(self, id: int | None, within_s: float = 30) -> dict[str, Any]:  # noqa: A002
        """Return the answer to a request; notifications on the way are passed over."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within_s
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], deadline - time.monotonic())
            assert ready, f"no answer to {id}"
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            assert data, "the server closed its stdout"
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.lines += lines
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                if "method" not in message and message.get("id") == id:
                    return message

    def end(self, within_s: float) -> int:
        """Wait for the end of the process and return its status."""
        return self.process.wait(within_s)

    def cells(self, engine: docker.APIClient) -> list[str]:
        """Return the containers that belong to this process."""
        found = engine.containers(all=True, filters={"label": LABEL_OWNER})
        # Docker 20.10 goes on listing some containers that are gone ("no such container" to
        # inspect), without a name and as "Removal In Progress".
        named = [item for item in found if item["Names"]]
        owners = [(item["Id"], Owner.parse(item["Labels"][LABEL_OWNER])) for item in named]
        return [id_ for id_, owner in owners if owner and owner.pid == self.process.pid]


def eventually(check: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def in_flight(engine: docker.APIClient) -> Iterator[Server]:
    """A server with an endless run that has begun: its one cell, for there are no spares."""
    with Server(CODECELL_POOL__MIN="0", CODECELL_POOL__MAX="0") as server:
        server.execute(1, "python", ENDLESS)
        assert eventually(lambda: bool(server.cells(engine)), 10)
        assert eventually(lambda: _busy(engine, server.cells(engine)[0]), 10)
        yield server


def _busy(engine: docker.APIClient, container: str) -> bool:
    """Tell whether a program runs in a cell, by the processor time that it burns."""
    try:
        top = engine.top(container, ps_args="-o pid,pcpu")
    except APIError:  # not started yet
        return False
    agent, *programs = top["Processes"]
    del agent  # busy too, while the cell boots
    return any(float(row[1]) > 5 for row in programs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_flight_ends_it_cleanly(
    in_flight: Server, engine: docker.APIClient, number: signal.Signals
) -> None:
    in_flight.process.send_signal(number)
    assert in_flight.end(within_s=3) == 128 + number
    assert eventually(lambda: not in_flight.cells(engine), 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_several_runs_on_a_busy_machine(
    engine: docker.APIClient, busy_machine: Callable[[], None], number: signal.Signals
) -> None:
    with Server(CODECELL_POOL__MIN="0", CODECELL_POOL__MAX="0") as server:
        for call in (1, 2, 3):
            server.execute(call, "python", ENDLESS)
        assert eventually(lambda: len(server.cells(engine)) == 3, 60)
        busy_machine()
        time.sleep(1)
        asked = time.monotonic()
        server.process.send_signal(number)
        assert server.end(within_s=3) == 128 + number
        assert time.monotonic() - asked < 3
        assert server.process.stdout is not None
        assert server.process.stdout.read().count(b"The server is shutting down") == 3
        assert eventually(lambda: not server.cells(engine), 5)


def test_the_end_of_input_ends_it_cleanly(in_flight: Server, engine: docker.APIClient) -> None:
    assert in_flight.process.stdin is not None
    in_flight.process.stdin.close()
    assert in_flight.end(within_s=2) == 0  # clients send SIGTERM after two seconds
    assert eventually(lambda: not in_flight.cells(engine), 2)


def test_a_killed_server_leaves_nothing(in_flight: Server, engine: docker.APIClient) -> None:
    in_flight.process.kill()
    assert in_flight.end(within_s=3) == -signal.SIGKILL
    assert eventually(lambda: not in_flight.cells(engine), 5)


def test_a_cancelled_call_removes_its_cell(in_flight: Server, engine: docker.APIClient) -> None:
    in_flight.send("notifications/cancelled", requestId=1, reason="test")
    assert eventually(lambda: not in_flight.cells(engine), 3)
    in_flight.execute(2, "bash", "echo still here")
    result = in_flight.answer(2)["result"]
    assert result["structuredContent"]["stdout"] == "still here\n"
    assert not any(json.loads(line).get("id") == 1 for line in in_flight.lines)


def test_a_signal_while_idle_removes_the_spares(engine: docker.APIClient) -> None:
    with Server() as server:
        assert eventually(lambda: len(server.cells(engine)) >= len(DEFAULT_SET), 20)
        server.process.terminate()
        assert server.end(within_s=3) == 128 + signal.SIGTERM
        assert eventually(lambda: not server.cells(engine), 2)


def test_stdout_carries_nothing_but_mcp(engine: docker.APIClient) -> None:
    with Server(CODECELL_LOG__LEVEL="debug", PYTHONVERBOSE="") as server:
        server.execute(1, "python", "print('out')\nimport sys\nprint('err', file=sys.stderr)")
        server.answer(1)
        server.send_raw(b"this is not JSON-RPC")
        assert server.answer(None)["error"]["code"] == -32700
        server.send_raw(b"")
        server.execute(2, "bash", "echo more")
        server.answer(2)
        server.process.terminate()
        assert server.process.stderr is not None
        logged = server.process.stderr.read().splitlines()
        server.end(within_s=3)
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in server.lines)
    assert not any(b"print(" in line or b"echo more" in line for line in logged)
    assert any("run_id" in json.loads(line) for line in logged if line.startswith(b"{"))


def test_without_an_engine_it_answers_and_says_so() -> None:
    with Server(DOCKER_HOST="unix:///nonexistent/docker.sock") as server:
        server.execute(1, "python", "print(1)")
        result = server.answer(1)["result"]
        assert result["isError"]
        assert result["structuredContent"]["status"] == "setup_error"
        assert result["structuredContent"]["error_message"]
        server.process.terminate()
        assert server.end(within_s=3) == 128 + signal.SIGTERM
