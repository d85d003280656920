"""The doctor's judgements, over facts that no machine has to have."""

from pathlib import Path

import pytest

from codecell import doctor
from codecell.backends.docker.building import count_instructions, extract_version, read_proof
from codecell.backends.docker.connect import DEFAULT_ADDRESS, locate, read_facts
from codecell.cli import COMMANDS, run
from codecell.doctor import State
from codecell.errors import EngineUnavailable, SandboxError
from codecell.sandbox import Image
from codecell.settings import EngineSettings


@pytest.mark.parametrize(
    ("version", "sound"),
    [
        ("1.1.5+ds1", False),
        ("1.2.7", False),
        ("1.2.8", True),
        ("1.3.2", False),
        ("1.3.3", True),
        ("1.4.0", True),
        ("1.5.1", True),
        ("2.0.0", True),
        ("", False),
    ],
)
def test_a_runc_is_judged_by_its_own_branch(version: str, sound: bool) -> None:
    assert doctor.runc_is_sound(version) is sound


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("19.03.15", State.PROBLEM),
        ("20.10.24+dfsg1", State.WARNING),
        ("29.4.3", State.OK),
        ("30.0.0", State.OK),
    ],
)
def test_an_engine_is_judged_by_its_age(version: str, state: State) -> None:
    rows = doctor.check_engine(version=version, api_version="", system="", kernel="", address="")
    assert [row.state for row in rows] == [state]


def confinement(**changes: object) -> dict[str, State]:
    facts: dict[str, object] = {
        "runc_version": "1.4.0",
        "cgroup_version": "2",
        "runtimes": ("runc",),
        "default_runtime": "runc",
        "wanted_runtime": None,
        "security_options": ("name=seccomp,profile=default",),
        "missing_limits": (),
    }
    rows = doctor.check_confinement(**{**facts, **changes})  # type: ignore[arg-type]
    return {row.name: row.state for row in rows}


def test_a_sound_engine_has_no_problem() -> None:
    assert set(confinement().values()) == {State.OK}


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"wanted_runtime": "runsc"}, "runtimes"),
        ({"security_options": ()}, "security options"),
        ({"missing_limits": ("memory",)}, "limits"),
    ],
)
def test_what_a_cell_cannot_do_without_is_a_problem(changes: dict[str, object], row: str) -> None:
    assert confinement(**changes)[row] is State.PROBLEM


def image(*, current: bool) -> Image:
    return Image("bash", "codecell/bash:latest", "sha256:0", "5.2", (), 1, current)


def test_a_missing_image_is_a_problem_that_names_the_command() -> None:
    (row,) = doctor.check_images(["bash"], {}, essential=["bash"])
    assert (row.state, row.advice) == (State.PROBLEM, "run `codecell images build bash`")


def test_an_outdated_image_is_a_warning() -> None:
    (row,) = doctor.check_images(["bash"], {"bash": image(current=False)}, essential=["bash"])
    assert row.state is State.WARNING


def test_only_a_problem_makes_a_machine_unhealthy() -> None:
    warning = doctor.check_images(["bash"], {}, essential=[])
    assert doctor.healthy(warning)
    assert not doctor.healthy([doctor.check_python((3, 10, 4))])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Python 3.13.5", "3.13.5"),
        ("v20.19.2\n", "20.19.2"),
        ("GNU bash, version 5.2.37(1)-release", "5.2.37"),
        ("go version go1.24.4 linux/amd64", "1.24.4"),
        ("This is perl 5, version 40, subversion 1 (v5.40.1)", "5.40.1"),
        ("ghc 9", "9"),
    ],
)
def test_the_version_is_found_in_what_a_program_says(text: str, version: str) -> None:
    assert extract_version(text) == version


def test_a_self_test_that_prints_something_else_is_refused() -> None:
    text = '{"steps": [[0, "hi", ""]], "version": [0, "1.0", ""], "packages": [0, "", ""]}'
    with pytest.raises(SandboxError, match="printed 'hi', not 'hello from bash'"):
        read_proof("bash", text)


@pytest.mark.parametrize("text", ["", "[]", "Killed", '{"steps": []}'])
def test_a_self_test_that_did_not_run_is_refused(text: str) -> None:
    with pytest.raises(SandboxError, match="self-test of bash did not run"):
        read_proof("bash", text)


def test_instructions_are_counted_as_the_engine_counts_them() -> None:
    assert count_instructions("# a\nARG B\nFROM ${B}\n\nRUN a \\\n  b \\\n  c\nLABEL x=y\n") == 4


def test_the_engine_is_found_in_the_docker_clis_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    env = {"DOCKER_HOST": "unix:///two", "DOCKER_CONTEXT": "three"}
    assert locate(EngineSettings(host="unix:///one"), env).address == "unix:///one"
    assert locate(EngineSettings(), env).address == "unix:///two"
    assert locate(EngineSettings(), {}).address == DEFAULT_ADDRESS
    with pytest.raises(EngineUnavailable, match="context three does not exist"):
        locate(EngineSettings(), {"DOCKER_CONTEXT": "three"})


def test_an_engine_that_says_little_is_read_without_failing() -> None:
    assert read_facts({}, {}).host.lacks == ()
    assert read_facts({}, {"MemoryLimit": False}).host.lacks == ("memory",)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("arguments", [["nonsense"], ["--config", "/nonexistent", "setup"]])
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1]


def test_an_absent_engine_is_one_line_and_status_125(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/engine.sock")
    assert run(["images", "list"]) == 125
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("codecell: no container engine answers at unix:///nonexistent")


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("1.6.20~ds1", doctor.State.WARNING),
        ("1.7.28", doctor.State.WARNING),
        ("1.7.29", doctor.State.OK),
        ("v2.1.4", doctor.State.WARNING),
        ("2.2.0", doctor.State.OK),
        ("3.0.0", doctor.State.OK),
    ],
)
def test_containerd_is_judged_by_its_own_branch(version: str, state: doctor.State) -> None:
    (check,) = doctor.check_containerd(version)
    assert check.state is state


def test_an_engine_that_does_not_tell_its_containerd_is_not_judged_by_it() -> None:
    assert doctor.check_containerd("") == []


@pytest.mark.parametrize(
    ("kernel", "seccomp", "state", "words"),
    [
        ("shared", True, doctor.State.OK, "the host's own kernel, our system call filter"),
        ("gvisor", True, doctor.State.OK, "gVisor's kernel, our system call filter"),
        ("gvisor", False, doctor.State.WARNING, "gVisor's kernel, no system call filter"),
        ("guest", True, doctor.State.OK, "a virtual machine's kernel"),
    ],
)
def test_walls_are_told_as_they_are(
    kernel: str, seccomp: bool, state: doctor.State, words: str
) -> None:
    check = doctor.check_walls(kernel=kernel, seccomp=seccomp, apparmor=False, user_namespace=False)
    assert check.state is state
    assert check.found.startswith(words)
