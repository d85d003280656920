"""An output stream on its way: its ends in memory for the result, all of it in the store for later.

A stream that a result can show costs neither a file nor a copy. A longer one goes to the store as
it comes, so that the server holds the same few hundred kilobytes of it however long it is.
"""

from collections.abc import Callable

import structlog

from codecell.errors import StoreFull
from codecell.model import RunLimits, Stream
from codecell.output import UTF8_MAX, Capture, shares
from codecell.store import Item, Writer

log = structlog.get_logger(__name__)

Begin = Callable[[], Writer]


class Spooling:
    """One stream of one run: `add` what comes, `finish`, then `keep` it for later or `discard`.

    The cell sends all of it, or `head` bytes of its beginning and `tail` of its end.
    """

    def __init__(self, head: int, tail: int, shown: int, begin: Begin) -> None:
        self._head_bytes, self._tail_bytes, self._shown = head, tail, shown
        self._begin = begin
        self._ends = Capture(head, tail)  # the whole, until it is too long to be held
        self._first = b""
        self._last = bytearray()  # at least the last `tail` bytes
        self._size = self._written = 0
        self._writer: Writer | None = None
        self._stored = True

    @classmethod
    def of(cls, limits: RunLimits, begin: Begin) -> "Spooling":
        """Expect a program's stream."""
        return cls(*shares(limits), limits.output_chars * UTF8_MAX, begin)

    @property
    def held(self) -> int:
        """Tell how many bytes are in memory."""
        return self._ends.held + len(self._first) + len(self._last)

    def add(self, data: bytes) -> None:
        """Take bytes as they come; what is past the bound is dropped."""
        data = data[: self._head_bytes + self._tail_bytes - self._size]
        self._size += len(data)
        if self._writer is None:
            if self._size <= self._shown + self._tail_bytes:
                self._ends.add(data)
                return
            data = self._ends.kept + data
            self._ends = Capture(0)
            self._writer = self._begin()
            self._first = data[: self._shown]
        self._write(data[: max(self._head_bytes - self._written, 0)])
        self._last += data
        if len(self._last) > 4 * self._tail_bytes:
            del self._last[: -self._tail_bytes or None]

    def finish(self, total_bytes: int | None = None, sha256: str = "") -> Stream:
        """Return its ends; see `Capture.finish`."""
        if self._writer is None:
            found = self._ends.finish(total_bytes, sha256)
            self._first = found.head
            return found
        after = max(self._size - self._head_bytes, 0)  # what came behind the beginning
        last = bytes(self._last[len(self._last) - after :])
        if total_bytes is not None and total_bytes > self._size:
            return Stream(head=self._first, tail=last, total=total_bytes, sha256=sha256 or None)
        self._write(last)
        whole = self._writer.sha256 if self._stored else sha256
        return Stream(
            head=self._first,
            tail=bytes(self._last[-self._tail_bytes :]) if self._tail_bytes else b"",
            total=self._size,
            sha256=whole or None if total_bytes is not None else None,
        )

    def keep(self, mime: str) -> Item | None:
        """Have it found in the store, from its beginning on; None where there was no room."""
        try:
            if self._writer is None:
                with self._begin() as writer:
                    writer.write(self._first)
                    return writer.keep(mime)
            return self._writer.keep(mime) if self._stored else None
        except StoreFull as error:
            log.warning("output was not stored", error=str(error))
            self.discard()
            return None

    def discard(self) -> None:
        """Have nothing of it stored."""
        if self._writer is not None:
            self._writer.discard()

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        if self._writer is None or not self._stored or not data:
            return
        try:
            self._writer.write(data)
        except StoreFull as error:
            log.warning("output was not stored", error=str(error))
            self._stored = False
            self._writer.discard()
