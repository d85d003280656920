"""Policies: what the operator lets whom do. Nothing that a request says widens one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from codecell import policy
from codecell.backends.docker import seccomp
from codecell.backends.docker.spec import container_spec
from codecell.errors import ConfigurationError, RequestError
from codecell.explanation import assigned, explain
from codecell.files import path_error
from codecell.languages import LANGUAGES
from codecell.model import OUR_SECCOMP, Case, Input, Request, Seccomp
from codecell.settings import LimitSettings, Settings, load

GUEST: dict[str, Any] = {
    "languages": ["python", "bash"],
    "runtime": "runsc",
    "reuse": "caller",
    "sessions": False,
    "limits": {"timeout_s": 2, "max_timeout_s": 4, "memory": "128 MiB", "max_memory": "192 MiB",
               "code": 100, "stdin": 10, "output_chars": 50},
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def settings(**sections: Any) -> Settings:
    return load(flags=sections)


def guests() -> Settings:
    return settings(policies={"guest": GUEST}, callers={"bob": {"policy": "guest"}})


def refusal(made: Settings, **request: Any) -> str:
    with pytest.raises(RequestError) as raised:
        policy.plan(Request(**{"language": "python", "code": "1", **request}), made)
    return str(raised.value)


# --- what a policy comes to


def test_who_is_not_named_is_under_the_default_policy_and_that_is_the_general_sections() -> None:
    made = guests()
    rules = made.policy_of("anyone")
    assert (rules.name, rules.limits, rules.languages) == ("default", made.limits, None)
    plain = policy.plan(Request(language="python", code="1"), load())
    assert policy.plan(Request(language="python", code="1"), made) == plain


def test_a_policy_changes_what_it_names_and_nothing_else() -> None:
    made = guests()
    rules = made.policy_of("bob")
    assert (rules.limits.timeout_s, rules.limits.memory) == (2, 128 * 2**20)
    assert rules.limits.processes == made.limits.processes
    spec = policy.plan(Request(language="python", code="1", caller="bob"), made).cell
    assert (spec.runtime, spec.reuse, spec.limits.memory_bytes) == ("runsc", "caller", 128 * 2**20)


def test_the_default_policy_can_be_changed() -> None:
    made = settings(policies={"default": {"languages": []}, "staff": {}},
                    callers={"ann": {"policy": "staff"}})  # fmt: skip
    assert refusal(made) == "language 'python' is not allowed for this caller; allowed: none"
    assert policy.plan(Request(language="python", code="1", caller="ann"), made)


def test_callers_default_names_the_policy_of_all_who_name_none() -> None:
    made = settings(
        policies={"guest": {}, "staff": {}},
        callers={"default": {"policy": "guest"}, "ann": {"policy": "staff"}, "bob": {}},
    )
    found = {name: made.policy_of(name).name for name in ("ann", "bob", "carl", "default")}
    assert found == {"ann": "staff", "bob": "guest", "carl": "guest", "default": "guest"}
    assert assigned(made) == {
        "default": [], "guest": ["bob", "everyone else"], "staff": ["ann"],
    }  # fmt: skip


def test_a_languages_own_wants_stop_at_the_policys_ceiling() -> None:
    hungry = replace(LANGUAGES["python"], memory_bytes=2**40)
    made = guests()
    spec = policy.cell_spec(hungry, made, made.policy_of("bob"))
    assert spec.limits.memory_bytes == 192 * 2**20


def test_a_lower_ceiling_lowers_the_default_that_it_inherits() -> None:
    made = settings(policies={"quick": {"limits": {"max_timeout_s": 5}}})
    assert made.rules["quick"].limits.timeout_s == 5


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"language": "rust"},
         "language 'rust' is not allowed for this caller; allowed: python, bash"),
        ({"timeout_s": 5}, "at most 4 (the configured ceiling); leave it out for 2"),
        ({"code": "x" * 101}, "code is 101 bytes; at most 100 are accepted"),
        ({"stdin": "x" * 11}, "stdin is 11 bytes; at most 10 are accepted"),
    ],
)  # fmt: skip
def test_past_a_policy_is_refused_with_what_is_allowed(request_: Any, said: str) -> None:
    made = guests()
    assert said in refusal(made, caller="bob", **request_)
    policy.plan(Request(**{"language": "python", "code": "1", **request_}), made)


# --- contradictions stop the server


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ({"runtim": "runsc"}, "policies.guest.runtim: unknown key"),
        ({"limits": {"timeout": 5}}, "policies.guest.limits.timeout: unknown key"),
        ({"limits": {"timeout_s": -5}}, "policies.guest.limits.timeout_s: "),
        ({"network": "bridge"}, "policies.guest.network: "),
        ({"mounts": ["/etc"]}, "policies.guest.mounts: "),
        ({"reuse": "always"}, "policies.guest.reuse: "),
        ({"languages": ["cobol"]}, "policies.guest.languages: unknown language 'cobol'; known: "),
        ({"limits": {"timeout_s": 9, "max_timeout_s": 5}},
         "policies.guest: limits.timeout_s is larger than its ceiling limits.max_timeout_s"),
        ({"limits": {"memory": "64 MiB"}},
         "policies.guest: limits.sandbox and limits.tmp together must stay below limits.memory"),
        ({"runtime": "runsc", "seccomp": "no-sockets"},
         "policies.guest.seccomp has no effect under runtime runsc"),
        ({"seccomp": "none"}, "policies.guest.seccomp: default or no-sockets, or the absolute"),
        ({"seccomp": "/nowhere.json"}, "policies.guest.seccomp: cannot read /nowhere.json"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_policy_is_named_with_its_key(policies: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings(policies={"guest": policies})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_runtime_of_the_engine_counts_for_the_contradiction_too() -> None:
    with pytest.raises(ConfigurationError, match="seccomp has no effect under runtime runsc"):
        settings(engine={"runtime": "runsc"}, policies={"guest": {"seccomp": "no-sockets"}})


def test_a_caller_needs_a_policy_that_is_there() -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings(policies={"guest": {}}, callers={"bob": {"policy": "gest"}})
    assert "callers.bob.policy: there is no policy 'gest'; known: default, guest" in str(
        raised.value
    )


@pytest.mark.parametrize("name", ["Guest", "a b", "", "-", "x" * 33])
def test_a_policys_name_is_plain(name: str) -> None:
    with pytest.raises(ConfigurationError):
        settings(policies={name: {}})


# --- system call filters


def test_a_filter_without_sockets_allows_local_ones_alone() -> None:
    full = json.loads(seccomp.profile("x86_64"))["syscalls"]
    less = json.loads(seccomp.profile("x86_64", Seccomp(name="no-sockets")))["syscalls"]
    gone = [rule for rule in full if rule not in less]
    assert [rule for rule in less if rule not in full] == []
    assert {name for rule in gone for name in rule["names"]} == {"socket"}
    left = [rule for rule in less if "socket" in rule["names"]]
    assert [rule["args"][0]["value"] for rule in left] == [1]


def write(tmp_path: Path, profile: object) -> str:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile), encoding="utf-8")
    return str(path)


def test_an_operators_filter_reaches_the_container(tmp_path: Path) -> None:
    mine = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"]}]}
    made = settings(policies={"default": {"seccomp": write(tmp_path, mine)}})
    spec = policy.cell_spec(LANGUAGES["python"], made)
    body = container_spec(
        spec, image_id="sha256:0", uid=20000, labels={}, command=["x"], apparmor=False,
        machine="x86_64",
    )  # fmt: skip
    (option,) = [o for o in body["HostConfig"]["SecurityOpt"] if o.startswith("seccomp=")]
    assert json.loads(option.removeprefix("seccomp=")) == mine


@pytest.mark.parametrize(
    "profile",
    [
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []},
        {"defaultAction": "SCMP_ACT_LOG", "syscalls": []},
        {"syscalls": []},
        {"defaultAction": "SCMP_ACT_ERRNO"},
        [],
        "unconfined",
    ],
    ids=str,
)
def test_a_filter_that_is_no_allow_list_is_refused(tmp_path: Path, profile: object) -> None:
    with pytest.raises(ConfigurationError, match=r"policies\.default\.seccomp: .* no allow-list"):
        settings(policies={"default": {"seccomp": write(tmp_path, profile)}})


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b" " * (2**20 + 1)])
def test_a_filter_that_is_no_json_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(text)
    with pytest.raises(ConfigurationError, match="not JSON of at most 1 MiB"):
        settings(policies={"default": {"seccomp": str(path)}})


# --- nothing that a request says widens a policy

_sizes = st.integers(1, 8)
_policies = st.builds(
    lambda languages, timeout, slack, memory, cpus, pids, chars, code, stdin, reuse, filter_, s: {
        "languages": languages,
        "reuse": reuse,
        "seccomp": filter_,
        "sessions": s,
        "limits": {
            "timeout_s": timeout, "max_timeout_s": timeout + slack,
            "memory": memory * 2**27, "max_memory": memory * 2**27,
            "cpus": cpus / 4, "max_cpus": cpus / 4, "processes": pids, "max_processes": pids * 2,
            "output_chars": chars, "max_output_chars": chars, "code": code, "stdin": stdin,
            "compile_timeout_s": timeout, "max_compile_timeout_s": timeout + slack, "tests": pids,
        },
    },
    st.none() | st.lists(st.sampled_from(list(LANGUAGES)), unique=True, max_size=4),
    st.floats(0.1, 50), st.floats(0, 50), _sizes, _sizes, st.integers(8, 256),
    st.integers(1, 1000), st.integers(1, 300), st.integers(1, 100),
    st.sampled_from([None, "never", "caller"]), st.sampled_from([None, "default", "no-sockets"]),
    st.booleans(),
)  # fmt: skip
_inputs = st.builds(
    Input,
    path=st.sampled_from(["a", "../a", "/a", "main.py", "d/e"]),
    content=st.binary(max_size=9),
)
_cases = st.builds(
    Case, stdin=st.sampled_from([b"", b"a", b"b" * 101]), timeout_s=st.none() | st.floats()
)
_requests = st.builds(
    Request,
    language=st.sampled_from([name for x in LANGUAGES.values() for name in x.names]) | st.text(),
    code=st.sampled_from(["1", "print(1)", "x" * 99, "x" * 301, "public class A {}"]),
    stdin=st.sampled_from(["", "a", "b" * 101]),
    args=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    env=st.sampled_from([(), (("A", "b"),), (("NODE_OPTIONS", ""),), (("LANG", "C"),)]),
    timeout_s=st.none() | st.floats(),
    files=st.just(()) | st.lists(_inputs, max_size=3).map(tuple),
    entrypoint=st.sampled_from([None, "a", "../../etc/passwd"]),
    tests=st.just(()) | st.lists(_cases, max_size=12).map(tuple),
    session_id=st.sampled_from([None, "new", "s", "../s", "x" * 65]),
    max_output_tokens=st.none() | st.integers(),
    caller=st.sampled_from(["bob", "ann", "local", "guest", "policies.guest"]),
)


@pytest.mark.requirement("policy:nothing-widens")
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
@given(_policies, _policies, st.lists(_requests, min_size=1, max_size=4))
def test_whatever_is_asked_for_stays_within_the_callers_own_policy(
    first: dict[str, Any], second: dict[str, Any], requests: list[Request]
) -> None:
    given_ = {"policies": {"one": first, "two": second},
              "callers": {"bob": {"policy": "one"}, "ann": {"policy": "two"}}}  # fmt: skip
    try:
        made = Settings(**given_)  # type: ignore[arg-type]
    except ValidationError:
        return  # a contradiction: the server does not start
    for request in requests:
        name = {"bob": "one", "ann": "two"}.get(request.caller, "default")
        rules, limits = made.rules[name], made.rules[name].limits
        try:
            planned = policy.plan(request, made)
        except RequestError:
            continue
        assert rules.allows(planned.language)
        assert planned.cell == policy.cell_spec(made.table[planned.language], made, rules)
        cell = planned.cell
        assert (cell.runtime, cell.reuse, cell.seccomp) == (
            rules.runtime, rules.reuse, rules.seccomp,
        )  # fmt: skip
        assert cell.limits.memory_bytes <= limits.max_memory
        assert cell.limits.cpus <= limits.max_cpus
        assert cell.limits.pids <= limits.max_processes
        assert 0 < planned.limits.timeout_s <= limits.max_timeout_s
        assert planned.limits.output_chars == limits.output_chars
        assert 0 < planned.limits.total_chars <= 2 * limits.output_chars
        assert len(request.code.encode()) <= limits.code
        assert len(planned.stdin) <= limits.stdin
        assert planned.limits.output_kill_bytes == limits.output_kill
        assert planned.limits.stream_bytes == limits.stream
        assert planned.limits.values_bytes == limits.values
        assert cell.limits.sandbox_bytes + cell.limits.tmp_bytes <= limits.max_tmpfs
        assert rules.sessions or planned.session_id is None
        assert len(planned.cases) <= limits.tests
        for step in planned.steps:
            most = limits.max_timeout_s if step.kind == "run" else limits.max_compile_timeout_s
            assert 0 < step.timeout_s <= most
        for case in planned.cases:
            assert case.timeout_s is None or 0 < case.timeout_s <= planned.limits.timeout_s
        for file in planned.files:
            assert path_error(file.path) is None


# --- where values come from


def test_each_value_is_explained_by_the_key_that_set_it() -> None:
    made = settings(
        limits={"processes": 40},
        languages={"bash": {"cpus": 1.0}},
        policies={"guest": GUEST},
        callers={"bob": {"policy": "guest"}},
    )
    found = {v.key: v for v in explain("bob", made.table["bash"], made)}
    origins = {key: value.origin for key, value in found.items()}
    assert origins["policy"] == "callers.bob.policy"
    assert (found["policy"].value, found["allowed"].value) == ("guest", True)
    assert origins["runtime"] == "policies.guest.runtime"
    assert origins["limits.memory"] == "policies.guest.limits.memory"
    assert origins["limits.processes"] == "limits.processes"
    assert origins["limits.cpus"] == "languages.bash.cpus"
    assert origins["limits.sandbox"] == "limits.sandbox (default)"
    assert origins["seccomp"] == "codecell's own"
    assert origins["network"] == origins["mounts"] == "fixed"
    lowered = {v.key: v for v in explain("bob", LANGUAGES["java"], made)}["limits.memory"]
    assert lowered.value == 192 * 2**20
    assert lowered.origin.startswith("policies.guest.limits.max_memory (asked for: ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_explained_is_what_is_planned(language: str) -> None:
    made = guests()
    for caller in ("bob", "local"):
        rules = made.policy_of(caller)
        found = {v.key: v.value for v in explain(caller, made.table[language], made)}
        cell = policy.cell_spec(made.table[language], made, rules).limits
        assert found["limits.memory"] == cell.memory_bytes
        assert (found["limits.sandbox"], found["limits.tmp"]) == (
            cell.sandbox_bytes, cell.tmp_bytes,
        )  # fmt: skip
        assert {f"limits.{key}" for key in LimitSettings.model_fields} <= set(found)


def test_callers_are_listed_under_their_policies() -> None:
    assert assigned(guests()) == {"default": ["everyone else"], "guest": ["bob"]}


def test_the_default_filter_is_the_same_value_everywhere() -> None:
    assert load().rules["default"].seccomp is OUR_SECCOMP
