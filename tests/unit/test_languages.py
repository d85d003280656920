"""The table of languages, the operator's part of it, and the plans that follow from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.matrix import PROGRAMS

from codecell import ceilings, policy
from codecell.cli.run_commands import language_of_name, language_of_shebang
from codecell.errors import ConfigurationError, RequestError
from codecell.language import PLACEHOLDERS, SANDBOX
from codecell.languages import DEFAULT_SET, LANGUAGES
from codecell.model import Ending, Facts, Launch, Plan, Request, Status, Step
from codecell.settings import DEFAULT, Settings, load
from codecell.verdict import verdict
from codecell.words import Words

MIB = 1024 * 1024
ZIG = {
    "image": "registry.example/zig:1",
    "file_name": "main.zig",
    "run": ["/usr/bin/zig", "{main}"],
}


def with_language(name: str = "zig", **values: Any) -> Settings:
    return load(flags={"languages": {name: values}})


def planned(language: str, code: str = "x", settings: Settings | None = None, **more: Any) -> Plan:
    return policy.plan(Request(language=language, code=code, **more), settings or load())


# the table


def test_every_language_has_the_programs_of_the_matrix() -> None:
    for name, language in LANGUAGES.items():
        wanted = {"echo", "exit", "error", "loop", "memory", "file", "project", "read"}
        wanted |= {"args"} if language.takes_args else set()
        wanted |= {"broken"} if language.compile else set()
        there = {path.stem.partition("-")[0] for path in (PROGRAMS / name).iterdir()}
        assert there - {"idiom"} == wanted, name
    assert {path.name for path in PROGRAMS.iterdir()} == set(LANGUAGES)


def test_every_command_is_an_absolute_path_with_known_placeholders() -> None:
    for language in LANGUAGES.values():
        for command in (language.run, language.compile, language.version):
            assert not command or command[0].startswith("/"), language.id
        words = Words.of(language, load().rules[DEFAULT])
        filled = " ".join(words.fill((*language.run, *language.compile)))
        assert not any(placeholder in filled for placeholder in PLACEHOLDERS), language.id


def test_no_language_wants_more_than_the_default_ceilings() -> None:
    for language in LANGUAGES.values():
        assert ceilings.lowered(language, load().limits) == ()


def test_the_default_set_is_in_the_table() -> None:
    assert set(DEFAULT_SET) <= set(LANGUAGES)


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("py", "python"), ("python3", "python"), ("JS", "javascript"), ("node", "javascript"),
        ("ts", "typescript"), ("sh", "bash"), ("shell", "bash"), ("c++", "cpp"), ("C++", "cpp"),
        ("golang", "go"), ("rs", "rust"), ("rb", "ruby"), ("cs", "csharp"), ("C#", "csharp"),
        (" sqlite3 ", "sql"), ("kt", "kotlin"), ("hs", "haskell"), ("asm", "assembly"),
    ],
)  # fmt: skip
def test_names_as_people_write_them(name: str, language: str) -> None:
    assert LANGUAGES.find(name).id == language


@pytest.mark.parametrize(
    ("extension", "language"),
    [(".py", "python"), (".C", "cpp"), (".c", "c"), (".R", "r"), (".RB", "ruby"), (".zig", None)],
)
def test_extensions(extension: str, language: str | None) -> None:
    found = LANGUAGES.of_extension(extension)
    assert (found.id if found else None) == language


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("#!/bin/sh -e", "bash"), ("#!/usr/bin/env python3.13", "python"),
        ("#! /usr/bin/env -S node --no-warnings", "javascript"), ("#!/usr/bin/perl -w", "perl"),
        ("#!/usr/bin/env Rscript", "r"), ("#!/usr/bin/lua5.4", "lua"), ("#!/usr/bin/lua5.1", "lua"),
        ("#!/usr/bin/awk -f", "awk"), ("#!/usr/bin/env -S A=1 ts-node", "typescript"),
        ("#!/usr/bin/env runghc", "haskell"), ("#!/usr/bin/octave-cli", "octave"),
        ("#!/usr/bin/php8.4", "php"), ("#!/usr/bin/guile -s", "scheme"), ("#!/usr/bin/env", None),
        ("#!", None), ("#!/usr/bin/unheard-of", None), ("# !/bin/sh", None), ("", None),
    ],
)  # fmt: skip
def test_shebangs(line: str, language: str | None) -> None:
    assert language_of_shebang(f"{line}\nthe program") == language


def test_every_extension_leads_to_its_language_and_every_file_name_has_one() -> None:
    for language in LANGUAGES.values():
        for extension in language.extensions:
            assert language_of_name(f"a{extension}") == language.id
        if language.extensions:
            assert Path(language.file_name).suffix in language.extensions


# plans


def test_a_compiled_language_is_compiled_and_then_run() -> None:
    made = planned("c", args=("a",), env=(("A", "1"),), timeout_s=5)
    compile_, run = made.steps
    assert (compile_.kind, run.kind) == ("compile", "run")
    assert compile_.argv[-3:] == ("/sandbox/main.c", "-lm", "-pthread")
    assert (compile_.timeout_s, run.timeout_s) == (60, 5)
    assert run.argv == ("/sandbox/main", "a")
    assert (compile_.env, run.env) == ((), (("A", "1"),))


def test_a_java_file_is_named_after_its_public_class() -> None:
    made = planned("java", "package p; public class Q { public static void main(String[] a){} }")
    assert [file.path for file in made.files] == ["Q.java"]
    assert made.steps[0].argv[-1] == f"{SANDBOX}/Q.java"
    assert made.steps[1].argv[-1] == "p.Q"


def test_what_waits_is_told_its_program_alone() -> None:
    (run,) = planned("javascript", args=("a",)).steps
    assert (run.launch, run.argv) == (Launch.STANDBY, ("/usr/bin/node", "/sandbox/main.js", "a"))
    fresh = planned("javascript", env=(("NODE_OPTIONS", ""),)).steps[0]
    assert fresh.argv == ("/usr/bin/node", "/sandbox/main.js")


def test_a_placeholder_in_the_request_stays_what_it_is() -> None:
    made = planned("c", args=("{main}",))
    assert made.steps[1].argv[-1] == "{main}"


def test_placeholders_stand_in_a_languages_environment_and_not_in_a_requests() -> None:
    made = planned("go", env=(("A", "{main}"),))
    assert made.steps[1].env == (("GOMEMLIMIT", "460MiB"), ("A", "{main}"))


def test_sql_takes_no_args() -> None:
    with pytest.raises(RequestError, match="take no args"):
        planned("sql", args=("a",))


def test_a_ceiling_lowers_what_a_language_declares_and_is_named() -> None:
    settings = load(flags={"limits": {"max_memory": "300 MiB", "max_compile_timeout_s": 70}})
    java = settings.table["java"]
    assert policy.cell_spec(java, settings).limits.memory_bytes == 300 * MIB
    assert any("limits.max_memory" in note for note in ceilings.lowered(java, settings.limits))
    assert "-Xmx375m" in planned("java", settings=settings).steps[1].argv


# verdicts on a compile step


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        (Facts(ending=Ending.EXITED, exit_code=1), Status.COMPILE_ERROR, "exited with code 1"),
        (Facts(ending=Ending.EXITED, signal=11), Status.COMPILE_ERROR, "killed by SIGSEGV"),
        (
            Facts(ending=Ending.EXITED, exit_code=1, oom_kills=1),
            Status.OUT_OF_MEMORY,
            "The compiler ran out of the cell's 256 MiB",
        ),
        (Facts(ending=Ending.OUT_OF_MEMORY, signal=9), Status.OUT_OF_MEMORY, "The compiler ran"),
        (Facts(ending=Ending.TIMEOUT, signal=9), Status.TIMEOUT, "Compilation timed out after 60"),
        (Facts(ending=Ending.OUTPUT_LIMIT, signal=9), Status.OUTPUT_LIMIT, "The compiler printed"),
        (Facts(ending=Ending.CANCELLED, signal=9), Status.CANCELLED, "while the program was being"),
    ],
)
def test_how_a_compile_step_can_end(facts: Facts, status: Status, words: str) -> None:
    made = planned("c")
    found, message = verdict(facts, made, made.steps[0])
    assert found is status
    assert words in (message or "")


def test_a_full_heap_is_a_reason_only_for_a_failure() -> None:
    made = planned("java")
    assert made.steps[1].oom_mark
    failed = Facts(ending=Ending.EXITED, exit_code=1, heap_full=True)
    assert verdict(failed, made)[0] is Status.OUT_OF_MEMORY
    assert verdict(replace(failed, exit_code=0), made)[0] is Status.SUCCESS
    assert verdict(replace(failed, heap_full=False), made)[0] is Status.EXECUTION_ERROR


# the operator's part


def test_an_operator_adds_a_language() -> None:
    settings = with_language(**ZIG, aliases=["ziglang"], memory="512 MiB", env={"A": "1"})
    zig = settings.table.find("ziglang")
    assert (zig.id, zig.image, zig.python) == ("zig", "registry.example/zig:1", "python3")
    made = planned("zig", settings=settings)
    assert made.cell.image == "registry.example/zig:1"
    assert made.cell.limits.memory_bytes == 512 * MIB
    step = Step(
        kind="run", launch=Launch.EXEC, argv=("/usr/bin/zig", "/sandbox/main.zig"), timeout_s=30,
        env=(("A", "1"),),
    )  # fmt: skip
    assert made.steps == (step,)


def test_an_operator_changes_a_language() -> None:
    settings = with_language("javascript", memory="512 MiB")
    assert planned("js", settings=settings).cell.limits.memory_bytes == 512 * MIB
    changed = with_language("javascript", run=["/opt/node", "{main}"]).table["javascript"]
    assert (changed.launch, changed.standby) == (Launch.EXEC, None)


def test_a_table_of_its_own_leaves_ours_alone() -> None:
    with_language("c", file_name="other.c")
    assert LANGUAGES["c"].file_name == "main.c"


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("zig", {}, "languages.zig.image is required for a new language"),
        ("zig", {"image": "a", "run": ["/a"]}, "languages.zig.file_name is required"),
        ("zig", {**ZIG, "colour": 1}, "languages.zig.colour: unknown key"),
        ("zig", {**ZIG, "run": []}, "languages.zig.run"),
        ("zig", {**ZIG, "run": ["zig"]}, "run must begin with an absolute path"),
        ("zig", {**ZIG, "run": ["/zig", "{mian}"]}, "unknown placeholder {mian}"),
        ("zig", {**ZIG, "file_name": "../x"}, "languages.zig.file_name"),
        ("zig", {**ZIG, "image": "a b"}, "languages.zig.image"),
        ("zig", {**ZIG, "memory": "64 GiB"}, "languages.zig.memory is larger than its ceiling"),
        ("zig", {**ZIG, "cpus": 9}, "limits.max_cpus"),
        ("zig", {**ZIG, "processes": 9999}, "limits.max_processes"),
        ("zig", {**ZIG, "compile_timeout_s": 999}, "limits.max_compile_timeout_s"),
        ("zig", {**ZIG, "sandbox": "2 GiB"}, "limits.max_tmpfs"),
        ("zig", {**ZIG, "aliases": ["py"]}, "name 'py' of zig is python's already"),
        ("zig", {**ZIG, "extensions": [".py"]}, "extension '.py' of zig is python's already"),
        ("zig", {**ZIG, "env": {"A-B": "1"}}, "languages.zig.env"),
        ("Zig!", ZIG, "languages.Zig!"),
    ],
)
def test_a_mistake_is_named_at_the_start(name: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(flags={"languages": {name: values}})
    assert words in str(caught.value)


def test_the_pool_knows_the_operators_languages() -> None:
    settings = load(flags={"languages": {"zig": ZIG}, "pool": {"languages": ["zig"]}})
    assert settings.pool.languages == ("zig",)
    with pytest.raises(ConfigurationError, match=r"pool\.languages: unknown language 'zag'"):
        load(flags={"pool": {"languages": ["zag"]}})


def test_a_language_in_codecell_toml(tmp_path: Path) -> None:
    file = tmp_path / "codecell.toml"
    file.write_text(
        '[languages.zig]\nimage = "zig"\nfile_name = "main.zig"\nrun = ["/usr/bin/zig", "{main}"]\n'
    )
    assert load(file).table["zig"].run == ("/usr/bin/zig", "{main}")
