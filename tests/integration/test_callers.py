"""Callers of a running server: who gets in, whose turn it is, and what is written of who does not.

TLS with a certificate made here, an issuer's key set on loopback, real cells.
"""

import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx2
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mcp import Client, MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from prometheus_client.parser import text_string_to_metric_families
from tests.issuer import ec_key, served

from codecell.callers import AGENT_SCOPES, Scope
from codecell.http.tokens import TokenFile

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

ISSUER, AUDIENCE = "https://issuer.example", "https://codecell.example/mcp"
BASH_ALONE = {"CODECELL_POOL__LANGUAGES": '["bash"]', "CODECELL_RUNS__CONCURRENT": "1"}


class Guarded:
    """A server with three token holders, one run at a time, an audit log and a talkative log."""

    def __init__(self, serve_http: Callable[..., Any], folder: Path) -> None:
        self.audit = folder / "audit"
        tokens = TokenFile(folder / "tokens.json")
        self.tokens = {
            "ann": tokens.add("ann", AGENT_SCOPES),
            "bob": tokens.add("bob", AGENT_SCOPES),
            "op": tokens.add("op", {Scope.OPERATE}),
        }
        self.server = serve_http(
            "http",
            **BASH_ALONE,
            CODECELL_HTTP__TOKENS=str(folder / "tokens.json"),
            CODECELL_AUDIT__FOLDER=str(self.audit),
            CODECELL_LOG__LEVEL="info",
        )

    def http(self, name: str) -> httpx2.AsyncClient:
        headers = {"authorization": f"Bearer {self.tokens.get(name, name)}"}
        return httpx2.AsyncClient(base_url=self.server.base, headers=headers, timeout=60)

    async def refusals(self) -> dict[str, float]:
        async with self.http("op") as http:
            text = (await http.get("/metrics")).text
        return {
            sample.labels["reason"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "codecell_refusals_total"
        }

    def audited(self) -> list[dict[str, Any]]:
        files = sorted(path for path in self.audit.rglob("*") if path.is_file())
        lines = [line for path in files for line in path.read_text().splitlines()]
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return [record for record in records if record.get("event") == "run.refused"]


@pytest.fixture(scope="module")
def guarded(serve_http: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    return Guarded(serve_http, tmp_path_factory.mktemp("guarded"))


async def call(http: httpx2.AsyncClient, **arguments: Any) -> Any:
    with anyio.fail_after(90):
        async with Client(streamable_http_client("/mcp", http_client=http)) as client:
            return await client.call_tool("execute_code", {"language": "bash", **arguments})


async def test_who_is_turned_away_is_counted_and_written_down(guarded: Guarded) -> None:
    before = await guarded.refusals()
    async with guarded.http("codecell_wrong") as stranger:
        assert (await stranger.get("/mcp")).status_code == 401
    async with guarded.http("ann") as ann:
        assert (await ann.get("/metrics")).status_code == 403
        assert (await call(ann, code=7)).is_error
    async with guarded.http("op") as op:
        assert (await call(op, code="echo 1")).is_error
    after = await guarded.refusals()
    assert after["invalid"] - before.get("invalid", 0) == 1
    assert after["denied"] - before.get("denied", 0) == 3
    with anyio.fail_after(10):
        while len(found := guarded.audited()) < 4:
            await anyio.sleep(0.1)
    told = {(record["caller"], record["error"], record["message"][:24]) for record in found}
    assert told == {
        ("", "Denied", "HTTP 401: This token is "),
        ("ann", "Denied", "Caller 'ann' lacks the s"),
        ("ann", "RequestError", "code must be a string th"),
        ("op", "Denied", "Caller 'op' lacks the sc"),
    }


async def test_a_greedy_caller_delays_anothers_call_by_one_run_at_most(guarded: Guarded) -> None:
    done: list[str] = []

    async def one(name: str, http: httpx2.AsyncClient) -> None:
        assert not (await call(http, code="sleep 1")).is_error
        done.append(name)

    async def waiting() -> int:
        async with guarded.http("op") as op:
            shown = (await op.get("/status.json")).json()
        return int(shown["waiting"])

    async with (
        guarded.http("ann") as greedy,
        guarded.http("bob") as single,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(6):
            tasks.start_soon(one, "ann", greedy)
        with anyio.fail_after(60):
            while await waiting() < 4:
                await anyio.sleep(0.02)
        before = len(done)
        await one("bob", single)
        assert done[before:].index("bob") <= 1
        tasks.cancel_scope.cancel()


async def test_who_waits_hears_where_it_is(guarded: Guarded) -> None:
    heard: list[str] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")

    async with (
        guarded.http("ann") as first,
        guarded.http("bob") as http,
        Client(streamable_http_client("/mcp", http_client=http)) as second,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(call, first, code="sleep 4"))
        await anyio.sleep(1)
        program = {"language": "kotlin", "code": "fun main() { Thread.sleep(2500); println(1) }"}
        with anyio.fail_after(120):
            done = await second.call_tool("execute_code", program, progress_callback=note)
    assert done.structured_content["stdout"] == "1\n"
    for words in (r"queued at position 1", r"compiling \d+ s of \d+ s", r"running \d+ s of 30 s"):
        assert any(re.match(words, message) for message in heard), heard


FORGED = '{"event": "forged", "level": "info"}'
HOSTILE = f"x\r\n{FORGED}\n\x1b[2J\x1b[31m\u2028{FORGED}\u2029\x85{FORGED}"


async def test_nothing_that_a_caller_sends_can_forge_a_line_of_the_log(guarded: Guarded) -> None:
    server = guarded.server
    async with guarded.http("ann") as http:
        for arguments in (
            {"code": f"cat <<'E'\n{HOSTILE}\nE\nexit 3", "args": [HOSTILE], "stdin": HOSTILE},
            {"code": "1", "language": HOSTILE},
            {"code": "1", "session_id": HOSTILE},
            {"code": "1", "idempotency_key": HOSTILE[:60]},
            {"code": "1", HOSTILE: 1},
            {"code": "1", "env": {HOSTILE: "1"}},
        ):
            await call(http, **arguments)
        async with Client(streamable_http_client("/mcp", http_client=http)) as client:
            with pytest.raises(MCPError):
                await client.call_tool(HOSTILE, {})
        for path in ("/mcp", "/mcp" + quote(HOSTILE), "/" + quote(HOSTILE)):
            await http.get(path, headers={"user-agent": FORGED, "mcp-protocol-version": FORGED})
        body = f"{FORGED}\n{FORGED}".encode()
        await http.post("/mcp", content=body, headers={"content-type": "application/json"})
        await http.post("/messages/?session_id=" + quote(HOSTILE), content=body)
    await anyio.sleep(0.5)
    logged = [line for line in server.lines if "serving MCP on" not in line]
    assert any('"event": "run"' in line for line in logged)
    for line in logged:
        assert re.fullmatch(r"[\x20-\x7e]*\n", line), line
        record = json.loads(line)
        assert {"event", "level", "timestamp"} <= record.keys()
        assert record["event"] != "forged"
    assert not any("cat <<" in line for line in logged)


# --- TLS and OAuth


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "codecell test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, private


class Issuer:
    """An authorization server as far as a resource server meets it: its keys."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, url: str) -> None:
        self.key, self.url = key, url

    def token(self, **changed: Any) -> str:
        claims = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": int(time.time()) + 600,
            "scope": "execute read", **changed,
        }  # fmt: skip
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": "k"})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    key = ec.generate_private_key(ec.SECP256R1())
    with served(ec_key(key, "k")) as keys:
        yield Issuer(key, keys.url)


@pytest.fixture(scope="module")
def encrypted(
    serve_http: Callable[..., Any], certificate: tuple[Path, Path], issuer: Issuer
) -> Any:
    """A server on an open address: with TLS and OAuth it may have one."""
    cert, key = certificate
    return serve_http(
        "http",
        **BASH_ALONE,
        CODECELL_HTTP__HOST="0.0.0.0",
        CODECELL_HTTP__HOSTS='["127.0.0.1"]',
        CODECELL_HTTP__TLS_CERT=str(cert),
        CODECELL_HTTP__TLS_KEY=str(key),
        CODECELL_OAUTH__ISSUER=ISSUER,
        CODECELL_OAUTH__AUDIENCE=AUDIENCE,
        CODECELL_OAUTH__JWKS_URL=issuer.url,
    )


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("path", ["mcp", "sse"])
async def test_a_run_over_tls_with_an_issuers_token(
    encrypted: Any, certificate: tuple[Path, Path], issuer: Issuer, path: str, mode: str
) -> None:
    assert encrypted.url.startswith("https://")
    base = encrypted.base.replace("0.0.0.0", "127.0.0.1")
    trusting = ssl.create_default_context(cafile=str(certificate[0]))

    def http(**changed: Any) -> httpx2.AsyncClient:
        headers = {"authorization": f"Bearer {issuer.token(**changed)}"}
        return httpx2.AsyncClient(verify=trusting, headers=headers, timeout=60)

    @asynccontextmanager
    async def connected(**changed: Any) -> AsyncIterator[Client]:
        if path == "sse":
            stream = sse_client(f"{base}/sse", httpx_client_factory=lambda **_: http(**changed))
            async with Client(stream, mode=mode) as client:
                yield client
            return
        async with (
            http(**changed) as own,
            Client(streamable_http_client(f"{base}/mcp", http_client=own), mode=mode) as client,
        ):
            yield client

    with anyio.fail_after(60):
        async with connected() as client:
            answer = await client.call_tool("execute_code", {"language": "bash", "code": "id"})
            assert answer.structured_content["status"] == "success"
        async with connected(scope="read") as client:
            answer = await client.call_tool("execute_code", {"language": "bash", "code": "id"})
            assert "Caller 'oauth:ann' lacks the scope 'execute'" in answer.content[0].text
        for wrong in (
            {"aud": "https://other.example"},
            {"exp": 1},
            {"iss": "https://evil.example"},
        ):
            async with http(**wrong) as stranger:
                refused = await stranger.get(f"{base}/{path}")
            assert refused.status_code == 401
            assert 'error="invalid_token"' in refused.headers["www-authenticate"]
            assert "resource_metadata=" in refused.headers["www-authenticate"]


async def test_a_client_that_does_not_know_the_certificate_does_not_talk(encrypted: Any) -> None:
    base = encrypted.base.replace("0.0.0.0", "127.0.0.1")
    async with httpx2.AsyncClient() as http:
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(f"{base}/health")
        with pytest.raises(httpx2.HTTPError):  # nor does anything but TLS get an answer
            await http.get(base.replace("https", "http") + "/health")
