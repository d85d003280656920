"""The attached stream of a container: one socket, cut into stdout and stderr by the engine."""

import asyncio
import socket
import struct
from typing import Self

from codecell.errors import CellLost

HEADER = struct.Struct(">BxxxL")
STDOUT = 1
CHUNK = 256 * 1024
WORDS = 2048  # how much of what the agent says on stderr is kept for the log


class AttachedStream:
    """The agent's stdin and stdout; its stderr is kept as its last words."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._left = 0  # of the engine's current frame
        self._kind = STDOUT
        self.last_words = bytearray()

    @classmethod
    async def over(cls, connected: socket.socket) -> Self:
        """Take over a connected socket."""
        # asyncio's own streams: anyio's for UNIX sockets log an InvalidStateError when one is
        # closed in the moment in which it becomes readable (4.16), as every discard does.
        return cls(*await asyncio.open_connection(sock=connected, limit=CHUNK))

    async def send(self, data: bytes) -> None:
        """Write, waiting while the other side does not read.

        Raises:
            CellLost: the stream is closed.
        """
        if self._writer.is_closing():
            raise CellLost("the cell's stream is closed")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise CellLost("the cell's stream is closed") from error

    async def receive(self) -> bytes:
        """Return the next bytes of stdout; `b""` at the end, for ever after."""
        while True:
            if data := self._cut():
                return data
            try:
                more = await self._reader.read(CHUNK)
            except OSError:
                more = b""
            if not more:
                self.close()  # a sender that waits for room would wait for ever
                return b""
            self._buffer += more

    def _cut(self) -> bytes:
        """Take stdout bytes from the buffer, as many as there are."""
        taken = bytearray()
        buffer = self._buffer
        while True:
            if self._left == 0:
                if len(buffer) < HEADER.size:
                    break
                self._kind, self._left = HEADER.unpack_from(buffer)
                del buffer[: HEADER.size]
            part = buffer[: self._left]
            if not part and self._left:
                break
            del buffer[: len(part)]
            self._left -= len(part)
            if self._kind == STDOUT:
                taken += part
            else:
                self.last_words += part
                del self.last_words[:-WORDS]
        return bytes(taken)

    def close(self) -> None:
        """Hang up: the agent reads the end of its stdin and takes the cell with it."""
        self._writer.transport.abort()
