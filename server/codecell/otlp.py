"""The numbers of `/metrics` by OTLP over HTTP, as well: one set of instruments, two ways out.

Where they go and how often is said by the standard OTEL_* variables; without an endpoint nothing is
sent. What is pending is sent when the server leaves, as far as half a second allows.
"""

import math
import os
import time
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup

from codecell import __version__
from codecell.traces import resource, wanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import export
    from prometheus_client.core import Metric
    from prometheus_client.samples import Sample

    from codecell.metrics import Metrics

EVERY_MS = 60_000.0  # OpenTelemetry's own default of OTEL_METRIC_EXPORT_INTERVAL
LAST_WITHIN_S = 0.5

log = structlog.get_logger(__name__)


def sender() -> "Metrics | None":
    """Return what counts, for a server without `/metrics`; None where nobody wants it sent."""
    if not wanted(os.environ, "METRICS"):
        return None
    from codecell.metrics import Metrics

    return Metrics()


def send(metrics: "Metrics", tasks: TaskGroup) -> None:
    """Send the numbers now and then until the tasks are cancelled, if the operator wants it."""
    if wanted(os.environ, "METRICS"):
        tasks.start_soon(_keep_sending, metrics)


async def _keep_sending(metrics: "Metrics") -> None:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    exporter, began_ns = OTLPMetricExporter(), time.time_ns()
    try:
        every_s = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", EVERY_MS)) / 1000
    except ValueError:
        every_s = EVERY_MS / 1000
    try:
        while True:
            await anyio.sleep(max(every_s, 0.1))
            await _send(exporter, metrics, began_ns)
    finally:
        with anyio.move_on_after(LAST_WITHIN_S, shield=True):
            await _send(exporter, metrics, began_ns)


async def _send(exporter: "OTLPMetricExporter", metrics: "Metrics", began_ns: int) -> None:
    data = as_otlp(metrics.registry.collect(), began_ns)  # here, where nothing is counted meanwhile
    try:
        await anyio.to_thread.run_sync(exporter.export, data, abandon_on_cancel=True)
    except Exception:
        log.exception("numbers were not sent")


def as_otlp(families: "Iterable[Metric]", began_ns: int) -> "export.MetricsData":
    """Say in OpenTelemetry's words what Prometheus' instruments hold; cumulative, pure but for now.

    Args:
        families: what a registry collects.
        began_ns: when counting began, nanoseconds since the epoch.
    """
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    scope = InstrumentationScope("codecell", __version__)
    found = [
        export.Metric(family.name, family.documentation, None, data)
        for family in families
        if family.samples and (data := _data(family, began_ns, time.time_ns())) is not None
    ]
    whole = [export.ScopeMetrics(scope, found, "")]
    return export.MetricsData([export.ResourceMetrics(resource(), whole, "")])


def _data(
    family: "Metric", began_ns: int, now_ns: int
) -> "export.Sum | export.Gauge | export.Histogram | None":
    from opentelemetry.sdk.metrics import export

    def points(samples: "Iterable[Sample]") -> list[export.NumberDataPoint]:
        return [
            export.NumberDataPoint(dict(each.labels), began_ns, now_ns, each.value)
            for each in samples
        ]

    cumulative = export.AggregationTemporality.CUMULATIVE
    match family.type:
        case "counter":
            counted = (each for each in family.samples if each.name.endswith("_total"))
            return export.Sum(points(counted), cumulative, is_monotonic=True)
        case "gauge":
            return export.Gauge(points(family.samples))
        case "histogram":
            return export.Histogram(list(_histograms(family, began_ns, now_ns)), cumulative)
    return None


def _histograms(
    family: "Metric", began_ns: int, now_ns: int
) -> "Iterator[export.HistogramDataPoint]":
    """Yield one point for each set of labels; Prometheus' buckets hold the smaller ones, too."""
    from opentelemetry.sdk.metrics import export

    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, int]]] = defaultdict(list)
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for each in family.samples:
        labels = tuple((key, value) for key, value in each.labels.items() if key != "le")
        if each.name.endswith("_bucket"):
            buckets[labels].append((float(each.labels["le"]), int(each.value)))
        elif each.name.endswith("_sum"):
            sums[labels] = each.value
    for labels, ladder in buckets.items():
        totals = [0, *(total for _, total in ladder)]
        yield export.HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=began_ns,
            time_unix_nano=now_ns,
            count=totals[-1],
            sum=sums.get(labels, 0.0),
            bucket_counts=[after - before for before, after in pairwise(totals)],
            explicit_bounds=[bound for bound, _ in ladder if bound != math.inf],
            min=None,  # type: ignore[arg-type]  # not known
            max=None,  # type: ignore[arg-type]
        )
