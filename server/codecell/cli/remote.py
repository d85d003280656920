"""A running server as the command line reaches it: the SDK's client over Streamable HTTP."""

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from codecell.errors import CodecellError
from codecell.wire import ExecuteCodeOutput

if TYPE_CHECKING:
    from mcp import Client

    from codecell.model import Request

TOKEN_VARIABLE = "CODECELL_TOKEN"  # noqa: S105  a variable's name


class ServerRefused(CodecellError):
    """What a server, or the way to it, had against a call; one sentence."""


def endpoint(url: str) -> str:
    """Return the address of the MCP endpoint; without a path it is /mcp.

    Raises:
        ServerRefused: it is no HTTP address.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ServerRefused(f"--url must be like http://127.0.0.1:8000, not {url[:80]!r}")
    path = parts.path if parts.path.strip("/") else "/mcp"
    return f"{parts.scheme}://{parts.netloc}{path}"


def token_of(file: Path | None) -> str | None:
    """Return the bearer token: a file's first line, or CODECELL_TOKEN.

    Raises:
        ServerRefused: the file can't be read or has none.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerRefused(f"cannot read the token in {file}") from error
    if not lines:
        raise ServerRefused(f"{file} holds no token")
    return lines[0]


@asynccontextmanager
async def connected(url: str, token: str | None) -> AsyncIterator["Client"]:
    """Connect to a server."""
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # No deadline of ours: the server has one for every run.
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(10, read=None)) as http,
        Client(streamable_http_client(endpoint(url), http_client=http)) as client,
    ):
        yield client


def arguments(request: "Request") -> dict[str, Any]:
    """Return a request as the arguments of `execute_code`."""
    given: dict[str, Any] = {
        "language": request.language,
        "code": request.code,
        "stdin": request.stdin,
        "args": list(request.args),
        "env": dict(request.env),
        "timeout": request.timeout_s,
        "session_id": request.session_id,
        "max_output_tokens": request.max_output_tokens,
    }
    if request.files:
        given["files"] = [
            {"path": file.path, "content_base64": base64.b64encode(file.content).decode()}
            for file in request.files
        ]
    if request.entrypoint is not None:
        given["entrypoint"] = request.entrypoint
    return {name: value for name, value in given.items() if value is not None}


async def call(client: "Client", request: "Request") -> ExecuteCodeOutput:
    """Run a request on the server.

    Raises:
        ServerRefused: it would not, or answers what we do not understand.
    """
    answer = await client.call_tool("execute_code", arguments(request))
    if answer.structured_content is None:
        text = next((block.text for block in answer.content if block.type == "text"), "no answer")
        raise ServerRefused(text)
    try:
        return ExecuteCodeOutput.model_validate(answer.structured_content)
    except ValidationError as error:
        raise ServerRefused("the server's answer is not of this version of codecell") from error


async def run(url: str, token: str | None, request: "Request") -> ExecuteCodeOutput:
    """Connect, run one request, and leave.

    Raises:
        ServerRefused: no server answers there, or it refused.
    """
    try:
        async with connected(url, token) as client:
            return await call(client, request)
    except BaseExceptionGroup as group:
        raise unreachable(url, group) from group


def unreachable(url: str, group: BaseException) -> BaseException:
    """Return the one error that a group of them comes to."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    if isinstance(group, CodecellError) or not isinstance(group, Exception):
        return group
    detail = str(group).split("\n", maxsplit=1)[0][:200]
    return ServerRefused(f"no codecell server answers at {endpoint(url)}: {detail}")
