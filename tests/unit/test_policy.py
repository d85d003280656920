"""Every refusal is one sentence that lets a model correct itself, and nothing asked for widens."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell import policy
from codecell.errors import RequestError
from codecell.languages import LANGUAGES
from codecell.model import Case, Input, Launch, Plan, Request
from codecell.settings import LimitSettings, PoolSettings, Settings

SETTINGS = Settings.model_construct(
    limits=LimitSettings.model_validate({"code": 1000, "stdin": 500, "max_timeout_s": 60})
)


def plan(code: str = "print(1)", language: str = "python", **more: Any) -> Plan:
    return policy.plan(Request(language=language, code=code, **more), SETTINGS)


def refusal(**request: Any) -> str:
    with pytest.raises(RequestError) as raised:
        plan(**request)
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 330
    return text


# --- language


@pytest.mark.parametrize(
    ("name", "language"),
    [(name, x.id) for x in LANGUAGES.values() for name in (x.id, *x.aliases)]
    + [("Python", "python"), (" JS ", "javascript"), ("BASH", "bash")],
)
def test_a_language_is_found_by_its_name_and_aliases(name: str, language: str) -> None:
    assert plan(language=name).language == language


def test_no_two_languages_share_a_name_or_an_extension() -> None:
    names = [name for x in LANGUAGES.values() for name in (x.id, *x.aliases)]
    assert len(names) == len(set(names))
    extensions = [extension for x in LANGUAGES.values() for extension in x.extensions]
    assert len(extensions) == len(set(extensions))


@pytest.mark.parametrize(
    ("name", "near"),
    [("pyton", "python"), ("javascrip", "javascript"), ("nod", "javascript"), ("bsh", "bash")],
)
def test_an_unknown_language_lists_those_there_are_and_the_nearest(name: str, near: str) -> None:
    text = refusal(language=name)
    assert f"language {name!r} is not supported" in text
    assert ", ".join(LANGUAGES) in text
    assert text.endswith(f"Did you mean {near!r}?")


@pytest.mark.parametrize("name", ["", "cobol-85", "\n", "x" * 5000, "\ud800", "python\0"])
def test_a_language_like_no_other_gets_no_suggestion_it_could_not_mean(name: str) -> None:
    text = refusal(language=name)
    assert ", ".join(LANGUAGES) in text
    assert "\0" not in text
    text.encode()


# --- texts


@pytest.mark.parametrize("code", ["", " ", "\n\t\r\n", "\u3000"])
def test_empty_code_is_refused(code: str) -> None:
    assert refusal(code=code) == "code is empty: send the source text of a complete program"


@pytest.mark.parametrize(("field", "most"), [("code", 1000), ("stdin", 500)])
def test_sizes_are_counted_in_bytes_and_named_with_their_limit(field: str, most: int) -> None:
    plan(**{field: "x" * most})
    plan(**{field: "é" * (most // 2)})
    assert refusal(**{field: "x" * (most + 1)}) == (
        f"{field} is {most + 1:,} bytes; at most {most:,} are accepted"
    )
    assert field in refusal(**{field: "é" * (most // 2 + 1)})


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"code": "a\ud800"}, "code"),
        ({"stdin": "a\udfff"}, "stdin"),
        ({"args": ("ok", "a\ud800")}, "args[1]"),
        ({"env": (("A", "a\ud800"),)}, "env['A']"),
    ],
)
def test_half_a_surrogate_pair_is_refused_where_it_is(request_: Any, field: str) -> None:
    text = refusal(**request_)
    assert text.startswith(f"{field} has a lone surrogate at character 1")


# --- timeout


@pytest.mark.parametrize("timeout", [0, -1, -0.0, 60.01, 1e300, math.inf, -math.inf, math.nan])
def test_a_timeout_out_of_range_names_the_range(timeout: float) -> None:
    assert refusal(timeout_s=timeout) == (
        "timeout must be a number of seconds above 0 and at most 60 (the configured ceiling); "
        "leave it out for 30"
    )


@pytest.mark.parametrize(("asked", "got"), [(None, 30), (0.001, 0.001), (60, 60), (5, 5)])
def test_a_timeout_within_range_is_applied_as_asked(asked: float | None, got: float) -> None:
    made = plan(timeout_s=asked)
    assert made.limits.timeout_s == got
    assert [step.timeout_s for step in made.steps] == [got]


# --- arguments and environment


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("x",) * 257, "args has 257 entries; at most 256 are accepted"),
        (("a", "b\0"), "args[1] contains a NUL character"),
        (("x" * 65537,), "args[0] is 65,537 bytes; at most 65,536 are accepted"),
        (("x" * 40_000,) * 2, "args is larger than 65,536 bytes in all"),
    ],
    ids=["many", "NUL", "one large", "large together"],
)
def test_arguments_past_their_limits_are_refused(args: tuple[str, ...], said: str) -> None:
    assert said in refusal(args=args)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A B", "Ä", "A\0", "A\n", "-", "{"])
def test_a_bad_name_in_the_environment_is_refused(name: str) -> None:
    text = refusal(env=((name, "x"),))
    assert text.startswith(f"env name {name!r} is not valid: use letters, digits and _")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (tuple((f"A{i}", "") for i in range(129)), "env has 129 entries; at most 128"),
        ((("A", "b\0"),), "env['A'] contains a NUL character"),
        ((("A", "x" * 65537),), "env['A'] is 65,537 bytes; at most 65,536"),
        ((("A", "x" * 40_000), ("B", "x" * 40_000)), "env is larger than 65,536 bytes in all"),
        ((("A" * 70_000, ""),), "env is larger than 65,536 bytes in all"),
    ],
    ids=["many", "NUL", "one large", "large together", "large name"],
)
def test_an_environment_past_its_limits_is_refused(env: Any, said: str) -> None:
    assert said in refusal(env=env)


def test_arguments_and_environment_arrive_as_they_are() -> None:
    made = plan(args=("", "a b", "'$(x)", "é\n"), env=(("A", ""), ("_b1", "x\ny")))
    (step,) = made.steps
    assert step.argv == ("/usr/bin/python3", "/sandbox/main.py", "", "a b", "'$(x)", "é\n")
    assert step.env == (("A", ""), ("_b1", "x\ny"))


def test_braces_in_an_argument_are_not_substituted() -> None:
    assert plan(args=("{main}",)).steps[0].argv[-1] == "{main}"


# --- how it is run


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("python", "PYTHONHASHSEED"),
        ("python", "PYTHONUNBUFFERED"),
        ("python", "LC_ALL"),
        ("python", "TZ"),
        ("javascript", "NODE_OPTIONS"),
        ("javascript", "NODE_PATH"),
        ("javascript", "LANG"),
        ("bash", "BASH_ENV"),
        ("bash", "SHELLOPTS"),
        ("bash", "IFS"),
    ],
)
def test_a_variable_that_only_a_fresh_start_obeys_gets_one(language: str, name: str) -> None:
    assert LANGUAGES[language].launch is not Launch.EXEC
    assert plan(language=language, env=((name, "1"),)).steps[0].launch is Launch.EXEC
    assert plan(language=language, env=(("MY_" + name, "1"),)).steps[0].launch is not Launch.EXEC


@pytest.mark.parametrize("language", ["r", "octave"])
def test_what_an_interpreter_fixes_as_it_starts_gets_a_fresh_one(language: str) -> None:
    def launch(**fields: Any) -> Launch:
        return plan(language=language, **fields).steps[0].launch

    file = Input(path=f"other{LANGUAGES[language].extensions[0]}", content=b"1")
    assert launch() is Launch.STANDBY
    assert launch(files=(file,), stdin="x") is Launch.STANDBY
    assert launch(tests=(Case(stdin=b"1"),)) is Launch.STANDBY
    assert launch(args=("x",)) is Launch.EXEC
    assert launch(env=(("MINE", "1"),)) is Launch.EXEC
    assert launch(session_id="mine") is Launch.EXEC
    assert launch(tests=(Case(), Case(args=("x",)))) is Launch.EXEC
    assert launch(code="", files=(file,), entrypoint=file.path) is Launch.EXEC


def test_what_is_told_nothing_later_starts_with_its_languages_environment() -> None:
    standby = policy.cell_spec(LANGUAGES["r"], SETTINGS).standby
    assert standby is not None
    assert standby.command == ("/usr/bin/Rscript", "--vanilla", "/sandbox/main.R")
    assert dict(standby.env) == {"XDG_CACHE_HOME": "/tmp", "R_TESTS": "/tmp/.standby.R"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_program_is_the_languages_file_in_the_sandbox(language: str) -> None:
    made = plan("é\r\n", language, stdin="s")
    (file,) = made.files
    assert file.path == LANGUAGES[language].file_name
    assert file.content == "é\r\n".encode()
    assert made.main == f"/sandbox/{file.path}"
    assert any(made.main in word for word in made.steps[0].argv)
    assert made.stdin == b"s"
    assert made.steps[-1].kind == "run"


# --- nothing widens

requests = st.builds(
    Request,
    language=st.sampled_from(list(LANGUAGES)),
    code=st.text(min_size=1, max_size=200),
    stdin=st.text(max_size=100),
    args=st.lists(st.text(max_size=9), max_size=5).map(tuple),
    env=st.lists(
        st.tuples(st.from_regex(r"[A-Z_]{1,9}", fullmatch=True), st.text(max_size=9)), max_size=4
    ).map(tuple),
    timeout_s=st.none() | st.floats(),
    caller=st.text(max_size=9),
)


@given(requests)
def test_whatever_is_asked_for_is_refused_or_stays_within_the_limits(request: Request) -> None:
    try:
        made = policy.plan(request, SETTINGS)
    except RequestError:
        return
    limits = SETTINGS.limits
    assert 0 < made.limits.timeout_s <= limits.max_timeout_s
    assert made.limits.output_chars == limits.output_chars
    assert made.limits.output_kill_bytes == limits.output_kill
    # The cell, and with it every wall, follows from language and settings alone.
    assert made.cell == policy.cell_spec(LANGUAGES[made.language], SETTINGS)
    assert made.caller == request.caller


def test_a_cell_is_the_same_for_everyone_who_asks_for_a_language() -> None:
    first = plan(env=(("A", "1"),), args=("x",), timeout_s=1, caller="a")
    assert first.cell == plan("other", stdin="x", caller="b").cell
    assert hash(first.cell) == hash(plan("other").cell)


def test_a_languages_own_limits_never_pass_the_ceilings() -> None:
    hungry = replace(LANGUAGES["python"], memory_bytes=2**40, pids=10**6)
    limits = policy.cell_spec(hungry, SETTINGS).limits
    assert limits.memory_bytes == SETTINGS.limits.max_memory
    assert limits.pids == SETTINGS.limits.max_processes


def test_the_operators_settings_reach_the_cell() -> None:
    settings = Settings.model_construct(
        limits=LimitSettings.model_validate({"memory": "512 MiB", "cpus": 1.5, "processes": 9}),
        pool=PoolSettings(reuse="caller"),
    )
    settings = settings.model_copy(
        update={"engine": settings.engine.model_copy(update={"runtime": "runsc"})}
    )
    spec = policy.cell_spec(LANGUAGES["bash"], settings)
    assert (spec.limits.memory_bytes, spec.limits.cpus, spec.limits.pids) == (512 * 2**20, 1.5, 9)
    assert (spec.runtime, spec.reuse, spec.image) == ("runsc", "caller", "codecell/bash:latest")


def test_a_request_has_no_field_that_could_name_a_wall() -> None:
    known = {
        "language", "code", "stdin", "args", "env", "files", "entrypoint", "timeout_s", "caller",
        "session_id", "max_output_tokens", "idempotency_key", "tests", "stop_on_failure",
    }  # fmt: skip
    assert {field.name for field in fields(Request)} == known
