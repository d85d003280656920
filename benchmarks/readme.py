"""`python -m benchmarks.readme` puts what was measured last into the README: table and plots."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import table

ROOT = Path(__file__).resolve().parents[1]
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
BEGIN, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->"
NONE_YET = "Nothing has been measured yet: `make bench` does and puts it here.\n"


def section(results: dict[str, Any] | None) -> str:
    """Return the README's part between its two marks."""
    if results is None:
        return NONE_YET
    machine = results["machine"]
    about = (
        f"Measured by `make bench` on {machine['date'][:10]}, {machine['cores']} cores "
        f"({machine['cpu']}), Docker {machine['docker']}, {results['effort']['rounds']} calls a "
        f"figure; load average before {machine['load_average_before'][0]:g}. The whole report is "
        "in [benchmarks/results/latest.md](benchmarks/results/latest.md), the method in "
        "[benchmarks/README.md](benchmarks/README.md)."
    )
    parts = [about, table(results)]
    if results.get("latency"):
        parts.append("![One call at a time](benchmarks/results/latency.svg)")
    if results.get("throughput"):
        parts.append("![Calls in flight](benchmarks/results/throughput.svg)")
    return "\n\n".join(parts) + "\n"


def latest() -> dict[str, Any] | None:
    """Read the results that are kept, if there are any."""
    if not LATEST.exists():
        return None
    found: dict[str, Any] = json.loads(LATEST.read_text(encoding="utf-8"))
    return found


def renewed(text: str, results: dict[str, Any] | None) -> str:
    """Return the README's text with its part made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{section(results)}{END}{tail}"


def main() -> int:
    """Write it."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(renewed(text, latest()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
