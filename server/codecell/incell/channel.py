"""Frames from and to the server: magic u8, type u8, run u32, length u32, in network order; payload.

server/codecell/frames.py is the other side. The bytes pass through two buffers that a fork does not
inherit, so no run can find an earlier one's in its copy of the agent.
"""

from __future__ import annotations

import os
import struct
import time

from codecell.incell.compact import dumps
from codecell.incell.libc import unforked_buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct(">BBII")
MAGIC = 0xCC
PROTOCOL = 1
CONFIG, RUN, JOB, STDIN, GO, CANCEL = 1, 2, 3, 4, 5, 6
FILE, DATA, COLLECT = 10, 11, 12
REMOVE = 20
HELLO, READY, STDOUT, STDERR, EXIT, FAULT = 65, 66, 67, 68, 69, 70
ENTRY, CONTENT, SEALED, COLLECTED = 80, 81, 82, 83
VALUES = 100

CHUNK = 64 * 1024
BUFFER = 4 * CHUNK
NEVER = float("inf")
LITTLE, HOLD_S = 4 * 1024, 0.005  # bytes of output that wait for more, and how long
SMALL = 8 * 1024  # kept free of output: more than all other frames together that one run brings


class ServerGone(BaseException):
    """The stream has ended: so has the cell."""


class Channel:
    """Both directions of the attached stream."""

    __slots__ = (
        "_held_until", "_in", "_in_end", "_out", "_out_end", "_out_start", "input", "output",
    )  # fmt: skip

    def __init__(self, source: int, sink: int) -> None:
        self.input, self.output = source, sink
        os.set_blocking(sink, False)
        self._in, self._out = unforked_buffer(BUFFER), unforked_buffer(BUFFER)
        self._in_end = self._out_start = self._out_end = 0
        self._held_until = NEVER

    @property
    def pending(self) -> bool:
        """Whether there is something that the server has not taken, and is to take at once."""
        return self._out_end > 0 and self._held_until == NEVER

    @property
    def held_s(self) -> float:
        """How long a little output may still wait for company; for ever where there is none."""
        return max(self._held_until - time.monotonic(), 0.0001)

    @property
    def room(self) -> bool:
        """Whether there is room for a chunk of output, and for what must be said beside it."""
        return self._out_end + HEADER.size + CHUNK + SMALL <= BUFFER

    def frame(self, kind: int, run: int, payload: bytes = b"") -> None:
        """Send a small frame."""
        start = self._out_end + HEADER.size
        HEADER.pack_into(self._out, self._out_end, MAGIC, kind, run, len(payload))
        self._out[start : start + len(payload)] = payload
        self._out_end = start + len(payload)
        self.flush()

    def tell(self, kind: int, run: int, **facts: object) -> None:
        """Send a small frame of JSON."""
        self.frame(kind, run, dumps(facts).encode())

    def chunk(self) -> memoryview:
        """Return where the next chunk of output goes; there must be room."""
        start = self._out_end + HEADER.size
        return self._out[start : start + CHUNK]

    def pass_on(self, kind: int, run: int, size: int) -> None:
        """Send so many bytes of `chunk`; where they are few, with what comes soon behind them.

        Each message costs the engine's two processes and the server a turn, as much as a tenth of a
        short run; mostly the report of the end is what comes behind the output.
        """
        held = self._out_end == 0 and size <= LITTLE
        HEADER.pack_into(self._out, self._out_end, MAGIC, kind, run, size)
        self._out_end += HEADER.size + size
        if held:
            self._held_until = time.monotonic() + HOLD_S
        elif self._held_until == NEVER or self._out_end > LITTLE:
            self.flush()

    @property
    def held_out(self) -> bool:
        """Whether the time of what was held back has come."""
        return time.monotonic() >= self._held_until

    def flush(self) -> None:
        """Hand on what the stream takes without waiting.

        Raises:
            ServerGone: it takes nothing any more.
        """
        self._held_until = NEVER
        while self._out_start < self._out_end:
            try:
                self._out_start += os.write(self.output, self._out[self._out_start : self._out_end])
            except BlockingIOError:
                return
            except OSError as error:
                raise ServerGone from error
        self._out_start = self._out_end = 0

    def receive(self) -> Iterator[tuple[int, int, memoryview]]:
        """Read once, and yield (type, run, payload) of each frame that is complete then.

        Raises:
            ServerGone: at the end of the stream.
            ValueError: this is not a frame.
        """
        count = os.readv(self.input, [self._in[self._in_end :]])
        if count == 0:
            raise ServerGone
        self._in_end += count
        start = 0
        while self._in_end - start >= HEADER.size:
            magic, kind, run, length = HEADER.unpack_from(self._in, start)
            if magic != MAGIC or length > CHUNK:
                raise ValueError("not a frame")
            end = start + HEADER.size + length
            if end > self._in_end:
                break
            yield kind, run, self._in[start + HEADER.size : end]
            start = end
        if start:
            rest = self._in_end - start
            self._in[:rest] = self._in[start : self._in_end]
            self._in_end = rest
