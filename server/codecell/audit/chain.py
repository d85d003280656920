"""The chain: each line carries the hash of the line before it; pure.

A line is JSON in ASCII, so no field can hold a raw line break, escape or separator character. Its
hash is the SHA-256 of its bytes without the newline; the first line carries 64 zeros.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

GENESIS = "0" * 64
SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain stands: the anchor that shows a truncation.

    Attributes:
        chain: a random name; chains can't be exchanged for each other.
        first: sequence number of the oldest line that is kept.
        seq, hash: of the newest line; 0 and GENESIS before there is one.
    """

    chain: str
    first: int = 1
    seq: int = 0
    hash: str = GENESIS

    def then(self, line: bytes) -> "Head":
        """Return the head after one more line."""
        return Head(self.chain, self.first, self.seq + 1, digest(line))

    def text(self) -> str:
        """Write it down in one line."""
        return json.dumps({"chain": self.chain, "first": self.first, "seq": self.seq,
                           "hash": self.hash})  # fmt: skip

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Read what `text` wrote.

        Raises:
            ValueError: it is something else.
        """
        values = json.loads(text)
        try:
            return cls(
                str(values["chain"]), int(values["first"]), int(values["seq"]), str(values["hash"])
            )
        except (KeyError, TypeError) as error:
            raise ValueError("not a head") from error


def digest(line: bytes) -> str:
    """Return the hash of a line, given without its newline."""
    return hashlib.sha256(line).hexdigest()


def encode(record: Mapping[str, Any], head: Head) -> bytes:
    """Return the line, without newline, that comes after `head`."""
    values = {"seq": head.seq + 1, **record, "chain": head.chain, "prev": head.hash}
    text = json.dumps(values, separators=(",", ":"))  # ASCII: what is not is escaped, all but DEL
    return text.replace("\x7f", "\\u007f").encode("ascii")


@dataclass(frozen=True, slots=True)
class Place:
    """A line in a file, counted from 1."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check of a chain came to.

    Attributes:
        lines: how many lines were read.
        last: where the chain ends as read.
        problems: each names a file and a line; none means that the chain is whole.
        notes: what is no problem and still worth knowing.
    """

    lines: int
    last: Head | None
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify(
    lines: Iterable[tuple[Place, bytes]],
    head: Head | None,
    expected: tuple[int, str] | None = None,
) -> Finding:
    """Check a whole chain, oldest line first.

    It finds a line that was changed, removed, inserted or moved, and with the head lines that are
    missing at either end. Who can write log *and* head can make up another whole chain: against
    that helps only an anchor kept elsewhere, given as `expected`.

    Args:
        lines: where each stands, and its bytes without the newline.
        head: the anchor beside the log; None where there is none.
        expected: sequence number and hash of a line, noted down elsewhere at an earlier time.
    """
    check = _Check(head, expected)
    for place, line in lines:
        check.take(place, line)
    return check.finish()


class _Check:
    def __init__(self, head: Head | None, expected: tuple[int, str] | None) -> None:
        self._head = head
        self._expected = expected
        self._met = expected is None
        self._last: Head | None = None
        self._anchored = head is not None and head.seq == 0
        self._lines = 0
        self._problems: list[str] = []
        self._notes: list[str] = []

    def take(self, place: Place, line: bytes) -> None:
        self._lines += 1
        where = f"{place.file}:{place.line}"
        try:
            record = json.loads(line)
            seq, prev, chain = record["seq"], record["prev"], record["chain"]
            if not isinstance(seq, int) or isinstance(seq, bool):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            self._problems.append(f"{where}: this line is no record: it was changed")
            if self._last is not None:  # go on as if it had been the one that belongs here
                self._last = self._last.then(line)
            return
        self._problems += self._against_the_last(where, seq, prev, chain)
        self._last = Head(chain, self._head.first if self._head else seq, seq, digest(line))
        self._against_the_anchors(where, self._last)

    def _against_the_last(self, where: str, seq: int, prev: str, chain: str) -> Iterator[str]:
        last = self._last
        if last is None:
            yield from self._against_the_beginning(where, seq, prev, chain)
        elif chain != last.chain:
            yield f"{where}: this line belongs to another chain"
        elif seq > last.seq + 1:
            gap = seq - last.seq - 1
            yield f"{where}: {_lines(gap)} before this one {_are(gap)} missing"
        elif seq <= last.seq:
            yield f"{where}: line {seq} stands after line {last.seq}: moved or inserted"
        elif prev != last.hash:
            yield f"{where}: the line before this one was changed (its hash is not what this says)"

    def _against_the_beginning(self, where: str, seq: int, prev: str, chain: str) -> Iterator[str]:
        if self._head is not None and chain != self._head.chain:
            yield f"{where}: this line belongs to another chain than the head"
        first = self._head.first if self._head else 1
        if seq > first:
            yield f"{where}: {_lines(seq - first)} at the beginning {_are(seq - first)} missing"
        elif seq == 1 and prev != GENESIS:
            yield f"{where}: the first line does not begin a chain"
        elif seq > 1:
            self._notes.append(f"begins at line {seq}: older files were removed by rotation")

    def _against_the_anchors(self, where: str, now: Head) -> None:
        if self._head is not None and now.seq == self._head.seq:
            self._anchored = True
            if now.hash != self._head.hash:
                self._problems.append(f"{where}: this line is not the one that the head names")
        if self._expected is not None and now.seq == self._expected[0]:
            self._met = True
            if now.hash != self._expected[1]:
                self._problems.append(f"{where}: this line is not the one that was expected")

    def finish(self) -> Finding:
        seq = self._last.seq if self._last else 0
        if self._head is None and self._lines == 0:
            pass  # a server was killed before it began
        elif self._head is None:
            self._problems.append("the head is missing: lines may have been cut off at the end")
        elif seq < self._head.seq:
            missing = self._head.seq - seq
            self._problems.append(f"{_lines(missing)} at the end {_are(missing)} missing")
        elif not self._anchored:
            self._problems.append("the line that the head names is missing")
        elif seq > self._head.seq:
            more = seq - self._head.seq
            self._notes.append(
                f"the last {_lines(more)} came after the head: the server writes, or was killed"
            )
        if not self._met:
            self._problems.append("the line that was expected is not there")
        return Finding(
            self._lines, self._last, tuple(self._problems[:SHOWN_PROBLEMS]), tuple(self._notes)
        )


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
