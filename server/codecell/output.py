"""Bounded capture of one output stream; pure."""

import codecs

from codecell.model import Captured

UTF8_MAX = 4  # bytes of the longest character


class Capture:
    """Keep the first `max_chars` characters of a stream, whatever bytes come."""

    def __init__(self, max_chars: int) -> None:
        self.max_chars = max_chars
        self.max_bytes = max_chars * UTF8_MAX
        self._kept = bytearray()

    @property
    def held(self) -> int:
        """Tell how many bytes are kept."""
        return len(self._kept)

    def add(self, data: bytes) -> None:
        """Take bytes as they come; what is past the bound is dropped."""
        self._kept += data[: self.max_bytes - len(self._kept)]

    def finish(self, total_bytes: int | None = None) -> Captured:
        """Return what was kept as text.

        Args:
            total_bytes: how much the program wrote; None when nobody counted past what was kept.
        """
        total = len(self._kept) if total_bytes is None else max(total_bytes, len(self._kept))
        whole = total == len(self._kept)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text = decoder.decode(self._kept, whole)
        shown = text[: self.max_chars]
        return Captured(
            text=shown,
            total_bytes=total,
            truncated=not whole or len(text) > self.max_chars,
            repaired=not self._kept.startswith(shown.encode()),
        )
