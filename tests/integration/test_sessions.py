"""Sessions through the real runner and real cells: what is kept, what is lost, what is said."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
from tests.matrix import program

from codecell.app import open_runner
from codecell.backends.docker.owners import LABEL_OWNER, Owner
from codecell.errors import RequestError, SessionBusy
from codecell.languages import LANGUAGES
from codecell.model import Input, Outcome, Request, SessionReport, SessionState, Status
from codecell.runner import Runner
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
BOTH, FILES = ("files", "variables"), ("files",)


@dataclass
class Talk:
    """Steps of one session."""

    runner: Runner
    language: str = "python"
    id: str = "s"
    caller: str = "local"

    async def __call__(self, code: str, **fields: Any) -> Outcome:
        fields = {"language": self.language, "session_id": self.id, **fields}
        return await self.runner.execute(Request(code=code, caller=self.caller, **fields))

    async def report(self, code: str, **fields: Any) -> SessionReport:
        return reported(await self(code, **fields))


def reported(outcome: Outcome) -> SessionReport:
    assert outcome.session is not None
    return outcome.session


@asynccontextmanager
async def opened(**sessions: Any) -> AsyncIterator[Runner]:
    async with open_runner(load(flags={"sessions": sessions}), warm=False) as runner:
        yield runner


@pytest.fixture
async def cold(cold_runner: Runner) -> AsyncIterator[Runner]:
    """The runner that the matrix shares, without sessions of an earlier test."""
    yield cold_runner
    for caller in ("local", "alice", "bob"):
        for session in cold_runner.list_sessions(caller):
            await cold_runner.close_session(caller, session.id)


async def test_python_keeps_its_namespace(cold: Runner) -> None:
    step = Talk(cold)
    first = await step("import math\nx = 20\ndef double(n):\n    return 2 * n")
    assert reported(first).state is SessionState.CREATED
    assert reported(first).kept == BOTH
    second = await step("print(double(x) + math.floor(2.5))")
    assert second.stdout.text == "42\n"
    assert (reported(second).state, reported(second).runs) == (SessionState.REUSED, 2)
    failed = await step("y = 1\n\n1 / 0\nz = 2")
    assert (failed.status, failed.exit_code) == (Status.EXECUTION_ERROR, 1)
    assert 'File "<step 3>", line 3, in <module>\n    1 / 0\n' in failed.stderr.text
    assert "codecell" not in failed.stderr.text
    assert (await step("print(y, 'z' in globals())")).stdout.text == "1 False\n"


async def test_python_awaits_at_the_top_level(cold: Runner) -> None:
    step = Talk(cold)
    await step("import asyncio\nqueue = asyncio.Queue()\nawait queue.put(7)")
    await step("async def take():\n    return await queue.get()")
    await step("task = asyncio.create_task(take()); await asyncio.sleep(0)")
    assert (await step("print(await task)")).stdout.text == "7\n"
    stopped = await step("await asyncio.sleep(60)", timeout_s=0.5)
    assert (stopped.status, reported(stopped).kept) == (Status.TIMEOUT, BOTH)
    assert (await step("print(queue.empty())")).stdout.text == "True\n"


async def test_a_python_session_looks_like_python(cold: Runner) -> None:
    step = Talk(cold)
    told = await step(
        "import sys, os, inspect\n"
        "def f():\n    pass\n"
        "print(__name__, sys.argv, sys.stdin.read(), os.environ['WORD'], os.getcwd())\n"
        "print(sys.modules['__main__'].__dict__ is globals(), inspect.getsource(f))\n"
        "print([name for name in sys.modules if 'codecell' in name or 'incell' in name])\n"
        "print(sorted(name for name in globals() if not name.startswith('_')))\n",
        args=("one",), stdin="in", env=(("WORD", "w"),),
    )  # fmt: skip
    assert told.stdout.text == (
        "__main__ ['', 'one'] in w /sandbox\nTrue def f():\n    pass\n\n[]\n"
        "['f', 'inspect', 'os', 'sys']\n"
    )
    assert (await step("print(sys.argv, repr(sys.stdin.read()))")).stdout.text == "[''] ''\n"


async def test_python_shows_the_value_that_a_step_ends_in(cold: Runner) -> None:
    step = Talk(cold)
    shown = await step("x = 6\nx * 7")
    assert (shown.result.text if shown.result else None, shown.stdout.text) == ("42", "")
    assert (await step("x")).result is not None
    assert (await step("y = _ + 1")).result is None
    awaited = await step("import asyncio\nawait asyncio.sleep(0, [1, 2])")
    assert awaited.result is not None
    assert awaited.result.text == "[1, 2]"
    told = await step("display('a', 2); print(y)")
    assert (len(told.displays), told.stdout.text) == (2, "7\n")


async def test_javascript_keeps_its_scope(cold: Runner) -> None:
    step = Talk(cold, "javascript")
    await step("const x = 20; let y; class A {}; function f() { return 2 * x }")
    again = await step("const x = 3; y = await Promise.resolve(1); console.log(f(), y, typeof A)")
    assert again.stdout.text == "6 1 function\n"
    failed = await step("let w = 1\nthrow new TypeError('no')")
    assert failed.exit_code == 1
    assert failed.stderr.text == "Uncaught TypeError: no\n    at step-3.js:2:7\n"
    assert (await step("console.log(w, require('os').EOL)")).stdout.text == "1 \n\n"
    assert (await step("const os = await import('os'); console.log(os.EOL)")).stdout.text == "\n\n"
    for endless in ("while (true) {}", "await new Promise(() => {})"):
        stopped = await step(endless, timeout_s=0.5)
        assert (stopped.status, reported(stopped).kept) == (Status.TIMEOUT, BOTH)
    left = await step("console.log(w); process.exit(3)")
    assert (left.exit_code, left.stdout.text, reported(left).kept) == (3, "1\n", BOTH)
    listen = "process.stdin.on('data', (d) => console.log(String(d)));"
    said = await step(
        f"{listen} await new Promise((done) => process.stdin.on('end', done))", stdin="hello"
    )
    assert said.stdout.text == "hello\n"


async def test_bash_keeps_variables_functions_directory_and_options(cold: Runner) -> None:
    step = Talk(cold, "bash")
    await step('x=1; f() { echo "f $1 $x"; }; cd /tmp; shopt -s extglob; set -u', args=("a",))
    told = await step("f 2; pwd; shopt -q extglob && echo $-; read -r line; echo $1 $line",
                      stdin="in\n")  # fmt: skip
    assert told.stdout.text.splitlines()[:2] == ["f 2 1", "/tmp"]
    assert "u" in told.stdout.text.splitlines()[2]
    assert told.stdout.text.splitlines()[3] == "a in"
    for endless in ("sleep 60", "g() { while :; do sleep 0.1; done; }; g"):
        stopped = await step(endless, timeout_s=0.5)
        assert (stopped.status, reported(stopped).kept) == (Status.TIMEOUT, BOTH)
    assert (await step("f 3; (exit 7)")).exit_code == 7
    assert "command not found" in (await step("no_such_command")).stderr.text
    gone = await step("touch here; exit 5")
    assert (gone.exit_code, reported(gone).kept) == (5, FILES)
    assert "The program ended its interpreter (exit code 5)" in (reported(gone).reason or "")
    assert (await step("echo ${x-unset}; ls /tmp/here")).stdout.text == "unset\n/tmp/here\n"


@pytest.mark.requirement("session:truthful")
@pytest.mark.parametrize(
    ("code", "status", "kept", "reason"),
    [
        ("while True: pass", Status.TIMEOUT, BOTH, "was interrupted and answered"),
        (
            "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
            Status.TIMEOUT, FILES, "did not stop when it was interrupted and was killed",
        ),
        ("b = bytearray(10**9)", Status.OUT_OF_MEMORY, FILES, "killed for lack of memory"),
        ("while True: print('x' * 9999)", Status.OUTPUT_LIMIT, BOTH, "interrupted and answered"),
        ("import os; os._exit(4)", Status.EXECUTION_ERROR, FILES, "exit code 4"),
        ("import ctypes; ctypes.string_at(0)", Status.EXECUTION_ERROR, FILES, "signal 11"),
        ("import os; os.fork() or x", Status.SUCCESS, BOTH, None),
        ("import os; os.closerange(3, 99)", Status.EXECUTION_ERROR, FILES, "exit code 1"),
        ("import sys; sys.exit(3)", Status.EXECUTION_ERROR, BOTH, None),
    ],
    ids=["loop", "deaf loop", "memory", "flood", "os exit", "crash", "fork", "streams", "sys exit"],
)  # fmt: skip
async def test_each_ending_says_what_survived_and_it_did(
    cold: Runner, code: str, status: Status, kept: tuple[str, ...], reason: str | None
) -> None:
    step = Talk(cold)
    await step("open('file', 'w').write('text'); x = 'kept'")
    # gVisor takes seconds for the 64 MiB after which a flood is ended, and a virtual machine whose
    # host has still to find the memory takes one for 256 MiB.
    ended = await step(code, timeout_s=1 if status is Status.TIMEOUT else 30)
    assert ended.status is status
    assert reported(ended).kept == kept
    assert reported(ended).reason is None if reason is None else reason in str(reported(ended))
    after = await step("print(open('file').read(), globals().get('x', 'lost'))")
    assert after.stdout.text == f"text {'kept' if 'variables' in kept else 'lost'}\n"
    assert reported(after).state is SessionState.REUSED


async def test_an_interpreter_that_dies_between_two_calls_is_told_of(cold: Runner) -> None:
    step = Talk(cold)
    await step(
        "import os, threading, time\nx = 1\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), os._exit(9))).start()"
    )
    await anyio.sleep(0.5)
    report = await step.report("print('x' in globals())")
    assert "had ended since the last call (code 9)" in (report.reason or "")
    assert report.kept == BOTH


async def test_what_runs_on_is_heard_in_a_later_call_and_ends_with_the_session(
    cold: Runner,
) -> None:
    step = Talk(cold)
    await step("import subprocess, threading\nsubprocess.Popen(['sh', '-c', "
               "'sleep 0.2; echo from below; sleep 600'])\nprint('now')")  # fmt: skip
    await anyio.sleep(0.5)
    assert (await step("print('later')")).stdout.text == "from below\nlater\n"
    flood = await step("import os\nif not os.fork():\n    while True: os.write(1, b'x' * 9999)")
    assert flood.status is Status.SUCCESS  # its step is over whatever it left behind


async def test_a_cell_that_dies_is_replaced_and_the_call_says_so(
    engine: docker.APIClient, cold: Runner
) -> None:
    step = Talk(cold)
    await step("x = 1")
    (session,) = cold.sessions._open.values()
    (cell,) = session.cells.values()
    engine.kill(cell.link.cell.id)
    with anyio.fail_after(10):
        while cell.link.lost is None:
            await anyio.sleep(0.01)
    report = await step.report("print('x' in globals())")
    assert (report.state, report.kept) == (SessionState.LOST_AND_RECREATED, BOTH)
    assert "The cell was lost since the last call" in (report.reason or "")


async def test_a_cell_lost_in_the_middle_of_a_call_is_replaced(
    engine: docker.APIClient, cold: Runner
) -> None:
    step = Talk(cold)
    await step("x = 1")
    (session,) = cold.sessions._open.values()
    (cell,) = session.cells.values()
    async with anyio.create_task_group() as tasks:

        async def kill() -> None:
            await anyio.sleep(0.3)
            await anyio.to_thread.run_sync(engine.kill, cell.link.cell.id)

        tasks.start_soon(kill)
        lost = await step("import time; time.sleep(20)")
    assert lost.status is Status.SETUP_ERROR
    assert (reported(lost).state, reported(lost).kept) == (SessionState.LOST_AND_RECREATED, ())
    assert (await step("print('x' in globals())")).stdout.text == "False\n"


async def test_two_callers_with_the_same_id_have_two_sessions(cold: Runner) -> None:
    alice, bob = Talk(cold, caller="alice"), Talk(cold, caller="bob")
    await alice("secret = 1; open('secret', 'w').write('s')")
    seen = await bob("import os; print('secret' in globals(), os.listdir('.'))")
    assert seen.stdout.text == "False []\n"
    assert reported(seen).state is SessionState.CREATED
    assert (await alice("print(secret)")).stdout.text == "1\n"
    assert [session.runs for session in cold.list_sessions("alice")] == [2]
    with pytest.raises(RequestError, match=r"no session 'other'\. Your sessions: s "):
        await cold.close_session("bob", "other")
    await cold.close_session("bob", "s")
    assert (await alice("print(secret)")).stdout.text == "1\n"


async def test_new_mints_a_name_that_nobody_guesses(cold: Runner) -> None:
    made = [await Talk(cold, id="new").report("x = 1") for _ in range(2)]
    assert len({report.id for report in made}) == 2
    assert all(len(report.id) >= 32 for report in made)
    back = await Talk(cold, id=made[0].id)("print(x)")
    assert (back.stdout.text, reported(back).state) == ("1\n", SessionState.REUSED)


async def test_a_hundred_steps_in_one_session(cold: Runner) -> None:
    step = Talk(cold)
    await step("seen = []")
    for number in range(98):
        assert (await step(f"seen.append({number})")).status is Status.SUCCESS
    last = await step("print(len(seen), sum(seen))")
    assert last.stdout.text == f"98 {sum(range(98))}\n"
    assert reported(last).runs == 100


async def test_calls_of_one_session_run_in_order_and_say_that_they_waited(cold: Runner) -> None:
    step = Talk(cold)
    await step("import time; seen = []")
    reports: list[SessionReport] = []

    async def one(number: int) -> None:
        reports.append(await step.report(f"time.sleep(0.1); seen.append({number})"))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(one, number)
            await anyio.sleep(0.01)
    assert (await step("print(seen)")).stdout.text == "[0, 1, 2, 3]\n"
    assert [report.waited_s > 0.05 for report in reports] == [False, True, True, True]
    assert "for an earlier one" in (reports[-1].reason or "")


async def test_a_call_does_not_wait_for_ever_nor_behind_too_many() -> None:
    async with opened(wait_s=0.3, queue=1) as runner:
        step = Talk(runner)
        await step("import time")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step, "time.sleep(1.5)")
            await anyio.sleep(0.05)

            async def too_long() -> None:
                with pytest.raises(SessionBusy, match=r"busy with earlier calls for 0\.3 s"):
                    await step("print(1)")

            tasks.start_soon(too_long)
            await anyio.sleep(0.05)
            with pytest.raises(SessionBusy, match="1 calls waiting"):
                await step("print(2)")


async def test_limits_refuse_or_evict_as_configured() -> None:
    async with opened(per_caller=1) as runner:
        await Talk(runner, id="first")("x = 1")
        with pytest.raises(RequestError, match=r"you have 1 of 1 sessions open. Yours: first \("):
            await Talk(runner, id="second")("x = 1")
        await runner.close_session("local", "first")
        assert (await Talk(runner, id="second").report("x = 1")).state is SessionState.CREATED
    async with opened(per_caller=1, evict="idle") as runner:
        await Talk(runner, id="first")("x = 1")
        await Talk(runner, id="second")("x = 1")
        assert [session.id for session in runner.list_sessions("local")] == ["second"]
        report = await Talk(runner, id="first").report("print('x' in globals())")
        assert report.state is SessionState.CREATED
        assert "An earlier session of this name is gone: evicted" in (report.reason or "")


async def test_another_languages_cell_is_held_to_the_memory_too() -> None:
    async with opened(memory="56MiB") as runner:
        step = Talk(runner)
        await step("x = bytearray(60 * 2**20)")
        with pytest.raises(RequestError, match=r"No further cell was opened for s: .*Yours: s \("):
            await step("echo 1", language="bash")
        assert (await step("del x; print(1)")).stdout.text == "1\n"  # its own cell goes on
        assert (await step("echo 2", language="bash")).stdout.text == "2\n"


@pytest.mark.parametrize("limit", ["idle_s", "max_age_s"])
async def test_a_session_is_closed_in_time(limit: str, engine: docker.APIClient) -> None:
    async with opened(**{limit: 3.0}) as runner:
        report = await Talk(runner).report("x = 1")
        assert 0 < report.expires_in_s <= 3
        with anyio.fail_after(10):
            while runner.list_sessions("local"):
                await anyio.sleep(0.05)
        assert (await Talk(runner).report("x = 1")).state is SessionState.CREATED


async def test_closing_stops_the_call_that_is_in_it(cold: Runner) -> None:
    step = Talk(cold)
    await step("import time")
    outcomes: list[Outcome] = []

    async def long() -> None:
        outcomes.append(await step("print('begun', flush=True); time.sleep(60)"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(long)
        await anyio.sleep(0.3)
        with anyio.fail_after(5):
            await cold.close_session("local", "s")
    (outcome,) = outcomes
    assert (outcome.status, outcome.stdout.text) == (Status.CANCELLED, "begun\n")
    assert (reported(outcome).state, reported(outcome).kept) == (SessionState.CLOSED, ())
    assert reported(outcome).reason == "The session was closed: close_session was called."
    assert not cold.list_sessions("local")


async def test_a_call_that_is_given_up_leaves_its_session_usable(cold: Runner) -> None:
    step = Talk(cold)
    await step("import time; x = 1")
    with anyio.move_on_after(0.3):
        await step("time.sleep(60)")
    assert (await step("print(x)")).stdout.text == "1\n"


async def test_files_of_a_request_come_to_a_step_and_none_that_does_not_fit(cold: Runner) -> None:
    for language, code in (
        ("python", "import helper; print(helper.word, open('data/raw', 'rb').read())"),
        ("bash", "cat helper.py; wc -c <data/raw"),
        ("javascript", "console.log(require('fs').readFileSync('data/raw').length)"),
    ):
        step = Talk(cold, language, id=language)
        files = (
            Input(path="helper.py", content=b"word = 'in'"),
            Input(path="data/raw", content=b"\0\xff" * 700),
        )
        outcome = await step(code, files=files)
        assert (outcome.status, outcome.stderr.text) == (Status.SUCCESS, ""), language
        assert {file.path for file in outcome.files.changed} == set()
    step = Talk(cold)
    await step("x = 1; blob = open('blob', 'wb').write(bytes(63 * 2**20))")
    full = await step("x = 2", files=(Input(path="more", content=bytes(4 * 2**20)),))
    assert full.status is Status.SETUP_ERROR
    assert "No space left" in (full.error_message or "")
    assert (await step("print(x)")).stdout.text == "1\n"


async def test_each_step_lists_what_it_changed_and_nothing_of_the_steps_before(
    cold: Runner,
) -> None:
    step = Talk(cold)
    made = await step("open('a', 'w').write('1'); open('b', 'w').write('2')")
    assert [(file.path, file.change.value) for file in made.files.changed] == [
        ("a", "created"), ("b", "created"),
    ]  # fmt: skip
    changed = await step("import os; open('a', 'a').write('3'); os.remove('b')")
    assert [(file.path, file.change.value) for file in changed.files.changed] == [
        ("a", "modified"), ("b", "deleted"),
    ]  # fmt: skip
    assert (await step("x = 1")).files.changed == ()


async def test_one_session_in_several_languages_has_the_same_files(
    cold: Runner, installed: set[str]
) -> None:
    step = Talk(cold)
    await step(
        "open('table.csv', 'w').write('1,2')", files=(Input(path="lib/a.txt", content=b"A"),)
    )
    shell = await step("cat table.csv lib/a.txt; echo 3 >>table.csv; rm lib/a.txt", language="bash")
    assert (shell.status, shell.stdout.text) == (Status.SUCCESS, "1,2A")
    assert [file.path for file in shell.files.changed] == ["lib/a.txt", "table.csv"]
    seen = await step("import os; print(open('table.csv').read(), os.listdir('lib'))")
    assert seen.stdout.text == "1,23\n []\n"
    assert seen.files.changed == ()
    await step("os.symlink('/etc', 'link')")
    read = await step("console.log(require('fs').readFileSync('table.csv', 'utf8'))",
                      language="javascript")  # fmt: skip
    assert read.stdout.text == "1,23\n\n"
    assert reported(read).reason == "Not carried over to javascript: link (symlink)."
    if "c" in installed:
        code = '#include <stdio.h>\nint main(void) { puts(fopen("table.csv", "r") ? "y" : "n"); }'
        compiled = await step(code, language="c")
        assert (compiled.stdout.text, reported(compiled).kept) == ("y\n", FILES)
        assert (await step("ls", language="bash")).stdout.text.split() == ["lib", "table.csv"]


@pytest.mark.timeout(420)
async def test_every_language_is_a_step_whose_files_stay(cold: Runner, installed: set[str]) -> None:
    """One session: each language of the table reads what the one before it wrote."""
    missing = set(LANGUAGES) - installed
    assert not missing or os.environ.get("CI") != "true"
    chain = [language for language in LANGUAGES if language in installed]
    step = Talk(cold)
    await step(program("bash", "file"), language="bash")
    before = "bash"
    for language in chain:
        read = await step(program(language, "read"), language=language, timeout_s=60)
        told = (language, read.status, read.stderr.text, read.error_message, read.compile)
        assert read.stdout.text == f"made by {before}\n", told
        written = await step(program(language, "file"), language=language, timeout_s=60)
        assert written.status is Status.SUCCESS, (language, written.stderr.text, written.compile)
        report = reported(written)
        assert (report.state, report.reason) == (SessionState.REUSED, None), language
        assert report.kept == (BOTH if LANGUAGES[language].kernel else FILES), language
        assert [file.path for file in written.files.changed] == ["out.txt"], language
        before = language
    (session,) = cold.list_sessions("local")
    assert (set(session.languages), session.runs) == ({"bash", *chain}, 1 + 2 * len(chain))


async def test_typescript_steps_share_their_modules(cold: Runner, installed: set[str]) -> None:
    if "typescript" not in installed:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no image: typescript")
    step = Talk(cold, "typescript")
    files = (
        Input(path="shop/sum.ts", content=b"export const sum = (a: number, b: number) => a + b\n"),
    )
    use = "import { sum } from './shop/sum'\n"
    first = await step(use + "console.log(sum(40, 2))", files=files)
    assert (first.status, first.stdout.text) == (Status.SUCCESS, "42\n"), first.compile
    assert (reported(first).state, reported(first).kept) == (SessionState.CREATED, FILES)
    again = await step(f"{use}const n: number = sum(1, 2)\nconsole.log(n)")
    assert (again.status, again.stdout.text) == (Status.SUCCESS, "3\n"), again.compile
    waits = use.replace("sum'", "sum.js'") + "console.log(await Promise.resolve(sum(3, 4)))"
    assert (await step(waits)).stdout.text == "7\n"
    wrong = await step(use + "sum('1', 2)\nconst n: string = 5")
    assert (wrong.status, reported(wrong).kept) == (Status.COMPILE_ERROR, FILES)
    unknown = await step("console.log(n)")  # a step is a program: its variables end with it
    assert unknown.status is Status.COMPILE_ERROR
    assert (await step("ls; ls shop", language="bash")).stdout.text.split() == ["shop", "sum.ts"]


async def test_env_that_only_a_fresh_start_reads_is_refused(cold: Runner) -> None:
    with pytest.raises(RequestError, match=r"PYTHONPATH.*only read when Python starts"):
        await Talk(cold)("x = 1", env=(("PYTHONPATH", "/tmp"),))
    assert not cold.list_sessions("local")


SESSIONS = int(os.environ.get("SOAK_SESSIONS", "60"))


@pytest.mark.timeout(SESSIONS * 3 + 60)
async def test_sessions_opened_and_closed_leave_nothing_behind(
    engine: docker.APIClient, settings: Settings
) -> None:
    """`make soak` does a thousand."""
    mine = {"label": f"{LABEL_OWNER}={Owner.current().label()}"}
    async with open_runner(settings) as runner:
        tenth = max(SESSIONS // 10, 1)
        for number in range(SESSIONS):
            report = await Talk(runner, id=f"n{number}").report("x = [0] * 1000")
            assert report.state is SessionState.CREATED
            await runner.close_session("local", report.id)
            if number == tenth:
                before, memory = descriptors(), resident_bytes()
        assert not runner.list_sessions("local")
        spares = len(settings.pool.languages) * settings.pool.max + settings.pool.starting
        with anyio.fail_after(20):
            while len(engine.containers(all=True, filters=mine)) > spares:
                await anyio.sleep(0.1)
        await anyio.sleep(1)  # the last removals let go of their connections
        assert descriptors() <= before + 16
        assert resident_bytes() - memory < 16 * 2**20 + SESSIONS * 4096


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
