"""Serve over HTTP until a signal comes: bind, open the runner, run uvicorn, leave in time."""

import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from codecell import leaving
from codecell.errors import ConfigurationError
from codecell.http.tokens import TokenFile
from codecell.settings import Settings

if TYPE_CHECKING:
    from codecell.http.gate import Authenticate
    from codecell.runner import Runner


def serve(settings: Settings, transport: str, announce: Callable[[str], None]) -> int:
    """Serve until a signal comes and return the exit status.

    Args:
        settings: the whole configuration.
        transport: `http` (with SSE unless switched off) or `sse`.
        announce: is told the address when connections are accepted.

    Raises:
        ConfigurationError: these settings would be unsafe, or the address can't be had.
    """
    check(settings)
    return anyio.run(_serve, settings, transport, announce)


def check(settings: Settings) -> None:
    """Refuse settings that would open this server to a network without protection.

    Raises:
        ConfigurationError: saying what is missing.
    """
    http = settings.http
    if http.tokens is not None:
        TokenFile(http.tokens).tokens()
    for key in ("tls_cert", "tls_key"):
        path = getattr(http, key)
        if path is not None and not path.is_file():
            raise ConfigurationError(f"http.{key}: there is no file {path}")
    if http.loopback:
        return
    if not authenticated(settings):
        raise ConfigurationError(
            f"http.host {http.host} can be reached from other machines, so callers must be "
            "authenticated: set http.tokens or oauth.issuer, or listen on 127.0.0.1"
        )
    if not http.tls and not http.plain:
        raise ConfigurationError(
            f"http.host {http.host} can be reached from other machines, so traffic must be "
            "encrypted: set http.tls_cert and http.tls_key, or http.plain = true where a proxy "
            "in front ends TLS"
        )
    if not http.hosts:
        raise ConfigurationError(
            f"http.host {http.host} can be reached from other machines: set http.hosts to the "
            'names that clients use, such as ["codecell.example.org"]'
        )


async def _serve(settings: Settings, transport: str, announce: Callable[[str], None]) -> int:
    import uvicorn

    from codecell import otlp
    from codecell.app import open_runner
    from codecell.attack.gate import UNSAFE, guarding
    from codecell.http.app import MCP_PATH, SSE_PATH, build_app, caller_of
    from codecell.http.connection import protocol
    from codecell.http.health import Readiness
    from codecell.http.oauth import metadata_route
    from codecell.http.operator import operator_routes, page_route
    from codecell.metrics import Metrics
    from codecell.tools import build_server
    from codecell.traces import traced

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield  # ours: `leaving`

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Event streams have no end of their own: who holds one hangs up only when we do.
            for listening in self.servers:
                listening.close()
            # Whom the kernel has let in already shows up in the meantime, too.
            await anyio.sleep(leaving.ANSWER_S)
            for connection in list(self.server_state.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await super().shutdown(sockets)

    http = settings.http
    listener = _listen(http.host, http.port)
    status = 0
    metrics = Metrics()
    runner: Runner | None = None
    server: Server | None = None

    async def end() -> None:
        if runner is not None:  # its calls are answered while clients are still connected
            await runner.stop()
        if server is not None:
            server.should_exit = True

    def leave(with_status: int) -> None:
        nonlocal status
        status = with_status
        watch.start_soon(end)

    async with anyio.create_task_group() as watch, traced() as spans:
        gates = guarding(settings, watch, lambda: leave(UNSAFE))
        async with open_runner(settings, observers=(*gates, metrics, *spans)) as runner:
            app = build_app(
                build_server(runner, settings, caller_of),
                settings,
                transports=_transports(transport, with_sse=http.sse),
                ready=Readiness(runner, settings),
                authenticate=_bearer(settings),
                open_routes=[
                    page_route(),
                    *([metadata_route(settings.oauth)] if settings.oauth.issuer else []),
                ],
                operator_routes=operator_routes(runner, metrics, settings),
                refused=runner.observers.refused,
            )
            config = uvicorn.Config(
                app,
                http=protocol(http),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ssl_certfile=http.tls_cert,
                ssl_keyfile=http.tls_key,
                timeout_keep_alive=http.keep_alive_s,
                timeout_graceful_shutdown=1,
                limit_concurrency=http.connections,
            )
            server = Server(config)
            server.should_exit = status != 0
            await watch.start(leaving.on_signal, leave)  # before anybody is told that it serves
            path = SSE_PATH if transport == "sse" else MCP_PATH
            announce(f"{'https' if http.tls else 'http'}://{_address(listener)}{path}")
            otlp.send(metrics, watch)
            await server.serve(sockets=[listener])
        watch.cancel_scope.cancel()
    return status


def authenticated(settings: Settings) -> bool:
    """Tell whether callers must say who they are."""
    return settings.http.tokens is not None or settings.oauth.issuer is not None


def _bearer(settings: Settings) -> "Authenticate | None":
    """Return what names callers; None where everybody on this machine may call."""
    if not authenticated(settings):
        return None
    from codecell.http.bearer import Bearer
    from codecell.http.oauth import OAuth

    tokens, oauth = settings.http.tokens, settings.oauth
    return Bearer(
        TokenFile(tokens) if tokens is not None else None,
        OAuth(oauth) if oauth.issuer is not None else None,
        oauth.audience,
    )


def _transports(asked: str, *, with_sse: bool) -> tuple[str, ...]:
    if asked == "sse":
        return ("sse",)
    return ("http", "sse") if with_sse else ("http",)


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything else is opened, so that a taken port is one sentence.

    Raises:
        ConfigurationError: naming the address.
    """
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(f"can't listen on {host} port {port}: {reason}") from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
