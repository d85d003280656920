"""All measurements, each a function of the effort; the quick and the full benchmark share them."""

import json
import random
import statistics
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from benchmarks import burst, endings, files, flood, idle, latency, peers, prepare, share, starting
from benchmarks.latency import Entry
from benchmarks.server import Raw, serve
from benchmarks.stats import summary_ms
from benchmarks.throughput import Engine, of_server, of_threads

PARALLEL = 8
ONLY_PYTHON = '["python"]'
NUMPY = "import numpy, pandas"
# They take most of the time and are an order of magnitude away: a quarter of the calls will do.
SELDOM = ("docker run", "llm-sandbox warm", "llm-sandbox fresh")


@dataclass(frozen=True)
class Effort:
    """How much of everything."""

    full: bool
    rounds: int
    shares: int
    endings: int
    floods: int
    files: int
    starts: int
    burst: int
    bursts: int
    warm_s: float
    window_s: float
    levels: tuple[int, ...]
    calm_s: float


QUICK = Effort(
    full=False, rounds=5, shares=5, endings=4, floods=1, files=2, starts=2, burst=24, bursts=1,
    warm_s=0.3, window_s=1.7, levels=(PARALLEL,), calm_s=0.05,
)  # fmt: skip
FULL = Effort(
    full=True, rounds=200, shares=100, endings=200, floods=10, files=20, starts=10, burst=50,
    bursts=5, warm_s=1.5, window_s=5.0, levels=(1, 2, 4, 8, 16), calm_s=0.1,
)  # fmt: skip


class LlmSandbox:
    """The worker process that drives llm-sandbox."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [
                prepare.LLM_PYTHON, "-I", prepare.HERE / "llm_worker.py",
                f"{prepare.PREFIX}/llm-sandbox:latest",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(60)

    def ask(self, do: str, **load: float) -> float:
        """Have the worker do something and return what it measured."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        self._process.stdin.write(json.dumps({"do": do, "load": load}) + "\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))


class Suite:
    """The measurements; what a part needs and is not there is noted in `skipped`."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self.skipped: dict[str, str] = {}
        self.llm = False
        self.numpy = prepare.has_image(f"{prepare.PREFIX}/python")
        self.samples: dict[str, list[float]] = {}

    def prepare(self) -> None:
        """Make what only the full benchmark needs."""
        prepare.bubblewrap()
        reason = prepare.image(f"{prepare.PREFIX}/python")
        self.numpy = reason is None
        if reason:
            self.skipped["numpy"] = reason
        reason = prepare.environment(
            prepare.LLM_PYTHON, "requirements-llm-sandbox.txt"
        ) or prepare.image(f"{prepare.PREFIX}/llm-sandbox")
        self.llm = reason is None
        if reason:
            self.skipped["llm-sandbox"] = reason

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Return the measurements in their order."""
        chosen: dict[str, Callable[[], Any]] = {
            "latency": lambda: anyio.run(self.latency),
            "own_share": lambda: share.measure(self.effort.shares, 2, self.effort.calm_s),
            "throughput": lambda: anyio.run(self.throughput),
            "burst": lambda: anyio.run(self.burst),
            "wire": self.wire,
            "files": lambda: anyio.run(self.files),
            "start": self.start,
        }
        if self.effort.full:
            chosen["back_to_back"] = lambda: anyio.run(self.back_to_back)
            chosen["gvisor"] = lambda: anyio.run(self.gvisor)
            chosen["idle_others"] = self.idle_others
        return chosen

    async def latency(self) -> dict[str, Any]:
        """One call at a time, everything in shuffled rounds."""
        effort = self.effort
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(serve())
            entries: dict[str, Entry] = {}
            for language in peers.PROGRAMS:
                await served.settle(language, 2)
                entries[f"codecell {language}"] = latency.codecell(
                    served, language, calm_s=effort.calm_s
                )
                entries[f"bare {language}"] = latency.blocking(peers.bare(language))
            entries["codecell python step"] = latency.step(served, "python")
            if self.numpy:
                other = await stack.enter_async_context(
                    serve(engine__image_prefix=prepare.PREFIX, pool__languages=ONLY_PYTHON)
                )
                await other.settle("python", 2)
                entries["codecell numpy+pandas"] = latency.codecell(
                    other, "python", NUMPY, calm_s=effort.calm_s
                )
                root = stack.enter_context(prepare.files_of(f"{prepare.PREFIX}/python"))
                entries["bare numpy+pandas"] = latency.blocking(peers.chrooted(root, NUMPY))
                entries["bare python of the image"] = latency.blocking(
                    peers.chrooted(root, peers.PROGRAMS["python"])
                )
            else:
                self.skipped.setdefault(
                    "numpy", f"no image {prepare.PREFIX}/python; `make bench` builds it"
                )
            if effort.full:
                self._peers(stack, entries)
            samples = await latency.rounds(entries, effort.rounds, seldom=SELDOM, lost=self.skipped)
        self.samples.update(samples)
        return {name: summary_ms(values) for name, values in samples.items()}

    def _peers(self, stack: AsyncExitStack, entries: dict[str, Entry]) -> None:
        calm_s = self.effort.calm_s
        command = peers.docker_run_command()
        entries["docker run"] = latency.blocking(lambda: peers.timed(command), calm_s)
        warm = peers.WarmContainer()
        stack.callback(warm.close)
        entries["docker exec"] = latency.blocking(warm.run)
        bubble = peers.bubblewrap()
        if bubble is None:
            self.skipped["bubblewrap"] = "bwrap is not installed, or may not make namespaces here"
        else:
            entries["bubblewrap"] = latency.blocking(bubble)
        if self.llm:
            llm = stack.enter_context(LlmSandbox())
            entries["llm-sandbox warm"] = latency.blocking(lambda: llm.ask("warm"))
            entries["llm-sandbox fresh"] = latency.blocking(lambda: llm.ask("fresh"), calm_s)

    async def back_to_back(self) -> dict[str, Any]:
        """Call without pauses: beyond the spares it is the rate of new cells that shows."""
        async with serve(pool__languages=ONLY_PYTHON) as served:
            await served.settle("python", 2)
            once = await latency.back_to_back(served, "python", self.effort.rounds)
        async with serve(pool__languages=ONLY_PYTHON, pool__reuse="caller") as served:
            await served.settle("python", 2)
            kept = await latency.back_to_back(served, "python", self.effort.rounds)
        return {"used once": summary_ms(once), "reuse = caller": summary_ms(kept)}

    async def throughput(self) -> dict[str, Any]:
        """Runs per second at each level of parallelism, the series in a new order at each."""
        effort = self.effort
        span = (effort.warm_s, effort.window_s)
        async with serve(pool__languages=ONLY_PYTHON) as served:
            await served.settle("python", 1)
            engine = Engine(served.pid)
        with ExitStack() as stack:
            series: dict[str, Callable[[int], Any]] = {
                "bare python": lambda n: of_threads(peers.bare("python"), n, *span),
                "engine ceiling": lambda n: of_threads(engine.one, n, *span),
                "docker run": lambda n: of_threads(
                    lambda: peers.timed(peers.docker_run_command()), n, *span
                ),
            }
            if effort.full:
                warm = peers.WarmContainer()
                stack.callback(warm.close)
                series["docker exec"] = lambda n: of_threads(warm.run, n, *span)
            if effort.full and self.llm:
                llm = stack.enter_context(LlmSandbox())
                series["llm-sandbox warm"] = lambda n: {
                    "runs_per_s": round(
                        llm.ask("load", threads=n, warm_s=span[0], seconds=span[1]), 2
                    )
                }
            found: dict[str, dict[str, Any]] = {}
            shuffle = random.Random(latency.SEED).shuffle
            for level in effort.levels:
                order: list[str] = ["reuse", "used once", *series]
                shuffle(order)
                for name in order:
                    if name in series:
                        rates = await anyio.to_thread.run_sync(series[name], level)
                    else:
                        rates = await self._served_rates(name, level)
                    found.setdefault(name, {})[str(level)] = rates
        return found

    async def _served_rates(self, name: str, level: int) -> Any:
        mode = "caller" if name == "reuse" else "never"
        async with serve(pool__languages=ONLY_PYTHON, pool__reuse=mode) as served:
            await served.settle("python", 2)
            warm_s = max(self.effort.warm_s, 1.5)  # in which it makes the cells that it will use
            return await of_server(served, level, warm_s, self.effort.window_s)

    async def burst(self) -> dict[str, Any]:
        """Many at once with four spares."""
        reports = []
        async with serve(pool__languages=ONLY_PYTHON, pool__min="4", pool__max="4") as served:
            for _ in range(self.effort.bursts):
                await served.settle("python", 4, calm_s=0.5)
                reports.append(await burst.burst(served, self.effort.burst))
        return {
            "calls": self.effort.burst,
            "bursts": len(reports),
            "lost": sum(report["lost"] for report in reports),
            "p99_ms": statistics.median(report["wait"]["p99_ms"] for report in reports),
            "largest_displacement": max(report["largest_displacement"] for report in reports),
            "each": reports,
        }

    def wire(self) -> dict[str, Any]:
        """What is measured with one server whose wire is held directly."""
        with Raw(pool__languages=ONLY_PYTHON) as raw:
            raw.settle("python", 2)
            return {
                "idle": {"python": idle.measure(raw, "python", 2)},
                "endings": endings.measure(raw, self.effort.endings, 2),
                "flood": flood.measure(raw, self.effort.floods, 2),
            }

    async def files(self) -> dict[str, Any]:
        """Files in and out, and a look at a tree that nobody has changed."""
        async with serve(pool__languages=ONLY_PYTHON) as served:
            moved = await files.transfer(served, self.effort.files, 2)
        async with serve(pool__languages=ONLY_PYTHON, pool__min="0", pool__max="0") as served:
            return {"moved": moved, "manifest": await files.manifest(served, 5 * self.effort.files)}

    def idle_others(self) -> dict[str, Any]:
        """The idle memory of the other languages' cells."""
        found = {}
        for language in ("javascript", "bash"):
            with Raw(pool__languages=json.dumps([language])) as raw:
                found[language] = idle.measure(raw, language, 2)
        return found

    def start(self) -> dict[str, Any]:
        """From the start of the process to its first answers."""
        starts = [starting.once() for _ in range(self.effort.starts)]
        return {
            "initialize": summary_ms([first for first, _ in starts]),
            "first result": summary_ms([result for _, result in starts]),
        }

    async def gvisor(self) -> dict[str, Any] | None:
        """The same warm call under gVisor."""
        if not peers.has_runtime("runsc"):
            self.skipped["gvisor"] = "runsc is not registered in the engine (see `docker info`)"
            return None
        async with serve(engine__runtime="runsc", pool__languages=ONLY_PYTHON) as served:
            await served.settle("python", 2)
            entry = latency.codecell(served, "python", calm_s=self.effort.calm_s)
            bare = latency.blocking(peers.bare("python"))
            samples = await latency.rounds(
                {"codecell python, gVisor": entry, "bare python, beside it": bare},
                min(50, self.effort.rounds),
                lost=self.skipped,
            )
        self.samples["codecell python, gVisor"] = samples.get("codecell python, gVisor", [])
        return {name: summary_ms(values) for name, values in samples.items()}


def save(results: dict[str, Any], path: Path) -> None:
    """Write results as readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def full(calls: int) -> Effort:
    """Return the full effort with another number of calls per figure."""
    return replace(
        FULL,
        rounds=calls,
        shares=min(calls, FULL.shares),
        endings=min(calls, FULL.endings),
        files=min(calls, FULL.files),
    )
