"""The ASGI application: MCP's endpoints, health, and whatever routes the server adds.

Everything goes through the gate (`Gate`): Host and Origin are checked, the caller is authenticated,
a body is bounded in size, before any of it reaches the SDK.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mcp.server import Server, ServerRequestContext
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from codecell.callers import LOCAL, Caller
from codecell.http.gate import CALLER, Authenticate, Gate, Tell
from codecell.http.health import Ready, health_routes
from codecell.settings import Settings

MCP_PATH, SSE_PATH, MESSAGES_PATH = "/mcp", "/sse", "/messages/"


def caller_of(context: ServerRequestContext[Any]) -> Caller:
    """Return who made this call: whom the gate let in."""
    caller = context.request.scope[CALLER] if context.request is not None else LOCAL
    assert isinstance(caller, Caller)  # noqa: S101  the gate is the only one that sets it
    return caller


def build_app(
    server: Server[Any],
    settings: Settings,
    *,
    transports: Sequence[str] = ("http", "sse"),
    ready: Ready | None = None,
    authenticate: Authenticate | None = None,
    open_routes: Sequence[BaseRoute] = (),
    operator_routes: Sequence[BaseRoute] = (),
    refused: Tell | None = None,
) -> Starlette:
    """Make the application that serves one MCP server.

    Args:
        server: the MCP server; `caller_of` tells its handlers who calls.
        settings: of the `http` section.
        transports: `http` for `/mcp`, `sse` for `/sse` and `/messages/`.
        ready: tells what keeps the server from serving, for `/ready`.
        authenticate: names the caller of a request; None lets everybody in as `local`.
        open_routes: further routes that need no caller; the page, or below `/.well-known/`.
        refused: is told whom the gate turned away, and why.
        operator_routes: further routes, for callers with the scope `operate` alone.
    """
    most = settings.body_bytes
    manager = StreamableHTTPSessionManager(
        server, max_request_body_size=most, max_sessions=settings.http.sessions
    )
    routes: list[BaseRoute] = [*health_routes(ready), *open_routes, *operator_routes]
    if "http" in transports:
        routes.append(Route(MCP_PATH, _Asgi(manager.handle_request)))
    if "sse" in transports:
        sse = SseServerTransport(MESSAGES_PATH, max_request_body_size=most)
        routes.append(Route(SSE_PATH, _Asgi(_sse_endpoint(server, sse)), methods=["GET"]))
        routes.append(Mount(MESSAGES_PATH, app=sse.handle_post_message))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    operated = frozenset(path for route in operator_routes if (path := _path(route)))
    gate = Middleware(
        Gate,
        settings=settings.http,
        body_bytes=most,
        authenticate=authenticate,
        operator_paths=operated,
        refused=refused,
    )
    return Starlette(routes=routes, middleware=[gate], lifespan=lifespan)


def _path(route: BaseRoute) -> str | None:
    return route.path if isinstance(route, Route | Mount) else None


class _Asgi:
    """An ASGI application that is a bound function: starlette calls plain functions otherwise."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _sse_endpoint(server: Server[Any], transport: SseServerTransport) -> Any:
    """Serve one client for as long as its event stream is open."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        async with transport.connect_sse(scope, receive, send) as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    return endpoint
