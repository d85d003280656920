"""What this server does, in numbers, for Prometheus: an observer that counts, and its text.

Label values are bounded: languages and statuses are closed sets, and beyond so many callers all
further ones are counted as `other`. Each `Metrics` has its own registry, so two do not mix.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from codecell import __version__
from codecell.errors import BusyError, CodecellError, Denied
from codecell.model import Outcome, Request
from codecell.observer import CellEvent, Census, Observer, Phase, Place, Run, SessionEvent

MAX_CALLERS = 200
OTHER = "other"
CONTENT_TYPE = CONTENT_TYPE_LATEST
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


Pools = Callable[[], Mapping[str, Census]]


class Metrics(Observer):
    """Counts; `text` is what a scraper gets.

    Args:
        max_callers: how many callers have a label of their own.
    """

    def __init__(self, *, max_callers: int = MAX_CALLERS) -> None:
        self._max_callers = max_callers
        self._callers: set[str] = set()
        self._phases: dict[str, tuple[Phase, float]] = {}
        self.registry = CollectorRegistry()
        registry = self.registry
        self._runs = Counter(
            "codecell_runs", "Runs that are over", ["language", "status"], registry=registry
        )
        self._in_flight = Gauge(
            "codecell_runs_in_flight", "Runs that have a place", registry=registry
        )
        self._queued = Gauge(
            "codecell_runs_queued", "Runs that wait for a place", registry=registry
        )
        self._refusals = Counter(
            "codecell_refusals", "Calls turned away, nothing ran", ["reason"], registry=registry
        )
        self._troubles = Counter(
            "codecell_troubles", "Failures of a part of the server", ["part"], registry=registry
        )
        self._in_trouble = Gauge(
            "codecell_in_trouble", "1 while a part can't do its work", ["part"], registry=registry
        )
        self._queue_s = Histogram(
            "codecell_queue_seconds", "From request to place", buckets=_SHORT, registry=registry
        )
        self._start_s = Histogram(
            "codecell_start_seconds",
            "From place to cell",
            ["language"],
            buckets=_SHORT,
            registry=registry,
        )
        self._run_s = Histogram(
            "codecell_run_seconds",
            "How long programs ran",
            ["language"],
            buckets=_LONG,
            registry=registry,
        )
        self._total_s = Histogram(
            "codecell_request_seconds", "From request to outcome", buckets=_LONG, registry=registry
        )
        self._cpu_s = Counter(
            "codecell_cpu_seconds", "Processor time of programs", ["caller"], registry=registry
        )
        self._memory_s = Counter(
            "codecell_memory_byte_seconds",
            "Peak memory of programs times how long they ran",
            ["caller"],
            registry=registry,
        )
        self._leases = Counter(
            "codecell_pool_leases", "Cells given to runs", ["language", "warm"], registry=registry
        )
        self._created = Counter(
            "codecell_cells_created", "Cells that came up", ["language"], registry=registry
        )
        self._discarded = Counter(
            "codecell_cells_discarded", "Cells removed", ["language", "reason"], registry=registry
        )
        self._create_s = Histogram(
            "codecell_cell_create_seconds",
            "Making a cell",
            ["language"],
            buckets=_LONG,
            registry=registry,
        )
        self._sessions = Counter(
            "codecell_session_events", "What happened to sessions", ["action"], registry=registry
        )
        Gauge("codecell_info", "This server", ["version"], registry=registry).labels(
            __version__
        ).set(1)

    def watch_pool(self, pools: Pools) -> None:
        """Tell of a pool's cells, too, each time somebody scrapes."""
        self.registry.register(_PoolCollector(pools))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    # what is observed

    def refused(self, caller: str, request: Request | None, error: CodecellError) -> None:
        """Count it by its kind."""
        if isinstance(error, Denied):
            self._refusals.labels("denied").inc(error.times)
        else:
            self._refusals.labels("busy" if isinstance(error, BusyError) else "invalid").inc()

    def trouble(self, part: str, text: str | None) -> None:
        """Count how often a part fell into trouble, and show whether it is in it."""
        if text is not None:
            self._troubles.labels(part).inc()
        self._in_trouble.labels(part).set(text is not None)

    def queued(self, run: Run, place: Place) -> None:
        """Count it as waiting."""
        self._queued.inc()
        self._phases[run.run_id] = (Phase.QUEUED, run.started)

    def left(self, run: Run) -> None:
        """It waits no more."""
        self._queued.dec()
        del self._phases[run.run_id]

    def admitted(self, run: Run) -> None:
        """Count it as in flight."""
        if run.run_id in self._phases:
            self._queued.dec()
        self._in_flight.inc()
        self._phases[run.run_id] = (Phase.QUEUED, run.started)

    def phase(self, run: Run, phase: Phase) -> None:
        """Time the way to the first step."""
        before, since = self._phases[run.run_id]
        now = self.now()
        if before is Phase.QUEUED:
            self._queue_s.observe(now - since)
        elif before is Phase.STARTING:
            self._start_s.labels(run.plan.language).observe(now - since)
        self._phases[run.run_id] = (phase, now)

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Count what it came to and what it cost."""
        self._phases.pop(run.run_id, None)
        self._in_flight.dec()
        language, usage = run.plan.language, outcome.usage
        self._runs.labels(language, outcome.status.value).inc()
        self._total_s.observe(outcome.execution_time_s)
        wall_s, cpu_s, memory_s = usage.wall_s, usage.cpu_s, usage.peak_memory_bytes * usage.wall_s
        self._run_s.labels(language).observe(wall_s)
        if outcome.compile is not None:
            spent = outcome.compile.usage
            cpu_s += spent.cpu_s
            memory_s += spent.peak_memory_bytes * spent.wall_s
        caller = self._caller(run.request.caller)
        self._cpu_s.labels(caller).inc(cpu_s)
        self._memory_s.labels(caller).inc(memory_s)

    def leased(self, language: str, waited_s: float | None) -> None:
        """A warm one is a hit, a wait for one a miss."""
        self._leases.labels(language, "yes" if waited_s is None else "no").inc()

    def cell_created(self, event: CellEvent) -> None:
        """Count it."""
        self._created.labels(event.language).inc()
        self._create_s.labels(event.language).observe(event.took_s)

    def cell_discarded(self, event: CellEvent) -> None:
        """Count it by its reason; `idle` is an eviction."""
        self._discarded.labels(event.language, event.reason).inc()

    def session(self, event: SessionEvent) -> None:
        """Count it."""
        self._sessions.labels(event.action).inc()

    @staticmethod
    def now() -> float:
        """Return the time on the clock of `Run.started`."""
        return time.monotonic()

    def _caller(self, name: str) -> str:
        if name in self._callers:
            return name
        if len(self._callers) >= self._max_callers:
            return OTHER
        self._callers.add(name)
        return name


class _PoolCollector(Collector):
    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def collect(self) -> Iterable[Metric]:
        cells = GaugeMetricFamily(
            "codecell_pool_cells", "Cells by what they do", labels=["language", "state"]
        )
        target = GaugeMetricFamily(
            "codecell_pool_target", "Ready cells that are wanted", labels=["language"]
        )
        for language, shelf in self._pools().items():
            for state in ("ready", "kept", "starting", "leased"):
                cells.add_metric([language, state], getattr(shelf, state))
            target.add_metric([language], shelf.target)
        return (cells, target)
