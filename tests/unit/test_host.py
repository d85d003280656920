"""Starting an engine: what is decided, and how a start that fails is told."""

import os
import signal
import sys
from pathlib import Path

import pytest

from codecell import host
from codecell.errors import ConfigurationError, EngineUnavailable

ROOMY = 100 * host.GIB


class Said:
    """Collects what was reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str, *, detail: bool = False) -> None:
        if not detail:
            self.lines.append(text)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def paths(tmp_path: Path) -> host.EnginePaths:
    (tmp_path / "run/docker/containerd").mkdir(parents=True)
    return host.EnginePaths(run=tmp_path / "run", data=tmp_path / "data", log=tmp_path / "log")


def plan(**changes: object) -> host.Plan:
    facts: dict[str, object] = {
        "answers": False,
        "installed": False,
        "apt": True,
        "root": True,
        "systemd": True,
        "free_bytes": ROOMY,
    }
    return host.plan_engine(**{**facts, **changes})  # type: ignore[arg-type]


def test_where_an_engine_answers_nothing_is_done() -> None:
    assert plan(answers=True, root=False, apt=False, free_bytes=0) == host.Plan()


def test_a_bare_machine_gets_the_distributions_engine() -> None:
    assert plan() == host.Plan(install=host.ENGINE_PACKAGES, start="systemd")


def test_without_systemd_dockerd_is_started_on_its_own() -> None:
    assert plan(systemd=False, installed=True) == host.Plan(start="dockerd")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"root": False}, "as root"),
        ({"root": False, "installed": True}, "takes root to start"),
        ({"apt": False}, "no apt-get; install Docker Engine"),
        ({"free_bytes": host.GIB}, "too full .* 1.0 GiB free .* 2.0 GiB needed"),
    ],
)
def test_what_is_missing_is_said_in_one_line(changes: dict[str, object], words: str) -> None:
    error = plan(**changes).error
    assert "\n" not in error
    with pytest.raises(ConfigurationError, match=words):
        raise ConfigurationError(error)


@pytest.mark.parametrize(
    ("text", "name", "stale"),
    [
        ("12\n", "dockerd", False),
        ("12", "sh", True),
        ("12", None, True),
        ("", "dockerd", True),
        ("x", "dockerd", True),
    ],
)
def test_a_pid_file_is_stale_unless_its_process_is_the_engine(
    text: str, name: str | None, stale: bool
) -> None:
    assert host.is_stale(text, "dockerd", lambda _pid: name) is stale


def test_a_process_is_known_by_its_name() -> None:
    assert host.process_name(os.getpid())
    assert host.process_name(2**22 + 1) is None


def test_only_mounts_below_the_engines_folders_are_left_over(tmp_path: Path) -> None:
    lines = (f"overlay {tmp_path}/{name} overlay rw 0 0" for name in ("d", "d/a", "d/a/b", "dd/x"))
    assert host.leftover_mounts("\n".join(lines), [tmp_path / "d"]) == [
        f"{tmp_path}/d/a/b",
        f"{tmp_path}/d/a",
    ]


def test_the_space_of_a_folder_that_is_not_there_yet_is_its_parents(tmp_path: Path) -> None:
    assert host.free_bytes(tmp_path / "not/yet") > 0


def test_nothing_is_touched_where_an_engine_answers(said: Said) -> None:
    assert host.ensure_engine(lambda: True, said) is False
    assert said.lines == []


def start(
    script: str, paths: host.EnginePaths, said: Said, ready: Path, deadline_s: float = 20
) -> None:
    command = ["sh", "-c", script, "dockerd", str(ready)]
    host.start_dockerd(command, (), ready.exists, said, paths=paths, deadline_s=deadline_s)


def test_a_started_engine_is_detached_and_holds_nothing_of_ours(
    tmp_path: Path, paths: host.EnginePaths, said: Said
) -> None:
    ready, pid_file = tmp_path / "ready", tmp_path / "pid"
    start(f'echo $$ >"{pid_file}"; : >"$1"; exec sleep 60', paths, said, ready)
    pid = int(pid_file.read_text(encoding="utf-8"))
    try:
        assert os.getsid(pid) == pid
        open_files = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        assert open_files == {"/dev/null", str(paths.log)}
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert said.lines == ["starting the engine (dockerd)"]


def test_an_engine_that_gives_up_is_tried_twice_and_quoted(
    tmp_path: Path, paths: host.EnginePaths, said: Said
) -> None:
    with pytest.raises(EngineUnavailable, match=r"did not start \(no iptables here\)") as caught:
        start("echo starting; echo no iptables here >&2; exit 1", paths, said, tmp_path / "ready")
    assert str(paths.log) in str(caught.value)
    assert said.lines == [
        "starting the engine (dockerd)",
        "clearing what a killed engine left behind",
        "starting the engine again",
    ]


def test_an_engine_that_needs_a_clean_slate_starts_at_the_second_attempt(
    tmp_path: Path, paths: host.EnginePaths, said: Said
) -> None:
    leftover = paths.run / "docker/containerd/state"
    leftover.write_text("", encoding="utf-8")
    ready = tmp_path / "ready"
    start(f'test -e "{leftover}" && exit 1; : >"$1"', paths, said, ready)
    assert said.lines[-1] == "starting the engine again"


def test_an_engine_that_never_answers_is_given_up_at_the_deadline(
    tmp_path: Path, paths: host.EnginePaths, said: Said
) -> None:
    with pytest.raises(EngineUnavailable, match=r"did not start \(it said nothing"):
        start("exec sleep 60", paths, said, tmp_path / "ready", deadline_s=0.1)


def test_a_stale_pid_file_is_removed_before_the_engine_starts(
    tmp_path: Path, paths: host.EnginePaths, said: Said
) -> None:
    stale, ready = paths.run / "docker.pid", tmp_path / "ready"
    stale.write_text(str(os.getpid()), encoding="utf-8")
    start(f'test -e "{stale}" && exit 1; : >"$1"', paths, said, ready)
    assert said.lines[0] == "removing the stale docker.pid of a killed engine"


@pytest.mark.skipif(sys.platform != "linux", reason="apt is Debian's")
def test_an_apt_that_fails_is_quoted(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "apt-get"
    fake.write_text("#!/bin/sh\necho E: Unable to locate package\nexit 100\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(EngineUnavailable, match=r"apt-get install docker\.io failed \(E: Unable"):
        host.install_packages(["docker.io"], said, prefix=())


def test_without_apt_the_package_is_named(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="mmdebstrap missing and no apt-get here"):
        host.install_packages(["mmdebstrap"], said, prefix=())
