"""The documents are true: examples run, tables are the code's, what is named exists."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import click
import docker
import pytest
from benchmarks import readme, report

from codecell import __version__, doctor
from codecell.cli import COMMANDS, INTERRUPTED, WRONG_USAGE, main, run_commands
from codecell.frames import Kind
from codecell.model import Status
from codecell.settings import Settings, load, rows

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "server/codecell"
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tests/README.md")
)
RUN = "<!-- run -->"
SESSION_S = 120


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def between(name: str, marker: str) -> str:
    text = text_of(name)
    assert text.count(f"<!-- {marker} -->") == text.count(f"<!-- /{marker} -->") == 1
    return text.partition(f"<!-- {marker} -->")[2].partition(f"<!-- /{marker} -->")[0].strip()


class Fence(NamedTuple):
    document: str
    line: int
    kind: str
    content: str
    marked: bool


def fences(document: str) -> Iterator[Fence]:
    text = text_of(document)
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        before = text[: match.start()]
        marked = before.rstrip().endswith(RUN)
        yield Fence(document, before.count("\n") + 1, match[1], match[2], marked)


FENCES = [fence for document in DOCUMENTS for fence in fences(document)]


# what is run


def examples() -> Iterator[tuple[Fence, str]]:
    """Yield each marked fence with the output that belongs to it."""
    for number, fence in enumerate(FENCES):
        if not fence.marked:
            continue
        if fence.kind == "console":
            yield fence, re.sub(r"^\$ .*\n", "", fence.content, flags=re.MULTILINE)
        else:
            following = FENCES[number + 1]
            assert (fence.kind, following.kind) == ("python", "text"), fence
            yield fence, following.content


def matches(shown: str, real: str) -> bool:
    """Compare; `...` in what is shown stands for anything, blanks at line ends for nothing."""
    shown, real = (re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE) for text in (shown, real))
    pattern = ".*?".join(re.escape(part) for part in shown.strip("\n").split("..."))
    return re.fullmatch(pattern, real.strip("\n"), re.DOTALL) is not None


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        ("a\n", "a \n", True),
        ("a...c", "a\nb\nc", True),
        ("a", "ab", False),
        ("a...", "b", False),
        ("a.c", "abc", False),
        ("", "a", False),
    ],
)
def test_comparing_an_output(shown: str, real: str, same: bool) -> None:
    assert matches(shown, real) is same


@pytest.mark.docker
@pytest.mark.parametrize(
    ("fence", "shown"),
    [pytest.param(*item, id=f"{item[0].document}:{item[0].line}") for item in examples()],
)
def test_an_example(fence: Fence, shown: str, engine: docker.APIClient, tmp_path: Path) -> None:
    del engine  # its absence is what the fixture reports
    if fence.kind == "console":
        commands = re.findall(r"^\$ (.*)$", fence.content, re.MULTILINE)
        argv = ["bash", "-c", "exec 2>&1\n" + "\n".join(commands)]
    else:
        argv = [sys.executable, "-c", fence.content]
    scripts = Path(sys.executable).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CODECELL_")}
    done = subprocess.run(
        argv,
        cwd=tmp_path,
        env={**environment, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=SESSION_S,
        check=False,
    )
    assert matches(shown, done.stdout), done.stdout


def test_there_are_examples_of_each_kind() -> None:
    kinds = [(fence.document, fence.kind) for fence, _ in examples()]
    for document in ("README.md", "docs/usage_examples.md"):
        assert {(document, "console"), (document, "python")} <= set(kinds)
    assert sum(text_of(name).count(RUN) for name in DOCUMENTS) == len(kinds) + text_of(
        "tests/README.md"
    ).count(f"`{RUN}`")


def test_every_python_example_runs() -> None:
    assert [f"{f.document}:{f.line}" for f in FENCES if f.kind == "python" and not f.marked] == []


@pytest.mark.parametrize("content", [fence.content for fence in FENCES if fence.kind == "toml"])
def test_a_configuration_example_is_valid(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("CODECELL_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "codecell.toml"
    file.write_text(content, encoding="utf-8")
    assert load(file) != Settings()


# commands


def commands_in(document: str) -> Iterator[list[str]]:
    """Yield the arguments of every `codecell ...` in code, in prose and in examples."""
    text = text_of(document)
    for fence in fences(document):
        text = text.replace(fence.content, "")
        if fence.kind in {"console", "sh"}:
            for line in fence.content.splitlines():
                command = re.search(r"(?:^\$ |^|\| |\w=\w+ )codecell (?!-server)(.*)$", line)
                if command and (fence.kind == "sh" or line.startswith("$ ")):
                    yield words(command[1])
    for code in re.findall(r"`codecell ([^`]*)`", text):
        yield words(code)


def words(line: str) -> list[str]:
    """Split a shell's line up to where its first command ends."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    return list(takewhile(lambda word: not set(word) <= set("|;&<>"), lexer))


def click_command(arguments: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = main
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        with click.Context(command) as context:
            found = command.get_command(context, rest.pop(0))
        assert found is not None, f"there is no `codecell {shlex.join(arguments)}`"
        command = found
    return command, rest


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from leaves(command, (*path, name))
            else:
                yield " ".join((*path, name)), command


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_named_command_and_option_exists(document: str) -> None:
    for arguments in commands_in(document):
        command, rest = click_command(arguments)
        options = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
        own = rest[: rest.index("--")] if "--" in rest else rest
        for word in own:
            if re.fullmatch(r"--[a-z-]+|-[a-z]", word):
                assert word in options, f"`codecell {shlex.join(arguments)}` has no {word}"


def test_commands_are_found_in_documents() -> None:
    found = [arguments[0] for arguments in commands_in("README.md")]
    assert found.count("execute") >= 5
    assert {"doctor", "client-config", "settings"} <= set(found)


@pytest.mark.parametrize(("name", "command"), list(leaves(main)))
def test_every_command_is_in_the_readme_and_has_help(name: str, command: click.Command) -> None:
    assert f"`codecell {name}`" in text_of("README.md")
    assert command.help
    for param in command.params:
        if isinstance(param, click.Option) and not isinstance(param.type, click.Choice):
            assert param.help, f"codecell {name} {param.opts[0]}"


def test_the_readmes_table_of_commands_is_the_clis() -> None:
    section = text_of("README.md").partition("## The command line\n")[2].partition("\n## ")[0]
    table = section.partition("| command |")[2].partition("\n\n")[0]
    named = list(dict.fromkeys(re.findall(r"`codecell ([a-z-]+)", table)))
    assert sorted(named) == sorted(COMMANDS)


def test_every_named_make_target_exists() -> None:
    makefile = text_of("Makefile")
    for document in DOCUMENTS:
        text = text_of(document)
        found = re.findall(r"^make ([a-z]+)", text, re.M) + re.findall(r"`make ([a-z]+)`", text)
        for target in found:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document}: make {target}"


def test_the_exit_statuses_are_the_clis() -> None:
    section = text_of("README.md").partition("| exit status |")[2].partition("\n\n")[0]
    shown = {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    fixed = {int(number) for number in run_commands._FIXED_STATUS.values()}
    assert shown == fixed | {WRONG_USAGE, INTERRUPTED}


# tables and names


def test_the_settings_table_is_generated() -> None:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in rows()]
    assert between("README.md", "settings") == "\n".join(lines), (
        "run `codecell settings --markdown` and put its output into README.md"
    )


def test_the_measurements_in_the_readme_are_those_that_are_kept() -> None:
    results = readme.latest()
    assert between("README.md", "benchmarks") == readme.section(results).strip(), (
        "run `python -m benchmarks.readme`"
    )
    if results is not None:
        kept = text_of("benchmarks/results/latest.md")
        assert kept == report.markdown(results), "results/latest.md is not of results/latest.json"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_named_setting_exists(document: str) -> None:
    keys = {key for key, _, _ in rows()}
    named = re.findall(r"`((?:limits|runs|pool|engine|log)\.[a-z_]+)\b", text_of(document))
    # A result has an object `limits` too.
    foreign = {"pool.lease"} | {f"limits.{name}" for name in ("timeout_s", "output_chars")}
    assert set(named) - keys - foreign == set()


def test_the_readme_names_every_status() -> None:
    section = text_of("README.md").partition("## What an agent gets\n")[2].partition("\n## ")[0]
    sentence = section.partition("`status` is one of ")[2].partition(".")[0]
    assert re.findall(r"`(\w+)`", sentence) == [status.value for status in Status]


def test_the_table_of_frames_is_the_protocols() -> None:
    rows_ = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\w+) \|", between("docs/technical_overview.md", "frames"), re.M
    )
    assert [(name, int(number)) for name, number, _ in rows_] == [(k.name, k.value) for k in Kind]
    assert all((sender == "server") == (int(number) < 64) for _, number, sender in rows_)


def test_the_version_floors_are_the_doctors() -> None:
    text = text_of("SECURITY.md")
    for floor in (doctor.ENGINE_MINIMUM, doctor.ENGINE_FLOOR, *doctor.RUNC_FLOORS):
        assert ".".join(map(str, floor)) in text


def test_the_changelog_has_this_version() -> None:
    newest = re.search(r"^## \[(.+?)\] - (.+)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__
    assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", newest[2])


# layers


def layers() -> list[list[str]]:
    (diagram,) = re.findall(
        r"^<!-- layers -->\n```text\n(.*?)^```$", text_of("README.md"), re.MULTILINE | re.DOTALL
    )
    return [re.split(r"\s{3,}", line)[0].split(" | ") for line in diagram.splitlines()]


def modules() -> set[str]:
    """Name the modules and packages of the top level."""
    found = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    return found - {"__init__"}


def test_the_diagram_names_exactly_the_modules() -> None:
    drawn = [name for row in layers() for name in row]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == modules()


def test_the_diagram_is_what_import_linter_holds() -> None:
    table = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]
    (contract,) = [item for item in table["contracts"] if item["type"] == "layers"]
    assert layers() == [row.split(" | ") for row in contract["layers"]]


# links, paths, hosts


def slugs(text: str) -> set[str]:
    """Return the anchors of a document's headings, as code hosts make them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), f"{document}: {target}"
        if anchor:
            assert anchor in slugs(path.read_text(encoding="utf-8")), f"{document}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_named_file_exists(document: str) -> None:
    places = (ROOT, PACKAGE, PACKAGE / "backends/docker", ROOT / "tests")
    for name in re.findall(r"`([\w./-]+(?:\.(?:py|js|sh|md|lock|digest)|\w/))`", text_of(document)):
        if name.startswith("/") or name == "main.py":  # in a cell
            continue
        assert any((place / name).exists() for place in places), f"{document}: {name}"


def tracked() -> list[Path]:
    """List the files of the repository, or of this folder where it is none."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        skipped = re.compile(r"/(\.venv|\.git|\.make|__pycache__|\.\w+_cache|dist|build)")
        found = [p for p in ROOT.rglob("*") if not skipped.search(f"/{p.relative_to(ROOT)}")]
    else:
        found = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in found if path.is_file()]


# Written so that this file does not hold what it looks for.
FOREIGN = re.compile(
    r"(?:[/]work/|[/]opt/(?:wheels|pypi)|[/]root/|[/]home/\w)"
    r"|(?:ghcr|quay|gcr|mcr)[.](?:io|microsoft)|docker[.]io/|registry[-]1|pypi[.]org|pythonhoste[d]"
)


def test_no_tracked_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in FOREIGN.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    "text", ["see /" + "home/me", "FROM docker" + ".io/debian", "ghcr" + ".io"]
)
def test_what_is_foreign_is_recognised(text: str) -> None:
    assert FOREIGN.search(text)
