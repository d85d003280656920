"""`codecell doctor` and `images list` against the real engine."""

import json

import docker
import pytest

from codecell.cli import run
from codecell.languages import DEFAULT_SET

pytestmark = pytest.mark.docker


def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    status = run(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is (status == 0)
    return status, {row["name"]: row for row in report["checks"]}


def test_a_machine_that_is_set_up_is_healthy(
    engine: docker.APIClient, capsys: pytest.CaptureFixture[str]
) -> None:
    status, rows = examine(capsys)
    assert status == 0
    assert engine.version()["Version"] in rows["engine"]["found"]
    assert {f"image {name}" for name in DEFAULT_SET} <= rows.keys()
    assert all(row["advice"] for row in rows.values() if row["state"] != "ok")


@pytest.mark.usefixtures("engine")
def test_missing_images_make_it_fail_and_name_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODECELL_ENGINE__IMAGE_PREFIX", "codecell-nobody-built-this")
    status, rows = examine(capsys)
    assert status == 1
    for name in DEFAULT_SET:
        assert rows[f"image {name}"]["advice"] == f"run `codecell images build {name}`"


def test_an_absent_engine_makes_it_fail_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/engine.sock")
    status, rows = examine(capsys)
    assert status == 1
    assert rows["engine"]["state"] == "problem"
    assert "DOCKER_HOST" in rows["engine"]["found"]
    assert rows["engine"]["advice"]


@pytest.mark.usefixtures("engine")
def test_a_runtime_that_the_engine_lacks_is_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODECELL_ENGINE__RUNTIME", "no-such-runtime")
    status, rows = examine(capsys)
    assert status == 1
    assert "no-such-runtime" in rows["runtimes"]["advice"]


@pytest.mark.usefixtures("engine")
def test_images_are_listed_with_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["images", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {image["language"] for image in listed["images"]} >= set(DEFAULT_SET)
    monkeypatch.setenv("CODECELL_ENGINE__IMAGE_PREFIX", "codecell-nobody-built-this")
    assert run(["images", "list", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["missing"]) >= set(DEFAULT_SET)
