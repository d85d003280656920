"""One TCP connection: cut when its peer is too slow to send, too slow to read, or gone.

uvicorn bounds the headers' size and the idle time between requests; what it leaves open is a peer
that sends a byte now and then, one that never reads its answer, and one that vanished without a
word. All three end here with a reset, which frees the request's task at once.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from codecell.settings.serving import HttpSettings

_SETTLED = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


def protocol(settings: HttpSettings) -> type[asyncio.Protocol]:
    """Return the protocol class that keeps these time limits."""

    class Connection(_Guarded):
        request_timeout_s = settings.request_timeout_s
        write_timeout_s = settings.write_timeout_s

    return Connection


class _Guarded(H11Protocol):
    request_timeout_s: float
    write_timeout_s: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _watch_for_silence(transport.get_extra_info("socket"), self.write_timeout_s)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # One deadline for a request from its first byte to its last: a trickle does not move it.
        if self.conn.their_state in _SETTLED:
            self._request_arrived()
        else:
            self._expect_request()

    def on_response_complete(self) -> None:
        self._request_arrived()  # uvicorn's own limit for an idle connection takes over
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _expect_request(self) -> None:
        if self._arriving is None:
            self._arriving = self.loop.call_later(self.request_timeout_s, self.transport.abort)

    def _request_arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None


def _watch_for_silence(connection: socket.socket, unacknowledged_s: float) -> None:
    """Have the kernel notice a peer that is gone: after half a minute of silence it asks."""
    options = (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(unacknowledged_s * 1000)),
    )
    for level, name, value in options:
        option = getattr(socket, name, None)
        if option is not None:  # not every system has every one
            with suppress(OSError):
                connection.setsockopt(level, option, value)
