"""Runs per second with several calls in flight, and what a run costs in CPU time.

Only a window after a warm-up counts, so neither a full pool nor cold caches flatter anybody: in the
steady state as many cells are made as are used.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import docker

from benchmarks import peers
from benchmarks.machine import busy_s
from benchmarks.server import Served, cells_of


@dataclass
class Window:
    """What finished between the end of the warm-up and the end of the measurement."""

    warm_s: float
    seconds: float
    done: int = 0
    cpu_s: float = 0.0
    begin: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Set the window's place in time, now."""
        self.begin = time.perf_counter() + self.warm_s

    @property
    def end(self) -> float:
        """When it is over."""
        return self.begin + self.seconds

    @property
    def open(self) -> bool:
        """Tell whether another run should be begun."""
        return time.perf_counter() < self.end

    def count(self) -> None:
        """Note that a run has ended now."""
        if self.begin <= time.perf_counter() <= self.end:
            with self._lock:
                self.done += 1

    def watch_cpu(self) -> None:
        """Take the machine's CPU time over the window; blocks until its end."""
        time.sleep(max(0.0, self.begin - time.perf_counter()))
        before = busy_s()
        time.sleep(max(0.0, self.end - time.perf_counter()))
        self.cpu_s = busy_s() - before

    def rates(self) -> dict[str, float]:
        """Return the figures."""
        return {
            "runs": self.done,
            "runs_per_s": round(self.done / self.seconds, 2),
            "cpu_s_per_run": round(self.cpu_s / max(self.done, 1), 4),
            "seconds": self.seconds,
        }


async def of_server(served: Served, in_flight: int, warm_s: float, seconds: float) -> Any:
    """Keep so many calls in flight; the client's own work is part of it."""
    window = Window(warm_s, seconds)

    async def caller() -> None:
        while window.open:
            await served.timed("python", peers.PROGRAMS["python"])
            window.count()

    window.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, window.watch_cpu)
        for _ in range(in_flight):
            tasks.start_soon(caller)
    return window.rates()


def of_threads(run: Callable[[], object], in_flight: int, warm_s: float, seconds: float) -> Any:
    """Keep so many threads calling something that blocks."""
    window = Window(warm_s, seconds)
    failures: list[BaseException] = []

    def caller() -> None:
        try:
            while window.open:
                run()
                window.count()
        except BaseException as error:  # noqa: BLE001  raised below, in the thread that asked
            failures.append(error)

    window.start()
    threads = [threading.Thread(target=caller) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    window.watch_cpu()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return window.rates()


class Engine:
    """The engine's own ceiling: create, start and remove the very container of a cell, no more."""

    def __init__(self, pid: int) -> None:
        """Take the body from a waiting cell of a server, as the engine describes it."""
        self._local = threading.local()
        api = self._api()
        cell = next(iter(cells_of(api, pid)))
        self.body: dict[str, Any] = {
            **cell["Config"],
            "HostConfig": {**cell["HostConfig"], "AutoRemove": False},  # removed here, by force
            "Labels": {"codecell-bench": "1"},
        }

    def _api(self) -> docker.APIClient:
        """One client per thread."""
        if not hasattr(self._local, "api"):
            self._local.api = docker.APIClient(version="auto")
        api: docker.APIClient = self._local.api
        return api

    def one(self) -> None:
        """Create, start, remove."""
        api = self._api()
        made = api.create_container_from_config(self.body)["Id"]
        try:
            api.start(made)
        finally:
            api.remove_container(made, force=True, v=True)
