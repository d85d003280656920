"""What every HTTP request passes before anything else sees it.

Host and Origin are checked for all but the health endpoints (a probe comes by address), a caller is
named for all that is not open. Answers here are short, plain, and say what would be accepted.
"""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codecell import callers
from codecell.callers import LOCAL, Caller
from codecell.errors import BusyError, CodecellError, Denied, RequestError
from codecell.settings.serving import HttpSettings

CALLER = "codecell.caller"
OPEN_PATHS = ("/health", "/ready")
PAGE_PATH = "/"  # the status page, which holds no data
OPEN_PREFIX = "/.well-known/"
NOBODY = ""  # whom observers are told was turned away without a name
STRANGERS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of service."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        body = json.dumps({"error": self.text})
        return Response(body, self.status, {**self.headers}, media_type="application/json")


Authenticate = Callable[[Headers], Awaitable["Caller | Refusal"]]
Tell = Callable[[str, None, CodecellError], None]  # of an observer: `refused`


async def everybody_is_local(_: Headers) -> Caller:
    """Let everybody in: for loopback alone, which `serve` sees to."""
    return LOCAL


class Gate:
    """Middleware: addresses, the caller, room for the body, then the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: HttpSettings,
        body_bytes: int,
        authenticate: Authenticate | None = None,
        operator_paths: frozenset[str] = frozenset(),
        refused: Tell | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._body_bytes = body_bytes
        self._held_bytes = 0
        self._authenticate = authenticate or everybody_is_local
        self._operator_paths = operator_paths
        self._refused = refused
        self._strangers = 0  # turned away and not told of yet
        self._strangers_told = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = await self._admit(scope)
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        needed = _body_bytes(Headers(scope=scope), self._body_bytes)
        if self._held_bytes + needed > self._settings.bodies:
            if self._refused is not None and CALLER in scope:
                error = BusyError(_CROWDED.text, retry_after_s=1.0)
                self._refused(scope[CALLER].name, None, error)
            await _CROWDED.response()(scope, receive, send)
            return
        self._held_bytes += needed  # a run holds its request, and that the body, until it ends
        try:
            await self._app(scope, receive, self._heard(scope, send))
        finally:
            self._held_bytes -= needed

    def _heard(self, scope: Scope, send: Send) -> Send:
        """Tell of what the SDK turns away before it is a call of anything."""
        tell = self._refused
        if tell is None or CALLER not in scope:
            return send

        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _NO_CALL:
                status: int = message["status"]
                tell(scope[CALLER].name, None, RequestError(f"HTTP {status}: {_NO_CALL[status]}"))
            await send(message)

        return heard

    async def _admit(self, scope: Scope) -> Refusal | None:
        path: str = scope["path"]
        if path in OPEN_PATHS:
            return None
        headers = Headers(scope=scope)
        if refused := wrong_address(headers, scope["scheme"], self._settings):
            self._tell_of_stranger(refused)
            return refused
        if path == PAGE_PATH or path.startswith(OPEN_PREFIX):
            return None
        caller = await self._authenticate(headers)
        if isinstance(caller, Refusal):
            self._tell_of_stranger(caller)
            return caller
        if path in self._operator_paths and (denied := caller.lacks(callers.Scope.OPERATE)):
            if self._refused is not None:
                self._refused(caller.name, None, Denied(denied))
            return Refusal(403, denied)
        scope[CALLER] = caller
        # The SDK ties a session to whom it finds here.
        token = AccessToken(token="", client_id=caller.name, scopes=sorted(caller.scopes))
        scope["user"] = AuthenticatedUser(token)
        return None

    def _tell_of_stranger(self, refusal: Refusal) -> None:
        """Tell of those without a name once a second at most: they must not fill a log."""
        self._strangers += 1
        now = time.monotonic()
        if self._refused is None or now - self._strangers_told < STRANGERS_EVERY_S:
            return
        times, self._strangers, self._strangers_told = self._strangers, 0, now
        again = f" ({times} times since the last was told)" if times > 1 else ""
        text = f"HTTP {refusal.status}: {refusal.text}{again}"
        self._refused(NOBODY, None, Denied(text, times=times))


_NO_CALL = {400: "not a message of MCP's", 413: "the body is too large"}
_CROWDED = Refusal(503, "Too many large requests at a time; retry after 1 s.", {"retry-after": "1"})


def _body_bytes(headers: Headers, most: int) -> int:
    """Return what a request's body may take: what it declares, or else the most it may be."""
    declared = headers.get("content-length", "")
    if declared.isdecimal():
        return min(int(declared), most)  # more than that is refused without being read
    return most if "transfer-encoding" in headers else 0


def wrong_address(headers: Headers, scheme: str, settings: HttpSettings) -> Refusal | None:
    """Refuse a Host that is not ours and an Origin that is not allowed; pure.

    A browser page that had its name rebound to this address sends that name as Host; any other
    page sends its Origin.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_ours(hosts[0], settings):
        return Refusal(
            421, "This server is not known by that Host; its operator lists names in http.hosts."
        )
    origins = headers.getlist("origin")
    if not origins:
        return None
    same = f"{scheme}://{hosts[0]}"
    if len(origins) == 1 and origins[0] in (same, *settings.origins):
        return None
    return Refusal(
        403, "That Origin may not call this server; its operator lists origins in http.origins."
    )


_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def _is_ours(host: str, settings: HttpSettings) -> bool:
    name, port = _split(host.lower())
    allowed = settings.hosts + (_LOOPBACK_NAMES if settings.loopback else ())
    return any(_matches(name, port, *_split(entry.lower())) for entry in allowed)


def _matches(name: str, port: str, allowed: str, allowed_port: str) -> bool:
    return name == allowed and allowed_port in ("", "*", port)


def _split(host: str) -> tuple[str, str]:
    """Split NAME:PORT; the colons of an IPv6 address stand in brackets."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        return host, ""
    return name, port
