"""Drives llm-sandbox in its own environment: one JSON request per line, one answer per line.

The times are taken here, around the library's own calls, so our pipe is not part of them.
"""

import json
import sys
import threading
import time
from typing import Any

from llm_sandbox import SandboxSession  # type: ignore[import-not-found]

CODE = "print(1)"
# As in codecell's cells, as far as the library works with it: it needs root and a writable root.
LIMITS: dict[str, Any] = {
    "network_mode": "none",
    "mem_limit": "256m",
    "nano_cpus": 500_000_000,
    "pids_limit": 50,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "labels": {"codecell-bench": "1"},
    "init": True,  # else closing waits ten seconds for a shell that ignores SIGTERM
}


def session(image: str) -> Any:
    """Open a session without its environment set-up, which wants pip and a network."""
    opened = SandboxSession(
        lang="python", image=image, skip_environment_setup=True, runtime_configs=dict(LIMITS)
    )
    opened.open()
    return opened


def run(opened: Any) -> float:
    """Run the program in an open session."""
    started = time.perf_counter()
    output = opened.run(CODE)
    elapsed = time.perf_counter() - started
    if output.exit_code or output.stdout != "1\n":
        raise RuntimeError(str(output))
    return elapsed


def fresh(image: str) -> float:
    """Open a session and run once; closing it is not counted, as ours is not either."""
    started = time.perf_counter()
    opened = session(image)
    try:
        run(opened)
        return time.perf_counter() - started
    finally:
        opened.close()


def load(image: str, threads: int, warm_s: float, seconds: float) -> float:
    """Return runs per second with so many warm sessions, each with a thread of its own."""
    sessions = [session(image) for _ in range(threads)]
    begin = time.perf_counter() + warm_s
    end = begin + seconds
    done = [0] * threads

    def caller(index: int) -> None:
        while time.perf_counter() < end:
            run(sessions[index])
            done[index] += begin <= time.perf_counter() <= end

    callers = [threading.Thread(target=caller, args=(index,)) for index in range(threads)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    for opened in sessions:
        opened.close()
    return sum(done) / seconds


def main() -> None:
    """Serve until the end of input."""
    image = sys.argv[1]
    warm = session(image)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            match request["do"]:
                case "warm":
                    answer = run(warm)
                case "fresh":
                    answer = fresh(image)
                case _:
                    answer = load(image, **request["load"])
            print(json.dumps(answer), flush=True)
    finally:
        warm.close()


if __name__ == "__main__":
    main()
