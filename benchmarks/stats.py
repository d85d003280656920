"""Small statistics over lists of seconds."""

import math
import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: a value that was really measured."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def summary_ms(values: Sequence[float]) -> dict[str, float]:
    """Summarise seconds as milliseconds."""
    return {
        "n": len(values),
        "median_ms": round(statistics.median(values) * 1000, 3),
        "p5_ms": round(percentile(values, 0.05) * 1000, 3),
        "p95_ms": round(percentile(values, 0.95) * 1000, 3),
        "p99_ms": round(percentile(values, 0.99) * 1000, 3),
        "max_ms": round(max(values) * 1000, 3),
    }
