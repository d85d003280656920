"""Serve MCP on stdin and stdout, and leave in time.

The SDK's own stdio transport reads stdin in a thread that nothing can wake, so it can't end on a
signal while a call is in flight. Here the event loop waits for the descriptor instead: the end of
input, SIGTERM and SIGINT all cancel what is running, the cells are removed, and a deadline that
needs no event loop ends the process even if the engine hangs.
"""

import os
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread

from codecell import leaving
from codecell.settings import Settings

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

    from codecell.runner import Runner

    Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
    Outgoing = MemoryObjectSendStream[SessionMessage]
    Received = MemoryObjectSendStream[SessionMessage | Exception]
    ToSend = MemoryObjectReceiveStream[SessionMessage]

_READ_BYTES = 1 << 18
_PIPE_BYTES = 1 << 20  # a line with a file in it then takes a tenth of the turns; the kernel's most
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ, where fcntl has it
_MAX_LINE_BYTES = 32 << 20  # beyond any request within the size limits, however it is escaped


@dataclass(frozen=True, slots=True)
class Wire:
    """Private descriptors of the connection."""

    read_fd: int
    write_fd: int


def claim() -> Wire:
    """Take stdin and stdout for MCP alone; call it before anything else can print.

    Afterwards file descriptor 0 is empty and 1 is stderr, for this process and its children.
    """
    wire = Wire(_private_copy(0), _private_copy(1))
    for fd in (wire.read_fd, wire.write_fd):
        _widen(fd)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return wire


def _private_copy(fd: int) -> int:
    import fcntl  # not on Windows, where this module can be imported but not used

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _widen(fd: int) -> None:
    import fcntl

    with suppress(OSError):  # a socket or a file, or the user's pipes have their share already
        fcntl.fcntl(fd, _SET_PIPE_SIZE, _PIPE_BYTES)


def serve(settings: Settings, wire: Wire) -> int:
    """Serve one client until it leaves or a signal comes; return the exit status."""
    return anyio.run(_serve, settings, wire)


async def _serve(settings: Settings, wire: Wire) -> int:
    # Here and not above: what these print when they are imported must not reach the wire. The SDK
    # first: cells that start meanwhile would delay the answer to `initialize` by half a second.
    from codecell import otlp
    from codecell.app import open_runner
    from codecell.attack.gate import UNSAFE, guarding
    from codecell.tools import build_server
    from codecell.traces import traced

    status = 0
    runner: Runner | None = None

    async with anyio.create_task_group() as watch, traced() as spans:
        with anyio.CancelScope() as scope:

            async def end() -> None:
                if runner is not None:  # its calls are answered while the wire is still read
                    await runner.stop()
                    await anyio.sleep(leaving.ANSWER_S)
                scope.cancel()

            def leave(with_status: int) -> None:
                nonlocal status
                status = with_status
                watch.start_soon(end)

            watch.start_soon(leaving.on_signal, leave)
            gates = guarding(settings, watch, lambda: leave(UNSAFE))
            metrics = otlp.sender()
            counts = (metrics,) if metrics is not None else ()
            async with open_runner(settings, observers=(*gates, *spans, *counts)) as runner:
                if metrics is not None:
                    metrics.watch_pool(runner.census)
                    otlp.send(metrics, watch)
                server = build_server(runner, settings)
                async with _streams(wire) as (incoming, outgoing):
                    await server.run(incoming, outgoing, server.create_initialization_options())
        watch.cancel_scope.cancel()
    return status


@asynccontextmanager
async def _streams(wire: Wire) -> "AsyncIterator[tuple[Incoming, Outgoing]]":
    """Connect the wire to the pair of streams that the SDK's server talks to."""
    received, incoming = anyio.create_memory_object_stream["SessionMessage | Exception"]()
    outgoing, to_send = anyio.create_memory_object_stream["SessionMessage"]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_receive, wire.read_fd, received, outgoing.clone())
        tasks.start_soon(_send, wire.write_fd, to_send)
        yield incoming, outgoing


async def _receive(fd: int, received: "Received", outgoing: "Outgoing") -> None:
    from mcp.shared.message import SessionMessage
    from mcp.types import PARSE_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter
    from pydantic_core import from_json

    async with received, outgoing:
        async for line in _lines(fd):
            try:
                # In two steps, so that the text of a large file is not copied for each kind of
                # message that it might be: a quarter of the time of `validate_json`.
                found = from_json(line, cache_strings=False)
                message = jsonrpc_message_adapter.validate_python(found, by_name=False)
            except ValueError:
                error = ErrorData(
                    code=PARSE_ERROR, message="Not a JSON-RPC 2.0 message on one line"
                )
                refusal = JSONRPCError(jsonrpc="2.0", id=None, error=error)
                await outgoing.send(SessionMessage(refusal))
            else:
                await received.send(SessionMessage(message))
        leaving.within(leaving.LEAVE_WITHIN_S, 0)


async def _lines(fd: int) -> AsyncIterator[bytes]:
    """Yield lines that are not blank; a line beyond the limit becomes one that says so."""
    held: list[bytes] = []
    size = 0
    while chunk := await _read(fd):
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            line = b"".join([*held, end])
            held, size = [], 0
            if line.strip():
                yield line if len(line) <= _MAX_LINE_BYTES else b"a line that was too long"
        if rest and size <= _MAX_LINE_BYTES:
            held.append(rest)
            size += len(rest)


async def _read(fd: int) -> bytes:
    await anyio.lowlevel.checkpoint()
    # A regular file and /dev/null are always readable, and epoll refuses to say so.
    with suppress(PermissionError):
        await anyio.wait_readable(fd)
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:  # a terminal that was hung up
        return b""


async def _send(fd: int, to_send: "ToSend") -> None:
    async with to_send:
        async for item in to_send:
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                await _write(fd, text.encode() + b"\n")
            except OSError:  # the client is gone; the end of its input says so too
                return


async def _write(fd: int, data: bytes) -> None:
    if len(data) <= select.PIPE_BUF and _writable(fd):
        os.write(fd, data)  # what polls as writable takes this much without blocking
    else:
        await anyio.to_thread.run_sync(_write_all, fd, data, abandon_on_cancel=True)


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
