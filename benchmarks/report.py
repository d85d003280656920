"""The results as Markdown."""

from typing import Any

from benchmarks.rows import ROWS


def table(results: dict[str, Any]) -> str:
    """Return the table of issue 3 with what was measured."""
    lines = ["| what | measured | must | aim | reached |", "|---|---|---|---|---|"]
    for row in ROWS:
        value = results["rows"][row.id]
        sign = ">=" if row.higher else "<="
        bounds = [
            f"{sign} {bound:g} {row.unit}".rstrip() if bound is not None else ""
            for bound in (row.must, row.aim)
        ]
        shown = "not measured" if value is None else f"{value:.3g} {row.unit}".rstrip()
        if value is not None and value >= 1000:
            shown = f"{value:.0f} {row.unit}"
        reached = "" if value is None else row.reached(value)
        lines.append(f"| {row.what} | {shown} | {bounds[0]} | {bounds[1]} | {reached} |")
    return "\n".join(lines)


def markdown(results: dict[str, Any]) -> str:
    """Return the whole report."""
    parts = ["# Measurements", _facts(results), "## Against the bar", table(results)]
    if "latency" in results:
        parts += ["## One call at a time", "![latency](latency.png)", _latency(results)]
    if "throughput" in results:
        parts += ["## Calls in flight", "![throughput](throughput.png)", *_throughput(results)]
    parts += [*_others(results), "## Not measured", _skipped(results)]
    return "\n\n".join(parts) + "\n"


def _facts(results: dict[str, Any]) -> str:
    found = results["machine"]
    lines = [
        "Made by `make bench`; do not edit. The method is in [../README.md](../README.md).",
        "",
        *(f"- {name.replace('_', ' ')}: {_show(value)}" for name, value in found.items()),
        f"- took: {results['seconds'] / 60:.0f} min, {results['effort']['rounds']} calls a figure",
    ]
    return "\n".join(lines)


def _show(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _summaries(found: dict[str, dict[str, float]], first: str) -> str:
    lines = [f"| {first} | median ms | p5 | p95 | p99 | max | n |", "|---|---|---|---|---|---|---|"]
    for name, one in found.items():
        figures = (one[f"{key}_ms"] for key in ("median", "p5", "p95", "p99", "max"))
        lines.append(
            f"| {name} | " + " | ".join(f"{figure:.2f}" for figure in figures) + f" | {one['n']} |"
        )
    return "\n".join(lines)


def _latency(results: dict[str, Any]) -> str:
    found = dict(sorted(results["latency"].items(), key=lambda item: float(item[1]["median_ms"])))
    return _summaries(found, "what the caller waits for")


def _throughput(results: dict[str, Any]) -> list[str]:
    found = results["throughput"]
    levels = list(next(iter(found.values())))
    rates = [
        "| runs/s with so many in flight | " + " | ".join(levels) + " |",
        "|---|" + "---|" * len(levels),
    ]
    costs = [
        "| CPU-seconds of the whole machine per run | " + " | ".join(levels) + " |",
        "|---|" + "---|" * len(levels),
    ]
    for name, by_level in found.items():
        rates.append(
            f"| {name} | " + " | ".join(_rate(x, "runs_per_s") for x in by_level.values()) + " |"
        )
        costs.append(
            f"| {name} | " + " | ".join(_rate(x, "cpu_s_per_run") for x in by_level.values()) + " |"
        )
    return ["\n".join(rates), "\n".join(costs)]


def _rate(rates: dict[str, float], key: str) -> str:
    return f"{rates[key]:.3g}" if key in rates else ""


def _others(results: dict[str, Any]) -> list[str]:
    parts: list[str] = []
    if "own_share" in results:
        parts += ["## Where a warm call's time goes", _summaries(results["own_share"], "part")]
    if found := results.get("back_to_back"):
        parts += ["## Back to back, no pause for the pool", _summaries(found, "Python")]
    if found := results.get("gvisor"):
        parts += ["## gVisor", _summaries(found, "runtime")]
    if found := results.get("wire"):
        parts += ["## To the last process dead", _summaries(found["endings"], "from")]
    if found := results.get("burst"):
        each = {f"burst {n + 1}": x["wait"] for n, x in enumerate(found["each"])}
        parts += [f"## {found['calls']} calls at once, pool of 4", _summaries(each, "wait")]
    if found := results.get("start"):
        parts += ["## Start", _summaries(found, "server start to")]
    if found := results.get("files"):
        parts += ["## 10 MB in and out", _summaries(found["moved"], "part")]
    idle = {**results.get("wire", {}).get("idle", {}), **(results.get("idle_others") or {})}
    if idle:
        names = list(next(iter(idle.values())))
        lines = ["| idle warm cell | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        lines += [
            f"| {name} | " + " | ".join(f"{value:g}" for value in one.values()) + " |"
            for name, one in idle.items()
        ]
        parts += ["## Memory", "\n".join(lines)]
    return parts


def _skipped(results: dict[str, Any]) -> str:
    reasons = {**results["skipped"], **results["failed"]}
    return "\n".join(f"- {name}: {reason}" for name, reason in reasons.items()) or "Nothing."
