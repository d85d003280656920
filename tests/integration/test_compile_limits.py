"""Compilers are programs that run a stranger's input: their limits are as real as the program's."""

from collections.abc import Awaitable, Callable

import pytest

from codecell.app import open_runner
from codecell.model import Outcome, Request, Status
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

Run = Callable[..., Awaitable[Outcome]]

# 10 levels of 10: more text than any cell holds.
MACROS = "\n".join(
    f"#define {name} {' '.join([below] * 10)}"
    for name, below in zip("ABCDEFGHIJ", "BCDEFGHIJK", strict=True)
)
MACRO_BOMB = f"{MACROS}\n#define K 1,\nint x[] = {{ A }};\nint main(void) {{ return 0; }}\n"
TEMPLATE_BOMB = """
template <int depth, int way> struct Bomb {
    static constexpr int value =
        Bomb<depth - 1, 2 * way>::value + Bomb<depth - 1, 2 * way + 1>::value;
};
template <int way> struct Bomb<0, way> { static constexpr int value = way; };
int main() { return Bomb<25, 0>::value; }
"""
# Template Haskell runs what it likes inside the compiler.
TEMPLATE = """{-# LANGUAGE TemplateHaskell #-}
module Main (main) where

import Language.Haskell.TH
import System.Process (callCommand)

main :: IO ()
main = print ($(runIO (%s) >> litE (integerL 7)) :: Int)
"""
TEMPLATE_LOOP = TEMPLATE % 'callCommand "while :; do :; done"'
TEMPLATE_FORKS = TEMPLATE % 'callCommand "while :; do sleep 100 & done"'
FILLS_THE_DISK = "char large[1u << 30] = {1};\nint main(void) { return large[0]; }\n"


def said(outcome: Outcome) -> str:
    """Everything there is to know when a test fails."""
    compiler = outcome.compile.output.text if outcome.compile else ""
    return f"{outcome.error_message}\n{compiler}\n{outcome.stdout.text}\n{outcome.stderr.text}"


def within(outcome: Outcome) -> None:
    """Nothing of the program ran, and the compiler was stopped at a limit that is named."""
    assert outcome.status in {Status.OUT_OF_MEMORY, Status.TIMEOUT}, said(outcome)
    assert outcome.error_message is not None
    assert outcome.error_message.startswith(("The compiler ran out", "Compilation timed out"))
    assert (outcome.stdout.text, outcome.stderr.text, outcome.exit_code) == ("", "", None)


@pytest.fixture(scope="module")
def impatient() -> Settings:
    return load(flags={"limits": {"compile_timeout_s": 8}})


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("c", '#include "/dev/zero"\nint main(void) { return 0; }\n'),
        ("c", MACRO_BOMB),
        ("cpp", TEMPLATE_BOMB),
        ("rust", 'fn main() { println!("{}", include_bytes!("/dev/zero").len()); }\n'),
        ("haskell", TEMPLATE_LOOP),
    ],
    ids=[
        "include-dev-zero", "macro-bomb", "template-bomb", "rust-dev-zero", "template-haskell",
    ],
)  # fmt: skip
async def test_a_bomb_for_the_compiler_ends_at_a_limit(
    impatient: Settings, language: str, code: str
) -> None:
    async with open_runner(impatient, warm=False) as runner:
        within(await runner.execute(Request(language=language, code=code)))


async def test_a_compilers_processes_stop_at_the_cells_limit(impatient: Settings) -> None:
    async with open_runner(impatient, warm=False) as runner:
        outcome = await runner.execute(Request(language="haskell", code=TEMPLATE_FORKS))
    assert outcome.status in {Status.COMPILE_ERROR, Status.TIMEOUT}, said(outcome)
    assert outcome.compile is not None
    assert "Cannot fork" in outcome.compile.output.text, said(outcome)
    assert (outcome.stdout.text, outcome.exit_code) == ("", None)


async def test_a_compilers_output_file_stops_at_the_size_of_the_sandbox(run: Run) -> None:
    outcome = await run("c", FILLS_THE_DISK)
    assert outcome.status in {Status.COMPILE_ERROR, Status.OUT_OF_MEMORY}, said(outcome)
    assert (outcome.stdout.text, outcome.exit_code) == ("", None)


async def test_an_assembly_program_that_begins_nowhere_is_a_compile_error(run: Run) -> None:
    outcome = await run("assembly", "section .text\nbegin: nop\n")
    assert outcome.status is Status.COMPILE_ERROR, said(outcome)
    assert outcome.compile is not None
    assert "_start" in outcome.compile.output.text


async def test_stdin_is_the_programs_alone(run: Run) -> None:
    reader = "#include </dev/stdin>\nint main(void) { return 0; }\n"
    outcome = await run("c", reader, stdin="#error read\n")
    assert outcome.status is Status.SUCCESS, said(outcome)


async def test_the_programs_environment_is_not_the_compilers(run: Run) -> None:
    code = '#include <stdlib.h>\n#include <stdio.h>\nint main(void) { puts(getenv("CPATH")); }\n'
    outcome = await run("c", code, env=(("CPATH", "/nowhere"), ("GCC_EXEC_PREFIX", "/nowhere/")))
    assert outcome.stdout.text == "/nowhere\n", said(outcome)


async def test_warnings_are_reported_when_the_program_runs(run: Run) -> None:
    outcome = await run("c", "int main(void) { int unused; return 0; }\n")
    assert outcome.status is Status.SUCCESS
    assert outcome.compile is not None
    assert "/sandbox/main.c:1:22: warning: unused variable" in outcome.compile.output.text
    assert (outcome.stdout.text, outcome.stderr.text) == ("", "")


async def test_compile_and_run_have_a_time_limit_each(run: Run) -> None:
    outcome = await run("c", "int main(void) { return 0; }\n", timeout_s=0.001)
    assert outcome.compile is not None
    assert outcome.compile.exit_code == 0
    assert outcome.compile.usage.wall_s > 0.001
