"""What an operator looks at: `/metrics` for Prometheus, `/status.json`, and the page at `/`.

The page itself holds no secret and no data, so it is open; it asks for a token where one is needed
and sends it as a header with its requests for the data, never in an address.
"""

import base64
import hashlib
import re
import time
from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from codecell import __version__
from codecell.http.gate import CALLER, PAGE_PATH
from codecell.metrics import CONTENT_TYPE, Metrics
from codecell.posture import posture
from codecell.runner import Runner
from codecell.settings import Settings

SHOWN_IN_FLIGHT, SHOWN_RECENT = 100, 50
_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def operator_routes(runner: Runner, metrics: Metrics, settings: Settings) -> list[BaseRoute]:
    """Return the routes that only callers with the scope `operate` may use."""
    metrics.watch_pool(runner.census)

    async def scrape(_: Request) -> Response:
        return Response(metrics.text(), headers={**_NO_STORE, "content-type": CONTENT_TYPE})

    async def status(request: Request) -> Response:
        shown = snapshot(runner, settings, request.scope[CALLER].name)
        return JSONResponse(shown, headers=_NO_STORE)

    return [Route("/metrics", scrape), Route("/status.json", status)]


def snapshot(runner: Runner, settings: Settings, caller: str) -> dict[str, object]:
    """Return what the page shows, as plain values."""
    recent = runner.recent
    in_flight = recent.in_flight()
    waiting = sum(run.place is not None for run in in_flight)
    over = (run.as_json() for run, _ in zip(recent.over(), range(SHOWN_RECENT), strict=False))
    return {
        "version": __version__,
        "uptime_s": round(time.monotonic() - recent.started),
        "concurrent": settings.runs.concurrent,
        "queue": settings.runs.queue,
        "running": len(in_flight) - waiting,
        "waiting": waiting,
        "per_minute": recent.per_minute(),
        "series": recent.series(),
        "totals": recent.totals(),
        "troubles": recent.troubles,
        "pool": {
            language: {
                "ready": cells.ready,
                "target": cells.target,
                "leased": cells.leased,
                "kept": cells.kept,
                "starting": cells.starting,
            }
            for language, cells in runner.census().items()
        },
        "in_flight": [run.as_json() for run in in_flight[:SHOWN_IN_FLIGHT]],
        "recent": list(over),
        "posture": posture(caller, settings),
    }


def page_route() -> BaseRoute:
    """Return the route of the page."""

    async def page(_: Request) -> Response:
        html, policy = _page()
        headers = {
            **_NO_STORE,
            "content-security-policy": policy,
            "referrer-policy": "no-referrer",
            "x-frame-options": "DENY",
        }
        return HTMLResponse(html, headers=headers)

    return Route(PAGE_PATH, page)


@cache
def _page() -> tuple[str, str]:
    """Return the page, and the policy that lets its own script and style run and nothing else."""
    html = (resources.files("codecell.http") / "status.html").read_text(encoding="utf-8")
    script, style = (
        _hash(re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[0])
        for tag in ("script", "style")
    )
    return html, (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
