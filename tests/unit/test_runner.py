"""Facts become a status in one place; our failures are told as ours; a run is never run twice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

import anyio
import pytest
from tests.unit.over_fake import runner_over

from codecell.backends.fake import (
    HELLO,
    OUT_OF_MEMORY,
    READY,
    End,
    FakeBackend,
    FakeCell,
    Raw,
    Script,
    Scripts,
    Wait,
    leave,
    say,
)
from codecell.errors import (
    BusyError,
    CellLost,
    EngineUnavailable,
    ImageMissing,
    RequestError,
    SandboxError,
)
from codecell.frames import Kind
from codecell.languages import LANGUAGES
from codecell.link import Link
from codecell.model import Case, Ending, Facts, Outcome, Request, Status, Usage
from codecell.observer import Observer, Observers, Run
from codecell.policy import plan
from codecell.runner import Runner
from codecell.sandbox import Image
from codecell.settings import LimitSettings, PoolSettings, RunSettings, Settings
from codecell.verdict import signal_name, verdict

pytestmark = pytest.mark.anyio
SETTINGS = Settings.model_construct(
    pool=PoolSettings(min=0, max=0),
    limits=LimitSettings(output_chars=10),
    runs=RunSettings(concurrent=1, queue=0),
)
PLAIN = Script()
REQUEST = Request(language="python", code="print(1)")
PLAN = plan(REQUEST, SETTINGS)


@asynccontextmanager
async def opened(
    scripts: Scripts = PLAIN, **more: Any
) -> AsyncIterator[tuple[Runner, FakeBackend]]:
    backend = FakeBackend(scripts=scripts, **more)
    async with runner_over(backend, SETTINGS) as runner:
        yield runner, backend
    assert backend.engine.cells == []


async def run(scripts: Scripts, request: Request = REQUEST) -> tuple[Outcome, FakeBackend]:
    async with opened(scripts) as (runner, backend):
        outcome = await runner.execute(request)
    return outcome, backend


# --- the verdict


def expected(facts: Facts) -> Status:
    """The same table, written the other way round."""
    fixed = {
        Ending.CANCELLED: Status.CANCELLED,
        Ending.TIMEOUT: Status.TIMEOUT,
        Ending.OUTPUT_LIMIT: Status.OUTPUT_LIMIT,
        Ending.OUT_OF_MEMORY: Status.OUT_OF_MEMORY,
    }
    if facts.ending in fixed:
        return fixed[facts.ending]
    if facts.exit_code == 0:
        return Status.SUCCESS
    return Status.OUT_OF_MEMORY if facts.oom_kills else Status.EXECUTION_ERROR


ENDS = [(code, None) for code in (0, 1, 2, 3, 124, 125, 126, 127, 137, 139, 143, 255)]
SIGNALS = [(None, number) for number in (1, 2, 6, 9, 11, 15, 24, 25, 31, 34, 64)]


@pytest.mark.parametrize("ending", Ending)
@pytest.mark.parametrize(("exit_code", "signal"), [*ENDS, *SIGNALS])
@pytest.mark.parametrize("oom_kills", [0, 1])
def test_every_combination_of_facts_has_its_status(
    ending: Ending, exit_code: int | None, signal: int | None, oom_kills: int
) -> None:
    facts = Facts(ending=ending, exit_code=exit_code, signal=signal, oom_kills=oom_kills)
    status, message = verdict(facts, PLAN)
    assert status is expected(facts)
    assert status not in {Status.SETUP_ERROR, Status.COMPILE_ERROR}
    assert (message is None) == (status is Status.SUCCESS)
    if message is not None:
        assert message.endswith(".")
        assert "\n" not in message
        assert "None" not in message


def test_the_messages_carry_the_facts() -> None:
    def message(**facts: Any) -> str | None:
        return verdict(Facts(**{"ending": Ending.EXITED, **facts}), PLAN)[1]

    assert message(ending=Ending.TIMEOUT) == "Execution timed out after 30 seconds."
    assert message(exit_code=3) == "The program exited with code 3."
    assert message(signal=11) == "The program was killed by SIGSEGV."
    assert message(signal=9, oom_kills=1) == "The program ran out of its 256 MiB of memory."
    assert message(ending=Ending.OUT_OF_MEMORY) == "The cell ran out of its 256 MiB of memory."
    assert message(ending=Ending.OUTPUT_LIMIT) == (
        "The program printed more than 67,108,864 bytes and was ended."
    )


@pytest.mark.parametrize(
    ("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (40, "SIG40"), (64, "SIGRTMAX")]
)
def test_signals_have_names(number: int, name: str) -> None:
    assert signal_name(number) == name


# --- a run


async def test_a_run_is_told_as_it_was() -> None:
    script = Script(
        run=(say("out"), say("err", Kind.STDERR), leave(stdout_bytes=3, stderr_bytes=3))
    )
    request = Request(
        language="python", code="print(1)", stdin="in", args=("a",), env=(("A", "b"),)
    )
    outcome, backend = await run(script, request)
    assert outcome.status is Status.SUCCESS
    assert (outcome.exit_code, outcome.signal, outcome.error_message) == (0, None, None)
    assert (outcome.stdout.text, outcome.stderr.text) == ("out", "err")
    assert outcome.usage == Usage(wall_s=0.25, cpu_s=0.125, peak_memory_bytes=1024)
    assert outcome.isolation.image_digest == "sha256:codecell/python:latest"
    (job,) = backend.engine.created[0].jobs
    assert job.head["argv"] == ["/sandbox/main.py", "a"]
    assert job.head["env"] == {"A": "b"}
    assert job.files == {"main.py": b"print(1)"}
    assert job.stdin == b"in"


async def test_output_past_the_cap_is_cut_and_counted() -> None:
    script = Script(run=(say("x" * 40), leave(stdout_bytes=12345)))
    outcome, _ = await run(script)
    shown = "xxxxxxxxxx\n[... 12,335 bytes elided ...]\n"
    assert (outcome.stdout.text, outcome.stdout.truncated) == (shown, True)
    assert outcome.stdout.total_bytes == 12345


PARTIAL = say("partial")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (leave(code=1), Status.EXECUTION_ERROR),
        (leave(code=None, signal=9, ending="timeout"), Status.TIMEOUT),
        (leave(code=None, signal=9, ending="output_limit"), Status.OUTPUT_LIMIT),
        (leave(code=None, signal=9, ending="cancelled"), Status.CANCELLED),
        (leave(code=None, signal=9, oom_kills=1), Status.OUT_OF_MEMORY),
        (End(OUT_OF_MEMORY), Status.OUT_OF_MEMORY),
        (End(), Status.SETUP_ERROR),
        (Raw(b"this is no frame at all"), Status.SETUP_ERROR),
    ],
)
async def test_what_was_printed_is_kept_however_it_ends(end: Any, status: Status) -> None:
    outcome, _ = await run(Script(run=(PARTIAL, end)))
    assert outcome.status is status
    assert outcome.stdout.text == "partial"


@pytest.mark.parametrize("code", [124, 125, 126, 127, 137])
async def test_what_a_program_prints_and_exits_with_never_looks_like_our_failure(code: int) -> None:
    words = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock"
    outcome, _ = await run(Script(run=(say(words[:40], Kind.STDERR), leave(code=code))))
    assert outcome.status is Status.EXECUTION_ERROR
    assert outcome.exit_code == code
    assert outcome.error_message == f"The program exited with code {code}."


# --- our failures


@pytest.mark.parametrize(
    "error",
    [
        ImageMissing("the image for python is not built; run `codecell images build python`"),
        EngineUnavailable("no container engine answers; run `codecell setup`"),
        SandboxError("creating a cell: no space left on device"),
    ],
)
async def test_our_failure_is_a_setup_error_with_its_reason_and_no_output(
    error: SandboxError,
) -> None:
    outcome, _ = await run(lambda _: error)
    assert outcome.status is Status.SETUP_ERROR
    assert outcome.error_message == str(error)
    assert (outcome.exit_code, outcome.signal) == (None, None)
    assert (outcome.stdout.text, outcome.stderr.text) == ("", "")


async def test_a_program_that_could_not_be_started_is_a_setup_error() -> None:
    outcome, _ = await run(Script(run=(leave(code=127, failure="ENOENT: /usr/bin/python3"),)))
    assert outcome.status is Status.SETUP_ERROR
    assert "ENOENT" in (outcome.error_message or "")
    assert outcome.stderr.text == ""


async def test_after_our_failure_the_next_run_succeeds() -> None:
    error = EngineUnavailable("away")
    async with opened(lambda number: error if number == 1 else Script()) as (runner, _):
        assert (await runner.execute(REQUEST)).status is Status.SETUP_ERROR
        assert (await runner.execute(REQUEST)).status is Status.SUCCESS


# --- once


@pytest.fixture
def dead_on_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cell that is leased is dead already, and nobody has noticed yet."""
    original = Link.bind

    def bind(self: Link, caller: str) -> None:
        original(self, caller)
        cell = self.cell
        if isinstance(cell, FakeCell) and cell is cell.owner.engine.created[0]:
            self.lost = CellLost("dead")
            cell.end()

    monkeypatch.setattr(Link, "bind", bind)


@pytest.mark.usefixtures("dead_on_arrival")
async def test_a_cell_that_was_dead_before_the_program_went_is_replaced() -> None:
    outcome, backend = await run(Script())
    assert outcome.status is Status.SUCCESS
    assert [len(cell.jobs) for cell in backend.engine.created] == [0, 1]


@pytest.mark.parametrize(
    "acts",
    [(End(),), (PARTIAL, End()), (Raw(b"this is no frame at all"),)],
    ids=["at once", "late", "garbage"],
)
async def test_a_program_that_went_is_never_run_again(acts: Any) -> None:
    outcome, backend = await run(Script(run=acts))
    assert outcome.status is Status.SETUP_ERROR
    assert len(backend.engine.created) == 1


async def test_only_one_replacement_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def run_(self: Any, *args: Any, **more: Any) -> Facts:
        tries.append(self)
        raise CellLost("dead")

    monkeypatch.setattr(Link, "run", run_)
    outcome, _ = await run(Script())
    assert outcome.status is Status.SETUP_ERROR
    assert len(tries) == 2


# --- before and beside a run


async def test_a_refused_request_touches_nothing() -> None:
    async with opened() as (runner, backend):
        with pytest.raises(RequestError):
            await runner.execute(Request(language="python", code=""))
        assert backend.asked == 0


async def test_past_the_queue_the_server_is_busy_and_nothing_is_made() -> None:
    busy = Script(run=(Wait(anyio.Event()),))
    async with opened(busy) as (runner, backend), anyio.create_task_group() as tasks:
        tasks.start_soon(runner.execute, REQUEST)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(BusyError):
            await runner.execute(REQUEST)
        assert backend.asked == 1
        tasks.cancel_scope.cancel()


async def test_a_cancelled_run_frees_its_place_and_its_cell() -> None:
    never = anyio.Event()
    async with opened(lambda n: Script(run=(Wait(never), leave()) if n == 1 else (leave(),))) as (
        runner,
        backend,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.execute, REQUEST)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert backend.engine.created[0].jobs[0].cancelled
        await anyio.wait_all_tasks_blocked()
        assert backend.engine.cells == []
        assert (await runner.execute(REQUEST)).status is Status.SUCCESS


@pytest.mark.parametrize(("deaths", "status"), [(1, Status.SUCCESS), (2, Status.SETUP_ERROR)])
async def test_a_case_whose_cell_was_dead_before_it_went_gets_another_once(
    monkeypatch: pytest.MonkeyPatch, deaths: int, status: Status
) -> None:
    left = iter(range(deaths))
    run_for_real = Link.run

    async def run_or_die(link: Link, *args: Any, **fields: Any) -> Facts:
        if next(left, None) is not None:
            raise CellLost("it was dead already")
        return await run_for_real(link, *args, **fields)

    monkeypatch.setattr(Link, "run", run_or_die)
    async with opened() as (runner, _):
        outcome = await runner.execute(replace(REQUEST, tests=(Case(), Case())))
    assert outcome.status is status


async def test_cancelled_in_the_middle_of_its_cases_a_run_is_told_as_cancelled() -> None:
    class Seen(Observer):
        statuses: ClassVar[list[Status]] = []

        def ended(self, run: Run, outcome: Outcome) -> None:
            self.statuses.append(outcome.status)

    request = replace(REQUEST, tests=(Case(), Case()))
    async with opened(Script(run=(Wait(anyio.Event()), leave()))) as (runner, _):
        runner.observers = Observers((Seen(),))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.execute, request)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert Seen.statuses == [Status.CANCELLED]


async def test_cancelling_while_a_cell_is_made_frees_the_place() -> None:
    up = anyio.Event()
    async with opened(Script(boot=(Wait(up), HELLO, READY))) as (runner, _):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.execute, REQUEST)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        up.set()
        assert (await runner.execute(REQUEST)).status is Status.SUCCESS


async def test_run_ids_differ() -> None:
    async with opened() as (runner, _):
        ids = {(await runner.execute(REQUEST)).run_id for _ in range(5)}
    assert len(ids) == 5


async def test_languages_are_told_as_installed() -> None:
    image = Image(
        "python", "codecell/python:latest", "sha256:1", "3.13.5", ("python3=3.13",), 1, current=True
    )
    async with opened(images={"python": image}) as (runner, _):
        found = {info.id: info for info in await runner.languages()}
    assert list(found) == list(LANGUAGES)
    assert found["python"].installed
    assert found["python"].version == "3.13.5"
    assert "python3=3.13" in found["python"].preinstalled
    assert not found["bash"].installed
    assert found["bash"].version is None
    assert all(info.max_timeout_s == 300 for info in found.values())
