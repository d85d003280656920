"""Draw results/latest.json: `plot.py FOLDER`, run in the benchmark's own environment."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]

mpl.use("Agg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]
from matplotlib.axes import Axes  # type: ignore[import-not-found,unused-ignore]
from matplotlib.ticker import (  # type: ignore[import-not-found,unused-ignore]
    FixedLocator,
    FuncFormatter,
    NullFormatter,
    NullLocator,
)

OURS, BARE, OTHERS = "#0b6e4f", "#c2410c", "#64748b"
INK, GRID = "#1e293b", "#e2e8f0"
# From the fastest kind of isolation down: (name in the results, label, colour)
LATENCY = (
    ("Python", (
        ("codecell python", "codecell, fresh cell", OURS),
        ("codecell python, gVisor", "codecell, gVisor", OURS),
        ("bare python", "bare subprocess, no isolation", BARE),
        ("bubblewrap", "bubblewrap", OTHERS),
        ("docker exec", "docker exec, warm container", OTHERS),
        ("llm-sandbox warm", "llm-sandbox, warm session", OTHERS),
        ("docker run", "docker run --rm", OTHERS),
        ("llm-sandbox fresh", "llm-sandbox, fresh session", OTHERS),
    )),
    ("import numpy, pandas", (
        ("codecell numpy+pandas", "codecell, fresh cell", OURS),
        ("bare numpy+pandas", "bare subprocess", BARE),
    )),
    ("JavaScript", (
        ("codecell javascript", "codecell, fresh cell", OURS),
        ("bare javascript", "bare subprocess", BARE),
    )),
    ("Bash", (
        ("codecell bash", "codecell, fresh cell", OURS),
        ("bare bash", "bare subprocess", BARE),
    )),
)  # fmt: skip
THROUGHPUT = (
    ("reuse", "codecell, reuse = caller", OURS, "-", "o"),
    ("used once", "codecell, used-once cells", OURS, "--", "s"),
    ("bare python", "bare subprocess, no isolation", BARE, "-", "D"),
    ("docker exec", "docker exec, warm container", OTHERS, "-", "^"),
    ("llm-sandbox warm", "llm-sandbox, warm sessions", OTHERS, "--", "v"),
    ("engine ceiling", "engine: create, start, remove", "#94a3b8", ":", ""),
    ("docker run", "docker run --rm", OTHERS, "-.", "x"),
)
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def style() -> None:
    """Set what every picture shares."""
    mpl.rcParams.update(
        {
            "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK,
            "axes.labelcolor": INK, "axes.edgecolor": "#94a3b8", "axes.grid": True,
            "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
            "grid.color": GRID, "xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "codecell",
            "svg.fonttype": "none", "figure.dpi": 110,
        }
    )  # fmt: skip


def number(value: float) -> str:
    """Show a figure with the digits that matter."""
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def log_axis(axis: Any) -> None:
    """Mark a logarithmic axis with plain numbers."""
    axis.set_major_locator(FixedLocator(STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def where(results: dict[str, Any]) -> str:
    """Say on what machine this is."""
    facts = results["machine"]
    return (
        f"{facts['cores']} cores, {facts['cpu']}; Linux {facts['kernel']}, "
        f"Docker {facts['docker']}, cgroup v{facts['cgroup_version']}; "
        f"codecell {facts['commit']}, {facts['date'][:10]}"
    )


def latency(results: dict[str, Any], folder: Path) -> None:
    """One line per competitor: the middle half as a bar, 5 to 95 % as a line, median named."""
    samples: dict[str, list[float]] = results["samples_ms"]
    lines: list[tuple[str, str, str] | str] = []
    for title, entries in LATENCY:
        there = [entry for entry in entries if entry[0] in samples]
        if there:
            lines += [title, *there]
    figure, axes = plt.subplots(figsize=(9.6, 0.34 * len(lines) + 1.5), layout="constrained")
    for place, line in enumerate(lines):
        y = -place
        if isinstance(line, str):
            continue
        name, _, colour = line
        values = sorted(samples[name])
        cut = statistics.quantiles(values, n=100, method="inclusive")
        axes.plot([cut[4], cut[94]], [y, y], color=colour, linewidth=1.6, alpha=0.7, zorder=2)
        axes.barh(y, cut[74] - cut[24], left=cut[24], height=0.5, color=colour, alpha=0.45)
        axes.plot(cut[49], y, "|", color=colour, markersize=13, markeredgewidth=3, zorder=3)
        axes.plot(cut[98], y, ".", color=colour, markersize=5, alpha=0.8)
        axes.text(
            1.09, y, number(cut[49]), transform=axes.get_yaxis_transform(), va="center",
            ha="right", color=colour, fontweight="bold",
        )  # fmt: skip
    axes.text(
        1.09, 0, "median, ms", transform=axes.get_yaxis_transform(), va="center", ha="right",
        fontsize=9,
    )  # fmt: skip
    axes.set_xscale("log")
    log_axis(axes.xaxis)
    everything = [value for name in samples for value in samples[name]]
    axes.set_xlim(min(everything) * 0.8, max(everything) * 1.15)
    axes.set_yticks(
        [-place for place in range(len(lines))],
        [line if isinstance(line, str) else line[1] for line in lines],
    )
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        if isinstance(line, str):
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(-len(lines) + 0.4, 0.6)
    axes.set_xlabel(
        "ms, logarithmic; tick: median, bar: middle half, line: 5 to 95 %, dot: 99 %",
        fontsize=9,
    )
    headline(figure, "One call at a time: what the caller waits for", results)
    save(figure, folder / "latency")


def throughput(results: dict[str, Any], folder: Path) -> None:
    """Runs per second over calls in flight; each line is named at its right end."""
    found = results["throughput"]
    figure, axes = plt.subplots(figsize=(9.6, 5.2), layout="constrained")
    ends: list[tuple[float, str, str]] = []
    levels: list[int] = []
    for name, label, colour, dash, marker in THROUGHPUT:
        if name not in found:
            continue
        levels = [int(level) for level in found[name]]
        rates = [float(one["runs_per_s"]) for one in found[name].values()]
        axes.plot(levels, rates, dash, color=colour, marker=marker, linewidth=2, markersize=6)
        ends.append((rates[-1], f"{label}: {number(rates[-1])}", colour))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    log_axis(axes.yaxis)
    axes.xaxis.set_major_locator(FixedLocator(levels))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(levels[0] * 0.93, levels[-1] * 1.05)
    name_ends(axes, ends, levels[-1])
    axes.set_xlabel("calls in flight")
    axes.set_ylabel("runs per second, logarithmic")
    headline(figure, "Calls in flight: Python runs per second", results)
    save(figure, folder / "throughput")


def name_ends(axes: Axes, ends: list[tuple[float, str, str]], at: float) -> None:
    """Write each line's name beside its last point, pushed apart where they would meet."""
    low, high = axes.get_ylim()
    least = (high / low) ** 0.045  # as a factor, for the axis is logarithmic
    placed: list[tuple[float, float, str, str]] = []
    below = 0.0
    for value, text, colour in sorted(ends):
        y = max(value, below * least)
        placed.append((value, y, text, colour))
        below = y
    for value, y, text, colour in placed:
        axes.annotate(
            text, (at, value), xytext=(at * 1.09, y), textcoords="data", va="center",
            color=colour, fontsize=9, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.5,
                "relpos": (0, 0.5),
            },
        )  # fmt: skip


def headline(figure: Any, text: str, results: dict[str, Any]) -> None:
    """Write the title, and below it the machine."""
    figure.suptitle(f"{text}\n", x=0.012, ha="left", fontweight="bold", fontsize=13)
    figure.text(
        0.012,
        1 - 0.3 / figure.get_figheight(),
        where(results),
        ha="left",
        va="top",
        fontsize=8,
        color="#475569",
    )


def save(figure: Any, path: Path) -> None:
    """Write PNG and SVG; the SVG without a date, so that equal results make equal files."""
    figure.savefig(path.with_suffix(".png"), dpi=160, facecolor="white")
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def main() -> None:
    """Draw what was measured."""
    folder = Path(sys.argv[1])
    results = json.loads((folder / "latest.json").read_text())
    style()
    if results.get("samples_ms"):
        latency(results, folder)
    if results.get("throughput"):
        throughput(results, folder)


if __name__ == "__main__":
    main()
