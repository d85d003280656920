"""The wire contract: strict input, one sentence per mistake, schemas that models can read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from codecell import policy
from codecell.contract import explain, schema_of
from codecell.languages import LANGUAGES
from codecell.model import Captured, Isolation, LanguageInfo, Outcome, Request, Status, Usage
from codecell.settings import Settings
from codecell.translation import from_languages, from_outcome, to_request
from codecell.wire import (
    ExecuteCodeInput,
    ExecuteCodeOutput,
    ListLanguagesInput,
    ListLanguagesOutput,
)

MINIMAL = {"language": "python", "code": "print(1)"}
RESULT_FIELDS = {
    "run_id", "status", "exit_code", "signal", "stdout", "stderr", "stdout_bytes", "stderr_bytes",
    "stdout_truncated", "stderr_truncated", "stdout_repaired", "stderr_repaired", "execution_time",
    "error_message", "compile", "files", "session", "usage", "limits", "isolation",
    "stdout_elided_bytes",
    "stderr_elided_bytes", "stdout_sha256", "stderr_sha256", "stdout_resource", "stderr_resource",
    "stdout_resource_bytes", "stderr_resource_bytes",
    "result", "displays", "tests",
}  # fmt: skip


def refusal(arguments: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        ExecuteCodeInput.model_validate(arguments)
    return explain(caught.value, ExecuteCodeInput)


def test_the_least_that_can_be_sent() -> None:
    request = to_request(ExecuteCodeInput.model_validate(MINIMAL), "alice")
    assert request == Request(language="python", code="print(1)", caller="alice")


def test_everything_that_can_be_sent() -> None:
    sent = {**MINIMAL, "stdin": "{}", "args": ["a", ""], "env": {"A": "1", "B": ""}, "timeout": 2}
    request = to_request(ExecuteCodeInput.model_validate(sent), "local")
    assert (request.stdin, request.args) == ("{}", ("a", ""))
    assert request.env == (("A", "1"), ("B", ""))
    assert request.timeout_s == 2.0


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", "null", "true", "7", '"quoted"'])
def test_text_that_looks_like_json_stays_text(text: str) -> None:
    given_ = ExecuteCodeInput.model_validate({**MINIMAL, "stdin": text, "code": text})
    assert (given_.stdin, given_.code) == (text, text)


@pytest.mark.parametrize(
    "value", [0, -1, -1e300, float("nan"), float("inf"), float("-inf"), True, False, "5", [5], {}]
)
def test_a_bad_timeout_is_one_clear_sentence(value: object) -> None:
    text = refusal({**MINIMAL, "timeout": value})
    assert text.startswith("timeout must be a finite number of seconds greater than 0, such as 10")
    assert text.count("timeout") == 1
    assert text.endswith(".")
    assert "\n" not in text


def test_a_null_timeout_is_the_default() -> None:
    assert ExecuteCodeInput.model_validate({**MINIMAL, "timeout": None}).timeout is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"code": None}, "code must be a string that holds the complete program, not null."),
        ({"code": 1}, "code must be a string that holds the complete program, not 1."),
        ({"stdin": None}, "stdin must be a string, not null."),
        ({"args": "a b"}, "args must be an array of strings, not a string."),
        ({"args": ["a", 2]}, "args[1] must be a string, not 2."),
        ({"env": ["A=1"]}, "env must be an object whose values are strings, not an array."),
        ({"env": {"A": True}}, 'env["A"] must be a string, not a boolean.'),
        ({"env": {"A": {}}}, 'env["A"] must be a string, not an object.'),
    ],
)
def test_a_wrong_type_names_the_field_and_what_is_valid(
    change: dict[str, Any], sentence: str
) -> None:
    assert refusal({**MINIMAL, **change}) == sentence


def test_unknown_fields_are_named_and_the_valid_ones_listed() -> None:
    assert refusal({**MINIMAL, "privileged": True, "mounts": []}) == (
        'Unknown fields "privileged", "mounts"; '
        "valid fields are language, code, stdin, args, env, files, entrypoint, timeout, "
        "session_id, max_output_tokens, idempotency_key, tests, stop_on_failure."
    )
    with pytest.raises(ValidationError) as caught:
        ListLanguagesInput.model_validate({"all": True})
    assert explain(caught.value, ListLanguagesInput) == (
        'Unknown field "all"; no arguments are accepted.'
    )


def test_missing_fields_say_what_they_hold() -> None:
    assert refusal({}) == (
        'language is required and must be a string that names a language, such as "python".'
    )


def test_many_mistakes_are_summed_up() -> None:
    text = refusal({**MINIMAL, "args": [1] * 100, **{f"x{n}": n for n in range(50)}})
    assert "more such errors" in text
    assert len(text) < 600


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*MINIMAL, "timeout", "args", "env"]) | st.text(), JSON))
def test_whatever_is_sent_the_explanation_is_short_and_shows_no_values(
    sent: dict[str, Any],
) -> None:
    try:
        ExecuteCodeInput.model_validate(sent)
    except ValidationError as error:
        text = explain(error, ExecuteCodeInput)
        assert text.endswith(".")
        assert len(text) < 2_000
        assert "pydantic" not in text.replace(json.dumps(list(sent)), "")
        assert text.isprintable()


def outcome(status: Status = Status.SUCCESS, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "run_id": "r1",
        "status": status,
        "exit_code": 0,
        "signal": None,
        "stdout": Captured(text="héllo\n", total_bytes=7),
        "stderr": Captured(text="e", total_bytes=9, truncated=True, repaired=True),
        "usage": Usage(wall_s=0.5, cpu_s=0.25, peak_memory_bytes=1024),
        "execution_time_s": 0.75,
        "error_message": None,
        "plan": policy.plan(Request(language="python", code="1"), Settings.model_construct()),
        "isolation": Isolation(
            runtime="runc", image="i", image_digest="sha256:0", kernel="shared", seccomp=True
        ),
    }
    return Outcome(**{**values, **changes})


def test_an_outcome_arrives_whole() -> None:
    result = from_outcome(outcome()).model_dump(mode="json")
    assert set(result) == RESULT_FIELDS
    assert result["limits"] == {
        "timeout_s": 30.0, "memory_bytes": 256 << 20, "cpus": 0.5, "processes": 50,
        "output_chars": 100_000, "sandbox_bytes": 64 << 20, "tmp_bytes": 32 << 20,
    }  # fmt: skip
    assert result["isolation"] == {
        "runtime": "runc", "image": "i", "image_digest": "sha256:0", "network": "none",
        "kernel": "shared", "seccomp": True, "apparmor": False, "user_namespace": False,
    }  # fmt: skip
    assert (result["stdout"], result["stdout_bytes"]) == ("héllo\n", 7)
    assert (result["stderr_bytes"], result["stderr_truncated"], result["stderr_repaired"]) == (
        9, True, True,
    )  # fmt: skip
    assert (result["execution_time"], result["usage"]["cpu_s"]) == (0.75, 0.25)


def test_languages_arrive_whole() -> None:
    plan = outcome().plan
    info = LanguageInfo(
        id="python",
        title="Python",
        aliases=("py",),
        extensions=(".py",),
        file_name="main.py",
        command=("python3", "main.py"),
        installed=True,
        version="3.13.5",
        warm_cells=2,
        preinstalled=("standard library",),
        limits=plan.limits,
        max_timeout_s=300,
        cell_limits=plan.cell.limits,
    )
    (language,) = from_languages((info,)).model_dump(mode="json")["languages"]
    assert language["warm"]
    assert (language["version"], language["command"]) == ("3.13.5", ["python3", "main.py"])
    assert language["limits"]["processes"] == 50


@pytest.mark.parametrize(
    "model", [ExecuteCodeInput, ExecuteCodeOutput, ListLanguagesInput, ListLanguagesOutput]
)
def test_schemas_are_closed_inline_and_described(model: type[Any]) -> None:
    def check(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                check(item)
        if not isinstance(node, dict):
            return
        if node.get("type") == "object" and "properties" in node:
            assert node["additionalProperties"] is False
            assert all(field.get("description") for field in node["properties"].values())
        for value in node.values():
            check(value)

    schema = schema_of(model, "serialization")
    check(schema)
    assert "$ref" not in json.dumps(schema)
    assert "$defs" not in schema
    assert schema["type"] == "object"


def test_every_result_field_is_required() -> None:
    assert set(schema_of(ExecuteCodeOutput, "serialization")["required"]) == RESULT_FIELDS


def test_the_language_field_is_not_closed_so_that_a_near_miss_can_be_explained() -> None:
    assert "enum" not in schema_of(ExecuteCodeInput, "validation")["properties"]["language"]
    assert LANGUAGES
