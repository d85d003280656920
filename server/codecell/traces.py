"""OpenTelemetry traces: what a call spends its time on, linked to the client's own trace.

The SDK opens the server span and takes the client's context from `_meta.traceparent`; the spans
here lie within it: `queue`, `start`, `compile`, `run`, `collect`, without code, input or output.
Where they go is said by the standard OTEL_* variables; without an endpoint nothing is traced.
"""

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from codecell.model import Outcome, Status
from codecell.observer import Observer, Phase, Place, Run

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

LAST_WITHIN_S = 0.5
_NAMES = {
    Phase.QUEUED: "queue",
    Phase.STARTING: "start",
    Phase.COMPILING: "compile",
    Phase.RUNNING: "run",
    Phase.COLLECTING: "collect",
}


def wanted(environment: Mapping[str, str], signal: str = "TRACES") -> bool:
    """Tell whether the operator has said where a signal (TRACES, METRICS) goes; pure."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return False
    endpoints = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(environment.get(name, "").strip() for name in endpoints)


def resource() -> "Resource":
    """Say who sends."""
    from opentelemetry.sdk.resources import Resource

    from codecell import __version__

    about = {"service.version": __version__}
    if "OTEL_SERVICE_NAME" not in os.environ:
        about["service.name"] = "codecell"
    return Resource.create(about)


@asynccontextmanager
async def traced() -> "AsyncIterator[tuple[Observer, ...]]":
    """Send traces by OTLP over HTTP, as OTEL_* says, until left; what is pending is sent then.

    Yields who is to be told of runs: nobody, where the operator wants no traces.
    """
    if not wanted(os.environ):
        yield ()
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # the SDK's server spans go the same way
    try:
        yield (Traces(provider),)
    finally:
        with anyio.move_on_after(LAST_WITHIN_S, shield=True):
            await anyio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)


class Traces(Observer):
    """Makes a span of every phase of a run, within the span of the call."""

    def __init__(self, provider: "TracerProvider") -> None:
        from codecell import __version__

        self._tracer = provider.get_tracer("codecell", __version__)
        self._open: dict[str, _Open] = {}

    def queued(self, run: Run, place: Place) -> None:
        """Begin to wait."""
        self._begin(run)

    def left(self, run: Run) -> None:
        """End the wait."""
        self._open.pop(run.run_id).span.end()

    def admitted(self, run: Run) -> None:
        """Have its place; also one that had it at once gets a span of the wait."""
        if run.run_id not in self._open:
            self._begin(run)

    def phase(self, run: Run, phase: Phase) -> None:
        """End a span and begin the next."""
        opened = self._open[run.run_id]
        opened.span.end()
        opened.span = self._span(run, phase, opened.context)

    def ended(self, run: Run, outcome: Outcome) -> None:
        """End the last span, with what the run came to."""
        from opentelemetry.trace import StatusCode

        span = self._open.pop(run.run_id).span
        span.set_attributes(
            {
                "codecell.status": outcome.status.value,
                "codecell.cpu_s": outcome.usage.cpu_s,
                "codecell.wall_s": outcome.usage.wall_s,
                "codecell.peak_memory_bytes": outcome.usage.peak_memory_bytes,
                "codecell.stdout_bytes": outcome.stdout.total_bytes,
                "codecell.stderr_bytes": outcome.stderr.total_bytes,
            }
        )
        if outcome.exit_code is not None:
            span.set_attribute("process.exit.code", outcome.exit_code)
        if outcome.status is Status.SETUP_ERROR:  # a bad program is no error of this service
            span.set_status(StatusCode.ERROR, outcome.error_message or "")
        span.end()

    def _begin(self, run: Run) -> None:
        from opentelemetry.context import get_current

        context = get_current()
        waited_ns = int((time.monotonic() - run.started) * 1e9)
        span = self._span(run, Phase.QUEUED, context, start_ns=time.time_ns() - waited_ns)
        self._open[run.run_id] = _Open(context, span)

    def _span(
        self, run: Run, phase: Phase, context: "Context", start_ns: int | None = None
    ) -> "Span":
        return self._tracer.start_span(
            _NAMES[phase],
            context=context,
            start_time=start_ns,
            attributes={
                "codecell.run_id": run.run_id,
                "codecell.language": run.plan.language,
                "codecell.caller": run.request.caller,
            },
        )


class _Open:
    """The span that is open for a run, and the context of its call."""

    def __init__(self, context: "Context", span: "Span") -> None:
        self.context = context
        self.span = span
