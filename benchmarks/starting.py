"""From starting the server to its first answers."""

import time

from benchmarks import peers
from benchmarks.server import Raw


def once() -> tuple[float, float]:
    """Return seconds to the answer to `initialize`, and to the first result of a run."""
    with Raw() as raw:
        raw.execute("python", peers.PROGRAMS["python"])
        return raw.answered_s, time.perf_counter() - raw.started
