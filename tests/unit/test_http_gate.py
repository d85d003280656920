"""What every HTTP request passes first: Host, Origin, caller; and what is refused at the start."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.server import Server
from mcp.types import CallToolRequestParams, CallToolResult, TextContent
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from codecell.callers import AGENT_SCOPES, Caller, Scope, oauth_name
from codecell.errors import CodecellError, ConfigurationError, Denied
from codecell.http import gate
from codecell.http.app import build_app, caller_of
from codecell.http.gate import Authenticate, Refusal
from codecell.http.serve import check
from codecell.http.tokens import TokenFile
from codecell.settings import Settings, load
from codecell.settings.serving import HttpSettings

pytestmark = pytest.mark.anyio

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"accept": "application/json, text/event-stream"}


async def who(context: Any, params: CallToolRequestParams) -> CallToolResult:
    del params
    return CallToolResult(content=[TextContent(type="text", text=caller_of(context).name)])


async def secret(_: Request) -> PlainTextResponse:
    return PlainTextResponse("metrics")


@asynccontextmanager
async def client(
    settings: Settings | None = None,
    authenticate: Authenticate | None = None,
    refused: gate.Tell | None = None,
    **headers: str,
) -> AsyncIterator[httpx2.AsyncClient]:
    app = build_app(
        Server("test", on_call_tool=who),
        settings or Settings(),
        authenticate=authenticate,
        operator_routes=[Route("/metrics", secret)],
        refused=refused,
    )
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8000", headers={**ACCEPT, **headers}
        ) as connected,
    ):
        yield connected


def http(**values: Any) -> Settings:
    return load(flags={"http": values})


async def test_observers_hear_of_who_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "STRANGERS_EVERY_S", 0.3)
    told: list[tuple[str, str, int]] = []

    async def reader(headers: Headers) -> Caller | Refusal:
        known = headers.get("authorization") == "Bearer x"
        return Caller("ann", AGENT_SCOPES) if known else Refusal(401, "Who?")

    def refused(caller: str, request: None, error: CodecellError) -> None:
        assert isinstance(error, Denied)
        told.append((caller, str(error), error.times))

    async with client(authenticate=reader, refused=refused) as http:
        for _ in range(3):
            assert (await http.get("/mcp")).status_code == 401
        await anyio.sleep(0.35)
        assert (await http.get("/mcp", headers={"host": "evil.example"})).status_code == 421
        operated = await http.get("/metrics", headers={"authorization": "Bearer x"})
        assert operated.status_code == 403
    first, burst, named = told
    assert first == ("", "HTTP 401: Who?", 1)
    assert burst[0] == ""
    assert burst[1].startswith("HTTP 421: ")
    assert burst[1].endswith("(3 times since the last was told)")
    assert burst[2] == 3
    assert named[0] == "ann"
    assert "lacks the scope 'operate'" in named[1]


@pytest.mark.requirement("http:addresses")
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:9", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.", 421),
        ("127.0.0.1@evil.example", 421),
        ("", 421),
    ],
)
async def test_only_hosts_that_are_ours(host: str, status: int) -> None:
    async with client() as connected:
        answer = await connected.post("/mcp", json=INITIALIZE, headers={"host": host})
    assert answer.status_code == status


async def test_a_listed_host_with_a_port_needs_that_port() -> None:
    settings = http(host="192.0.2.1", hosts=["a.example:8443", "b.example"])
    async with client(settings) as connected:
        answers = {
            host: (await connected.post("/mcp", json=INITIALIZE, headers={"host": host}))
            for host in ("a.example:8443", "a.example", "b.example:1", "127.0.0.1")
        }
    assert {host: answer.status_code for host, answer in answers.items()} == {
        "a.example:8443": 200,
        "a.example": 421,
        "b.example:1": 200,
        "127.0.0.1": 421,
    }


@pytest.mark.requirement("http:addresses")
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("https://trusted.example", 200),
        ("http://trusted.example", 403),
        ("https://trusted.example.evil.example", 403),
        ("http://localhost:6274", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_only_origins_that_are_allowed(origin: str, status: int) -> None:
    async with client(http(origins=["https://trusted.example"])) as connected:
        answer = await connected.post("/mcp", json=INITIALIZE, headers={"origin": origin})
    assert answer.status_code == status


@pytest.mark.requirement("audit:complete")
async def test_observers_hear_of_what_never_became_a_call() -> None:
    told: list[str] = []

    def refused(caller: str, request: None, error: CodecellError) -> None:
        assert request is None
        told.append(f"{caller} {type(error).__name__}: {error}")

    json_ = {"content-type": "application/json"}
    async with client(refused=refused) as http:
        assert (await http.post("/mcp", json=INITIALIZE)).status_code == 200
        assert (await http.get("/health")).status_code == 200
        assert told == []
        assert (await http.post("/mcp", content=b"{", headers=json_)).status_code == 400
        large = b" " * (Settings().body_bytes + 1)
        assert (await http.post("/mcp", content=large, headers=json_)).status_code == 413
    assert told == [
        "local RequestError: HTTP 400: not a message of MCP's",
        "local RequestError: HTTP 413: the body is too large",
    ]


async def bearer(headers: Headers) -> Caller | Refusal:
    match headers.get("authorization"):
        case "Bearer a":
            return Caller("ann", frozenset({Scope.EXECUTE}))
        case "Bearer o":
            return Caller("oli", frozenset({Scope.OPERATE}))
        case _:
            return Refusal(401, "who are you?", {"www-authenticate": "Bearer"})


@pytest.mark.requirement("http:sessions-apart")
async def test_a_call_knows_its_caller() -> None:
    async with client(authenticate=bearer, authorization="Bearer a") as connected:
        begun = await connected.post("/mcp", json=INITIALIZE)
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        await connected.post(
            "/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session
        )
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call"}
        params = {"name": "who", "arguments": {}}
        answer = await connected.post("/mcp", json={**call, "params": params}, headers=session)
        assert said(answer.text)["content"][0]["text"] == "ann"
        stolen = await connected.post(
            "/mcp",
            json={**call, "params": params},
            headers={**session, "authorization": "Bearer o"},
        )
    assert stolen.status_code == 404  # another caller's session is no session


def said(text: str) -> Any:
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return json.loads(data[-1])["result"]


@pytest.mark.requirement("http:tokens")
async def test_without_a_caller_only_health_answers() -> None:
    async with client(authenticate=bearer) as connected:
        paths = ("/health", "/ready", "/mcp", "/sse", "/messages/", "/metrics", "/nothing")
        statuses = {path: (await connected.get(path)).status_code for path in paths}
    assert statuses == dict.fromkeys(paths, 401) | {"/health": 200, "/ready": 200}


@pytest.mark.requirement("http:scopes")
async def test_operator_routes_need_their_scope() -> None:
    async with client(authenticate=bearer) as connected:
        agent = await connected.get("/metrics", headers={"authorization": "Bearer a"})
        operator = await connected.get("/metrics", headers={"authorization": "Bearer o"})
    assert (agent.status_code, operator.status_code) == (403, 200)
    assert "'operate'" in agent.json()["error"]


@pytest.mark.requirement("http:bounds")
async def test_a_body_past_the_limit() -> None:
    settings = load(
        flags={
            "http": {"body": 5000},
            "limits": {"code": 1000, "stdin": 900},
            "files": {"in_size": 100},
        },
    )
    async with client(settings) as connected:
        declared = await connected.post("/mcp", content=b"x" * 5001)
        chunked = await connected.post("/mcp", content=_chunks())
    assert (declared.status_code, chunked.status_code) == (413, 413)


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(6):
        yield b"x" * 1000


OPEN = {"host": "0.0.0.0", "hosts": ["a.example"], "plain": True}


@pytest.mark.requirement("http:open-address")
@pytest.mark.parametrize(
    ("without", "words"),
    [("tokens", "authenticated"), ("plain", "encrypted"), ("hosts", "http.hosts")],
)
def test_an_open_address_needs_protection(without: str, words: str, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    tokens.add("ann", AGENT_SCOPES)
    given = {**OPEN, "tokens": tmp_path / "tokens"}
    check(http(**given))
    with pytest.raises(ConfigurationError, match=words):
        check(http(**{key: value for key, value in given.items() if key != without}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    check(http(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "codecell.example"])
def test_anything_else_is_no_loopback(host: str) -> None:
    assert not HttpSettings(host=host).loopback


def test_a_missing_certificate_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"http.tls_cert: there is no file /nowhere"):
        check(http(tls_cert="/nowhere", tls_key="/nowhere"))
    with pytest.raises(ConfigurationError, match="go together"):
        http(tls_cert="/nowhere")


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("auth0|5f7", "oauth:auth0|5f7"),
        ("ann@example.org", "oauth:ann@example.org"),
    ],
)
def test_oauth_subjects_have_names_of_their_own(subject: str, name: str) -> None:
    assert oauth_name(subject) == name


def test_strange_subjects_are_named_by_their_hash() -> None:
    names = {oauth_name(subject) for subject in ("a b", "a\nb", "ü", "x" * 500)}
    assert len(names) == 4
    assert all(len(name) < 128 and name.startswith("oauth:sha256:") for name in names)


@pytest.mark.requirement("http:bounds")
async def test_bodies_share_one_bound() -> None:
    settings = load(
        flags={
            "http": {"body": 3000, "bodies": 3000},
            "limits": {"code": 1000, "stdin": 900},
            "files": {"in_size": 100},
        }
    )
    arrived, leave = anyio.Event(), anyio.Event()

    async def hold(_: Any, params: CallToolRequestParams) -> CallToolResult:
        arrived.set()
        await leave.wait()
        return CallToolResult(content=[])

    app = build_app(Server("test", on_call_tool=hold), settings)
    modern = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "x", "arguments": {"pad": "x" * 1800}, "_meta": modern},
    }
    headers = {
        **ACCEPT,
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "x",
    }
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as c,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(c.post, "/mcp", json=call))
            with anyio.fail_after(5):
                await arrived.wait()
            crowded = await c.post("/mcp", json=call)
            leave.set()
        assert (crowded.status_code, crowded.headers["retry-after"]) == (503, "1")
        assert (await c.post("/mcp", json=call)).status_code == 200
