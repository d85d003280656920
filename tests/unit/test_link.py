"""The conversation with one cell: every byte is doubted, every ending is told as it was."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from codecell import link as link_module
from codecell.backends.fake import (
    HELLO,
    OUT_OF_MEMORY,
    READY,
    Act,
    End,
    FakeBackend,
    FakeCell,
    Raw,
    Reply,
    Script,
    Wait,
    leave,
    say,
)
from codecell.errors import CellLost, ProtocolError, SandboxError
from codecell.frames import HEADER, MAX_PAYLOAD, VERSION, Kind, encode, encode_json
from codecell.languages import LANGUAGES
from codecell.link import Codes, Link
from codecell.model import Ending, Facts, Launch, RunLimits, Step, Usage
from codecell.policy import cell_spec
from codecell.sandbox import Death
from codecell.settings import Settings

pytestmark = pytest.mark.anyio
SETTINGS = Settings.model_construct()
SPEC = cell_spec(LANGUAGES["python"], SETTINGS)
LIMITS = RunLimits(timeout_s=30, output_chars=10, output_kill_bytes=1000)  # keeps 40 bytes
STEP = Step(kind="run", launch=Launch.FORK, argv=("python3", "main.py"), timeout_s=30)
Linked = Callable[..., AbstractAsyncContextManager[Link]]


@asynccontextmanager
async def linked(
    *run: Act, boot: tuple[Act, ...] = (HELLO, READY), boot_s: float = 30, **script: Any
) -> AsyncIterator[Link]:
    """A cell that has come up; within seconds everything about it is over."""
    cell = await FakeBackend(scripts=Script(run=run, boot=boot, **script)).create(SPEC)
    link = Link(cell, SPEC)
    raised: BaseException | None = None
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.listen)
            try:
                await link.boot(boot_s)
                yield link
            except Exception as error:  # noqa: BLE001  raised below, where no task group wraps it
                raised = error
            finally:
                await cell.discard()
    if raised is not None:
        raise raised


def cell_of(link: Link) -> FakeCell:
    assert isinstance(link.cell, FakeCell)
    return link.cell


class Run:
    """One run of a link and what came of it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.output: list[tuple[Kind, bytes]] = []

    async def go(self, step: Step = STEP, job: bytes = b"job", stdin: bytes = b"") -> Facts:
        return await self.link.run(
            step,
            job=job,
            stdin=stdin,
            limits=LIMITS,
            on_output=lambda kind, data: self.output.append((kind, data)),
        )


# --- booting


async def test_a_cell_that_comes_up_is_usable_and_known_by_its_boot_id() -> None:
    async with linked() as link:
        assert link.usable
        assert link.boot_id == "b007"
        cell = cell_of(link)
        assert b"PID 1 of a cell" in cell.source
        assert cell.config["launch"] == "fork"
        assert not cell.config["standby"]


@pytest.mark.parametrize("other", [{"image": "codecell/other"}, {"python": "/opt/python"}])
async def test_what_the_first_cell_compiled_is_sent_to_the_next_of_its_image(
    other: dict[str, str],
) -> None:
    script = Script(boot=(Raw(encode(Kind.CODE, 0, b"x" * 9) * 2), HELLO, READY))
    codes: Codes = {}
    brought: list[int] = []
    for spec in (SPEC, SPEC, replace(SPEC, **other)):
        cell = await FakeBackend(scripts=script).create(spec)
        link = Link(cell, spec, codes)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.listen)
            await link.boot(30)
            await cell.discard()
        brought.append(int.from_bytes(cell.source[:4], "big"))
    assert brought == [0, 18, 0]
    assert len(codes) == 2


async def test_the_standby_program_is_sent_along_where_there_is_one() -> None:
    spec = cell_spec(LANGUAGES["javascript"], SETTINGS)
    cell = await FakeBackend().create(spec)
    link = Link(cell, spec)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.listen)
        await link.boot(30)
        await cell.discard()
    assert cell.config["launch"] == "standby"
    assert cell.config["standby"][0] == "/usr/bin/node"
    assert "before its program is known" in cell.config["standby_source"]
    assert cell.config["standby_main"] == ""


@pytest.mark.parametrize(
    ("boot", "error", "text"),
    [
        ((End(),), CellLost, "a python cell ended while it came up"),
        ((HELLO, End()), CellLost, "a python cell ended while it came up"),
        ((Raw(encode(Kind.CODE, 0, b"x" * 65536) * 17), HELLO), ProtocolError, "nobody asked for"),
        ((Raw(b"bash: python3: not found" * 2),), ProtocolError, "not a frame"),
        ((READY, End()), ProtocolError, "before it said hello"),
        (
            (Raw(encode_json(Kind.HELLO, 0, {"protocol": 2, "boot": "x"})), READY),
            ProtocolError,
            "another protocol version",
        ),
        ((Raw(encode(Kind.HELLO, 0, b"[]")), READY), ProtocolError, "not an object"),
        (
            (Raw(encode_json(Kind.FAULT, 0, {"error": "OSError: no\ud800"})), End()),
            CellLost,
            r"the agent failed: OSError: no\?$",
        ),
    ],
    ids=[
        "ends",
        "ends after hello",
        "much code",
        "garbage",
        "no hello",
        "version",
        "no object",
        "fault",
    ],
)
async def test_a_cell_that_comes_up_wrong_is_told_from_one_that_is_ready(
    boot: tuple[Act, ...], error: type[SandboxError], text: str
) -> None:
    with pytest.raises(error, match=text):
        async with linked(boot=boot):
            pass


@pytest.mark.parametrize(
    ("load", "times"), [(0.0, 1.0), (1.9, 1.0), (6.0, 3.0), (1e9, link_module.BUSIEST)]
)
async def test_a_cell_that_never_comes_up_is_given_up_later_on_a_busier_machine(
    monkeypatch: pytest.MonkeyPatch, load: float, times: float
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    began = time.monotonic()
    with pytest.raises(CellLost, match=r"a python cell did not come up within .* \(pool\.boot_s\)"):
        async with linked(boot=(HELLO, Wait(anyio.Event())), boot_s=0.02):
            pass
    assert time.monotonic() - began >= 0.02 * times


async def test_a_cell_is_waited_for_while_the_machine_gets_busier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = iter([0.0])
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads, 1e9), 0.0, 0.0))
    late = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def comes_up() -> None:
            await anyio.sleep(0.1)
            late.set()

        tasks.start_soon(comes_up)
        async with linked(boot=(HELLO, Wait(late), READY), boot_s=0.05) as link:
            assert link.usable


async def test_what_a_cell_says_of_the_run_before_does_not_make_it_ready_after_this_one() -> None:
    early = Raw(encode_json(Kind.READY, 0, {"memory_bytes": 5}))
    wiped = anyio.Event()
    async with linked(leave(), wiped=(early, Wait(wiped), READY)) as link:
        link.spec = replace(link.spec, reuse="caller")
        await Run(link).go()
        await anyio.wait_all_tasks_blocked()
        assert (link.usable, link.idle_bytes) == (False, 5)
        wiped.set()
        await link.recycled()
        assert link.usable


# --- running


async def test_a_run_gives_its_output_and_its_facts() -> None:
    async with linked(say("out"), say("err", Kind.STDERR), leave(code=3, stdout_bytes=3)) as link:
        run = Run(link)
        facts = await run.go(job=b"j" * (MAX_PAYLOAD + 1), stdin=b"s" * (2 * MAX_PAYLOAD))
        assert run.output == [(Kind.STDOUT, b"out"), (Kind.STDERR, b"err")]
        assert facts == Facts(
            ending=Ending.EXITED,
            exit_code=3,
            usage=Usage(wall_s=0.25, cpu_s=0.125, peak_memory_bytes=1024),
            stdout_bytes=3,
        )
        (job,) = cell_of(link).jobs
        assert job.header == {
            "mode": "fork",
            "timeout_s": 30,
            "keep": 20,
            "tail": 20,
            "values": 0,
            "case": "",
            "kill_bytes": 1000,
            "again": False,
            "compiles": False,
            "oom_mark": "",
            "session": "",
            "step": "",
        }
        assert bytes(job.job) == b"j" * (MAX_PAYLOAD + 1)
        assert bytes(job.stdin) == b"s" * (2 * MAX_PAYLOAD)
        assert link.usable


async def test_a_cell_that_is_laid_out_for_a_further_case_is_not_one_to_keep() -> None:
    async with linked(leave()) as link:
        link.spec = replace(link.spec, reuse="caller")
        await link.run(STEP, job=b"", stdin=b"", limits=LIMITS, on_output=print, case="next")
        (job,) = cell_of(link).jobs
        assert (job.header["again"], job.header["case"]) == (True, "next")
        assert not link.wiping


async def test_two_runs_on_one_link_have_different_numbers() -> None:
    async with linked(leave()) as link:
        await Run(link).go()
        await Run(link).go()
        assert [job.number for job in cell_of(link).jobs] == [1, 2]


async def test_output_up_to_what_is_kept_is_taken() -> None:
    async with linked(say(b"x" * 40), say(b"y" * 40, Kind.STDERR), leave()) as link:
        run = Run(link)
        await run.go()
        assert sum(len(data) for _, data in run.output) == 80


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(say(b"x" * 41), id="one frame past what was asked for"),
        pytest.param(Raw(encode(Kind.STDOUT, 1, b"x" * 20) * 3), id="many frames past it"),
        pytest.param(Reply(Kind.STDOUT, b"x" * (MAX_PAYLOAD + 1)), id="oversized frame"),
        pytest.param(Raw(HEADER.pack(0xCC, 67, 1, 2**31)), id="a frame of 2 GiB"),
        pytest.param(Raw(encode(Kind.CODE, 0, b"x")), id="code for the agents to come"),
        pytest.param(Raw(b"Segmentation fault"), id="no frame"),
        pytest.param(Raw(encode(Kind.GO, 1)), id="the server's own frame"),
        pytest.param(Reply(Kind.EXIT, b"{"), id="no JSON"),
        pytest.param(leave(code=...), id="a report that lacks a field"),
    ],
)
async def test_a_cell_that_breaks_the_protocol_is_given_up_at_once(act: Act) -> None:
    async with linked(act, Wait(anyio.Event())) as link:
        with pytest.raises(ProtocolError):
            await Run(link).go()
        assert not link.usable
        with pytest.raises(ProtocolError):  # and takes no other run
            await Run(link).go()


async def test_after_a_breach_the_stream_is_read_to_its_end() -> None:
    read = anyio.Event()
    async with linked(Raw(b"not a frame at all")) as link:
        with pytest.raises(ProtocolError):
            await Run(link).go()
        cell = cell_of(link)
        original = cell.receive

        async def receive() -> bytes:
            data = await original()
            read.set()
            return data

        cell.receive = receive  # type: ignore[method-assign]
        cell.play(Raw(b"more"), Raw(b"more"))
        await read.wait()


async def test_frames_of_another_run_are_ignored() -> None:
    late = (
        Raw(encode(Kind.STDOUT, 99, b"late" * 100)),
        Raw(encode_json(Kind.EXIT, 99, {"late": True})),
        Raw(encode(Kind.STDERR, 0, b"late" * 100)),
    )
    async with linked(*late, say("mine"), leave()) as link:
        run = Run(link)
        assert (await run.go()).exit_code == 0
        assert run.output == [(Kind.STDOUT, b"mine")]


async def test_frames_between_runs_are_ignored() -> None:
    async with linked(leave()) as link:
        await Run(link).go()
        stale = Raw(encode(Kind.STDOUT, 1, b"late"))
        cell_of(link).play(stale, Raw(encode_json(Kind.EXIT, 1, {})), stale)
        run = Run(link)
        assert (await run.go()).exit_code == 0
        assert run.output == []


@pytest.mark.parametrize("error", ["ENOENT: no such file", "lone \ud800 surrogate"])
async def test_a_program_that_could_not_be_started_is_our_failure(error: str) -> None:
    async with linked(leave(code=127, failure=error)) as link:
        with pytest.raises(SandboxError, match="could not be started: ") as raised:
            await Run(link).go()
        assert not isinstance(raised.value, CellLost | ProtocolError)
        str(raised.value).encode()


async def test_an_agent_that_reports_its_own_failure_is_a_lost_cell() -> None:
    fault = Raw(encode_json(Kind.FAULT, 0, {"error": "MemoryError: x" + "y" * 1000}))
    async with linked(say("some"), fault, End()) as link:
        with pytest.raises(CellLost, match="the agent failed: MemoryError") as raised:
            await Run(link).go()
        assert len(str(raised.value)) < 400


async def test_a_cell_that_ends_of_its_memory_is_a_fact() -> None:
    async with linked(say("some"), End(OUT_OF_MEMORY)) as link:
        run = Run(link)
        facts = await run.go()
        assert (facts.ending, facts.signal, facts.oom_kills) == (Ending.OUT_OF_MEMORY, 9, 1)
        assert run.output == [(Kind.STDOUT, b"some")]


@pytest.mark.parametrize(
    ("report", "waits"),
    [
        ({"code": 1, "peak_memory_bytes": 250 << 20}, True),
        ({"code": None, "signal": 9, "peak_memory_bytes": 250 << 20}, True),
        ({"code": 1, "peak_memory_bytes": 1 << 20}, False),
        ({"code": 0, "peak_memory_bytes": 250 << 20}, False),
        ({"code": None, "signal": 9, "ending": "timeout", "peak_memory_bytes": 250 << 20}, False),
    ],
)
@pytest.mark.parametrize("starved", [True, False])
async def test_where_the_cells_kernel_counts_no_kills_the_engine_is_asked(
    report: dict[str, Any], waits: bool, starved: bool
) -> None:
    async with linked(leave(**{"oom_kills": None, **report})) as link:
        cell_of(link).starves = starved
        facts = await Run(link).go()
        assert facts.oom_kills == starved
        assert (cell_of(link).waited_s or 0) == (link_module.STARVED_S if waits else 0)


async def test_a_program_that_goes_on_when_its_memory_has_run_out_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "MAIMED_S", 0.01)
    hello = Raw(encode_json(Kind.HELLO, 0, {"protocol": VERSION, "boot": "b", "counts": False}))
    stopped = leave(code=None, signal=9, ending="cancelled", oom_kills=None)
    boot = (hello, READY)
    async with linked(Wait(anyio.Event()), boot=boot, on_cancel=(stopped,)) as link:
        cell_of(link).starves = True
        facts = await Run(link).go()
        assert (facts.ending, facts.signal, facts.oom_kills) == (Ending.EXITED, 9, 1)


async def test_a_cell_that_dies_after_its_memory_has_run_out_died_of_it() -> None:
    hello = Raw(encode_json(Kind.HELLO, 0, {"protocol": VERSION, "boot": "b", "counts": False}))
    dies = anyio.Event()
    async with linked(Wait(dies), End(), boot=(hello, READY)) as link:
        cell_of(link).starves = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_set_later, dies)
            facts = await Run(link).go()
        assert facts.ending is Ending.OUT_OF_MEMORY


@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_gvisor_that_was_killed_died_for_lack_of_memory_unless_by_hand(
    *, by_hand: bool
) -> None:
    hello = Raw(encode_json(Kind.HELLO, 0, {"protocol": VERSION, "boot": "b", "counts": False}))
    killed = Death(out_of_memory=False, exit_code=137, reason="killed", by_hand=by_hand)
    async with linked(End(killed), boot=(hello, READY)) as link:
        if by_hand:
            with pytest.raises(CellLost, match="killed"):
                await Run(link).go()
        else:
            assert (await Run(link).go()).ending is Ending.OUT_OF_MEMORY


async def _set_later(event: anyio.Event) -> None:
    await anyio.sleep(0.05)
    event.set()


async def test_an_engine_is_not_asked_where_the_cells_kernel_counts() -> None:
    async with linked(leave(code=1, oom_kills=0)) as link:
        cell_of(link).starves = True
        assert (await Run(link).go()).oom_kills == 0
        assert cell_of(link).waited_s is None


async def test_a_cell_that_ends_for_another_reason_is_lost_with_the_engines_word() -> None:
    async with linked(End()) as link:
        with pytest.raises(CellLost, match=r"during the run \(its container ended with code 0\)"):
            await Run(link).go()
        assert not link.usable


async def test_an_agent_that_does_not_keep_the_deadline_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "GRACE_S", 0.01)
    step = Step(kind="run", launch=Launch.FORK, argv=("x",), timeout_s=0.01)
    async with linked(say("some"), Wait(anyio.Event())) as link:
        run = Run(link)
        facts = await run.go(step)
        assert (facts.ending, facts.signal) == (Ending.TIMEOUT, 9)
        assert facts.usage.wall_s >= step.timeout_s
        assert run.output == [(Kind.STDOUT, b"some")]
        assert not link.usable


async def test_a_deadline_that_passes_while_the_engine_is_blind_is_our_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "GRACE_S", 0.01)
    step = Step(kind="run", launch=Launch.FORK, argv=("x",), timeout_s=0.01)
    async with linked(Wait(anyio.Event())) as link:

        async def unknown() -> Death:
            return Death(out_of_memory=False, exit_code=None, reason="nobody knows")

        monkeypatch.setattr(link.cell, "death", unknown)
        with pytest.raises(CellLost, match="did not end its run in time"):
            await Run(link).go(step)
        assert not link.usable


async def test_an_agent_within_its_grace_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "GRACE_S", 30)
    step = Step(kind="run", launch=Launch.FORK, argv=("x",), timeout_s=0.01)
    timeout = leave(code=None, signal=9, ending="timeout")
    late = anyio.Event()
    async with linked(Wait(late), timeout) as link, anyio.create_task_group() as tasks:

        async def check() -> None:
            assert (await Run(link).go(step)).ending is Ending.TIMEOUT

        tasks.start_soon(check)
        await anyio.sleep(0.02)  # past the step's own deadline, on purpose
        late.set()


# --- cancelling


async def running(link: Link) -> None:
    while not (cell_of(link).jobs and cell_of(link).jobs[-1].went):
        await checkpoint()


async def test_a_cancelled_run_is_stopped_before_cancellation_is_passed_on() -> None:
    async with linked(say("x"), Wait(anyio.Event())) as link:
        ended: list[bool] = []

        async def go() -> None:
            try:
                await Run(link).go()
            finally:
                ended.append(cell_of(link).jobs[-1].cancelled)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(go)
            await running(link)
            tasks.cancel_scope.cancel()
        assert ended == [True]
        assert link.usable  # the agent said that everything of the run is dead


async def test_a_cell_that_is_deaf_to_cancel_holds_up_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "CANCEL_S", 0.01)
    async with linked(Wait(anyio.Event()), on_cancel=None) as link:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Run(link).go)
            await running(link)
            tasks.cancel_scope.cancel()
        assert cell_of(link).jobs[-1].cancelled


async def test_cancelling_a_run_whose_cell_has_gone_is_quiet() -> None:
    async with linked(Wait(anyio.Event())) as link, anyio.create_task_group() as tasks:
        tasks.start_soon(Run(link).go)
        await running(link)
        cell_of(link).end()
        tasks.cancel_scope.cancel()


async def test_cancelling_an_idle_link_does_nothing() -> None:
    async with linked() as link:
        await link.cancel()
        assert cell_of(link).jobs == []


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.FAULT, Kind.EXIT])
@pytest.mark.parametrize("depth", [100, 400, 600, 900, 990, 20_000])
async def test_deeply_nested_values_are_at_most_a_lost_cell(kind: Kind, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    names = b",".join(b'"%b":%b' % (name, nested) for name in (b"boot", b"error", b"failure"))
    payload = b'{"protocol":1,' + names + b"}"
    async with linked(Reply(kind, payload), End()) as link:
        with pytest.raises(SandboxError):
            await Run(link).go()
