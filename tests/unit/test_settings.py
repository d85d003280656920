"""The configuration: flags over environment over file, and whatever is wrong is named."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from codecell.errors import ConfigurationError
from codecell.settings import CallerSettings, LanguageSettings, Settings, load, rows
from codecell.settings.policies import PolicySettings


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("CODECELL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "codecell.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_configured_is_the_documented_default() -> None:
    limits = load().limits
    assert (limits.timeout_s, limits.max_timeout_s) == (30, 300)
    assert (limits.memory, limits.cpus, limits.processes) == (256 * 2**20, 0.5, 50)
    assert limits.output_chars == 100_000


def test_flags_win_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("[limits]\ntimeout_s = 1\nprocesses = 11\ncpus = 0.1\n[runs]\nconcurrent = 3\n")
    monkeypatch.setenv("CODECELL_LIMITS__TIMEOUT_S", "2")
    monkeypatch.setenv("CODECELL_LIMITS__PROCESSES", "12")
    settings = load(flags={"limits": {"timeout_s": 3}})
    assert settings.limits.timeout_s == 3  # flag
    assert settings.limits.processes == 12  # environment
    assert settings.limits.cpus == 0.1  # file
    assert settings.runs.concurrent == 3
    assert settings.runs.queue == 64  # default


def test_the_file_in_the_working_directory_is_taken_unless_another_is_named() -> None:
    write("[runs]\nconcurrent = 3\n")
    other = write("[runs]\nqueue = 5\n", "other.toml")
    assert load().runs.concurrent == 3
    named = load(other)
    assert (named.runs.concurrent, named.runs.queue) == (8, 5)


def test_sizes_are_written_as_people_write_them() -> None:
    write('[limits]\nmemory = "512 MiB"\ncode = "10kB"\nstdin = 2048\n')
    limits = load().limits
    assert (limits.memory, limits.code, limits.stdin) == (512 * 2**20, 10_000, 2048)


def test_lists_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECELL_POOL__LANGUAGES", '["bash"]')
    assert load().pool.languages == ("bash",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\ntimeout = 5\n", "limits.timeout: unknown key"),
        ("[limit]\ntimeout_s = 5\n", "limit: unknown key"),
        ("timeout_s = 5\n", "timeout_s: unknown key"),
        ("[limits]\ntimeout_s = 'soon'\n", "limits.timeout_s: "),
        ("[limits]\ntimeout_s = 0\n", "limits.timeout_s: "),
        ("[limits]\ntimeout_s = -1\n", "limits.timeout_s: "),
        ("[limits]\ntimeout_s = nan\n", "limits.timeout_s: "),
        ("[limits]\ntimeout_s = inf\n", "limits.timeout_s: "),
        ("[limits]\nmemory = 0\n", "limits.memory: "),
        ("[limits]\nmemory = inf\n", "limits.memory: must be a finite size"),
        ("[limits]\nmemory = 'much'\n", "limits.memory: "),
        ("[limits]\nprocesses = 0\n", "limits.processes: "),
        ("[limits]\nprocesses = 1.5\n", "limits.processes: "),
        ("[runs]\nqueue = -1\n", "runs.queue: "),
        (
            "[pool]\nlanguages = ['cobol']\n",
            "pool.languages: unknown language 'cobol'; known: python",
        ),
        ("[engine]\nimage_prefix = 'UPPER'\n", "engine.image_prefix: "),
        ("[log]\nlevel = 'loud'\n", "log.level: "),
        ("limits = 5\n", "limits: "),
    ],
    ids=lambda value: value.strip().replace("\n", " ")[:40],
)
def test_a_wrong_value_is_named_with_its_key(text: str, said: str) -> None:
    path = write(text)
    with pytest.raises(ConfigurationError) as raised:
        load(path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timeout_s = 400", "limits.timeout_s is larger than its ceiling limits.max_timeout_s"),
        ("memory = '3 GiB'", "limits.memory is larger than its ceiling limits.max_memory"),
        ("cpus = 3", "limits.cpus is larger than its ceiling limits.max_cpus"),
        ("processes = 600", "limits.processes is larger than its ceiling limits.max_processes"),
        ("output_chars = 500000", "limits.output_chars is larger than its ceiling"),
        ("sandbox = '2 GiB'", "limits.sandbox and limits.tmp together are larger than"),
        (
            "memory = '64 MiB'",
            "limits.sandbox and limits.tmp together must stay below limits.memory",
        ),
    ],
)
def test_a_contradiction_names_both_sides(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(write(f"[limits]\n{text}\n"))
    assert said in str(raised.value)
    assert str(raised.value).count("limits: ") <= 1


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(write("[limits]\ntimeout = 5\n[runs]\nqueue = -1\n"))
    assert "limits.timeout: unknown key; runs.queue: " in str(raised.value)


def test_an_unknown_key_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECELL_LIMITS__TIMEOUT", "5")
    with pytest.raises(ConfigurationError, match=r"limits\.timeout: unknown key"):
        load()


def test_an_unknown_section_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECELL_LIMTS__TIMEOUT_S", "5")
    with pytest.raises(ConfigurationError, match="CODECELL_LIMTS__TIMEOUT_S: unknown"):
        load()


def test_a_file_that_is_named_but_not_there_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml does not exist"):
        load(Path("nowhere.toml"))


def test_a_file_that_is_no_toml_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"codecell\.toml is not valid TOML"):
        load(write("[limits\n"))


def test_a_file_that_is_no_text_is_an_error() -> None:
    Path("codecell.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"codecell\.toml"):
        load()


def test_a_bad_value_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECELL_POOL__LANGUAGES", "python")
    with pytest.raises(ConfigurationError, match=r'"pool".*a list is written as \["a", "b"\]'):
        load()


def test_settings_never_change() -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.limits.timeout_s = 5  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.limits = settings.limits  # type: ignore[misc]


NAMED = {
    "languages.NAME": LanguageSettings,
    "callers.NAME": CallerSettings,
    "policies.NAME": PolicySettings,
}


def test_every_setting_has_a_row_with_a_meaning() -> None:
    found = {key: (default, meaning) for key, default, meaning in rows()}
    assert found["limits.timeout_s"] == ("30", "Default time limit of a run, in seconds")
    assert found["limits.memory"][0] == "256MiB"
    assert found["engine.host"][0] == "(none)"
    settings: Any = Settings.model_construct()
    for key, (_, meaning) in found.items():
        section, name = key.rsplit(".", 1)
        if section in NAMED:  # an operator's own entries: there is none yet
            assert name in NAMED[section].model_fields
        else:
            assert hasattr(getattr(settings, section), name)
        assert meaning
