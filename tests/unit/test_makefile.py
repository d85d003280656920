"""The two commands' own parts: the locks, and what CI runs."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")


def pinned(lock: str) -> dict[str, str]:
    text = (ROOT / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_and_hashes_everything(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[a-z0-9.-]+==\S+ \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+$", entry)


def test_the_locks_agree_and_hold_all_that_pyproject_asks_for() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    run, dev = (pinned(lock) for lock in LOCKS)
    assert run.items() <= dev.items()
    names = [re.split(r"[<>=!~ \[;]", item)[0] for item in table["project"]["dependencies"]]
    assert set(names) <= run.keys()
    wanted = [re.split(r"[<>=!~ \[;]", item)[0] for item in table["dependency-groups"]["dev"]]
    assert set(wanted) <= dev.keys()


def test_ci_runs_exactly_the_command_that_people_run() -> None:
    last = (ROOT / ".ci/run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert last == "CI=true exec make test"
