"""The table of issues 3 and 4: what each row is, must reach, aims at, and where it comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table; `higher` says in which direction better lies."""

    id: str
    what: str
    value: Callable[[Results], float]
    unit: str
    must: float | None
    aim: float | None
    higher: bool = False

    def reached(self, value: float) -> str:
        """Say how far it got."""
        if self.must is None:
            return "stated"
        if self._within(value, self.aim):
            return "aim"
        return "yes" if self._within(value, self.must) else "NO"

    def _within(self, value: float, bound: float | None) -> bool:
        if bound is None:
            return False
        return value >= bound if self.higher else value <= bound


def _warm(name: str) -> Callable[[Results], float]:
    def ratio(results: Results) -> float:
        found = results["latency"]
        ours, bare = found[f"codecell {name}"]["median_ms"], found[f"bare {name}"]["median_ms"]
        return float(ours / bare)

    return ratio


def _rate(results: Results, series: str) -> float:
    return float(results["throughput"][series]["8"]["runs_per_s"])


def _ceiling(results: Results) -> float:
    return max(float(x["runs_per_s"]) for x in results["throughput"]["engine ceiling"].values())


def _cpu(results: Results) -> float:
    rates = results["throughput"]
    return float(
        rates["used once"]["8"]["cpu_s_per_run"] / rates["docker run"]["8"]["cpu_s_per_run"]
    )


ROWS = (
    Row("python_to_bare", "Python, fresh single-use warm cell / bare `python3 -c`",
        _warm("python"), "x", 0.8, 0.4),
    Row("numpy_to_bare", "Python, `import numpy, pandas`, warm / bare",
        _warm("numpy+pandas"), "x", 0.3, 0.05),
    Row("javascript_to_bare", "JavaScript, warm / bare `node -e`",
        _warm("javascript"), "x", 0.3, 0.1),
    Row("bash_to_bare", "Bash, warm / bare `bash -c`",
        _warm("bash"), "x", 4, 2),
    Row("step_to_bare", "Python, a step in a live session / bare `python3 -c`",
        lambda r: r["latency"]["codecell python step"]["median_ms"]
        / r["latency"]["bare python"]["median_ms"], "x", 0.5, None),
    Row("gvisor_to_bare", "Python under gVisor, warm / bare (where runsc is registered)",
        lambda r: r["gvisor"]["codecell python, gVisor"]["median_ms"]
        / r["gvisor"]["bare python, beside it"]["median_ms"], "x", None, None),
    Row("own_share_ms", "server's own share of a call (line in to line out, less the cell's part)",
        lambda r: r["own_share"]["own"]["median_ms"], "ms", 4, 2),
    Row("reuse_to_bare", "runs/s, `reuse = \"caller\"`, 8 in flight / bare subprocesses, 8 threads",
        lambda r: _rate(r, "reuse") / _rate(r, "bare python"), "x", 1.5, 3, higher=True),
    Row("once_to_ceiling", "runs/s, used-once cells, 8 in flight / the engine's best rate",
        lambda r: _rate(r, "used once") / _ceiling(r), "x", 0.9, None, higher=True),
    Row("cpu_to_docker_run", "CPU-seconds per used-once run / per `docker run`",
        _cpu, "x", 1, 0.667),
    Row("burst_lost", "burst on a pool of 4: calls lost or mixed up",
        lambda r: r["burst"]["lost"], "", 0, 0),
    Row("burst_displacement", "burst: places that the most displaced call was out of order",
        lambda r: r["burst"]["largest_displacement"], "", None, None),
    Row("burst_p99_ms", "burst: p99 of the wait",
        lambda r: r["burst"]["p99_ms"], "ms", None, None),
    Row("timeout_to_dead_p99_ms", "from `timeout` to the last process dead, p99",
        lambda r: r["wire"]["endings"]["timeout"]["p99_ms"], "ms", 50, 10),
    Row("cancel_to_dead_p99_ms", "from a cancel to the last process dead, p99",
        lambda r: r["wire"]["endings"]["cancel"]["p99_ms"], "ms", 50, 10),
    Row("flood_lines_to_null", "20 MB of stdout in lines / the same to /dev/null",
        lambda r: r["wire"]["flood"]["lines"]["ratio"], "x", 1.5, None),
    Row("flood_blocks_to_null", "20 MB of stdout in 100 kB blocks / the same to /dev/null",
        lambda r: r["wire"]["flood"]["blocks"]["ratio"], "x", None, None),
    Row("flood_growth_mib", "20 MB of stdout: largest growth of the server's peak memory",
        lambda r: r["wire"]["flood"]["server_peak_growth_mib"]["max"], "MiB", 5, None),
    Row("files_10_mb_ms", "10 MB in, copied and read back in ranges, through MCP",
        lambda r: r["files"]["moved"]["in and out"]["median_ms"], "ms", 1000, None),
    Row("manifest_5000_ms", "what a look at an unchanged tree of 5,000 files adds to a step",
        lambda r: r["files"]["manifest"]["wall_ms"], "ms", 30, None),
    Row("manifest_5000_cpu_ms", "the same in CPU time of the agent",
        lambda r: r["files"]["manifest"]["agent_cpu_ms"], "ms", None, None),
    Row("idle_cell_mib", "resident memory of an idle warm Python cell, without file cache",
        lambda r: r["wire"]["idle"]["python"]["own_mib"], "MiB", 15, 8),
    Row("start_to_answer_ms", "server start to the first answer (`initialize`)",
        lambda r: r["start"]["initialize"]["median_ms"], "ms", 1500, 700),
    Row("start_to_result_ms", "server start to the first result of a run",
        lambda r: r["start"]["first result"]["median_ms"], "ms", None, None),
)  # fmt: skip


def values(results: Results) -> dict[str, float | None]:
    """Return every row's value; null where it was not measured."""
    found: dict[str, float | None] = {}
    for row in ROWS:
        try:
            found[row.id] = round(row.value(results), 3)
        except (KeyError, TypeError, ZeroDivisionError):
            found[row.id] = None
    return found
