"""Many clients at once against a server of its own: is every result there, and whose it is?

    python -m benchmarks.load --clients 200 --seconds 60     # make load

Every run prints a nonce that only its caller knows; the answer to each call must hold that nonce
and no other. Half of the clients speak 2025-11-25 with a session each, half 2026-07-28. Programs
are mixed: short, long, loud, failing, timing out. Afterwards the server must hold no more
descriptors, tasks or containers than before. Prints one JSON object; exits 1 if anything is wrong.
"""

import argparse
import json
import os
import random
import re
import secrets
import ssl
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2

ACCEPT = {"accept": "application/json, text/event-stream"}
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
# name, language, program (N is the nonce), further arguments, status that it must have
PROGRAMS: tuple[tuple[str, str, str, dict[str, Any], str], ...] = (
    ("short", "python", "print('N')", {}, "success"),
    ("short", "python", "print('N')", {}, "success"),
    ("input", "python", "print(input())", {"stdin": "N"}, "success"),
    ("loud", "python", "print('N'); print('x' * 200_000)", {}, "success"),
    ("works", "python", "print('N', sum(range(2_000_000)) > 0)", {}, "success"),
    ("fails", "python", "print('N', flush=True); 1 / 0", {}, "execution_error"),
    (
        "times out",
        "python",
        "print('N', flush=True)\nwhile True: pass",
        {"timeout": 0.3},
        "timeout",
    ),
)
NONCE = re.compile(r"nonce-[0-9a-f]{24}")


@dataclass(slots=True)
class Tally:
    """What came of all calls."""

    answered: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    wrong: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class Caller:
    """One client, in the era that it was made for."""

    def __init__(self, http: httpx2.AsyncClient, *, modern: bool) -> None:
        self._http = http
        self._modern = modern
        self._headers: dict[str, str] = dict(ACCEPT)
        self._number = 0

    async def open(self) -> None:
        if self._modern:
            self._headers["mcp-protocol-version"] = "2026-07-28"
            return
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "load", "version": "1"},
        }
        answer = await self._post({"id": 0, "method": "initialize", "params": params})
        self._headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        self._headers["mcp-protocol-version"] = "2025-11-25"
        await self._post({"method": "notifications/initialized"})

    async def close(self) -> None:
        if not self._modern:
            await self._http.delete("/mcp", headers=self._headers)

    async def call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call execute_code and return the result of the JSON-RPC answer."""
        self._number += 1
        params: dict[str, Any] = {"name": "execute_code", "arguments": arguments}
        headers = {}
        if self._modern:
            params["_meta"] = MODERN_META
            headers = {"mcp-method": "tools/call", "mcp-name": "execute_code"}
        message = {"id": self._number, "method": "tools/call", "params": params}
        answer = await self._post(message, **headers)
        text = answer.text
        if answer.headers["content-type"].startswith("text/event-stream"):
            text = [line[6:] for line in text.splitlines() if line.startswith("data: ")][-1]
        said = json.loads(text)
        assert said["id"] == self._number, "an answer to another question"
        result: dict[str, Any] = said["result"]
        return result

    async def _post(self, message: dict[str, Any], **headers: str) -> httpx2.Response:
        answer = await self._http.post(
            "/mcp", json={"jsonrpc": "2.0", **message}, headers={**self._headers, **headers}
        )
        answer.raise_for_status()
        return answer


# One for all clients: to make one takes longer than a run does, and nothing here is encrypted.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def one_client(base: str, number: int, until: float, tally: Tally) -> None:
    """Call once at least, and again until the time is over."""
    chance = random.Random(number)
    limits = httpx2.Limits(max_connections=2)
    async with httpx2.AsyncClient(
        base_url=base, timeout=120, limits=limits, verify=PLAIN, trust_env=False
    ) as http:
        caller = Caller(http, modern=number % 2 == 0)
        await caller.open()
        first = True
        while first or time.monotonic() < until:
            first = False
            name, language, code, more, status = chance.choice(PROGRAMS)
            nonce = f"nonce-{secrets.token_hex(12)}"
            arguments = {
                "language": language,
                "code": code.replace("N", nonce),
                **{key: nonce if value == "N" else value for key, value in more.items()},
            }
            began = time.monotonic()
            result = await caller.call(arguments)
            if result.get("isError"):
                text = result["content"][0]["text"]
                if "retry after" not in text:
                    tally.wrong.append(f"{name}: {text}")
                tally.busy += 1
                await anyio.sleep(chance.uniform(0.2, 1.0))
                continue
            tally.latencies.append(time.monotonic() - began)
            tally.answered[name] += 1
            found = set(NONCE.findall(json.dumps(result)))
            said = result["structuredContent"]
            if found != {nonce} or said["status"] != status:
                tally.wrong.append(f"{name}: {said['status']}, nonces {found}, not {nonce}")
        await caller.close()


class Server:
    """The server under load, and what the kernel and the engine know of it."""

    def __init__(self, concurrent: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codecell", "serve", "--transport", "http", "--port", "0"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "CODECELL_POOL__LANGUAGES": '["python"]',
                "CODECELL_POOL__IDLE_S": "1",
                "CODECELL_RUNS__CONCURRENT": str(concurrent),
                "CODECELL_RUNS__QUEUE": "256",
                "CODECELL_HTTP__CONNECTIONS": "1024",
            },
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "serving MCP on" in line:
                self.base = line.split()[-1].removesuffix("/mcp")
                return
        raise SystemExit("the server did not start")

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kib = re.search(r"VmRSS:\s+(\d+)", status)
        assert kib is not None
        return int(kib.group(1)) / 1024

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def cells(self) -> int:
        import docker

        from codecell.backends.docker.owners import LABEL_OWNER, Owner

        client = docker.from_env()
        found = client.api.containers(all=True, filters={"label": LABEL_OWNER})
        client.close()
        owners = [Owner.parse(item["Labels"][LABEL_OWNER]) for item in found if item["Names"]]
        return sum(owner is not None and owner.pid == self.process.pid for owner in owners)


async def settle(server: Server, descriptors: int, within_s: float) -> None:
    """Wait until the server has let go of what the clients held."""
    with anyio.move_on_after(within_s):
        while server.descriptors() > descriptors:  # noqa: ASYNC110  the kernel sends no events
            await anyio.sleep(0.2)


async def run(clients: int, seconds: float, concurrent: int) -> dict[str, Any]:
    server = Server(concurrent)
    try:
        async with httpx2.AsyncClient(base_url=server.base, timeout=30) as http:
            with anyio.fail_after(60):
                while (await http.get("/ready")).status_code != 200:  # noqa: ASYNC110
                    await anyio.sleep(0.2)
        # A first, short round, for what is made once and kept, such as the threads of a pool.
        await one_client(server.base, 0, time.monotonic() + 2, Tally())
        await one_client(server.base, 1, time.monotonic() + 2, Tally())
        await anyio.sleep(1)
        before = (server.descriptors(), server.rss_mib())
        tally, most = Tally(), [0.0]

        async def watch() -> None:
            while True:
                most[0] = max(most[0], server.rss_mib())
                await anyio.sleep(0.5)

        began = time.monotonic()
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch)
            async with anyio.create_task_group() as tasks:
                for number in range(clients):
                    tasks.start_soon(one_client, server.base, number, began + seconds, tally)
            watching.cancel_scope.cancel()
        took = time.monotonic() - began
        # Waiting cells hold a descriptor or two each, and their number follows use.
        await settle(server, before[0] + 8, 30)
        after = (server.descriptors(), server.rss_mib())
        server.process.terminate()
        status = server.process.wait(10)
        cells = server.cells()
        return report(tally, took, clients, before, (most[0], *after), status, cells)
    finally:
        server.process.kill()
        server.process.wait()


def report(
    tally: Tally,
    took: float,
    clients: int,
    before: tuple[int, float],
    after: tuple[float, int, float],
    status: int,
    cells: int,
) -> dict[str, Any]:
    ordered = sorted(tally.latencies)

    def quantile(share: float) -> int | None:
        return round(1000 * ordered[int(share * (len(ordered) - 1))]) if ordered else None

    answered = sum(tally.answered.values())
    problems = list(tally.wrong[:10])
    if not answered:
        problems.append("nothing was answered")
    if after[1] > before[0] + 8:
        problems.append(f"{after[1]} descriptors are left of {before[0]} before")
    if after[0] > before[1] + 0.6 * clients + 80:
        problems.append(f"{after[0]:.0f} MiB at the most, {before[1]:.0f} before")
    if status != 143:
        problems.append(f"the server ended with {status}")
    if cells:
        problems.append(f"{cells} containers are left")
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "answered": answered,
        "by_program": dict(tally.answered),
        "runs_per_s": round(answered / took, 1),
        "refused_busy": tally.busy,
        "lost_or_crossed": len(tally.wrong),
        "latency_ms": {"p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99)},
        "rss_mib": {"before": round(before[1]), "most": round(after[0]), "after": round(after[2])},
        "descriptors": {"before": before[0], "after": after[1]},
        "containers_left": cells,
        "problems": problems,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--concurrent", type=int, default=8, help="runs.concurrent of the server")
    given = parser.parse_args()
    found = anyio.run(run, given.clients, given.seconds, given.concurrent)
    print(json.dumps(found, indent=2))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
