"""The real server, driven by others: the Inspector's command line and the TypeScript SDK."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.docker

SERVE = [sys.executable, "-m", "codecell", "serve"]
ONE_LANGUAGE = {"CODECELL_POOL__LANGUAGES": '["python"]'}
INVALID_PARAMS = -32602


@pytest.fixture(scope="module")
def base(serve_http: Callable[..., Any]) -> str:
    address: str = serve_http("http", **ONE_LANGUAGE).base
    return address


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("transport", ["stdio", "http", "sse"])
def test_the_inspector(node_tool: Callable[..., Any], base: str, transport: str, era: str) -> None:
    common = ["--cli", "--format", "json", "-q", "--connect-timeout", "60000"]
    common += ["--protocol-era", era, "--transport", transport]
    where = {
        "stdio": ["--", *SERVE],
        "http": ["--server-url", f"{base}/mcp"],
        "sse": ["--server-url", f"{base}/sse"],
    }[transport]
    listed = node_tool("mcp-inspector", *common, "--method", "tools/list", "--strict", *where)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert '"execute_code"' in listed.stdout
    arguments = json.dumps({"language": "python", "code": "print(6 * 7)"})
    call = ["--method", "tools/call", "--tool-name", "execute_code", "--tool-args-json", arguments]
    called = node_tool("mcp-inspector", *common, *call, *where)
    assert called.returncode == 0, called.stdout + called.stderr
    assert '"stdout":"42\\n"' in called.stdout.replace('": ', '":')


@pytest.mark.parametrize(
    ("library", "mode"), [("v1", "legacy"), ("v2", "legacy"), ("v2", "modern")]
)
@pytest.mark.parametrize("transport", ["stdio", "mcp", "sse"])
def test_the_typescript_client(
    node_tool: Callable[..., Any], base: str, library: str, mode: str, transport: str
) -> None:
    asked: dict[str, Any] = {"library": library, "mode": mode}
    if transport == "stdio":
        asked["command"] = SERVE
    else:
        asked["url"] = f"{base}/{transport}"
    done = node_tool("node", "client.mjs", json.dumps(asked), timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["server"] == "codecell"
    assert "execute_code" in found["instructions"]
    assert found["tools"][:2] == ["execute_code", "list_languages"]
    assert (found["nonce"], found["status"]) == (True, "success")
    assert found["refused"][0] is True
    assert "timeout must be" in found["refused"][1]
    assert found["progress"]
    assert found["unknown"] == INVALID_PARAMS
    assert found["cancelled"] is True
