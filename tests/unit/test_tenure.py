"""Who may open a session, which goes first, and what a call is told of its own."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell import tenure
from codecell.errors import RequestError
from codecell.model import Ending, Facts, Kept
from codecell.settings import SessionSettings

MIB = 2**20


@dataclass(frozen=True)
class Open:
    id: str = "a"
    caller: str = "me"
    languages: tuple[str, ...] = ("python",)
    opened: float = 0.0
    used: float = 0.0
    runs: int = 1
    busy: bool = False
    memory_bytes: int = 10 * MIB


def settings(**values: object) -> SessionSettings:
    return SessionSettings.model_validate({"memory": "100MiB", **values})


def refused(open_: list[Open], caller: str = "me", **values: object) -> str:
    with pytest.raises(RequestError) as caught:
        tenure.place_for(caller, open_, 10 * MIB, 60.0, settings(**values))
    return str(caught.value)


def test_there_is_room_until_a_limit() -> None:
    assert tenure.place_for("me", [Open()], MIB, 0.0, settings(per_caller=2, max=2)) == []


def test_a_refusal_lists_the_callers_own_sessions_and_nobody_elses() -> None:
    mine = [Open("late", used=50.0, runs=2), Open("early", used=10.0, languages=("c", "bash"))]
    text = refused([*mine, Open("secret", caller="other")], per_caller=2)
    assert text == (
        "No session was opened: you have 2 of 2 sessions open. "
        "Yours: early (c/bash, idle for 50 s, 1 runs), late (python, idle for 10 s, 2 runs). "
        "Use one of these, or close one with close_session."
    )


def test_a_further_cell_of_a_session_is_held_to_the_memory_alone() -> None:
    large = Open(memory_bytes=95 * MIB, languages=("python",), busy=True)
    idle = Open("idle", used=20.0, memory_bytes=MIB)
    with pytest.raises(RequestError) as caught:
        tenure.place_for("me", [large], 10 * MIB, 60.0, settings(evict="idle"), further=large)
    assert str(caught.value) == (
        "No further cell was opened for a: the server's sessions hold 95 MiB of their 100 MiB. "
        "Yours: a (python, busy, 1 runs). Use one of these, or close one with close_session."
    )
    few = settings(per_caller=1, max=1, evict="idle")
    assert tenure.place_for("me", [large, idle], 4 * MIB, 60.0, few, further=large) == []
    assert tenure.place_for("me", [large, idle], 5 * MIB, 60.0, few, further=large) == [idle]


def test_a_full_server_tells_a_caller_without_sessions_no_more_than_that() -> None:
    text = refused([Open("secret", caller="other")], max=1)
    assert text == (
        "No session was opened: the server has 1 of 1 sessions open. "
        "None of them is yours; try again later."
    )


def test_the_memory_of_all_sessions_is_bounded() -> None:
    text = refused([Open(memory_bytes=95 * MIB)])
    assert "the server's sessions hold 95 MiB of their 100 MiB" in text
    # One that alone is larger than the budget is no reason to have none at all.
    assert tenure.place_for("me", [], 200 * MIB, 0.0, settings()) == []


def test_sessions_can_be_turned_off() -> None:
    assert "sessions.max is 0" in refused([], max=0)


def test_the_longest_idle_goes_and_never_one_at_work() -> None:
    open_ = [Open("busy", used=0.0, busy=True), Open("old", used=5.0), Open("new", used=9.0)]
    going = tenure.place_for("me", open_, MIB, 60.0, settings(per_caller=3, evict="idle"))
    assert [session.id for session in going] == ["old"]
    assert "busy" in refused([open_[0]], per_caller=1, evict="idle")


def test_at_the_servers_limit_whoever_has_most_gives_way() -> None:
    greedy = [Open(f"g{n}", caller="greedy", used=50.0 + n) for n in range(3)]
    open_ = [Open("mine", used=0.0), *greedy]
    going = tenure.place_for("me", open_, MIB, 60.0, settings(max=4, evict="idle"))
    assert [session.id for session in going] == ["g0"]


SESSIONS = st.lists(
    st.builds(
        Open,
        id=st.text("ab", min_size=1, max_size=3),
        caller=st.sampled_from(["me", "other", "third"]),
        used=st.floats(0, 100),
        busy=st.booleans(),
        memory_bytes=st.integers(0, 120 * MIB),
    ),
    max_size=12,
)


@given(
    open_=SESSIONS, per_caller=st.integers(1, 5), most=st.integers(1, 8),
    evict=st.sampled_from(["never", "idle"]), needed=st.integers(0, 120 * MIB),
)  # fmt: skip
def test_whoever_gets_a_place_passes_no_limit(
    open_: list[Open], per_caller: int, most: int, evict: str, needed: int
) -> None:
    limits = settings(per_caller=per_caller, max=most, evict=evict)
    try:
        going = tenure.place_for("me", open_, needed, 100.0, limits)
    except RequestError:
        assert open_  # there is always room for the first
        return
    left = list(open_)
    for session in going:
        assert not session.busy
        left.remove(session)
    assert evict == "idle" or not going
    assert sum(session.caller == "me" for session in left) < per_caller
    assert len(left) < most
    assert not left or sum(s.memory_bytes for s in left) + needed <= limits.memory


@given(used=st.floats(0, 1e6), opened=st.floats(0, 1e6))
def test_a_session_ends_by_whichever_limit_comes_first(used: float, opened: float) -> None:
    limits = settings(idle_s=10, max_age_s=100)
    due, why = tenure.expiry(Open(used=used, opened=opened), limits)
    assert due == min(used + 10, opened + 100)
    assert ("not used" in why) == (used + 10 <= opened + 100)


FOUND = Kept(boot_id="b", generation=1, alive=True, files=True, died="", memory_bytes=1)


@pytest.mark.parametrize(
    ("found", "interpreter", "kept"),
    [
        (None, True, ()),
        (FOUND, True, ("files", "variables")),
        (FOUND, False, ("files",)),
        (replace(FOUND, alive=False), True, ("files",)),
        (replace(FOUND, files=False), True, ()),
    ],
)
def test_only_what_was_found_is_kept(
    found: Kept | None, interpreter: bool, kept: tuple[str, ...]
) -> None:
    assert tenure.kept(found, interpreter=interpreter) == kept


@pytest.mark.parametrize(
    ("facts", "known", "words"),
    [
        (Facts(ending=Ending.EXITED, exit_code=1, kept=FOUND), 1, None),
        (Facts(ending=Ending.EXITED, exit_code=0, kept=FOUND), 0, None),
        (Facts(ending=Ending.TIMEOUT, signal=2, kept=FOUND), 1, "was interrupted and answered"),
        (
            Facts(ending=Ending.TIMEOUT, signal=9, kept=replace(FOUND, alive=False)), 1,
            "did not stop when it was interrupted and was killed: variables are lost",
        ),
        (
            Facts(ending=Ending.EXITED, signal=9, oom_kills=1, kept=replace(FOUND, alive=False)),
            1, "killed for lack of memory: variables are lost, files are kept",
        ),
        (
            Facts(ending=Ending.EXITED, signal=11, kept=replace(FOUND, alive=False)), 1,
            "ended by signal 11",
        ),
        (
            Facts(ending=Ending.EXITED, exit_code=3, kept=replace(FOUND, alive=False)), 1,
            "The program ended its interpreter (exit code 3)",
        ),
        (
            Facts(
                ending=Ending.EXITED, exit_code=0,
                kept=replace(FOUND, generation=2, died="signal 9"),
            ),
            1, "had ended since the last call (signal 9): this call began without variables",
        ),
    ],
)  # fmt: skip
def test_a_caller_is_told_what_became_of_its_interpreter(
    facts: Facts, known: int, words: str | None
) -> None:
    said = tenure.news(facts, known=known, interpreter=True)
    assert said is None if words is None else words in (said or "")
