"""One output stream of a run: its beginning goes to the server as it comes, its end at the end.

What lies between is counted and hashed. The bytes rest in memory that a fork does not inherit.
"""

from __future__ import annotations

from codecell.incell.libc import unforked_buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BULK = 256 * 1024  # read at a time past what is kept
HELD = 512 * 1024  # of a stream's beginning, before there is a hash of it

# One for each stream, made when a stream first needs it, for all runs: they are never unmapped.
_buffers: dict[tuple[str, int], memoryview] = {}


def _buffer(use: str, kind: int, size: int) -> memoryview:
    found = _buffers.get((use, kind))
    if found is None or len(found) < size:
        found = _buffers[use, kind] = unforked_buffer(size)
    return found


class Output:
    """What a program writes to one stream.

    The hash of a short stream is the server's to make. Of a longer one the beginning is kept
    here until it is long, and only then what makes hashes is loaded (3 ms).
    """

    __slots__ = ("_end", "_head", "_kind", "_sent", "_sha256", "_tail", "keep", "size", "tail")

    def __init__(self, kind: int, keep: int, tail: int) -> None:
        self.keep = keep  # of the beginning
        self.tail = tail  # of the end
        self.size = 0
        self._kind = kind
        self._head: memoryview | None = None
        self._tail: memoryview | None = None
        self._end = 0  # of what `_tail` holds
        self._sent = 0
        self._sha256: Any = None

    def place(self, chunk: memoryview) -> memoryview:
        """Return where to read to: `chunk`, or past what is kept where the end is gathered."""
        return self._room_for(BULK) if self.tail and self.size >= self.keep else chunk

    def take(self, chunk: memoryview, *, placed: bool = False) -> int:
        """Take what was read; return how much of it goes to the server now.

        Args:
            placed: whether it was read to where `place` said.
        """
        count = len(chunk)
        pass_on = min(count, max(self.keep - self.size, 0))
        if self.tail:
            self._hash(chunk)
            if placed:
                self._end += count
            elif pass_on < count:
                self._room_for(count - pass_on)[:] = chunk[pass_on:]
                self._end += count - pass_on
        self.size += count
        return pass_on

    def _hash(self, chunk: memoryview) -> None:
        end, most = self.size + len(chunk), min(self.keep, HELD)
        if self._sha256 is not None:
            self._sha256.update(chunk)
        elif end <= most:
            if self._head is None:
                self._head = _buffer("head", self._kind, most)
            self._head[self.size : end] = chunk
        else:
            import hashlib

            self._sha256 = hashlib.sha256(self._head[: self.size] if self._head else b"")
            self._sha256.update(chunk)

    def _room_for(self, size: int) -> memoryview:
        if self._tail is None:
            self._tail = _buffer("tail", self._kind, 4 * self.tail + BULK)
        if self._end + size > len(self._tail):
            self._tail[: self.tail] = self._tail[self._end - self.tail : self._end]
            self._end = self.tail
        return self._tail[self._end : self._end + size]

    def rest(self, chunk: memoryview) -> int:
        """Write the next part of the end into `chunk`; return how much, 0 when all is sent.

        Nothing more is taken after the first call.
        """
        self._sent = max(self._sent, self._end - self.tail)
        count = min(self._end - self._sent, len(chunk))
        if self._tail is not None and count:
            chunk[:count] = self._tail[self._sent : self._sent + count]
            self._sent += count
        return count

    @property
    def sha256(self) -> str:
        """The hash of all that came, or an empty string where it was short."""
        return "" if self._sha256 is None else self._sha256.hexdigest()
