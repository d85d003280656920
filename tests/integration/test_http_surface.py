"""Whatever bytes come in over HTTP: refused or cut, and nobody else notices."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.docker

LIMIT_S = 1.5
BODY = 200_000
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
fuzz = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def server(serve_http: Callable[..., Any]) -> Any:
    """A server with short limits that makes no cells: nothing here runs a program."""
    begun = serve_http(
        "http",
        CODECELL_POOL__MIN="0",
        CODECELL_POOL__MAX="0",
        CODECELL_LIMITS__CODE="1000",
        CODECELL_LIMITS__STDIN="1000",
        CODECELL_FILES__IN_SIZE="1000",
        CODECELL_HTTP__BODY=str(BODY),
        CODECELL_HTTP__REQUEST_TIMEOUT_S=str(LIMIT_S),
        CODECELL_HTTP__WRITE_TIMEOUT_S=str(LIMIT_S),
        CODECELL_HTTP__KEEP_ALIVE_S="1",
        CODECELL_HTTP__CONNECTIONS="64",
    )
    with httpx2.Client(base_url=begun.base, timeout=30) as client:
        client.get("/ready")  # opens what stays open: the connection to the engine
    return begun


@pytest.fixture
def unharmed(server: Any) -> Iterator[None]:
    """Afterwards the server answers as before, and holds no descriptor more."""
    before = _descriptors(server) + 3  # the engine's connections come and go
    yield
    with httpx2.Client(base_url=server.base) as honest:
        assert honest.get("/health").status_code == 200
        listed = honest.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}},
            headers={**ACCEPT, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"},
        )
        assert listed.json()["result"]["tools"]
    deadline = time.monotonic() + 15
    while _descriptors(server) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _descriptors(server) <= before
    assert not [line for line in server.lines if "Traceback" in line or '"exception"' in line]


def _descriptors(server: Any) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@contextlib.contextmanager
def connection(server: Any, **options: int) -> Iterator[socket.socket]:
    host, port = server.base.removeprefix("http://").split(":")
    made = socket.socket()
    for name, value in options.items():
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    made.settimeout(10 * LIMIT_S)
    made.connect((host, int(port)))
    with made:
        yield made


def everything_said(made: socket.socket) -> bytes:
    """Read until the server closes; a reset is an end like any other."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := made.recv(65536):
            said += data
    return said


@pytest.mark.requirement("http:garbage")
@pytest.mark.usefixtures("unharmed")
@fuzz
@given(st.binary(max_size=300))
def test_bytes_that_are_no_request(server: Any, data: bytes) -> None:
    with connection(server) as made, contextlib.suppress(ConnectionError):
        made.sendall(data + b"\r\n\r\n")
        made.shutdown(socket.SHUT_WR)
        said = everything_said(made)
        assert said == b"" or said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 2")), said[:200]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | json_values,
        "id": st.just(1) | json_values,
        "method": st.sampled_from(["tools/list", "tools/call", "initialize", "ping", "x"])
        | json_values,
        "params": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["execute_code", "list_languages"]) | json_values,
                "arguments": st.fixed_dictionaries(
                    {}, optional={"language": json_values, "code": json_values, "x": json_values}
                )
                | json_values,
                "_meta": st.just(META) | json_values,
                "protocolVersion": json_values,
                "capabilities": json_values,
                "clientInfo": json_values,
            },
        )
        | json_values,
    },
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "mcp-protocol-version": st.sampled_from(["2025-11-25", "2026-07-28", "1", "v999"]),
        "mcp-method": st.sampled_from(["tools/list", "tools/call", "x"]),
        "mcp-name": st.sampled_from(["execute_code", "x", "=?base64?!?="]),
        "mcp-session-id": st.sampled_from(["0", "x" * 500]),
        "content-type": st.sampled_from(["application/json", "text/plain", "application/jsonx"]),
        "accept": st.sampled_from(["*/*", "text/html", "application/json"]),
    },
)


@pytest.mark.requirement("http:garbage")
@pytest.mark.usefixtures("unharmed")
@fuzz
@given(message=messages | json_values, given_headers=headers)
def test_messages_that_are_nearly_right(
    server: Any, message: Any, given_headers: dict[str, str]
) -> None:
    with httpx2.Client(base_url=server.base, timeout=20) as client:
        answer = client.post(
            "/mcp",
            content=json.dumps(message).encode("utf-8", "surrogatepass"),
            headers={**ACCEPT, **given_headers},
        )
    assert answer.status_code < 500, (answer.status_code, answer.text)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 50_000,
        b'{"a":' * 30_000,
        b"\xff\xfe",
        b"null",
        b"[]",
        b"1" * 10_000,
        b'{"jsonrpc": "2.0", "id": 1e999, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "ping"}',
        json.dumps("\ud800").encode(),
    ],
)
@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28", None])
def test_bodies_that_are_no_message(server: Any, body: bytes, era: str | None) -> None:
    given_headers = {"mcp-protocol-version": era} if era else {}
    with httpx2.Client(base_url=server.base, timeout=20) as client:
        answer = client.post("/mcp", content=body, headers={**ACCEPT, **given_headers})
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)


@pytest.mark.requirement("http:addresses")
@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_refused(server: Any, kind: str | None) -> None:
    """These are what a page may send across origins without asking."""
    with httpx2.Client(base_url=server.base) as client:
        request = client.build_request("POST", "/mcp", content=b'{"jsonrpc": "2.0"}')
        request.headers.update({"accept": ACCEPT["accept"]})
        if kind is not None:
            request.headers["content-type"] = kind
        answer = client.send(request)
    assert answer.status_code in (400, 415)


@pytest.mark.requirement("http:bounds")
@pytest.mark.usefixtures("unharmed")
def test_bodies_that_are_too_large(server: Any) -> None:
    with connection(server) as made:
        made.sendall(
            b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: 99999999999\r\n\r\n"
        )
        assert made.recv(100).startswith(b"HTTP/1.1 413")
    with connection(server) as made:  # and one that says nothing of its length
        made.sendall(
            b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                made.sendall(chunk)
        assert everything_said(made).startswith(b"HTTP/1.1 413")


@pytest.mark.requirement("http:slow")
@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET /hea",
        b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{",
    ],
    ids=["nothing", "half a line", "half a body"],
)
def test_a_request_that_does_not_arrive_is_cut(server: Any, begin: bytes) -> None:
    with connection(server) as made:
        began = time.monotonic()
        made.sendall(begin)
        everything_said(made)
        took = time.monotonic() - began
    assert LIMIT_S * 0.9 < took < LIMIT_S + 3


@pytest.mark.requirement("http:slow")
@pytest.mark.usefixtures("unharmed")
def test_a_trickle_is_cut_however_steady(server: Any) -> None:
    with connection(server) as made:
        made.settimeout(0.1)
        began, cut = time.monotonic(), False
        made.sendall(b"GET /health HTTP/1.1\r\nx-long: ")
        while time.monotonic() - began < LIMIT_S + 5 and not cut:
            try:
                made.sendall(b"x")
                cut = made.recv(100) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                cut = True
        took = time.monotonic() - began
    assert cut
    assert took < LIMIT_S + 3


@pytest.mark.requirement("http:slow")
@pytest.mark.usefixtures("unharmed")
def test_who_does_not_read_is_cut(server: Any) -> None:
    """Thousands of requests in one connection, and not one answer is read."""
    one = b"GET /ready HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with connection(server, SO_RCVBUF=4096) as made:
        made.settimeout(0.5)
        began, cut = time.monotonic(), False
        while time.monotonic() - began < 30 and not cut:
            try:
                made.send(one * 50)
            except TimeoutError:
                continue
            except ConnectionError:
                cut = True
        assert cut


@pytest.mark.usefixtures("unharmed")
def test_too_many_connections_are_told_so_and_the_rest_is_served(server: Any) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connection(server)) for _ in range(80)]
        assert idle
        with httpx2.Client(base_url=server.base) as client:
            assert client.get("/health").status_code == 503
    deadline = time.monotonic() + 10
    with httpx2.Client(base_url=server.base) as client:
        while client.get("/health").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_process_lives(server: Any) -> None:
    assert server.process.poll() is None
    os.kill(server.process.pid, 0)
