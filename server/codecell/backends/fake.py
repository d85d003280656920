"""A scripted backend in memory, for tests; deliberately absent from BACKENDS.

Its cells speak the real frames: they read what `Link` sends and answer with what a `Script` says.
Nothing runs on its own: a script's acts are played by the one who reads the cell.

    engine = FakeEngine()
    backend = FakeBackend(engine, Script(run=(say("42\\n"), leave())))
    assert engine.cells == []  # after whatever the test did, nothing is left
"""

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import anyio

from codecell.errors import CellLost, SandboxError
from codecell.frames import HEADER, MAGIC, VERSION, Kind, encode_json
from codecell.model import CellSpec, Ending, Isolation
from codecell.sandbox import Death, Image

END = Death(out_of_memory=False, exit_code=0, reason="its container ended with code 0")
OUT_OF_MEMORY = Death(out_of_memory=True, exit_code=137, reason="out of memory")


class Raw(NamedTuple):
    """Bytes as they are."""

    data: bytes


class Reply(NamedTuple):
    """A frame of the run in flight."""

    kind: Kind
    payload: bytes


class Wait(NamedTuple):
    """Nothing more until the test sets the event, or until the cell is told to stop."""

    until: anyio.Event


class End(NamedTuple):
    """The end of the stream."""

    death: Death = END


Act = Raw | Reply | Wait | End


def say(text: str | bytes, kind: Kind = Kind.STDOUT) -> Reply:
    """Print something."""
    return Reply(kind, text.encode() if isinstance(text, str) else text)


def leave(code: object = 0, **facts: object) -> Reply:
    """Report the end of the run; `facts` replace or, being `...`, remove single fields."""
    report: dict[str, object] = {
        "ending": Ending.EXITED,
        "code": code,
        "signal": None,
        "oom_kills": 0,
        "wall_s": 0.25,
        "cpu_s": 0.125,
        "peak_memory_bytes": 1024,
        "stdout_sha256": "",
        "stderr_sha256": "",
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "failure": "",
        **facts,
    }
    kept = {name: value for name, value in report.items() if value is not ...}
    return Reply(Kind.EXIT, json.dumps(kept).encode())


HELLO = Raw(encode_json(Kind.HELLO, 0, {"protocol": VERSION, "boot": "b007"}))
READY = Reply(Kind.READY, b"")
STOPPED = leave(code=None, signal=9, ending=Ending.CANCELLED)


@dataclass(frozen=True, slots=True)
class Script:
    """What one cell does.

    Attributes:
        boot: played when the agent and its configuration have arrived.
        run: played at GO.
        on_cancel: played at CANCEL in place of what is left of `run`; None is deaf to it.
        wiped: played after a run in a cell that is to be used again.
    """

    boot: Sequence[Act] = (HELLO, READY)
    run: Sequence[Act] = (leave(),)
    on_cancel: Sequence[Act] | None = (STOPPED,)
    wiped: Sequence[Act] = (READY,)


@dataclass(slots=True)
class Job:
    """What one run was given, as it arrived."""

    number: int
    header: dict[str, Any]
    files: dict[str, bytearray] = field(default_factory=dict)
    job: bytearray = field(default_factory=bytearray)
    stdin: bytearray = field(default_factory=bytearray)
    went: bool = False
    cancelled: bool = False

    @property
    def head(self) -> dict[str, Any]:
        """Return the job's JSON head."""
        value: dict[str, Any] = json.loads(self.job)
        return value

    def add_file(self, payload: bytes) -> None:
        """Begin a file."""
        end = 38 + int.from_bytes(payload[4:6], "big")
        self.files[payload[38:end].decode()] = bytearray(payload[end:])

    def add_data(self, payload: bytes) -> None:
        """Continue it."""
        self.files[next(reversed(self.files))] += payload


class FakeEngine:
    """Where fake containers are, whoever made them."""

    def __init__(self) -> None:
        self.cells: list[FakeCell] = []  # that exist now
        self.created: list[FakeCell] = []  # that ever existed
        self._uid = 20_000

    def make(self, owner: "FakeBackend", spec: CellSpec, script: Script) -> "FakeCell":
        """Create a cell."""
        self._uid += 1
        cell = FakeCell(self, owner, spec, script, self._uid)
        self.cells.append(cell)
        self.created.append(cell)
        return cell


class FakeCell:
    """A cell that plays its script."""

    def __init__(
        self, engine: FakeEngine, owner: "FakeBackend", spec: CellSpec, script: Script, uid: int
    ) -> None:
        self.owner = owner
        self.spec = spec
        self.uid = uid
        self.script = script
        self.source = b""
        self.config: dict[str, Any] = {}
        self.jobs: list[Job] = []
        self.discards = 0
        self._engine = engine
        self._acts: deque[Act] = deque()
        self._more = anyio.Event()
        self._input = bytearray()
        self.starves = False  # until it is asked
        self.waited_s: float | None = None  # the last who asked
        self._death: Death | None = None

    @property
    def id(self) -> str:
        """A name."""
        return f"fake-{self.uid}"

    @property
    def preload(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def isolation(self) -> Isolation:
        """What a real one would state."""
        return Isolation(
            runtime=self.spec.runtime or "fake",
            image=self.spec.image,
            image_digest=f"sha256:{self.spec.image}",
        )

    async def send(self, data: bytes) -> None:
        """Take what the server says."""
        await self.owner.stage("send")
        if self._death is not None:
            raise CellLost("the cell's stream is closed")
        self._input += data
        self._understand()

    async def receive(self) -> bytes:
        """Play the next act."""
        while True:
            if self._death is not None:
                return b""
            if not self._acts:
                self._more = anyio.Event()
                await self._more.wait()
                continue
            match act := self._acts[0]:
                case Wait() if not act.until.is_set():
                    await self._until(act.until)
                    continue
                case Wait():
                    self._acts.popleft()
                    continue
            self._acts.popleft()
            match act:
                case Raw(data):
                    return data
                case Reply(kind, payload):
                    number = self.jobs[-1].number if self.jobs else 0
                    # Not `encode`, which refuses what no agent may send.
                    return HEADER.pack(MAGIC, kind, number, len(payload)) + payload
                case End(death):
                    self.end(death)

    async def death(self) -> Death:
        """Say why it ended."""
        return self._death or END

    async def starved(self, wait_s: float) -> bool:
        """Tell what the test has set, once."""
        self.waited_s = wait_s
        starved, self.starves = self.starves, False
        return starved

    async def discard(self) -> None:
        """Remove the cell."""
        self.discards += 1
        self.end()
        await self.owner.stage("discard")

    def end(self, death: Death = END) -> None:
        """End the cell, as its own doing or the engine's."""
        self._death = self._death or death
        self.starves = self.starves or death.out_of_memory
        self._more.set()
        if self in self._engine.cells:
            self._engine.cells.remove(self)

    def play(self, *acts: Act) -> None:
        """Do something more, unasked."""
        self._acts.extend(acts)
        self._more.set()

    async def _until(self, event: anyio.Event) -> None:
        """Wait for an event, or for anything that makes waiting pointless."""
        self._more = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def first(one: anyio.Event) -> None:
                await one.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(first, event)
            tasks.start_soon(first, self._more)

    def _wiped(self) -> Sequence[Act]:
        return self.script.wiped if self.jobs[-1].header.get("again") else ()

    def _understand(self) -> None:
        if not self.source:
            length = int.from_bytes(self._input[:4], "big")
            if len(self._input) < 4 + length:
                return
            self.source = bytes(self._input[4 : 4 + length])
            del self._input[: 4 + length]
        while len(self._input) >= HEADER.size:
            magic, kind, run, length = HEADER.unpack_from(self._input)
            if magic != MAGIC:
                raise AssertionError("the server sent bytes that are not a frame")
            end = HEADER.size + length
            if len(self._input) < end:
                return
            payload = bytes(self._input[HEADER.size : end])
            del self._input[:end]
            self._obey(Kind(kind), run, payload)

    def _obey(self, kind: Kind, run: int, payload: bytes) -> None:
        match kind:
            case Kind.CONFIG:
                self.config = json.loads(payload)
                self.play(*self.script.boot)
            case Kind.RUN:
                self.jobs.append(Job(run, json.loads(payload)))
            case Kind.FILE:
                self.jobs[-1].add_file(payload)
            case Kind.DATA:
                self.jobs[-1].add_data(payload)
            case Kind.JOB:
                self.jobs[-1].job += payload
            case Kind.STDIN:
                self.jobs[-1].stdin += payload
            case Kind.GO:
                self.jobs[-1].went = True
                self.play(*self.script.run, *self._wiped())
            case Kind.CANCEL:
                self.jobs[-1].cancelled = True
                if self.script.on_cancel is not None:
                    self._acts.clear()
                    self.play(*self.script.on_cancel, *self._wiped())
            case _:
                raise AssertionError(f"the server sent a {kind.name} frame")


Scripts = Script | Callable[[int], Script | SandboxError]


class FakeBackend:
    """Makes scripted cells.

    Args:
        engine: where the cells are; several backends may share one.
        scripts: one script for all, or what makes the script of the n-th cell (from 1); an error
            instead of a script is what `create` raises.
        images: what `images` returns.
    """

    kind = "fake"

    def __init__(
        self,
        engine: FakeEngine | None = None,
        scripts: Scripts = Script(),
        *,
        images: dict[str, Image] | None = None,
    ) -> None:
        self.engine = engine if engine is not None else FakeEngine()
        self.asked = 0
        self.dead = False  # as if its process had been killed: its cells stay until somebody sweeps
        self.holds: dict[str, anyio.Event] = {}
        self.reached: dict[str, anyio.Event] = {}
        self._scripts = scripts
        self._images = images if images is not None else {}

    def hold(self, stage: str) -> anyio.Event:
        """Stop at a stage (`create`, `attach`, `send`, `discard`); return what sets it free.

        `reached[stage]` tells that somebody has come to it.
        """
        self.reached[stage] = anyio.Event()
        self.holds[stage] = anyio.Event()
        return self.holds[stage]

    async def stage(self, name: str) -> None:
        """Pass a stage, or wait there."""
        if name in self.holds:
            self.reached[name].set()
            await self.holds[name].wait()

    async def create(self, spec: CellSpec) -> FakeCell:
        """Make the next cell."""
        self.asked += 1
        number = self.asked
        await self.stage("create")
        script = self._scripts(number) if callable(self._scripts) else self._scripts
        if isinstance(script, SandboxError):
            raise script
        cell = self.engine.make(self, spec, script)
        try:
            await self.stage("attach")
        except BaseException:
            cell.end()
            raise
        return cell

    async def describe(self, spec: CellSpec) -> dict[str, Any]:
        """Return the kind of cell itself: there is no engine to be told."""
        return asdict(spec)

    async def surroundings(self) -> dict[str, str]:
        """Return what never changes."""
        return {"version": "fake"}

    async def images(self) -> dict[str, Image]:
        """Return what the test said."""
        return self._images

    async def sweep(self) -> int:
        """Remove the cells of dead backends."""
        abandoned = [cell for cell in self.engine.cells if cell.owner.dead]
        for cell in abandoned:
            cell.end()
        return len(abandoned)

    async def aclose(self) -> None:
        """Remove this backend's cells."""
        for cell in [cell for cell in self.engine.cells if cell.owner is self]:
            cell.end()
