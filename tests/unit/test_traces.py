"""Spans of a run: within the call that asked for it, in order, without what it read or printed."""

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from codecell.backends.fake import FakeBackend, Script, leave, say
from codecell.errors import EngineUnavailable
from codecell.model import Request
from codecell.observer import Observers
from codecell.pool import Pool
from codecell.runner import Runner
from codecell.settings import PoolSettings, Settings
from codecell.traces import Traces, wanted

pytestmark = pytest.mark.anyio
SETTINGS = Settings.model_construct(pool=PoolSettings(min=0, max=0))
REQUEST = Request(language="python", code="print('secret')", stdin="secret", caller="ann")


async def traced(scripts: Script | EngineUnavailable) -> InMemorySpanExporter:
    """Run a program within the span of a call."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    told = Observers((Traces(provider),))
    backend = FakeBackend(scripts=lambda _: scripts)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            pool = Pool(backend, SETTINGS, tasks, warm=True, observers=told)
            runner = Runner(pool, SETTINGS, observers=told)
            with provider.get_tracer("test").start_as_current_span("call"):
                await runner.execute(REQUEST)
            await pool.aclose()
            tasks.cancel_scope.cancel()
    return exporter


async def test_a_run_has_a_span_for_each_phase_within_its_call() -> None:
    exporter = await traced(Script(run=(say("secret"), leave(stdout_bytes=6))))
    *spans, call = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["queue", "start", "run", "collect"]
    for span, following in zip(spans, [*spans[1:], None], strict=True):
        assert span.parent is not None
        assert call.context is not None
        assert span.parent.span_id == call.context.span_id
        assert span.attributes is not None
        assert span.attributes["codecell.caller"] == "ann"
        assert following is None or span.end_time <= following.start_time
    last = spans[-1].attributes
    assert last is not None
    assert last["codecell.status"] == "success"
    assert last["codecell.cpu_s"] == 0.125
    assert not any("secret" in span.to_json() for span in spans)


async def test_our_failure_is_an_error_and_a_programs_is_not() -> None:
    *_, last, _ = (await traced(Script(run=(leave(code=3),)))).get_finished_spans()
    assert last.status.status_code is StatusCode.UNSET
    *_, last, _ = (await traced(EngineUnavailable("away"))).get_finished_spans()
    assert (last.status.status_code, last.status.description) == (StatusCode.ERROR, "away")


@pytest.mark.parametrize("signal", ["TRACES", "METRICS"])
@pytest.mark.parametrize("of", ["_{}", ""])
def test_a_signal_is_wanted_when_there_is_somewhere_to_send_it(signal: str, of: str) -> None:
    name = f"OTEL_EXPORTER_OTLP{of.format(signal)}_ENDPOINT"
    endpoint = {name: "http://127.0.0.1:4318"}
    assert wanted(endpoint, signal)
    assert not wanted({}, signal)
    assert not wanted({name: " "}, signal)
    assert not wanted({**endpoint, "OTEL_SDK_DISABLED": "true"}, signal)
    assert not wanted({**endpoint, f"OTEL_{signal}_EXPORTER": "none"}, signal)
