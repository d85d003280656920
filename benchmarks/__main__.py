"""`python -m benchmarks` measures everything; `--quick` prints the ratios alone, as JSON."""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks import machine, prepare, readme, report, rows, suite

OUT = prepare.HERE / "results"


def measure(effort: suite.Effort, only: list[str]) -> dict[str, Any]:
    """Measure part after part; one that fails is named and the others go on."""
    results: dict[str, Any] = {"machine": machine.facts(), "effort": vars(effort), "failed": {}}
    bench = suite.Suite(effort)
    if effort.full:
        bench.prepare()
    started = time.perf_counter()
    for name, part in bench.parts().items():
        if only and name not in only:
            continue
        at = time.perf_counter()
        try:
            results[name] = part()
        except Exception as error:  # noqa: BLE001  the other parts are worth having
            results["failed"][name] = repr(error)[:1000]
            prepare.note(f"{name} failed: {error!r}")
        prepare.note(f"{name}: {time.perf_counter() - at:.1f} s")
    results["seconds"] = round(time.perf_counter() - started, 1)
    results["machine"]["load_average_after"] = [round(value, 2) for value in os.getloadavg()]
    results["skipped"] = bench.skipped
    results["rows"] = rows.values(results)
    results["samples_ms"] = {
        name: [round(value * 1000, 3) for value in values] for name, values in bench.samples.items()
    }
    return results


def main() -> int:
    """Run; the status tells whether everything could be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the ratios alone, in a minute")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="repeatable")
    parser.add_argument("--calls", type=int, default=suite.FULL.rounds, help="calls per figure")
    given = parser.parse_args()
    if given.quick:
        results = measure(suite.QUICK, given.only)
        load = results["machine"]["load_average_before"][0]
        about = {"seconds": results["seconds"], "load_average_before": load}
        print(json.dumps({**results["rows"], **about}, indent=1))
        return 1 if results["failed"] else 0
    effort = suite.full(given.calls)
    results = measure(effort, given.only)
    suite.save(results, OUT / "latest.json")
    (OUT / "latest.md").write_text(report.markdown(results))
    reason = prepare.environment(prepare.PLOT_PYTHON, "requirements.txt")
    if reason:
        prepare.note(f"no plot: {reason}")
    else:
        subprocess.run([prepare.PLOT_PYTHON, prepare.HERE / "plot.py", OUT], check=True)
    readme.main()
    print(report.table(results))
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
