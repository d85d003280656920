"""Whose container is it, and does that process still live? In doubt it does."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.backends.docker import owners
from codecell.backends.docker.owners import LABEL_INSTANCE, LABEL_OWNER, Owner, abandoned


def owner_of_a_dead_process() -> Owner:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = replace(Owner.current(), pid=process.pid, started=_started(process.pid))
        assert not found.is_dead()
    return found


def _started(pid: int) -> str:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return text.rpartition(")")[2].split()[19]


def test_this_process_is_alive_and_survives_its_label() -> None:
    owner = Owner.current()
    assert owner.pid == os.getpid()
    assert Owner.parse(owner.label()) == owner
    assert not owner.is_dead()


def test_a_process_that_ended_is_dead() -> None:
    assert owner_of_a_dead_process().is_dead()


def test_a_pid_that_was_used_again_does_not_bring_its_owner_back() -> None:
    assert replace(Owner.current(), started="1").is_dead()


def test_an_owner_from_before_the_last_boot_is_dead() -> None:
    assert replace(Owner.current(), boot="another").is_dead()


def test_an_owner_in_another_pid_namespace_is_left_alone() -> None:
    assert not replace(Owner.current(), namespace="1", pid=2**30).is_dead()


def test_a_process_that_proc_does_not_show_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `hidepid`, or `ProtectProc=invisible` of systemd, for a server of another user."""
    dead = owner_of_a_dead_process()
    monkeypatch.setattr(owners, "_started", lambda _: None)
    assert not Owner.current().is_dead()
    assert not replace(Owner.current(), pid=1).is_dead()
    assert dead.is_dead()


def test_where_this_boot_is_not_known_everybody_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with `ProcSubset=pid` of systemd."""
    monkeypatch.setattr(owners, "_boot", lambda: "unknown")
    assert not replace(Owner.current(), boot="another").is_dead()


def test_what_a_dead_owner_left_is_abandoned() -> None:
    labels = {LABEL_INSTANCE: "other", LABEL_OWNER: owner_of_a_dead_process().label()}
    assert abandoned(labels, "mine")


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="not ours"),
        pytest.param({LABEL_INSTANCE: "other"}, id="no owner"),
        pytest.param({LABEL_INSTANCE: "other", LABEL_OWNER: ""}, id="empty owner"),
        pytest.param({LABEL_INSTANCE: "other", LABEL_OWNER: "a/b/c/d"}, id="no pid"),
        pytest.param({LABEL_INSTANCE: "other", LABEL_OWNER: "a/b/1"}, id="too short"),
        pytest.param({LABEL_INSTANCE: "other", LABEL_OWNER: "a/b/1/2/3"}, id="too long"),
        pytest.param(
            {LABEL_INSTANCE: "other", LABEL_OWNER: Owner.current().label()}, id="a live sibling"
        ),
    ],
)
def test_in_doubt_nothing_is_abandoned(labels: dict[str, str]) -> None:
    assert not abandoned(labels, "mine")


def test_an_instance_never_abandons_its_own() -> None:
    labels = {LABEL_INSTANCE: "mine", LABEL_OWNER: replace(Owner.current(), boot="another").label()}
    assert not abandoned(labels, "mine")


@given(st.text(max_size=60))
def test_any_label_can_be_read(label: str) -> None:
    owner = Owner.parse(label)
    assert owner is None or owner.label() == label or not label.isascii() or owner.pid >= 0
    abandoned({LABEL_OWNER: label}, "mine")
