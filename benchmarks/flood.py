"""20 MB of stdout under the cap, against the same program writing to /dev/null."""

import statistics
from typing import Any

from benchmarks.machine import reset_peak, status_kib
from benchmarks.server import Raw

BYTES = 20_000_000
# (what, program; OUT is the place it writes to)
PROGRAMS = {
    "lines": "import sys\nout = OUT\nfor i in range(200_000):\n    print('x' * 99, file=out)\n",
    "blocks": (
        "out = OUT\nblock = 'x' * 99_999 + '\\n'\nfor i in range(200):\n    out.write(block)\n"
    ),
}
TO = {"stdout": "__import__('sys').stdout", "null": "open('/dev/null', 'w')"}


def measure(raw: Raw, count: int, spares: int) -> dict[str, Any]:
    """Interleave the four programs; compare by what the caller waits."""
    samples: dict[tuple[str, str], list[float]] = {(p, t): [] for p in PROGRAMS for t in TO}
    growth = []
    for round_ in range(count + 1):
        for (program, to), times in samples.items():
            raw.settle("python", spares)
            before = status_kib(raw.pid, "VmRSS")
            reset_peak(raw.pid)
            call = raw.execute("python", PROGRAMS[program].replace("OUT", TO[to]))
            result = call.result
            if result["status"] != "success":
                raise RuntimeError(str(result)[:500])
            if to == "stdout" and result["stdout_bytes"] != BYTES:
                raise RuntimeError(f"{result['stdout_bytes']} bytes")
            if round_ == 0:
                continue  # the first of each is not counted
            times.append(call.elapsed)
            if to == "stdout":
                growth.append((status_kib(raw.pid, "VmHWM") - before) / 1024)
    medians = {key: statistics.median(times) for key, times in samples.items()}
    return {
        "n": count,
        **{
            program: {
                "stdout_ms": round(medians[program, "stdout"] * 1000, 2),
                "null_ms": round(medians[program, "null"] * 1000, 2),
                "ratio": round(medians[program, "stdout"] / medians[program, "null"], 3),
            }
            for program in PROGRAMS
        },
        "server_peak_growth_mib": {
            "median": round(statistics.median(growth), 2),
            "max": round(max(growth), 2),
        },
    }
