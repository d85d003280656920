"""From `timeout` or a cancel to the last process dead, watched from the host."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker

from benchmarks.machine import cgroup_folder
from benchmarks.server import Raw, cells_of
from benchmarks.stats import summary_ms

POLL_S = 0.0002
AGENT = 1
CHILDREN = 4
# Children in their own sessions with every signal ignored: the hardest to be rid of.
PROGRAM = f"""
import os, signal, time
for _ in range({CHILDREN}):
    if os.fork() == 0:
        os.setsid()
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(60)
while True:
    time.sleep(60)
"""


def cgroups(raw: Raw) -> list[Path]:
    """Return the cgroup.procs of every cell of a server, as this machine's kernel has them."""
    found = []
    for cell in cells_of(docker.APIClient(version="auto"), raw.pid):
        with suppress(OSError):  # on its way out
            found.append(cgroup_folder(cell["State"]["Pid"], "memory") / "cgroup.procs")
    return found


def _count(procs: Path) -> int:
    try:
        return procs.read_text().count("\n")
    except OSError:
        return 0  # the cgroup is gone with all that was in it


def _begun(cells: list[Path]) -> Path:
    deadline = time.perf_counter() + 10
    while time.perf_counter() < deadline:
        for procs in cells:
            if _count(procs) >= AGENT + 1 + CHILDREN:
                return procs
        time.sleep(POLL_S)
    raise TimeoutError("the program did not begin in any known cell")


def _dead(procs: Path) -> float:
    """Return when no process but the agent, at most, was left."""
    deadline = time.perf_counter() + 30
    while time.perf_counter() < deadline:
        if _count(procs) <= AGENT:
            return time.perf_counter()
        time.sleep(POLL_S)
    raise TimeoutError("the program's processes did not die")


def measure(raw: Raw, count: int, spares: int) -> dict[str, Any]:
    """Time both endings.

    A timeout counts from the moment the request was written plus the timeout, so the way in is
    part of it; a cancel counts from the moment its notification was written.
    """
    limit = 0.3
    timeouts, cancels = [], []
    body = {"language": "python", "code": PROGRAM}
    for index in range(2 * count):
        raw.settle("python", spares, calm_s=0.05)
        cells = cgroups(raw)
        if index % 2:
            written = time.perf_counter()
            number = raw.begin(
                "tools/call", name="execute_code", arguments={**body, "timeout": limit}
            )
            dead = _dead(_begun(cells))
            timeouts.append(dead - written - limit)
            raw.answer(number)
        else:
            number = raw.begin("tools/call", name="execute_code", arguments=body)
            procs = _begun(cells)
            written = time.perf_counter()
            raw.send(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/cancelled",
                    "params": {"requestId": number, "reason": "benchmark"},
                }
            )
            cancels.append(_dead(procs) - written)
    return {"timeout": summary_ms(timeouts), "cancel": summary_ms(cancels)}
