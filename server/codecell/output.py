"""Bounded capture of one output stream and what is shown of it; pure.

A stream that is too long is shown by its beginning and its end. What lies between is elided, and
counted: by the cell where it never left it, here where only the result has no room for it.
"""

import bisect
import codecs
import hashlib
from collections.abc import Mapping
from dataclasses import replace

from codecell.model import Captured, RunLimits, Stream

UTF8_MAX = 4  # bytes of the longest character


def shares(limits: RunLimits) -> tuple[int, int]:
    """Return how many bytes of a stream's beginning, and of its end, leave the cell."""
    tail = limits.output_chars * UTF8_MAX // 2
    return max(limits.stream_bytes, limits.output_chars * UTF8_MAX - tail), tail


def allot(lengths: Mapping[str, int], room: int) -> dict[str, int]:
    """Share room equally; what the shorter leave unused goes to the longer."""
    shared: dict[str, int] = {}
    for name in sorted(lengths, key=lambda name: lengths[name]):
        shared[name] = min(lengths[name], max(room, 0) // (len(lengths) - len(shared)))
        room -= shared[name]
    return shared


def show_together(streams: Mapping[str, Stream], limits: RunLimits) -> dict[str, Captured]:
    """Show streams within what each of them, and all of them together, may take."""
    lengths = {
        name: min(len(stream.head) + len(stream.tail), limits.output_chars)
        for name, stream in streams.items()
    }
    if sum(lengths.values()) > limits.total_chars:
        lengths = allot(lengths, limits.total_chars)
    return {name: show(stream, lengths[name]) for name, stream in streams.items()}


class Capture:
    """Keep what a cell sends of a stream: so much of its beginning, and so much of its end."""

    def __init__(self, head: int, tail: int = 0) -> None:
        self.head = head
        self._most = head + tail
        self._kept = bytearray()

    @property
    def held(self) -> int:
        """Tell how many bytes are kept."""
        return len(self._kept)

    @property
    def kept(self) -> bytes:
        """What is kept."""
        return bytes(self._kept)

    def add(self, data: bytes) -> None:
        """Take bytes as they come; what is past the bound is dropped."""
        self._kept += data[: self._most - len(self._kept)]

    def finish(self, total_bytes: int | None = None, sha256: str = "") -> Stream:
        """Return what was kept.

        Args:
            total_bytes: how much the program wrote; None when nobody counted past what was kept.
            sha256: of all of it, where the cell had to make it.
        """
        kept = bytes(self._kept)
        if total_bytes is None:
            return Stream(head=kept, total=len(kept))
        if total_bytes <= len(kept):
            return Stream(head=kept, total=len(kept), sha256=hashlib.sha256(kept).hexdigest())
        head, tail = kept[: self.head], kept[self.head :]
        return Stream(head=head, tail=tail, total=total_bytes, sha256=sha256 or None)


def show(stream: Stream, chars: int) -> Captured:
    """Show a stream in at most `chars` characters and a line on what is left out."""
    begun = _decoded(stream.head, final=not stream.gap)
    if not stream.gap and len(begun) <= chars:
        first, final, elided = begun, "", 0
        repaired = not stream.head.startswith(begun.encode())
    else:
        end = _from_whole_character(stream.tail) if stream.gap else stream.head
        ended = _decoded(end, final=True) if stream.gap else begun
        last = min(chars // 2, len(ended))
        first, final = begun[: chars - last], ended[len(ended) - last :]
        shown = _size(stream.head, begun, len(first))
        shown += len(end) - _size(end, ended, len(ended) - last)
        elided = stream.total - shown
        repaired = not (stream.head.startswith(first.encode()) and end.endswith(final.encode()))
    return Captured(
        text=f"{first}{mark(elided)}{final}" if elided else first,
        total_bytes=stream.total,
        truncated=elided > 0,
        repaired=repaired,
        elided_bytes=elided,
        sha256=stream.sha256,
        stream=stream,
    )


def again(captured: Captured, chars: int) -> Captured:
    """Show a stream that has been shown already in fewer characters."""
    stream = captured.stream
    if stream is None:
        data = captured.text.encode()
        stream = Stream(head=data, total=max(captured.total_bytes, len(data)))
    return replace(show(stream, chars), stream=captured.stream)


def mark(elided: int) -> str:
    """Say, between beginning and end, how much is left out."""
    return f"\n[... {elided:,} bytes elided ...]\n"


def _decoded(data: bytes, *, final: bool) -> str:
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(data, final)


def _from_whole_character(data: bytes) -> bytes:
    """Leave out the rest of a character whose beginning is elsewhere."""
    start = 0
    while start < min(UTF8_MAX - 1, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]


def _size(data: bytes, text: str, chars: int) -> int:
    """Count the bytes that the first characters of a text were decoded from."""
    if chars <= 0:
        return 0
    if chars >= len(text):
        return len(data)
    size = len(text[:chars].encode())
    if data.startswith(text[:chars].encode()):
        return size
    # The longest beginning of so many characters: a bad byte is one only where something follows.
    ends = range(len(data) + 1)
    return bisect.bisect(ends, chars, key=lambda end: len(_decoded(data[:end], final=True))) - 1
