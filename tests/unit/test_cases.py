"""Verdicts on test cases, and how outputs are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.cases import judge, same_output, tally
from codecell.model import Case, CaseResult, Status, Verdict


@pytest.mark.parametrize(
    ("expected", "written", "same"),
    [
        ("42", b"42\n", True),
        ("a b\nc", b"a b  \nc\t\r\n\n\n", True),
        ("", b"\n \n", True),
        ("a\n\nb", b"a\nb", False),
        ("a", b" a", False),
        ("a b", b"a  b", False),
        ("A", b"a", False),
        ("1.0", b"1.00", False),
        ("é", "é".encode(), True),
        ("\ufffd", b"\xff", False),
        ("a\u2028", b"a", False),
    ],
)
def test_outputs_are_compared_line_by_line_without_what_nobody_sees(
    expected: str, written: bytes, same: bool
) -> None:
    assert same_output(expected, written) is same


@given(st.text(alphabet="ab \t\n", max_size=20), st.text(alphabet=" \t\n", max_size=5))
def test_white_space_at_the_very_end_never_matters(text: str, more: str) -> None:
    assert same_output(text, (text + more).encode())
    assert not same_output(text + "\nx", text.encode())


@pytest.mark.parametrize(
    ("status", "expected", "written", "verdict"),
    [
        (Status.SUCCESS, None, b"any", Verdict.PASSED),
        (Status.SUCCESS, "1", b"1", Verdict.PASSED),
        (Status.SUCCESS, "1", b"2", Verdict.FAILED),
        (Status.SUCCESS, "1", None, Verdict.FAILED),
        (Status.TIMEOUT, "1", b"1", Verdict.ERROR),
        (Status.EXECUTION_ERROR, None, b"", Verdict.ERROR),
    ],
)
def test_a_case_passes_only_with_success_and_its_output(
    status: Status, expected: str | None, written: bytes | None, verdict: Verdict
) -> None:
    assert judge(status, Case(expected=expected), written) is verdict


def test_the_call_succeeds_only_if_all_do() -> None:
    passed, failed = CaseResult(verdict=Verdict.PASSED), CaseResult(verdict=Verdict.FAILED)
    assert tally([passed, passed]) == (Status.SUCCESS, None)
    assert tally([passed, failed, failed]) == (
        Status.EXECUTION_ERROR,
        "Not all 3 tests passed: 1 passed, 2 failed.",
    )
