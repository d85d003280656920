"""Files through MCP: 10 MB in and out again, and what a look at an unchanged tree costs."""

import base64
import hashlib
import statistics
import time
from pathlib import Path
from typing import Any

import anyio
import docker
from mcp.types import BlobResourceContents

from benchmarks.server import Served, cells_of
from benchmarks.stats import summary_ms

BYTES = 10 * 2**20
RANGE = 600_000  # the most that one answer holds
FILES = 5_000
COPY = "import shutil; shutil.copyfile('in', 'out')"
GROW = f"""
import os
for n in range({FILES}):
    if n % 50 == 0: os.mkdir(f"d{{n // 50}}")
    with open(f"d{{n // 50}}/{{n}}", "w") as f: f.write("x")
"""


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process's first thread, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def transfer(served: Served, count: int, spares: int) -> dict[str, Any]:
    """Send 10 MB, have them copied, and read the copy back in ranges; the bytes must be equal."""
    data = hashlib.shake_256(b"codecell").digest(BYTES)
    calls, reads, costs = [], [], []
    for round_ in range(count + 1):
        await served.settle("python", spares)
        before, started = cpu_s(served.pid), time.perf_counter()
        sent = [{"path": "in", "content_base64": base64.b64encode(data).decode()}]
        result = await served.execute("python", COPY, files=sent)
        called = time.perf_counter()
        (out,) = result["files"]["created"]
        got = bytearray()
        while len(got) < out["size"]:
            address = f"{out['uri']}?offset={len(got)}&length={RANGE}"
            (part,) = (await served.client.read_resource(address)).contents
            if not isinstance(part, BlobResourceContents):
                raise TypeError("random bytes came back as text")
            got += base64.b64decode(part.blob)
        ended = time.perf_counter()
        if got != data:
            raise RuntimeError("other bytes came back")
        if round_ > 0:  # the first is not counted
            calls.append(called - started)
            reads.append(ended - called)
            costs.append(cpu_s(served.pid) - before)
    together = [call + read for call, read in zip(calls, reads, strict=True)]
    return {
        "in and out": summary_ms(together),
        "the call": summary_ms(calls),
        "reading back": summary_ms(reads),
        "CPU of the server": summary_ms(costs),
    }


async def manifest(served: Served, count: int) -> dict[str, Any]:
    """Compare a step over an unchanged tree of 5,000 files with one over an empty one.

    The server keeps no spare cells: those that it has are the two sessions'.

    What the look costs is also read off the agent's own CPU time, which other load on the machine
    does not change.
    """
    steps: dict[str, list[float]] = {"bench-tree": [], "bench-bare": []}
    used: dict[str, list[float]] = {name: [] for name in steps}
    agents: dict[str, int] = {}
    api = docker.APIClient()
    for name, code in (("bench-tree", GROW), ("bench-bare", "1")):
        result = await served.execute("python", code, session_id=name)
        if result["status"] != "success":
            raise RuntimeError(str(result)[:500])
        cells = await anyio.to_thread.run_sync(lambda: list(cells_of(api, served.pid)))
        (agents[name],) = {cell["State"]["Pid"] for cell in cells} - set(agents.values())
    for round_ in range(count + 1):
        for name, agent in agents.items():
            before = cpu_s(agent)
            elapsed = await served.timed("python", "1", session_id=name)
            if round_ > 0:
                steps[name].append(elapsed)
                used[name].append(cpu_s(agent) - before)
    for name in steps:
        await served.client.call_tool("close_session", {"session_id": name})
    medians = {name: statistics.median(values) * 1000 for name, values in steps.items()}
    costs = {name: statistics.median(values) * 1000 for name, values in used.items()}
    return {
        "files": FILES,
        "n": count,
        "wall_ms": round(medians["bench-tree"] - medians["bench-bare"], 3),
        "agent_cpu_ms": round(costs["bench-tree"] - costs["bench-bare"], 3),
    }
