"""Every language of the table does what a caller may expect of it, in real cells.

The matrix is made from the table and tests/languages/<id>/: a new language is tested by being
added. Where its image is not built the tests fail in CI and are skipped on a desk.
"""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.matrix import PROGRAMS, program

from codecell import recipes
from codecell.languages import LANGUAGES
from codecell.model import Change, Input, Outcome, Status
from codecell.runner import Runner

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Run = Callable[..., Awaitable[Outcome]]
COMPILED = [name for name, language in LANGUAGES.items() if language.compile]
WITH_ARGS = [name for name, language in LANGUAGES.items() if language.takes_args]
SAYS_NAME_ONLY = {"kotlin", "erlang"}  # their compilers print paths so; they start in /sandbox
LINE = "zażółć 漢字 👩‍👩‍👧"


def said(outcome: Outcome) -> str:
    """Everything there is to know when a test fails."""
    compiler = outcome.compile.output.text if outcome.compile else ""
    return f"{outcome.error_message}\n{compiler}\n{outcome.stdout.text}\n{outcome.stderr.text}"


@pytest.mark.requirement("seccomp:every-language")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_hello(run: Run, language: str) -> None:
    outcome = await run(language, recipes.read(language).hello().decode())
    assert outcome.status is Status.SUCCESS, said(outcome)
    assert outcome.stdout.text.strip() == f"hello from {language}"
    assert outcome.stderr.text == ""
    assert (outcome.compile is not None) == bool(LANGUAGES[language].compile)
    assert outcome.compile is None or outcome.compile.output.text == ""


@pytest.mark.parametrize("language", LANGUAGES)
async def test_stdin_and_unicode(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "echo"), stdin=f"{LINE}\n")
    assert outcome.status is Status.SUCCESS, said(outcome)
    assert outcome.stdout.text == f"« {LINE} »\n"


@pytest.mark.parametrize("language", WITH_ARGS)
async def test_args(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "args"), args=("a b", "--version", "ü", "x"))
    assert outcome.status is Status.SUCCESS, said(outcome)
    assert outcome.stdout.text.split("\n")[:-1] == ["a b", "--version", "ü", "x"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_exit_code(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "exit"))
    assert (outcome.status, outcome.exit_code) == (Status.EXECUTION_ERROR, 3), said(outcome)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_runtime_error(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "error"))
    assert outcome.status is Status.EXECUTION_ERROR, said(outcome)
    assert outcome.stderr.text or outcome.signal, said(outcome)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_timeout(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "loop"), timeout_s=1)
    assert outcome.status is Status.TIMEOUT, said(outcome)
    assert outcome.error_message == "Execution timed out after 1 seconds."
    assert 0.9 < outcome.usage.wall_s < 3


@pytest.mark.parametrize("language", COMPILED)
async def test_compile_error(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "broken"))
    assert outcome.status is Status.COMPILE_ERROR, said(outcome)
    assert outcome.compile is not None
    name = Path(outcome.plan.main).name
    said_by = name if language in SAYS_NAME_ONLY else outcome.plan.main
    where = re.escape(said_by) + r'(:|\(|", line )\d+'
    assert re.search(where, outcome.compile.output.text), said(outcome)
    assert (outcome.stdout.text, outcome.stderr.text, outcome.exit_code) == ("", "", None)


@pytest.mark.requirement("seccomp:every-language")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_out_of_memory(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "memory"), timeout_s=60)
    assert outcome.status is Status.OUT_OF_MEMORY, said(outcome)
    assert "MiB of memory" in (outcome.error_message or "")


JAVA_HUGE = """
public class Main {
    public static void main(String[] args) {
        %s
    }
}
"""
HUGE_ARRAY = "System.out.println(new byte[1 << 30].length);"


@pytest.mark.parametrize(
    ("body", "status", "exit_code"),
    [
        (HUGE_ARRAY, Status.OUT_OF_MEMORY, 1),
        (
            f"try {{ {HUGE_ARRAY} }} catch (OutOfMemoryError e) {{ System.out.println(1); }}",
            Status.SUCCESS,
            0,
        ),
        ('System.err.println("java.lang.OutOfMemoryError"); System.exit(3);',
         Status.EXECUTION_ERROR, 3),
    ],
    ids=["uncaught", "caught", "only printed"],
)  # fmt: skip
async def test_an_array_that_no_heap_holds(
    run: Run, body: str, status: Status, exit_code: int
) -> None:
    outcome = await run("java", JAVA_HUGE % body, timeout_s=60)
    assert (outcome.status, outcome.exit_code) == (status, exit_code), said(outcome)
    assert "OnOutOfMemoryError" not in outcome.stdout.text


GO_HUGE = "package main\n\nfunc main() {\n\t%s\n}\n"
GO_LIVE = """package main

func main() {
	kept := make([]byte, 280<<20)
	for i := 0; i < len(kept); i += 4096 {
		kept[i] = 1
	}
	for range 300 {
		garbage := make([]byte, 8<<20)
		for i := 0; i < len(garbage); i += 4096 {
			garbage[i] = kept[i]
		}
	}
	println(len(kept))
}
"""


@pytest.mark.requirement("res:every-bomb")
async def test_a_slice_that_no_memory_holds(run: Run) -> None:
    """The kernel refuses it before it counts; Go's runtime leaves a mark, a printed word none."""
    huge = await run("go", GO_HUGE % "println(len(make([]byte, 1<<46)))")
    assert (huge.status, huge.exit_code) == (Status.OUT_OF_MEMORY, 2), said(huge)
    assert "out of memory" in huge.stderr.text
    printed = await run("go", GO_HUGE % 'panic("fatal error: runtime: out of memory")')
    assert (printed.status, printed.exit_code) == (Status.EXECUTION_ERROR, 2), said(printed)


async def test_go_collects_rather_than_doubles_past_its_cell(run: Run) -> None:
    outcome = await run("go", GO_LIVE, timeout_s=60)
    assert outcome.status is Status.SUCCESS, said(outcome)


IDIOMS = sorted(path.relative_to(PROGRAMS).as_posix() for path in PROGRAMS.glob("*/idiom*"))


@pytest.mark.parametrize("path", IDIOMS)
async def test_a_program_as_models_write_it(run: Run, path: str) -> None:
    """Beyond a plain main: each prints a 7, perhaps its argument, and leaves no other trace."""
    language = path.partition("/")[0]
    code = (PROGRAMS / path).read_text(encoding="utf-8")
    outcome = await run(language, code, args=("7",) if LANGUAGES[language].takes_args else ())
    assert outcome.status is Status.SUCCESS, said(outcome)
    assert (outcome.stdout.text, outcome.stderr.text) == ("7\n", ""), said(outcome)
    assert outcome.compile is None or outcome.compile.output.text == "", said(outcome)
    made = [file.path for file in outcome.files.changed]
    assert made == (["plot.png"] if "plot.png" in code else [])


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_file_is_written_and_returned(run: Run, cold_runner: Runner, language: str) -> None:
    outcome = await run(language, program(language, "file"))
    assert outcome.status is Status.SUCCESS, said(outcome)
    (made,) = outcome.files.changed
    assert (made.path, made.change, made.mime) == ("out.txt", Change.CREATED, "text/plain")
    content = cold_runner.store.read(cold_runner.store.find(made.uri or "", "local"))
    assert content == f"made by {language}\n".encode()
    assert outcome.files.omitted == ()


@pytest.mark.requirement("seccomp:every-language")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_program_of_several_files(run: Run, language: str) -> None:
    root = PROGRAMS / language / "project"
    files = tuple(
        Input(path=path.relative_to(root).as_posix(), content=path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    )
    assert len(files) > 1
    outcome = await run(language, "", files=files)
    assert outcome.status is Status.SUCCESS, said(outcome)
    assert (outcome.stdout.text, outcome.stderr.text) == ("42\n", ""), said(outcome)
    assert (outcome.files.changed, outcome.files.omitted) == ((), ())
