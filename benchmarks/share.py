"""The server's own share of a call: from its line on the wire to the answer, less the cell."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.server import PYTHON, Raw
from benchmarks.stats import summary_ms


def measure(count: int, spares: int, calm_s: float) -> dict[str, Any]:
    """Split warm calls of a tapped server into the way in, the cell, and the way out."""
    ways: dict[str, list[float]] = {
        name: [] for name in ("wire", "way_in", "cell", "way_out", "own", "agent", "run_wall")
    }
    with tempfile.TemporaryDirectory() as folder:
        tap = Path(folder) / "tap"
        tap.touch()
        command = [PYTHON, "-m", "benchmarks.tapped", "serve"]
        with Raw(command, tap=str(tap), pool__languages='["python"]') as raw:
            for index in range(count + 3):
                raw.settle("python", spares, calm_s=calm_s)
                known = len(tap.read_text().splitlines())
                call = raw.execute("python", peers.PROGRAMS["python"])
                raw.settle("python", spares, calm_s=0)
                lines = tap.read_text().splitlines()[known:]
                if index < 3 or len(lines) != 1:
                    continue  # a warm-up, or an idle cell was let go meanwhile
                sent, received = map(float, lines[0].split())
                wall = call.result["usage"]["wall_s"]
                parts = {
                    "wire": call.read - call.written,
                    "way_in": sent - call.written,
                    "cell": received - sent,
                    "way_out": call.read - received,
                    "own": call.read - call.written - (received - sent),
                    "agent": received - sent - wall,
                    "run_wall": wall,
                }
                for name, value in parts.items():
                    ways[name].append(value)
    return {name: summary_ms(values) for name, values in ways.items()}
