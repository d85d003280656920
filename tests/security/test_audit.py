"""The audit log of real runs, its commands, and a disk that is full."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

pytestmark = pytest.mark.docker

Codecell = Callable[..., subprocess.CompletedProcess[str]]
LABEL = "codecell.owner"


@pytest.fixture
def codecell(engine: docker.APIClient, tmp_path: Path) -> Codecell:
    del engine
    (tmp_path / "codecell.toml").write_text("[audit]\nfolder = 'log'\n", encoding="utf-8")

    def run(
        *arguments: str, file_bytes: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        def small_disk() -> None:
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        return subprocess.run(
            [sys.executable, "-m", "codecell", *arguments], capture_output=True, text=True,
            timeout=120, check=False, cwd=tmp_path, preexec_fn=small_disk,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )  # fmt: skip

    return run


@pytest.mark.requirement("audit:complete")
@pytest.mark.requirement("audit:tampering")
@pytest.mark.requirement("audit:no-injection")
def test_real_runs_are_shown_verified_and_a_change_is_found(
    codecell: Codecell, tmp_path: Path
) -> None:
    code = "print('forged', end='\\r\\n{\"seq\":1}\\u2028\\x1b[2J')"
    done = codecell("execute", "--output-format", "json", code)
    run_id = json.loads(done.stdout)["run_id"]
    assert codecell("execute", "-t", "0.3", "while True: pass").returncode == 124
    shown = codecell("audit", "show", run_id)
    assert shown.returncode == 0
    assert '"verdict": "success"' in shown.stdout
    assert '"image_digest": "sha256:' in shown.stdout
    assert codecell("audit", "show", "0" * 16).returncode == 1
    tail = codecell("audit", "tail", "-n", "50").stdout
    events = [json.loads(line)["event"] for line in tail.splitlines()]
    assert events.count("run.ended") == events.count("run.admitted") == 2
    assert '"limit":"timeout"' in tail
    assert "forged" not in tail
    whole = codecell("audit", "verify")
    assert (whole.returncode, "audit.0: whole, " in whole.stdout) == (0, True)
    anchor = whole.stdout.split("ends ")[1].strip()
    assert codecell("audit", "verify", "--expect", anchor).returncode == 0
    log = tmp_path / "log" / "audit.0.jsonl"
    text = log.read_text()
    log.write_text(text.replace('"limit":"timeout"', '"limit":"memory!"'))
    found = codecell("audit", "verify")
    assert found.returncode == 1
    assert "the line before this one was changed" in found.stdout
    log.write_text("".join(text.splitlines(keepends=True)[:-1]))
    cut = codecell("audit", "verify", "--json")
    assert cut.returncode == 1
    assert json.loads(cut.stdout)["audit.0"]["problems"] == ["1 line at the end is missing"]


@pytest.mark.requirement("audit:failure")
def test_a_full_disk_runs_nothing_or_runs_on_with_an_alarm_as_chosen(
    codecell: Codecell, tmp_path: Path
) -> None:
    refused = codecell("execute", "print('it ran')", file_bytes=400)
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "setup_error: the audit log can't be written: File too large" in refused.stderr
    ran = codecell(
        "execute", "-v", "print('it ran')", file_bytes=400, CODECELL_AUDIT__ON_FAILURE="continue"
    )
    assert (ran.returncode, ran.stdout) == (0, "it ran\n")
    assert "the audit log can't be written" in ran.stderr
    assert "audit records lost" in ran.stderr, ran.stderr
    verified = codecell("audit", "verify")
    assert verified.returncode == 0, verified.stdout
