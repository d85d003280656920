"""The conversation with the agent in one cell, from its boot to the end of its stream.

One task (`listen`) reads the stream from start to end, whatever happens: an engine whose attach
stream nobody reads blocks kill, wait and inspect of that container (SECURITY-FACTS.md, section 2).
One class, however long: what a frame means depends on where the conversation is.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import anyio
import structlog

from codecell import parcel, report
from codecell.errors import CellLost, ProtocolError, SandboxError
from codecell.frames import (
    VERSION,
    Decoder,
    Frame,
    Kind,
    decode_json,
    encode,
    encode_bulk,
    encode_file,
    encode_json,
)
from codecell.model import (
    CellSpec,
    Ending,
    Facts,
    File,
    Keep,
    Launch,
    RunLimits,
    Step,
    Usage,
)
from codecell.output import UTF8_MAX, shares
from codecell.sandbox import Cell

BUSIEST = 10.0  # a cell's time to come up is stretched by the machine's load, so many times at most
INTERRUPT_S = 1.0  # what the agent gives an interrupted interpreter, and a bit
GRACE_S = 2.0  # past a deadline the agent has this long before its cell is given up
CANCEL_S = 1.0
STARVED_S = 1.0  # how long after a failure the engine may tell that memory ran out
KILLED = 137  # exit code of a container that SIGKILL ended
MAIMED_S = 2.0  # how long a program may go on after that
HUNGRY = 8  # a program that held less than this part of the memory is not waited for
CODE_MOST = 1024 * 1024  # bytes of the agent's code; it has some 140 kB
TYPICAL_BYTES = 16 * 1024 * 1024  # of a waiting cell whose kernel does not tell

log = structlog.get_logger(__name__)

# The agent's modules as the first cell of an image compiled them, by image and interpreter. It had
# run no program yet, and no other image's cells are sent it: it is as trusted as the interpreter.
Codes = dict[tuple[str, str], bytes]
OnOutput = Callable[[Kind, bytes], None]
FILE_FRAMES = frozenset({Kind.ENTRY, Kind.CONTENT, Kind.SEALED, Kind.COLLECTED})
OnFile = Callable[[Frame], bool]


def crowding() -> float:
    """Tell how many times longer than usual things take, by the machine's load; 1 on an idle one.

    Where the engine is on another machine this one's load says little; `pool.boot_s` says it all.
    """
    try:
        load = os.getloadavg()[0]
    except OSError:
        return 1.0
    return min(max(load / (os.cpu_count() or 1), 1.0), BUSIEST)


class _StreamEnded(CellLost):
    """The engine knows more: see `Cell.death`."""


class _Run:
    """The run in flight on a link."""

    def __init__(self, number: int, keep: int, values: int, on_output: OnOutput) -> None:
        self.number = number
        self.left = {Kind.STDOUT: keep, Kind.STDERR: keep, Kind.VALUES: values}
        self.on_output = on_output
        self.done = anyio.Event()
        self.hungry = False  # memory ran out, says the engine
        self.starved = False  # and the program was ended for it
        self.facts: Facts | None = None


class _Collecting:
    """The files of the last run, on their way."""

    def __init__(self, take: OnFile) -> None:
        self.take = take
        self.done = anyio.Event()


class Link:
    """A cell whose agent is talked to; runs go through it one at a time."""

    def __init__(self, cell: Cell, spec: CellSpec, codes: Codes | None = None) -> None:
        self.cell = cell
        self.spec = spec
        self._codes: Codes = {} if codes is None else codes
        self._origin = cell.isolation.image_digest, spec.python
        self._code = bytearray()  # the agent's, as this cell compiled it
        self.runs = 0
        self.boot_id = ""
        self.counts = True  # whether the cell's own kernel counts who it kills for want of memory
        self.caller: str | None = None  # whose cell it is, from its first lease on
        self.leased = False
        self.stale = False  # not used since the pool last looked
        self.idle_bytes = TYPICAL_BYTES
        self.wiping = False  # whether the last step asked for the cell to be wiped behind it
        self.went = False  # whether the current run's program was told to go
        self.stopped: Facts | None = None  # what a cancelled run left behind
        self.lost: SandboxError | None = None
        self._ready = anyio.Event()
        self._ended = anyio.Event()
        self._run: _Run | None = None
        self._collecting: _Collecting | None = None

    @property
    def usable(self) -> bool:
        """Whether a run can be given to this cell now."""
        return self.lost is None and self._ready.is_set() and self._run is None

    def bind(self, caller: str) -> None:
        """Make the cell one caller's for good.

        Raises:
            CellLost: it is another's; this is the last check of several.
        """
        if self.caller not in (None, caller):
            raise CellLost("a cell was about to change callers")
        self.caller = caller
        self.stale = False

    def _shows(self, step: Step) -> bool:
        """Tell whether what runs the step can show a value."""
        standby = self.spec.standby if step.launch is Launch.STANDBY else None
        return step.launch is Launch.FORK or bool(standby and standby.values)

    async def recycled(self) -> None:
        """Wait until the agent has wiped the cell, or the cell has ended."""
        await self._ready.wait()

    async def boot(self, within_s: float) -> None:
        """Send the agent and wait until its first child stands ready.

        Args:
            within_s: the longest that it may take where nothing else runs; a machine with more to
                do than it has processors gets as many times as long.

        Raises:
            SandboxError: the cell came up wrong, or not in time.
        """
        standby, kernel = self.spec.standby, self.spec.kernel
        script = parcel.source(standby.source) if standby else ""
        script += parcel.source(standby.values) if standby and standby.values else ""
        becomes = parcel.source(kernel.source) if kernel and kernel.source else ""
        config: dict[str, Any] = {
            "launch": self.spec.launch,
            "preload": list(self.cell.preload),
            "again": self.spec.reuse == "caller",
            "standby": list(standby.command) if standby else [],
            "standby_env": dict(standby.env) if standby else {},
            "standby_source": script + becomes if standby else "",
            "kernel": "" if standby else becomes,
            "standby_file": standby.file if standby else "",
            "standby_main": standby.command[-1] if standby and standby.job == "none" else "",
        }
        parts = parcel.parcel(self._codes.get(self._origin, b""))
        await self.cell.send(parts + encode_json(Kind.CONFIG, 0, config))
        began = time.monotonic()
        while not self._ready.is_set():
            left_s = began + within_s * crowding() - time.monotonic()  # it may be busy only now
            if left_s <= 0:
                raise CellLost(
                    f"a {self.spec.language} cell did not come up within "
                    f"{time.monotonic() - began:.3g} s (pool.boot_s)"
                )
            with anyio.move_on_after(left_s):
                await self._ready.wait()
        if isinstance(self.lost, _StreamEnded):
            reason = (await self.cell.death()).reason
            raise CellLost(f"a {self.spec.language} cell ended while it came up ({reason})")
        if self.lost is not None:
            raise self.lost

    async def listen(self) -> None:
        """Read the stream until it ends; never raises for what the cell does."""
        decoder = Decoder()
        try:
            while data := await self.cell.receive():
                for frame in decoder.feed(data):
                    (self._take_file if frame.kind in FILE_FRAMES else self._take)(frame)
        except SandboxError as error:
            self.lost = error
            log.warning("cell given up", cell=self.cell.id, error=str(error))
        else:
            if self.lost is None:
                self.lost = _StreamEnded("the cell ended")
        finally:
            if self.lost is None:
                self.lost = CellLost("the cell was given up")
            self._ready.set()
            self._ended.set()
            if self._run is not None:
                self._run.done.set()
            if self._collecting is not None:
                self._collecting.done.set()
        while await self.cell.receive():
            pass  # after a protocol error too: an unread stream blocks the engine

    async def run(
        self,
        step: Step,
        *,
        job: bytes,
        files: Sequence[File] = (),
        gone: Sequence[str] = (),
        stdin: bytes,
        limits: RunLimits,
        on_output: OnOutput,
        case: Literal["", "compile", "next", "last"] = "",
    ) -> Facts:
        """Run one step to its end and return what happened.

        A `case` is one of several: behind each but the last the agent makes the cell as it was
        after the compile step, which `recycled` waits for.

        The files are written before the step begins, and what is `gone` is removed. Cancellation
        stops the program's processes before it is passed on.

        Raises:
            CellLost: the cell ended for a reason that is not the program's.
            ProtocolError: the cell sent what it must not.
        """
        if self.lost is not None:
            raise self.lost
        self.runs += 1
        self.went = False
        self.stopped = None
        # Only a program's end is the end of a run: what a compile step made must stay.
        again = self.spec.reuse == "caller" and step.kind == "run" and not step.keep
        self.wiping = again and case != "next"  # which is laid out for a case that may never come
        again = again or case == "next"
        if again:
            self._ready = anyio.Event()
        program = step.kind == "run"
        keep, tail = shares(limits) if program else (limits.output_chars * UTF8_MAX, 0)
        values = limits.values_bytes if program and self._shows(step) else 0
        run = self._run = _Run(self.runs, keep + tail, values, on_output)
        header = {
            "mode": step.launch,
            "timeout_s": step.timeout_s,
            "keep": keep,
            "tail": tail,
            "values": values,
            "kill_bytes": limits.output_kill_bytes,
            "again": again,
            "compiles": step.kind == "compile",
            "oom_mark": step.oom_mark,
            "case": case,
            "session": step.keep,
            "step": "",
        }
        began = time.monotonic()
        grace = GRACE_S
        if step.keep is Keep.INTERPRETER and self.spec.kernel is not None:
            header["step"] = self.spec.kernel.step.replace("{n}", str(run.number))
            grace += INTERRUPT_S
        try:
            with anyio.move_on_after(step.timeout_s + grace):
                await self._start(run, header, files, gone, job, stdin)
                await self._end_of(run)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.cancel()
            self.stopped = run.facts
            raise
        finally:
            self._run = None
        if run.facts is not None and run.facts.failure:  # of a session's step: its cell is well
            raise SandboxError(report.NEVER_BEGAN + run.facts.failure)
        if run.facts is None:
            return await self._autopsy(run, time.monotonic() - began)
        if run.facts.oom_kills is None:
            return await self._counted(run, run.facts)
        return run.facts

    async def _start(
        self,
        run: _Run,
        header: dict[str, Any],
        files: Sequence[File],
        gone: Sequence[str],
        job: bytes,
        stdin: bytes,
    ) -> None:
        """Send everything a run needs, in one piece where it is small."""
        frames = [
            encode_json(Kind.RUN, run.number, header),
            *(encode(Kind.REMOVE, run.number, path.encode()) for path in gone),
            *(frame for file in files for frame in encode_file(run.number, file)),
            *encode_bulk(Kind.JOB, run.number, job),
            *encode_bulk(Kind.STDIN, run.number, stdin),
        ]
        self.went = True
        await self.cell.send(b"".join(frames) + encode(Kind.GO, run.number))

    async def collect(self, limits: dict[str, int], take: OnFile, within_s: float) -> None:
        """Have the agent send what the last run changed; call it when the facts say so.

        Args:
            limits: `count` of files, bytes per `file`, and `size` in all; see incell/files.py.
            take: gets every frame of it, and says whether it was the last.
            within_s: the longest that it may take.

        Raises:
            CellLost: the cell ended, or took too long.
            ProtocolError: the cell sent what it must not.
        """
        if self.lost is not None:
            raise self.lost
        self._collecting = _Collecting(take)
        try:
            with anyio.move_on_after(within_s):
                await self.cell.send(encode_json(Kind.COLLECT, self.runs, limits))
                await self._collecting.done.wait()
            if self.lost is not None:
                raise self.lost
            if not self._collecting.done.is_set():
                self.lost = CellLost("the cell did not send its files in time")
                raise self.lost
        finally:
            self._collecting = None

    async def cancel(self) -> None:
        """Stop the run in flight and wait, a second at most, until its processes are dead."""
        run = self._run
        if run is None or self.lost is not None:
            return
        with anyio.move_on_after(CANCEL_S):
            try:
                await self.cell.send(encode(Kind.CANCEL, run.number))
            except CellLost:
                return
            await run.done.wait()

    async def _end_of(self, run: _Run) -> None:
        """Wait until the agent has reported."""
        if self.counts:
            await run.done.wait()
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._mind_memory, run)
            await run.done.wait()
            tasks.cancel_scope.cancel()

    async def _mind_memory(self, run: _Run) -> None:
        """End a program that goes on for long after memory has run out.

        Under gVisor the host's kernel kills what stands for one thread of the program. The others
        go on without it, mostly to wait for it for ever.
        """
        if not await self.cell.starved(math.inf):
            return
        run.hungry = True
        await anyio.sleep(MAIMED_S)
        run.starved = True
        with suppress(CellLost):
            await self.cell.send(encode(Kind.CANCEL, run.number))

    async def _counted(self, run: _Run, facts: Facts) -> Facts:
        """Ask the engine what the cell's kernel did not tell: whether memory ran out in this run.

        To gVisor a process whose stand-in was killed has exited with code 1. The engine's word may
        come after the agent's report, and is waited for where a program that failed has held a
        share of the memory that is worth it.
        """
        if run.starved and facts.ending is Ending.CANCELLED:
            return replace(facts, ending=Ending.EXITED, exit_code=None, signal=9, oom_kills=1)
        failed = facts.ending is Ending.EXITED and facts.exit_code != 0
        much = facts.usage.peak_memory_bytes > self.spec.limits.memory_bytes // HUNGRY
        wait_s = STARVED_S if failed and much and not run.hungry else 0
        hungry = await self.cell.starved(wait_s) or run.hungry
        return replace(facts, oom_kills=int(hungry))

    async def _overdue(self, waited_s: float) -> Facts:
        """End a cell whose agent let a deadline pass: it may have had no turn beside its programs.

        If the engine sees the cell end by our hand, the program had its time. If it sees nothing,
        nobody knows what became of the program, and that is our failure.
        """
        self.lost = CellLost("the cell did not end its run in time")
        await self.cell.discard()
        if (await self.cell.death()).exit_code is None:
            raise self.lost
        return Facts(ending=Ending.TIMEOUT, signal=9, usage=Usage(wall_s=waited_s))

    async def _autopsy(self, run: _Run, waited_s: float) -> Facts:
        """Say why no exit was reported: the cell is gone, or its agent missed the deadline."""
        if self.lost is None:
            return await self._overdue(waited_s)
        if not isinstance(self.lost, _StreamEnded):
            raise self.lost
        death = await self.cell.death()
        # Of a gVisor that the host's kernel killed the engine may tell no more than the signal.
        killed = not self.counts and death.exit_code == KILLED and not death.by_hand
        if death.out_of_memory or run.hungry or killed:
            return Facts(ending=Ending.OUT_OF_MEMORY, signal=9, oom_kills=1)
        raise CellLost(f"the cell ended during the run ({death.reason})")

    def _take(self, frame: Frame) -> None:
        """Act on a frame; a late one of a run that was given up changes nothing."""
        run = self._run
        match frame.kind:
            case Kind.STDOUT | Kind.STDERR | Kind.VALUES if (
                run is not None and frame.run == run.number
            ):
                run.left[frame.kind] -= len(frame.payload)
                if run.left[frame.kind] < 0:
                    raise ProtocolError("a cell sent more output than it was asked to keep")
                run.on_output(frame.kind, frame.payload)
            case Kind.EXIT if run is not None and frame.run == run.number:
                run.facts = report.facts_from(decode_json(frame))
                run.done.set()
            case Kind.READY:
                self._stands_ready(frame)
            case Kind.HELLO:
                self._greeted(decode_json(frame))
            case Kind.CODE:
                self._learn(frame.payload)
            case Kind.FAULT:
                words = report.words(decode_json(frame).get("error"), 300)
                self.lost = CellLost(f"the agent failed: {words}")

    def _stands_ready(self, frame: Frame) -> None:
        if not self.boot_id:
            raise ProtocolError("a cell was ready before it said hello")
        if frame.payload:
            held = decode_json(frame).get("memory_bytes")
            self.idle_bytes = held if isinstance(held, int) and held > 0 else TYPICAL_BYTES
        if frame.run == self.runs:  # else it crossed with a run
            self._ready.set()

    def _learn(self, code: bytes) -> None:
        self._code += code
        if self.boot_id or len(self._code) > CODE_MOST:
            raise ProtocolError("a cell sent code that nobody asked for")

    def _greeted(self, hello: dict[str, Any]) -> None:
        if self.boot_id:
            raise ProtocolError("a cell said hello twice")
        if hello.get("protocol") != VERSION:
            raise ProtocolError("a cell's agent speaks another protocol version")
        self.boot_id = report.words(hello.get("boot"), 64)
        if self._code:
            self._codes[self._origin] = bytes(self._code)
            self._code.clear()
        self.counts = hello.get("counts") is not False

    def _take_file(self, frame: Frame) -> None:
        collecting = self._collecting
        if collecting is not None and frame.run == self.runs and collecting.take(frame):
            collecting.done.set()
