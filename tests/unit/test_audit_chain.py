"""The chain shows every line that was changed, removed, moved, inserted or cut off."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.audit.chain import Finding, Head, Place, digest, encode, verify

START = Head("c0ffee")


def chain(count: int = 5, start: Head = START) -> tuple[list[bytes], Head]:
    lines, head = [], start
    for number in range(count):
        line = encode({"event": "x", "number": number}, head)
        lines.append(line)
        head = head.then(line)
    return lines, head


def check(
    lines: Sequence[bytes], head: Head | None, expected: tuple[int, str] | None = None
) -> Finding:
    return verify([(Place("f", n), line) for n, line in enumerate(lines, 1)], head, expected)


def changed(line: bytes, **values: Any) -> bytes:
    return json.dumps({**json.loads(line), **values}, separators=(",", ":")).encode()


def test_a_whole_chain_is_whole() -> None:
    lines, head = chain()
    found = check(lines, head)
    assert (found.problems, found.notes, found.lines, found.last) == ((), (), 5, head)


def test_a_chain_without_a_line_is_whole() -> None:
    assert check([], START).problems == ()


@pytest.mark.requirement("audit:tampering")
@pytest.mark.parametrize("at", range(5))
def test_a_changed_line_is_found_where_it_is(at: int) -> None:
    lines, head = chain()
    lines[at] = changed(lines[at], number=99)
    (problem,) = check(lines, head).problems
    if at == 4:
        assert problem == "f:5: this line is not the one that the head names"
    else:
        assert problem.startswith(f"f:{at + 2}: the line before this one was changed")


@pytest.mark.requirement("audit:tampering")
@pytest.mark.parametrize(("at", "said"), [
    (0, "f:1: 1 line at the beginning is missing"),
    (2, "f:3: 1 line before this one is missing"),
    (4, "1 line at the end is missing"),
])  # fmt: skip
def test_a_removed_line_is_found(at: int, said: str) -> None:
    lines, head = chain()
    del lines[at]
    assert said in check(lines, head).problems


@pytest.mark.requirement("audit:tampering")
def test_lines_that_changed_places_are_found() -> None:
    lines, head = chain()
    lines[1], lines[2] = lines[2], lines[1]
    problems = check(lines, head).problems
    assert problems[0] == "f:2: 1 line before this one is missing"
    assert problems[1] == "f:3: line 2 stands after line 3: moved or inserted"


@pytest.mark.requirement("audit:tampering")
def test_an_inserted_line_is_found() -> None:
    lines, head = chain()
    lines.insert(2, lines[1])
    assert check(lines, head).problems == ("f:3: line 2 stands after line 2: moved or inserted",)


def test_a_line_that_is_no_record_is_found() -> None:
    for wrong in (b"", b"{", b"[]", b"null", b'{"seq":1}', b'{"seq":true,"prev":"","chain":""}'):
        lines, head = chain()
        lines[2] = wrong
        assert check(lines, head).problems[0] == "f:3: this line is no record: it was changed"


def test_without_its_head_an_end_can_not_be_proved() -> None:
    lines, _ = chain()
    assert "the head is missing" in check(lines, None).problems[0]


def test_lines_after_the_head_are_told_and_no_problem() -> None:
    lines, _ = chain()
    _, head = chain(3)
    found = check(lines, head)
    assert found.problems == ()
    assert found.notes == (
        "the last 2 lines came after the head: the server writes, or was killed",
    )


def test_rotation_removes_the_beginning_and_the_head_says_so() -> None:
    lines, head = chain()
    found = check(lines[2:], replace(head, first=3))
    assert found.problems == ()
    assert found.notes == ("begins at line 3: older files were removed by rotation",)
    assert (
        "1 line at the beginning is missing" in check(lines[3:], replace(head, first=3)).problems[0]
    )


def test_a_chain_can_not_stand_in_for_another() -> None:
    lines, _ = chain(start=Head("other"))
    _, head = chain()
    assert "f:1: this line belongs to another chain than the head" in check(lines, head).problems


@pytest.mark.requirement("audit:tampering")
def test_a_chain_made_up_anew_is_found_by_an_anchor_that_was_kept_elsewhere() -> None:
    lines, head = chain()
    kept = (3, digest(lines[2]))
    forged, forged_head = [], START
    for line in lines:
        values = {k: v for k, v in json.loads(line).items() if k not in {"seq", "chain", "prev"}}
        made = encode({**values, "event": "y"}, forged_head)
        forged.append(made)
        forged_head = forged_head.then(made)
    assert check(forged, forged_head).problems == ()  # log and head alone can't show it
    assert check(forged, forged_head, kept).problems == (
        "f:3: this line is not the one that was expected",
    )
    assert check(lines, head, kept).problems == ()
    assert check(lines[:2], head, kept).problems[-1] == "the line that was expected is not there"


mutations = st.sampled_from(["change", "remove", "swap", "repeat", "cut"])


@pytest.mark.requirement("audit:tampering")
@given(st.integers(2, 12), mutations, st.data())
def test_no_single_change_goes_unseen(count: int, kind: str, data: st.DataObject) -> None:
    lines, head = chain(count)
    at = data.draw(st.integers(0, count - 1))
    if kind == "change":
        position = data.draw(st.integers(0, len(lines[at]) - 1))
        old = lines[at][position]
        new = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (old, 10)))
        lines[at] = lines[at][:position] + bytes([new]) + lines[at][position + 1 :]
    elif kind == "remove":
        del lines[at]
    elif kind == "swap":
        other = data.draw(st.integers(0, count - 1).filter(lambda index: index != at))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "repeat":
        lines.insert(at, lines[at])
    else:
        del lines[at:]
    assert check(lines, head).problems


@pytest.mark.requirement("audit:no-injection")
@given(st.text() | st.text(alphabet='\r\n\x1b\x7f\x85\u2028\u2029\u202e\ud800"\\{}'))
def test_no_text_can_break_out_of_its_line(text: str) -> None:
    line = encode({"message": text, text: "key"}, START)
    assert not set(line) - set(range(0x20, 0x7F))
    record = json.loads(line)
    assert record["message"] == text or text in {"message", "seq", "chain", "prev"}
    assert (record["seq"], record["chain"], record["prev"]) == (1, "c0ffee", "0" * 64) or (
        text == "seq"
    )
