"""What an idle warm cell holds in memory, from its own cgroup."""

import statistics
from pathlib import Path

from benchmarks.endings import cgroups
from benchmarks.server import Raw

MIB = 2**20


def _fields(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    return {key: int(value) for key, value in map(str.split, path.read_text().splitlines())}


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def of_cell(folder: Path) -> dict[str, float]:
    """Split a cell's memory into what is its own and what is cached files."""
    stat = _fields(folder / "memory.stat")
    if "anon" in stat:  # version 2
        anonymous, shmem = stat["anon"], stat["shmem"]
        file = stat["file"] - shmem
        kernel = stat.get("kernel", stat.get("slab", 0) + stat.get("kernel_stack", 0))
        total = _number(folder / "memory.current")
    else:
        anonymous, shmem = stat["total_rss"], stat.get("total_shmem", 0)
        file = stat["total_cache"] - shmem
        kernel = _number(folder / "memory.kmem.usage_in_bytes")
        total = _number(folder / "memory.usage_in_bytes")
    own = anonymous + shmem + kernel
    parts = {
        "own_mib": own, "anonymous_mib": anonymous, "shmem_mib": shmem, "kernel_mib": kernel,
        "file_cache_mib": file, "total_mib": total,
    }  # fmt: skip
    return {name: round(size / MIB, 2) for name, size in parts.items()}


def measure(raw: Raw, language: str, spares: int) -> dict[str, float]:
    """Return the median over the cells that wait."""
    raw.settle(language, spares, calm_s=1.0)
    cells = [of_cell(procs.parent) for procs in cgroups(raw)]
    return {
        "cells": len(cells),
        **{name: statistics.median(cell[name] for cell in cells) for name in cells[0]},
    }
