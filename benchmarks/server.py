"""The real server, `codecell serve` on stdio: through the SDK's client, or by raw lines."""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import anyio
import docker
import docker.errors
from mcp import Client, StdioServerParameters

from benchmarks import machine

PYTHON = sys.executable
COMMAND = [PYTHON, "-m", "codecell", "serve"]


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with `pool__min="2"` as CODECELL_POOL__MIN=2."""
    return {**os.environ, **{f"CODECELL_{name.upper()}": text for name, text in settings.items()}}


@dataclass
class Served:
    """A server and the client that talks to it."""

    client: Client
    pid: int

    async def execute(self, language: str, code: str, **arguments: Any) -> dict[str, Any]:
        """Run a program; anything but a result is a failed measurement."""
        answer = await self.client.call_tool(
            "execute_code", {"language": language, "code": code, **arguments}
        )
        result: dict[str, Any] | None = answer.structured_content
        if result is None:
            raise RuntimeError(f"no result: {answer.content}")
        return result

    async def timed(self, language: str, code: str, **arguments: Any) -> float:
        """Return the seconds that the caller of a successful run waits."""
        started = time.perf_counter()
        result = await self.execute(language, code, **arguments)
        elapsed = time.perf_counter() - started
        if result["status"] != "success":
            raise RuntimeError(f"{result['status']}: {result['error_message']} {result['stderr']}")
        return elapsed

    async def warm_cells(self) -> dict[str, int]:
        """Ask how many cells of each language are ready."""
        answer = await self.client.call_tool("list_languages")
        if answer.structured_content is None:
            raise RuntimeError(f"no list: {answer.content}")
        return {item["id"]: item["warm_cells"] for item in answer.structured_content["languages"]}

    async def settle(self, language: str, at_least: int, *, calm_s: float = 0.15) -> None:
        """Wait until so many cells are ready again, and a moment for the engine to calm down."""
        with anyio.fail_after(60):
            while (await self.warm_cells())[language] < at_least:  # noqa: ASYNC110  of a server
                await anyio.sleep(0.03)
        await anyio.sleep(calm_s)


@asynccontextmanager
async def serve(**settings: str) -> AsyncIterator[Served]:
    """Start a server with some settings and connect to it as MCP clients do."""
    parameters = StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], env=environment(**settings)
    )
    async with Client(parameters) as client:
        yield Served(client, machine.child_called("codecell"))


@dataclass(frozen=True)
class Call:
    """One call on the wire."""

    written: float
    read: float
    result: dict[str, Any]

    @property
    def elapsed(self) -> float:
        """Seconds between the two lines."""
        return self.read - self.written


class Raw:
    """A server whose wire is written and read directly: what is timed here is the server alone."""

    def __init__(self, command: list[str] | None = None, **settings: str) -> None:
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command or COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(**settings),
        )
        self.pid = self.process.pid
        self._id = 0

    def __enter__(self) -> Self:
        self.request(
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "benchmark", "version": "1"},
        )
        self.answered_s = time.perf_counter() - self.started
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def send(self, message: dict[str, Any]) -> None:
        """Write one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def begin(self, method: str, **params: Any) -> int:
        """Send a request and return its id."""
        self._id += 1
        self.send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        return self._id

    def answer(self, number: int) -> bytes:
        """Return the line that answers a request."""
        assert self.process.stdout is not None
        mark = _mark(number)
        for line in self.process.stdout:
            if mark in line and b'"method"' not in line[:60]:
                return line
        raise RuntimeError("the server closed its stdout")

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request and return its result."""
        message: dict[str, Any] = json.loads(self.answer(self.begin(method, **params)))
        if "result" not in message:
            raise RuntimeError(str(message))
        result: dict[str, Any] = message["result"]
        return result

    def execute(self, language: str, code: str, **arguments: Any) -> "Call":
        """Run a program and note when its line was written and the answer's line was read."""
        body = {"language": language, "code": code, **arguments}
        written = time.perf_counter()
        line = self.answer(self.begin("tools/call", name="execute_code", arguments=body))
        read = time.perf_counter()
        return Call(written, read, json.loads(line)["result"]["structuredContent"])

    def settle(self, language: str, at_least: int, *, calm_s: float = 0.15) -> None:
        """Wait until so many cells are ready again."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            listed = self.request("tools/call", name="list_languages", arguments={})
            found = listed["structuredContent"]["languages"]
            if next(x["warm_cells"] for x in found if x["id"] == language) >= at_least:
                time.sleep(calm_s)
                return
            time.sleep(0.03)
        raise TimeoutError("the pool did not fill")


def _mark(number: int) -> bytes:
    """Return what only the answer with this id contains near its beginning."""
    return f'"id":{number},'.encode()


def cells_of(api: docker.APIClient, pid: int) -> Iterator[dict[str, Any]]:
    """Yield what the engine says of each running cell of a server."""
    from codecell.backends.docker.owners import LABEL_OWNER, Owner

    for item in api.containers(filters={"label": LABEL_OWNER}):
        owner = Owner.parse(item["Labels"][LABEL_OWNER])
        if owner is not None and owner.pid == pid:
            with suppress(docker.errors.APIError):  # gone meanwhile
                yield api.inspect_container(item["Id"])
