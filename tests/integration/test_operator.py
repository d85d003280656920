"""What an operator sees of a server over HTTP: numbers, traces and the page, in a real browser."""

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from codecell.callers import AGENT_SCOPES, Scope
from codecell.http.operator import page_route
from codecell.http.tokens import TokenFile

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

ONE_LANGUAGE = {"CODECELL_POOL__LANGUAGES": '["bash"]'}


@pytest.fixture(scope="module")
def server(serve_http: Callable[..., Any]) -> Any:
    return serve_http("http", **ONE_LANGUAGE, CODECELL_RUNS__CONCURRENT="1")


async def call(client: Client, code: str, **arguments: Any) -> dict[str, Any]:
    with anyio.fail_after(60):
        answer = await client.call_tool(
            "execute_code", {"language": "bash", "code": code, **arguments}
        )
    assert answer.structured_content is not None, answer.content
    return answer.structured_content


async def scrape(base: str) -> dict[str, float]:
    async with httpx2.AsyncClient(base_url=base) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_a_scrape_counts_the_runs(server: Any) -> None:
    done, failed = (
        f'codecell_runs_total{{"language": "bash", "status": "{status}"}}'
        for status in ("success", "execution_error")
    )
    before = await scrape(server.base)
    async with Client(f"{server.base}/mcp") as client:
        await call(client, "echo 1")
        await call(client, "exit 3")
        await client.call_tool("execute_code", {"language": "cobol", "code": "x"})
    after = await scrape(server.base)
    for name, more in (
        (done, 1),
        (failed, 1),
        ('codecell_refusals_total{"reason": "invalid"}', 1),
        ("codecell_queue_seconds_count{}", 2),
        ('codecell_run_seconds_count{"language": "bash"}', 2),
    ):
        assert after[name] - before.get(name, 0) == more, name
    assert after['codecell_cpu_seconds_total{"caller": "local"}'] > 0
    assert after['codecell_memory_byte_seconds_total{"caller": "local"}'] > 0
    assert after["codecell_runs_in_flight{}"] == 0
    assert 'codecell_pool_cells{"language": "bash", "state": "ready"}' in after


async def test_the_status_tells_what_runs_and_what_waits(server: Any) -> None:
    async with Client(f"{server.base}/mcp") as client, anyio.create_task_group() as tasks:
        tasks.start_soon(call, client, "echo secret_output; sleep 3")
        tasks.start_soon(call, client, "echo secret_output")
        async with httpx2.AsyncClient(base_url=server.base) as http:
            with anyio.fail_after(30):
                while True:
                    answer = await http.get("/status.json")
                    shown = answer.json()
                    if (shown["running"], shown["waiting"]) == (1, 1):
                        break
                    await anyio.sleep(0.05)
    phases = sorted((run["phase"], run["position"]) for run in shown["in_flight"])
    assert phases[0] == ("queued", 1)
    assert answer.headers["cache-control"] == "no-store"
    assert shown["posture"]["network"] == "none"
    assert "secret_output" not in answer.text


# --- retries


async def test_a_connection_cut_in_the_middle_of_a_run_does_not_run_it_twice(server: Any) -> None:
    arguments = {"idempotency_key": "cut", "timeout": 20}
    code = "date +%N; sleep 2"
    async with anyio.create_task_group() as tasks:

        async def first() -> None:
            async with Client(f"{server.base}/mcp") as client:
                await call(client, code, **arguments)

        tasks.start_soon(first)
        async with httpx2.AsyncClient(base_url=server.base) as http:
            with anyio.fail_after(30):
                while not (await http.get("/status.json")).json()["running"]:
                    await anyio.sleep(0.05)
                tasks.cancel_scope.cancel()
    before = await scrape(server.base)
    async with Client(f"{server.base}/mcp") as client:
        joined = await call(client, code, **arguments)
        again = await call(client, code, **arguments)
        refused = await client.call_tool(
            "execute_code", {"language": "bash", "code": "echo other", "idempotency_key": "cut"}
        )
    after = await scrape(server.base)
    assert joined["status"] == "success"
    assert (joined["run_id"], joined["stdout"]) == (again["run_id"], again["stdout"])
    assert refused.is_error
    assert "idempotency_key was used for a different request" in refused.content[0].text
    name = 'codecell_runs_total{"language": "bash", "status": "success"}'
    assert after[name] - before.get(name, 0) == 1


# --- traces


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP on loopback."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receive)
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.raw = b""


class Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.raw += body
        if self.path == "/v1/metrics":
            latest = ExportMetricsServiceRequest.FromString(body)
            for metrics in latest.resource_metrics:
                for counted in metrics.scope_metrics:
                    self.server.metrics = {each.name: each for each in counted.metrics}
        else:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening
        listening.shutdown()


@pytest.mark.parametrize("way", ["http", "stdio"])
async def test_the_numbers_are_sent_as_they_are_scraped(
    collector: Collector, serve_http: Callable[..., Any], way: str
) -> None:
    variables = {
        **ONE_LANGUAGE,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    server = serve_http("http", **variables) if way == "http" else None
    command = ["-m", "codecell", "serve"]
    target: Any = (
        server.url
        if server
        else StdioServerParameters(
            command=sys.executable, args=command, env={**os.environ, **variables}
        )
    )
    async with Client(target) as client:
        await call(client, "exit 3")
        await call(client, "exit 4")
        with anyio.fail_after(30):
            while "codecell_request_seconds" not in collector.metrics or (
                collector.metrics["codecell_request_seconds"].histogram.data_points[0].count < 2
            ):
                await anyio.sleep(0.05)
        sent = dict(collector.metrics)
    (runs,) = sent["codecell_runs"].sum.data_points
    assert {label.key: label.value.string_value for label in runs.attributes} == {
        "language": "bash",
        "status": "execution_error",
    }
    assert (runs.as_double, sent["codecell_runs"].sum.is_monotonic) == (2, True)
    (ran,) = sent["codecell_run_seconds"].histogram.data_points
    assert sum(ran.bucket_counts) == ran.count == 2
    assert len(ran.bucket_counts) == len(ran.explicit_bounds) + 1
    assert ran.sum > 0
    states = sent["codecell_pool_cells"].gauge.data_points
    assert {label.value.string_value for each in states for label in each.attributes} >= {"ready"}
    if server is not None:
        scraped = {name.partition("{")[0] for name in await scrape(server.base)}
        assert len(sent) > 12
        assert all(any(name.startswith(one) for name in scraped) for one in sent)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_call_is_traced_within_the_clients_own_trace(
    collector: Collector, mode: str
) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    environment = {
        **os.environ,
        **ONE_LANGUAGE,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "codecell", "serve"], env=environment
    )
    async with Client(parameters, mode=mode) as client:
        with anyio.fail_after(60):
            await client.call_tool(
                "execute_code",
                {"language": "bash", "code": "echo secret_output"},
                meta={"traceparent": f"00-{trace}-{parent}-01"},
            )
            while not any(span.name == "collect" for span in collector.spans):
                await anyio.sleep(0.05)
    (call_span,) = [s for s in collector.spans if s.name == "tools/call execute_code"]
    assert (call_span.trace_id.hex(), call_span.parent_span_id.hex()) == (trace, parent)
    within = [s for s in collector.spans if s.parent_span_id == call_span.span_id]
    assert [s.name for s in within] == ["queue", "start", "run", "collect"]
    assert b"secret_output" not in collector.raw


# --- the page


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Open a page in a real browser and return what became of it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have a Chromium: .ci/get-chromium")
        pytest.skip("no Chromium; `sh .ci/get-chromium` installs it")

    def dump(url: str) -> str:
        home = tmp_path_factory.mktemp("browser")
        shown = subprocess.run(
            [
                found, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                "--disable-background-networking", f"--user-data-dir={home}",
                "--virtual-time-budget=4000", "--timeout=60000", url,
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return shown.stdout

    return dump


async def test_the_page_shows_what_happened(server: Any, browse: Callable[[str], str]) -> None:
    async with Client(f"{server.base}/mcp") as client:
        run_id = (await call(client, "exit 3"))["run_id"]
    page = await anyio.to_thread.run_sync(browse, f"{server.base}/")
    assert f"<code>{run_id}</code>" in page
    assert "The program exited with code 3." in page
    assert '<span id="state">serving</span>' in page
    assert '<main id="board">' in page
    assert "<dt>network</dt><dd>none</dd>" in page


async def test_the_page_is_whole_in_itself_and_may_do_nothing_else(server: Any) -> None:
    async with httpx2.AsyncClient(base_url=server.base) as http:
        answer = await http.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not any(word in answer.text for word in ("://", "src=", "href=", "innerHTML", "eval("))


async def test_where_a_token_is_needed_the_page_asks_for_it_and_shows_nothing(
    serve_http: Callable[..., Any], browse: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "tokens.json"
    tokens = TokenFile(path)
    agent, operator = tokens.add("ann", AGENT_SCOPES), tokens.add("olga", {Scope.OPERATE})
    closed = serve_http("http", **ONE_LANGUAGE, CODECELL_HTTP__TOKENS=str(path))
    async with httpx2.AsyncClient(base_url=closed.base) as http:
        for address in ("/metrics", "/status.json"):
            for token, status in ((None, 401), ("x", 401), (agent, 403), (operator, 200)):
                headers = {"authorization": f"Bearer {token}"} if token else {}
                assert (await http.get(address, headers=headers)).status_code == status
    page = await anyio.to_thread.run_sync(browse, f"{closed.base}/")
    assert '<form id="login">' in page
    assert '<main id="board" hidden="">' in page
    assert "local" not in page


HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@contextmanager
def serving(shown: dict[str, Any]) -> Iterator[str]:
    """Serve the page over data of the test's own."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    data = Route("/status.json", lambda _: JSONResponse(shown))
    app = Starlette(routes=[page_route(), data])
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        running.should_exit = True
        thread.join(10)
        listener.close()


def test_nothing_that_it_shows_becomes_markup(browse: Callable[[str], str]) -> None:
    usage = {"wall_s": 1, "cpu_s": 1, "peak_memory_bytes": 1}
    run = {
        "run_id": HOSTILE, "caller": HOSTILE, "language": HOSTILE, "phase": HOSTILE, "began": 1,
        "elapsed_s": 1, "timeout_s": 1, "position": 0, "status": HOSTILE, "usage": usage,
        "stdout_bytes": 1, "stderr_bytes": 1, "error_message": HOSTILE,
    }  # fmt: skip
    cells = {"ready": 1, "target": 1, "leased": 0, "kept": 0, "starting": 0}
    shown = {
        "version": HOSTILE, "uptime_s": 1, "concurrent": 1, "queue": 1, "running": 1, "waiting": 1,
        "per_minute": 1, "series": [1, 2], "pool": {HOSTILE: cells}, "in_flight": [run],
        "totals": {"runs": 1, "failed": 0, "refused": 0, "busy": 0}, "recent": [run],
        "troubles": {HOSTILE: HOSTILE}, "posture": {HOSTILE: HOSTILE, "limits": {HOSTILE: HOSTILE}},
    }  # fmt: skip
    with serving(shown) as url:
        page = browse(url)
    assert "<title>codecell</title>" in page
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert page.count("&lt;img") > 15
