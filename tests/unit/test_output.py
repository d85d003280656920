"""Bounded capture: exact whatever the bytes are and however they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.output import UTF8_MAX, Capture

# Characters of every UTF-8 length, and bytes that are none.
texts = st.text(alphabet="aé€\U0001f600\n\0\x1b", max_size=60)
noise = st.lists(
    st.sampled_from(
        [b"a", "é".encode(), "€".encode(), "😀".encode(), b"\xff", b"\xc3", b"\xf0\x9f"]
    )
    | st.binary(max_size=4),
    max_size=40,
).map(b"".join)


def capture(data: bytes, max_chars: int, step: int = 10**9, *, counted: bool = True):  # type: ignore[no-untyped-def]
    kept = Capture(max_chars)
    for start in range(0, len(data), step):
        kept.add(data[start : start + step])
    return kept.finish(len(data) if counted else None)


@given(texts, st.integers(1, 80), st.integers(1, 7))
def test_text_is_cut_at_a_character_and_only_when_it_is_too_long(
    text: str, max_chars: int, step: int
) -> None:
    data = text.encode()
    result = capture(data, max_chars, step)
    assert result.text == text[:max_chars]
    assert result.truncated == (len(text) > max_chars)
    assert not result.repaired
    assert result.total_bytes == len(data)


@given(noise, st.integers(1, 60), st.integers(1, 7))
def test_any_bytes_become_the_first_characters_of_their_repair(
    data: bytes, max_chars: int, step: int
) -> None:
    result = capture(data, max_chars, step)
    whole = data.decode("utf-8", "replace")
    assert result.text == whole[:max_chars]
    assert result.truncated == (len(whole) > max_chars)
    assert result.total_bytes == len(data)


@given(noise, st.integers(1, 60))
def test_repaired_says_exactly_whether_the_text_differs_from_the_bytes(
    data: bytes, max_chars: int
) -> None:
    result = capture(data, max_chars)
    assert result.repaired == (not data.startswith(result.text.encode()))


@given(noise, st.integers(1, 20), st.integers(1, 9))
def test_how_the_bytes_are_split_makes_no_difference(
    data: bytes, max_chars: int, step: int
) -> None:
    assert capture(data, max_chars, step) == capture(data, max_chars)


@given(noise, st.integers(1, 20), st.integers(1, 9))
def test_an_agent_that_stops_sending_at_the_cap_makes_no_difference(
    data: bytes, max_chars: int, step: int
) -> None:
    kept = Capture(max_chars)
    for start in range(0, max_chars * UTF8_MAX, step):
        kept.add(data[: max_chars * UTF8_MAX][start : start + step])
    assert kept.finish(len(data)) == capture(data, max_chars, step)


def test_an_unfinished_character_at_the_end_is_repaired_only_when_nothing_follows() -> None:
    ended = capture("é".encode()[:1], 10)
    assert (ended.text, ended.repaired, ended.truncated) == ("\ufffd", True, False)
    kept = Capture(1)
    kept.add("😀".encode())
    kept.add("😀".encode())
    cut = kept.finish(8)
    assert (cut.text, cut.repaired, cut.truncated) == ("😀", False, True)


def test_bad_bytes_past_the_cut_are_not_said_to_be_repaired() -> None:
    result = capture(b"hello\xff", 5)
    assert (result.text, result.truncated, result.repaired) == ("hello", True, False)


def test_a_replacement_character_that_the_program_wrote_is_no_repair() -> None:
    assert not capture("a\ufffdb".encode(), 10).repaired


def test_when_nobody_counted_what_was_kept_is_the_total() -> None:
    result = capture(b"abc", 10, counted=False)
    assert (result.total_bytes, result.truncated) == (3, False)


def test_a_count_below_what_came_is_not_believed() -> None:
    kept = Capture(10)
    kept.add(b"abcdef")
    assert kept.finish(2).total_bytes == 6


def test_nothing_written_is_an_empty_whole() -> None:
    result = capture(b"", 10)
    assert (result.text, result.total_bytes, result.truncated, result.repaired) == (
        "",
        0,
        False,
        False,
    )


@pytest.mark.parametrize("max_chars", [1, 100_000])
def test_memory_is_bounded_however_much_comes(max_chars: int) -> None:
    kept = Capture(max_chars)
    for _ in range(20):
        kept.add(b"x" * 65_536)
    assert len(kept.finish(20 * 65_536).text) == max_chars
    assert kept.held <= max_chars * UTF8_MAX
