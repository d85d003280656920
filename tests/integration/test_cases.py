"""Many inputs in one call, in real cells."""

import re
from collections.abc import Awaitable, Callable

import pytest

from codecell.model import Case, Outcome, Status

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Run = Callable[..., Awaitable[Outcome]]

LEAVES = """
import os, sys, subprocess
x = input()
for place in ("/sandbox", "/tmp", "/dev/shm"):
    print(sorted(os.listdir(place)))
    open(f"{place}/left", "w").write(x)
os.environ["LEFT"] = x
subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
print(len([p for p in os.listdir("/proc") if p.isdigit()]))
print(x, *sys.argv[1:])
if x == "fail":
    raise SystemExit(3)
while x == "loop":
    pass
"""

SPOILS = r"""
#include <stdio.h>
#include <sys/stat.h>
#warning compiled
int main(void) {
    int x;
    if (scanf("%d", &x) != 1) return 9;
    printf("%d", x * 2);
    FILE *f = fopen("/sandbox/main.c", "w");
    fputs("spoilt", f); fclose(f);
    f = fopen("/sandbox/more", "r");
    if (f) printf(" more");
    f = fopen("/sandbox/more", "w"); fclose(f);
    remove("/sandbox/main");
    return 0;
}
"""


def verdicts(outcome: Outcome) -> list[str]:
    return [test.verdict.value for test in outcome.tests]


async def test_each_case_is_clean_and_has_a_verdict_of_its_own(run: Run) -> None:
    clean = "['main.py']\n[]\n[]\n3\n"
    outcome = await run(
        "python",
        LEAVES,
        args=("all",),
        tests=(
            Case(stdin=b"a", expected=clean + "a all"),
            Case(stdin=b"b", args=("own",), expected=clean + "b all own"),
            Case(stdin=b"fail"),
            Case(stdin=b"loop", timeout_s=0.5),
            Case(stdin=b"c", expected="something else"),
            Case(stdin=b"d"),
        ),
    )
    shown = [(test.stdout.text, test.message) for test in outcome.tests]
    assert verdicts(outcome) == ["passed", "passed", "error", "error", "failed", "passed"], shown
    assert [test.status for test in outcome.tests][2:4] == [
        Status.EXECUTION_ERROR, Status.TIMEOUT,
    ]  # fmt: skip
    assert (outcome.status, outcome.exit_code) == (Status.EXECUTION_ERROR, None)
    assert outcome.error_message == "Not all 6 tests passed: 3 passed, 1 failed, 2 error."
    assert outcome.usage.wall_s == pytest.approx(sum(test.usage.wall_s for test in outcome.tests))


async def test_a_program_is_compiled_once_and_can_not_spoil_the_next_case(run: Run) -> None:
    cases = tuple(Case(stdin=str(n).encode(), expected=str(2 * n)) for n in range(4))
    outcome = await run("c", SPOILS, tests=cases)
    assert verdicts(outcome) == ["passed"] * 4, [test.stdout.text for test in outcome.tests]
    assert (outcome.status, outcome.exit_code) == (Status.SUCCESS, 0)
    assert outcome.compile is not None
    assert outcome.compile.exit_code == 0
    assert "compiled" in outcome.compile.output.text
    assert (outcome.stdout.total_bytes, outcome.stderr.total_bytes) == (0, 0)


async def test_a_program_that_does_not_compile_has_no_cases(run: Run) -> None:
    outcome = await run("c", "int main(", tests=(Case(stdin=b"1"),))
    assert (outcome.status, outcome.tests) == (Status.COMPILE_ERROR, ())


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("javascript", "console.log(require('fs').readFileSync(0, 'utf8').trim() + '!')"),
        ("bash", 'read -r x; echo "$x!"'),
        ("typescript", "console.log(require('fs').readFileSync(0, 'utf8').trim() + '!')"),
    ],
)
async def test_whatever_waits_in_a_cell(run: Run, language: str, code: str) -> None:
    cases = tuple(Case(stdin=word.encode(), expected=f"{word}!") for word in ("one", "two"))
    outcome = await run(language, code, tests=cases)
    assert verdicts(outcome) == ["passed"] * 2, (outcome.error_message, outcome.tests)


async def test_nothing_runs_behind_the_first_failure_if_so_asked(run: Run) -> None:
    cases = (Case(stdin=b"1", expected="1"), Case(stdin=b"2", expected="0"), Case(stdin=b"3"))
    outcome = await run("python", "print(input())", tests=cases, stop_on_failure=True)
    assert verdicts(outcome) == ["passed", "failed", "skipped"]
    assert outcome.tests[2].status is None


async def test_one_deadline_is_over_all_cases(run: Run) -> None:
    cases = (Case(stdin=b"0.3"), Case(stdin=b"9"), Case(stdin=b"0"))
    code = "import time; time.sleep(float(input()))"
    outcome = await run("python", code, tests=cases, timeout_s=1)
    assert verdicts(outcome) == ["passed", "error", "skipped"]
    _, cut, skipped = outcome.tests
    assert re.fullmatch(r"Execution timed out after 0\.\d{1,2} seconds\.", cut.message or "")
    assert skipped.message == "Not run: the time of all tests is over."


async def test_after_a_case_that_killed_its_cell_the_next_has_another(run: Run) -> None:
    code = (
        "import os\nif input() == 'eat':\n    x = bytearray(10**9); x[::4096] = x[::4096]\nprint(1)"
    )
    cases = (Case(stdin=b"eat"), Case(stdin=b"no", expected="1"))
    outcome = await run("python", code, tests=cases)
    assert verdicts(outcome) == ["error", "passed"]
    assert outcome.tests[0].status is Status.OUT_OF_MEMORY


async def test_a_compile_step_that_leaves_more_than_is_kept_is_done_for_each_case(run: Run) -> None:
    classes = "".join(f"static class A{n}{{}}" for n in range(5001))
    code = f"""
public class Main {{
    {classes}
    public static void main(String[] words) throws Exception {{
        boolean first = new java.io.File("left").createNewFile();
        System.out.println(first + " " + A5000.class.getName());
    }}
}}
"""
    cases = (Case(expected="true Main$A5000"), Case(expected="true Main$A5000"))
    outcome = await run("java", code, tests=cases)
    assert verdicts(outcome) == ["passed"] * 2, (outcome.error_message, outcome.tests)
