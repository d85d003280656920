"""The server over Streamable HTTP and SSE: a subprocess, the SDK's client, real cells."""

import json
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import docker
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import INVALID_PARAMS

from codecell.callers import AGENT_SCOPES, Scope
from codecell.http.tokens import TokenFile

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

ENDLESS = "print('begun', flush=True)\nwhile True: pass"
ONE_LANGUAGE = {"CODECELL_POOL__LANGUAGES": '["python"]'}


def connect(url: str, mode: str) -> Client:
    return Client(sse_client(url) if url.endswith("/sse") else url, mode=mode)


@pytest.fixture(scope="module")
def server(serve_http: Callable[..., Any]) -> Any:
    return serve_http("http", **ONE_LANGUAGE)


@pytest.fixture(
    scope="module",
    params=[("mcp", "auto"), ("mcp", "legacy"), ("sse", "auto"), ("sse", "legacy")],
    ids="-".join,
)
async def client(server: Any, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    path, mode = request.param
    async with connect(f"{server.base}/{path}", mode) as connected:
        yield connected


async def run(client: Client, code: str, **arguments: Any) -> dict[str, Any]:
    with anyio.fail_after(60):
        answer = await client.call_tool(
            "execute_code", {"language": "python", "code": code, **arguments}
        )
    assert isinstance(answer.structured_content, dict), answer.content
    return answer.structured_content


async def test_a_program_runs(client: Client) -> None:
    result = await run(client, "import sys; print(sys.argv[1], input())", args=["a"], stdin="b\n")
    assert (result["status"], result["stdout"]) == ("success", "a b\n")


async def test_the_largest_output_and_input_pass(client: Client) -> None:
    # Every quote is escaped in JSON: the body is twice the size of what the limits accept.
    result = await run(
        client,
        "import sys; n = len(sys.stdin.read()); print(n, '\\x1b' * 10_000_000)#" + '"' * 1_048_000,
        stdin='"' * (1 << 20),
    )
    assert (result["status"], result["stdout_truncated"]) == ("success", True)
    assert result["stdout"].startswith(f"{1 << 20} \x1b")


async def test_calls_of_one_client_run_side_by_side(client: Client) -> None:
    results: dict[int, str] = {}

    async def one(number: int) -> None:
        code = f"import time; time.sleep({0.3 - number * 0.05}); print({number})"
        results[number] = (await run(client, code))["stdout"]

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(one, number)
    assert results == {number: f"{number}\n" for number in range(5)}


async def test_progress_arrives(client: Client) -> None:
    messages: list[str | None] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        messages.append(message)

    with anyio.fail_after(60):
        await client.call_tool(
            "execute_code",
            {"language": "python", "code": ENDLESS, "timeout": 1.5},
            progress_callback=note,
        )
    assert messages


async def raw(base: str, **arguments: Any) -> tuple[list[dict[str, Any]], int]:
    """Call execute_code without the SDK; return every message, and the longest one's bytes."""
    about = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "execute_code", "arguments": arguments, "_meta": about}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "execute_code",
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=90) as http:
        answer = await http.post("/mcp", json=message)
    assert answer.status_code == 200, answer.text
    events = re.findall(r"^data: (\{.*)$", answer.text, re.M) or [answer.text]
    return [json.loads(event) for event in events], max(len(one.encode()) for one in events)


async def test_who_did_not_ask_hears_of_no_progress(server: Any) -> None:
    messages, _ = await raw(server.base, language="python", code="import time; time.sleep(2.5)")
    (answer,) = messages
    assert answer["result"]["structuredContent"]["status"] == "success"


EVERYTHING = """
import sys, os
flood = "\\x1b\\x00\\"\\\\\\u6f22\\U0001f600"
class Value:
    def _repr_mimebundle_(self, **_):
        return {kind: flood * 50_000 for kind in ("text/plain", "text/html", "text/markdown")}
for number in range(150):
    display(Value())
    with open(f"{number:03}-" + "n" * 120 + (".txt", ".json", ".png")[number % 3], "wb") as file:
        head = b"\\x89PNG\\r\\n\\x1a\\n" if number % 3 == 2 else b""
        file.write(head + flood.encode() * 3000)
print(flood * 200_000)
print(flood * 200_000, file=sys.stderr)
Value()
"""


@pytest.mark.parametrize("many", [False, True], ids=["one run", "many cases"])
async def test_whatever_a_program_makes_a_result_fits_an_event(server: Any, *, many: bool) -> None:
    """Clients refuse an event of more than 1 MiB; a proxy's framing has room besides."""
    code = EVERYTHING.replace("\\\\", "\\")
    cases = [{"stdin": "x", "expected_stdout": "x"}] * 5
    messages, longest = await raw(
        server.base,
        language="python",
        code=code,
        timeout=40,
        max_output_tokens=100_000,
        **({"tests": cases} if many else {}),
    )
    result = messages[-1]["result"]
    assert "structuredContent" in result, result
    assert longest < 1_000_000
    assert result["structuredContent"]["run_id"], result
    assert {block["type"] for block in result["content"]} >= {"text"}
    text = "".join(block.get("text", "") for block in result["content"])
    assert "data:image" not in text
    assert "iVBORw0KGgo" not in text  # an image is an image block or a reference, never text


async def test_an_unknown_tool(client: Client) -> None:
    with pytest.raises(MCPError) as caught:
        await client.call_tool("run_code", {})
    assert caught.value.error.code == INVALID_PARAMS


async def test_the_server_becomes_ready(server: Any) -> None:
    async with httpx2.AsyncClient(base_url=server.base) as http:
        with anyio.fail_after(30):
            while (answer := await http.get("/ready")).status_code == 503:
                assert answer.json()["missing"]
                await anyio.sleep(0.2)
        assert answer.json() == {"ready": True}
        assert (await http.get("/health")).json() == {"status": "ok"}


def eventually(check: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


SURFACES = [("http", "auto"), ("http", "legacy"), ("sse", "auto"), ("sse", "legacy")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("transport", "mode"), SURFACES)
async def test_a_signal_in_flight_ends_the_server_in_time(
    serve_http: Callable[..., Any],
    engine: docker.APIClient,
    transport: str,
    mode: str,
    number: signal.Signals,
) -> None:
    server, answers = await end_in_flight(serve_http, engine, transport, mode, number)
    assert all("shutting down" in answer for answer in answers), answers
    assert not any("Traceback" in line or "took too long" in line for line in server.lines)


@pytest.mark.parametrize(("transport", "mode"), SURFACES)
async def test_a_signal_in_flight_ends_a_server_on_a_busy_machine_in_time(
    serve_http: Callable[..., Any],
    engine: docker.APIClient,
    busy_machine: Callable[[], None],
    transport: str,
    mode: str,
) -> None:
    await end_in_flight(serve_http, engine, transport, mode, signal.SIGTERM, busy_machine)


async def end_in_flight(
    serve_http: Callable[..., Any],
    engine: docker.APIClient,
    transport: str,
    mode: str,
    number: signal.Signals,
    before: Callable[[], None] = lambda: None,
) -> tuple[Any, list[str]]:
    """Send a signal while two clients have two runs each and another a stream alone."""
    server = serve_http(transport, CODECELL_POOL__MIN="0", CODECELL_POOL__MAX="0")
    begun: set[int] = set()
    answers: list[str] = []

    async def call(client: Client, call: int) -> None:
        async def note(progress: float, total: float | None, message: str | None) -> None:
            if message and "begun" in message:
                begun.add(call)

        with suppress(MCPError, httpx2.HTTPError):
            answer = await client.call_tool(
                "execute_code", {"language": "python", "code": ENDLESS}, progress_callback=note
            )
            answers.append(answer.content[0].text)

    async def client(number: int) -> None:
        # What a client makes of a server that goes away is its own affair.
        with suppress(MCPError, httpx2.HTTPError, ExceptionGroup):
            async with connect(server.url, mode) as connected, anyio.create_task_group() as tasks:
                tasks.start_soon(call, connected, 2 * number)
                tasks.start_soon(call, connected, 2 * number + 1)

    host, port = server.base.removeprefix("http://").split(":")
    with anyio.fail_after(90), socket.create_connection((host, int(port))) as idle:
        idle.sendall(f"GET /{server.url.rpartition('/')[2]} HTTP/1.1\r\nHost: {host}\r\n".encode())
        idle.sendall(b"Accept: text/event-stream\r\n\r\n")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client, 0)
            tasks.start_soon(client, 1)
            while len(begun) < 4:
                await anyio.sleep(0.05)
            before()
            asked = time.monotonic()
            server.process.send_signal(number)
            status = await anyio.to_thread.run_sync(server.process.wait)
            took = time.monotonic() - asked
            tasks.cancel_scope.cancel()
    assert status == 128 + number
    assert took < 3, server.lines
    assert eventually(lambda: not server.cells(engine), 5)
    return server, answers


def test_a_second_signal_ends_it_at_once(serve_http: Callable[..., Any]) -> None:
    server = serve_http("http", **ONE_LANGUAGE)
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.03)  # it takes a tenth of a second to leave in order
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(5) == 128 + signal.SIGTERM


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_is_one_sentence(taken: int, run_cli: Callable[..., Any]) -> None:
    ended = run_cli("serve", "--transport", "http", "--port", str(taken))
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"127.0.0.1 port {taken}" in ended.stderr


def test_an_open_address_is_refused(run_cli: Callable[..., Any]) -> None:
    ended = run_cli("serve", "--transport", "http", "--host", "0.0.0.0")
    assert ended.returncode == 2
    assert "callers must be authenticated" in ended.stderr


def test_the_health_of_a_server_without_an_engine(serve_http: Callable[..., Any]) -> None:
    server = serve_http("http", CODECELL_ENGINE__HOST="unix:///nowhere.sock")
    with httpx2.Client(base_url=server.base) as http:
        assert http.get("/health").status_code == 200
        answer = http.get("/ready", timeout=30)
    assert answer.status_code == 503
    assert json.loads(answer.text)["missing"] == ["the container engine does not answer"]


@pytest.fixture(scope="module")
def guarded(
    serve_http: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, dict[str, str]]:
    """A server for callers with tokens; greedy ones may start three runs a minute."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    tokens = TokenFile(path)
    secrets = {
        "ann": tokens.add("ann", AGENT_SCOPES),
        "ben": tokens.add("ben", AGENT_SCOPES),
        "reader": tokens.add("reader", {Scope.READ}),
        "limited": tokens.add("limited", AGENT_SCOPES),
    }
    return serve_http(
        "http",
        **ONE_LANGUAGE,
        CODECELL_HTTP__TOKENS=str(path),
        CODECELL_CALLERS='{"limited": {"runs_per_minute": 2}}',
    ), secrets


@asynccontextmanager
async def shown(url: str, mode: str, token: str) -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {token}"}
    if url.endswith("/sse"):
        async with Client(sse_client(url, headers=headers), mode=mode) as connected:
            yield connected
        return
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as connected,
    ):
        yield connected


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("path", ["mcp", "sse"])
async def test_a_caller_with_a_token(
    guarded: tuple[Any, dict[str, str]], path: str, mode: str
) -> None:
    server, tokens = guarded
    async with shown(f"{server.base}/{path}", mode, tokens["ann"]) as client:
        assert (await run(client, "print(1)"))["stdout"] == "1\n"
    async with shown(f"{server.base}/{path}", mode, tokens["reader"]) as client:
        assert not (await client.call_tool("list_languages")).is_error
        answer = await client.call_tool("execute_code", {"language": "python", "code": "1"})
        assert answer.is_error
        assert "lacks the scope 'execute'" in answer.content[0].text
    with pytest.raises((MCPError, httpx2.HTTPError, ExceptionGroup)):
        async with shown(f"{server.base}/{path}", mode, tokens["ann"] + "x") as client:
            await client.list_tools()


@pytest.mark.requirement("store:caller")
async def test_what_one_caller_stored_does_not_exist_for_another(
    guarded: tuple[Any, dict[str, str]],
) -> None:
    server, tokens = guarded
    async with (
        shown(f"{server.base}/mcp", "auto", tokens["ann"]) as ann,
        shown(f"{server.base}/mcp", "auto", tokens["reader"]) as reader,
        shown(f"{server.base}/mcp", "auto", tokens["limited"]) as other,
    ):
        result = await run(ann, "open('mine', 'w').write('m'); print('o' * 200_000)")
        addresses = [result["files"]["created"][0]["uri"], result["stdout_resource"]]
        addresses.append(f"codecell://runs/{result['run_id']}")
        for uri in addresses:
            assert (await ann.read_resource(uri)).contents
            for client in (reader, other):
                with pytest.raises(MCPError, match="not found"):
                    await client.read_resource(uri)
        kept = {item.uri for item in (await ann.list_resources()).resources}
        assert set(addresses[:2]) <= kept
        for client in (reader, other):
            assert (await client.list_resources()).resources == []
        sent = {"language": "python", "code": "1", "files": [{"path": "x", "uri": addresses[0]}]}
        answer = await other.call_tool("execute_code", sent)
        assert answer.is_error
        assert "does not exist" in answer.content[0].text


async def test_two_callers_with_the_same_id_have_two_sessions(
    guarded: tuple[Any, dict[str, str]],
) -> None:
    server, tokens = guarded

    async def step(client: Client, code: str) -> dict[str, Any]:
        sent = {"language": "python", "code": code, "session_id": "same"}
        content = (await client.call_tool("execute_code", sent)).structured_content
        assert content is not None
        return content

    async with (
        shown(f"{server.base}/mcp", "auto", tokens["ann"]) as ann,
        shown(f"{server.base}/mcp", "auto", tokens["ben"]) as ben,
    ):
        for client, secret in ((ann, "'a'"), (ben, "'b'")):
            made = await step(client, f"open('f', 'w').write({secret}); x = {secret}")
            assert made["session"]["state"] == "created"
        for client, secret in ((ann, "'a'"), (ben, "'b'")):
            kept = await step(client, "(x, open('f').read())")
            assert kept["result"]["text"] == f"({secret}, {secret})"
            assert (kept["session"]["state"], kept["session"]["runs"]) == ("reused", 2)
        await ann.call_tool("close_session", {"session_id": "same"})
        assert (await step(ben, "x"))["result"]["text"] == "'b'"
        again = await step(ann, "x")
        assert again["status"] == "execution_error"
        assert again["session"]["state"] == "created"
        for client in (ann, ben):
            await client.call_tool("close_session", {"session_id": "same"})


async def test_a_rate_is_kept_and_says_when_to_return(
    guarded: tuple[Any, dict[str, str]],
) -> None:
    server, tokens = guarded
    async with shown(f"{server.base}/mcp", "auto", tokens["limited"]) as client:
        for _ in range(2):
            assert (await run(client, "print(1)"))["status"] == "success"
        answer = await client.call_tool("execute_code", {"language": "python", "code": "1"})
    assert answer.is_error
    assert re.fullmatch(
        r"Caller 'limited' has used its 2 runs per minute; nothing was run\. "
        r"Retry after \d+ s\.",
        answer.content[0].text,
    )
