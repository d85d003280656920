"""Bounded capture: exact whatever the bytes are and however they come."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ByteSize

from codecell.model import RunLimits, Stream
from codecell.output import Capture, again, allot, mark, shares, show, show_together
from codecell.settings import StoreSettings
from codecell.spooling import Spooling
from codecell.store import Store, Writer

# Characters of every UTF-8 length, and bytes that are none.
texts = st.text(alphabet="aé€\U0001f600\n\0\x1b", max_size=60)
noise = st.lists(
    st.sampled_from(
        [b"a", "é".encode(), "€".encode(), "😀".encode(), b"\xff", b"\xc3", b"\xf0\x9f"]
    )
    | st.binary(max_size=4),
    max_size=40,
).map(b"".join)


def sent(data: bytes, head: int, tail: int) -> bytes:
    """What a cell sends of a stream: all of it, or its beginning and its end."""
    if len(data) <= head + tail:
        return data
    return data[:head] + data[len(data) - tail :]


def capture(data: bytes, head: int = 10**6, tail: int = 0, step: int = 10**9) -> Stream:
    kept = Capture(head, tail)
    came = sent(data, head, tail)
    for start in range(0, len(came), step):
        kept.add(came[start : start + step])
    return kept.finish(len(data), hashlib.sha256(data).hexdigest())


@given(texts, st.integers(1, 80), st.integers(1, 7))
def test_a_text_that_fits_is_shown_as_it_is(text: str, chars: int, step: int) -> None:
    data = text.encode()
    shown = show(capture(data, step=step), chars)
    assert shown.truncated == (len(text) > chars)
    assert not shown.repaired
    assert (shown.total_bytes, shown.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    if len(text) <= chars:
        assert (shown.text, shown.elided_bytes) == (text, 0)


@given(texts, st.integers(1, 59))
def test_a_longer_text_keeps_beginning_and_end_and_says_exactly_what_is_between(
    text: str, chars: int
) -> None:
    shown = show(capture(text.encode()), chars)
    if len(text) > chars:
        first, last = text[: chars - chars // 2], text[len(text) - chars // 2 :]
        elided = len(text.encode()) - len(first.encode()) - len(last.encode())
        assert shown.elided_bytes == elided
        assert shown.text == f"{first}\n[... {elided:,} bytes elided ...]\n{last}"


@given(noise, st.integers(0, 30), st.integers(0, 30), st.integers(1, 60), st.integers(1, 9))
def test_any_bytes_however_they_come_are_counted_to_the_last(
    data: bytes, head: int, tail: int, chars: int, step: int
) -> None:
    stream = capture(data, head, tail, step)
    assert stream == capture(data, head, tail)
    shown = show(stream, chars)
    assert shown.total_bytes == len(data)
    assert shown.truncated == (shown.elided_bytes > 0)
    assert 0 <= shown.elided_bytes <= len(data)
    line = mark(shown.elided_bytes) if shown.elided_bytes else ""
    assert line in shown.text
    assert len(shown.text) - len(line) <= chars
    assert shown.sha256 == hashlib.sha256(data).hexdigest()
    if not shown.truncated:
        assert shown.text == data.decode("utf-8", "replace")
        assert shown.repaired == (shown.text.encode() != data)


@given(noise, st.integers(0, 30), st.integers(1, 30), st.integers(1, 60), st.integers(1, 60))
def test_shown_again_in_less_room_is_as_if_it_had_been_shown_so_at_first(
    data: bytes, head: int, tail: int, chars: int, fewer: int
) -> None:
    stream = capture(data, head, tail)
    assert again(show(stream, chars), fewer) == show(stream, fewer)


@given(texts, st.integers(8, 30), st.integers(8, 30))
def test_a_cut_within_a_character_shows_none_of_it(text: str, head: int, tail: int) -> None:
    shown = show(capture(text.encode(), head, tail), 1000)
    assert not shown.repaired
    assert "\ufffd" not in shown.text


def test_an_unfinished_character_at_the_end_is_repaired_only_when_nothing_follows() -> None:
    ended = show(capture("é".encode()[:1]), 10)
    assert (ended.text, ended.repaired, ended.truncated) == ("\ufffd", True, False)
    cut = show(capture("😀😀".encode(), 4), 1)
    assert (cut.text, cut.repaired, cut.truncated) == ("😀" + mark(4), False, True)


def test_a_cut_behind_a_bad_byte_elides_what_follows_it() -> None:
    shown = show(capture(b"ab\xc3defgh"), 6)
    assert shown.text == "ab\ufffd" + mark(2) + "fgh"
    assert shown.truncated


def test_bad_bytes_that_are_elided_are_not_said_to_be_repaired() -> None:
    shown = show(capture(b"hel\xfflo"), 4)
    assert (shown.text, shown.repaired) == ("he" + mark(2) + "lo", False)


def test_a_replacement_character_that_the_program_wrote_is_no_repair() -> None:
    assert not show(capture("a\ufffdb".encode()), 10).repaired


def test_when_nobody_counted_what_was_kept_is_the_total_and_has_no_hash() -> None:
    kept = Capture(10)
    kept.add(b"abc")
    assert kept.finish() == Stream(head=b"abc", total=3)


def test_a_count_below_what_came_is_not_believed() -> None:
    kept = Capture(10)
    kept.add(b"abcdef")
    assert kept.finish(2).total == 6


def test_nothing_written_is_an_empty_whole() -> None:
    shown = show(capture(b""), 10)
    assert (shown.text, shown.total_bytes, shown.truncated, shown.repaired) == ("", 0, False, False)


@pytest.mark.parametrize("most", [1, 100_000])
def test_memory_is_bounded_however_much_comes(most: int) -> None:
    kept = Capture(most, most)
    for _ in range(20):
        kept.add(b"x" * 65_536)
    assert kept.held == 2 * most


LIMITS = RunLimits(timeout_s=1, output_chars=100, output_kill_bytes=1, stream_bytes=1000)


def test_what_leaves_the_cell_holds_all_that_can_be_shown() -> None:
    assert shares(LIMITS) == (1000, 200)
    assert shares(replace(LIMITS, stream_bytes=10)) == (200, 200)


def test_room_for_all_streams_is_shared_and_what_the_shorter_leave_is_the_longers() -> None:
    streams = {"stdout": capture(b"o" * 90), "stderr": capture(b"e" * 10)}
    shown = show_together(streams, replace(LIMITS, total_chars=40))
    assert shown["stderr"].text == "e" * 10
    assert shown["stdout"].text == "o" * 15 + mark(60) + "o" * 15
    assert show_together(streams, LIMITS)["stdout"].text == "o" * 90


@given(st.dictionaries(st.text(max_size=2), st.integers(0, 100), max_size=5), st.integers(0, 200))
def test_shares_fill_the_room_and_no_more(lengths: dict[str, int], room: int) -> None:
    shared = allot(lengths, room)
    assert all(shared[name] <= length for name, length in lengths.items())
    assert sum(shared.values()) <= room
    assert room - sum(shared.values()) < max(len(lengths), 1) or shared == lengths


class Disk:
    """Where streams are stored: a real store, that may be told to be full."""

    def __init__(self, directory: Path, size: int = 10**9) -> None:
        both = ByteSize(size)
        settings = StoreSettings(directory=directory, size=both, caller_size=both)
        self.store = Store(settings)

    def begin(self) -> Writer:
        return self.store.writer("me", "run", "stdout")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    found = Disk(tmp_path)
    yield found
    found.store.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=120), st.integers(0, 80), st.integers(1, 20), st.integers(1, 30),
    st.integers(1, 50),
)  # fmt: skip
def test_a_long_stream_is_stored_and_shown_as_if_it_had_been_held(
    disk: Disk, data: bytes, more: int, tail: int, shown: int, step: int
) -> None:
    head = shown + more
    stream = Spooling(head, tail, shown, disk.begin)
    came = sent(data, head, tail)
    for start in range(0, len(came), step):
        stream.add(came[start : start + step])
    found = stream.finish(len(data), hashlib.sha256(data).hexdigest())
    assert (found.total, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    whole = found.head if not found.gap else data
    assert whole == data
    assert data.startswith(found.head)
    assert data.endswith(found.tail)
    assert len(found.head) >= min(shown, len(data))
    assert found.gap == 0 or len(found.tail) == tail
    item = stream.keep("text/plain")
    assert item is not None
    stored = disk.store.read(item)
    assert stored == (data if len(data) <= head + tail else data[:head])


@pytest.mark.requirement("store:memory")
def test_a_long_stream_costs_little_memory_and_one_that_is_dropped_no_disk(disk: Disk) -> None:
    stream = Spooling(10**7, 1000, 1000, disk.begin)
    for _ in range(200):
        stream.add(b"x" * 65_536)
        assert stream.held < 2 * 65_536
    assert disk.store.size == 10**7
    stream.discard()
    assert disk.store.size == 0


def test_a_full_disk_takes_the_resource_and_nothing_of_the_result(tmp_path: Path) -> None:
    disk = Disk(tmp_path, size=5000)
    stream = Spooling(10**6, 100, 100, disk.begin)
    data = bytes(range(256)) * 100
    for start in range(0, len(data), 1000):
        stream.add(data[start : start + 1000])
    found = stream.finish(len(data), hashlib.sha256(data).hexdigest())
    assert (found.head, found.tail, found.total) == (data[:100], data[-100:], len(data))
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert stream.keep("text/plain") is None
    assert disk.store.size == 0
    disk.store.close()
