"""The promises in sandbox.py, kept by every backend: the fake, and each entry of BACKENDS."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import docker
import docker.errors
import pytest

from codecell.backends import BACKENDS, open_backend
from codecell.backends.docker.owners import LABEL_INSTANCE, LABEL_OWNER, Owner
from codecell.backends.fake import OUT_OF_MEMORY, FakeBackend, FakeCell, FakeEngine, Script
from codecell.errors import CellLost, ImageMissing
from codecell.frames import (
    VERSION,
    Decoder,
    Frame,
    Kind,
    decode_json,
    encode,
    encode_file,
    encode_job,
    encode_json,
)
from codecell.languages import LANGUAGES
from codecell.model import CellSpec, File
from codecell.parcel import parcel
from codecell.policy import cell_spec
from codecell.sandbox import Backend, Cell, Death
from codecell.settings import load

pytestmark = pytest.mark.anyio
SPEC = cell_spec(LANGUAGES["python"], load())
MISSING = replace(SPEC, image="codecell-nobody-built-this/python:latest")


class Harness(Protocol):
    """What the suite must be able to do to a backend's engine behind its back."""

    def open(self) -> Backend:
        """Make another instance."""

    def without_image(self) -> Backend:
        """Make one whose engine lacks the image of `MISSING`."""

    def cells(self) -> int:
        """Count the cells of this process's instances that exist."""

    def exists(self, cell: Cell) -> bool:
        """Tell whether this cell exists."""

    def uid(self, cell: Cell) -> int:
        """Return the user id of a cell."""

    def kill(self, cell: Cell) -> None:
        """End a cell from outside."""

    async def exhaust(self, cell: Cell) -> None:
        """Make a cell's agent die of its memory."""

    def leave_dead(self) -> Callable[[], bool]:
        """Leave a cell whose instance was killed; return whether it is still there."""


class FakeHarness:
    def __init__(self) -> None:
        self.engine = FakeEngine()

    def open(self) -> Backend:
        return FakeBackend(self.engine)

    def without_image(self) -> Backend:
        error = ImageMissing(
            "the image for python is not built; run `codecell images build python`"
        )
        return FakeBackend(self.engine, lambda _: error)

    def cells(self) -> int:
        return len(self.engine.cells)

    def exists(self, cell: Cell) -> bool:
        return cell in self.engine.cells

    def uid(self, cell: Cell) -> int:
        assert isinstance(cell, FakeCell)
        return cell.uid

    def kill(self, cell: Cell) -> None:
        assert isinstance(cell, FakeCell)
        cell.end(Death(out_of_memory=False, exit_code=137, reason="killed", by_hand=True))

    async def exhaust(self, cell: Cell) -> None:
        assert isinstance(cell, FakeCell)
        cell.end(OUT_OF_MEMORY)

    def leave_dead(self) -> Callable[[], bool]:
        backend = FakeBackend(self.engine)
        backend.dead = True
        cell = self.engine.make(backend, SPEC, Script())
        return lambda: cell in self.engine.cells


class DockerHarness:
    def __init__(self, engine: docker.APIClient) -> None:
        self.engine = engine
        self.owner = Owner.current().label()

    def open(self) -> Backend:
        return open_backend(load())

    def without_image(self) -> Backend:
        return self.open()

    def cells(self) -> int:
        found = self.engine.containers(all=True, filters={"label": f"{LABEL_OWNER}={self.owner}"})
        return sum(self._exists(item["Id"]) for item in found)

    def exists(self, cell: Cell) -> bool:
        return self._exists(cell.id)

    def uid(self, cell: Cell) -> int:
        user: str = self.engine.inspect_container(cell.id)["Config"]["User"]
        uid, gid = user.split(":")
        assert uid == gid
        return int(uid)

    def kill(self, cell: Cell) -> None:
        self.engine.kill(cell.id)

    async def exhaust(self, cell: Cell) -> None:
        # Sent in place of the agent: PID 1 itself takes all the memory there is.
        hoard = b"\0\0\0\0hoard\0a = []\nwhile True: a.append(b'x' * (1 << 20))\n"
        await cell.send(len(hoard).to_bytes(4, "big") + hoard)

    def leave_dead(self) -> Callable[[], bool]:
        idle = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        with subprocess.Popen(idle, stdin=subprocess.PIPE) as dead:
            stat = Path(f"/proc/{dead.pid}/stat").read_text(encoding="ascii")
            owner = replace(
                Owner.current(), pid=dead.pid, started=stat.rpartition(")")[2].split()[19]
            )
        labels = {LABEL_INSTANCE: "0123456789abcdef", LABEL_OWNER: owner.label()}
        made = self.engine.create_container(SPEC.image, ["true"], labels=labels, detach=True)
        return lambda: self._exists(made["Id"])

    def _exists(self, name: str) -> bool:
        # Docker 20.10's list can show for ever what is long gone.
        try:
            self.engine.inspect_container(name)
        except docker.errors.NotFound:
            return False
        return True


HARNESSES = {"fake": FakeHarness, "docker": DockerHarness}


def test_every_backend_is_under_contract() -> None:
    assert set(HARNESSES) == {"fake", *BACKENDS}


@pytest.fixture(
    params=["fake", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in BACKENDS)]
)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    if request.param == "fake":
        made: Harness = FakeHarness()
    else:
        made = DockerHarness(request.getfixturevalue("engine"))
    yield made
    assert made.cells() == 0, "a test left a cell behind"


@asynccontextmanager
async def opened(harness: Harness) -> AsyncIterator[Backend]:
    """A backend; leaving closes it and hangs up on the cells that the test has left."""
    backend: Any = harness.open()
    create, made = backend.create, []

    async def creating(spec: CellSpec) -> Cell:
        cell: Cell = await create(spec)
        made.append(cell)
        return cell

    backend.create = creating
    with anyio.fail_after(60):
        try:
            yield backend
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    for cell in made:
                        tasks.start_soon(cell.discard)
                await backend.aclose()


async def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    with anyio.fail_after(within_s):
        while not await anyio.to_thread.run_sync(condition):
            await anyio.sleep(0.02)


async def until(cell: Cell, wanted: Callable[[Frame], bool]) -> Frame:
    """Read frames until the wanted one comes."""
    decoder = Decoder()
    with anyio.fail_after(30):
        while data := await cell.receive():
            for frame in decoder.feed(data):
                if wanted(frame):
                    return frame
    raise AssertionError("the stream ended")


async def start(cell: Cell, spec: CellSpec = SPEC, *, again: bool = False) -> None:
    config: dict[str, Any] = {
        "launch": spec.launch,
        "preload": [],
        "again": again,
        "standby": [],
        "standby_env": {},
        "standby_source": "",
        "standby_file": "",
        "standby_main": "",
        "kernel": "",
    }
    await cell.send(parcel())
    await cell.send(encode_json(Kind.CONFIG, 0, config))


async def boot(cell: Cell, spec: CellSpec = SPEC) -> Frame:
    await start(cell, spec)
    return await until(cell, lambda frame: frame.kind is Kind.HELLO)


# --- a cell


async def test_a_cell_is_a_byte_stream_to_its_agent(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        hello = decode_json(await boot(cell))
        assert hello["protocol"] == VERSION
        assert hello["boot"]
        await cell.discard()


@pytest.mark.docker
@pytest.mark.parametrize("again", [False, True])
async def test_a_cell_that_is_left_alone_prepares_more(
    engine: docker.APIClient, *, again: bool
) -> None:
    async with opened(DockerHarness(engine)) as backend:
        cell = await backend.create(SPEC)
        await start(cell, again=again)
        held: list[int] = []
        decoder = Decoder()
        with anyio.move_on_after(30) as patience:
            while len(held) < 2:
                for frame in decoder.feed(await cell.receive()):
                    if frame.kind is Kind.READY:
                        held.append(decode_json(frame)["memory_bytes"])
                        patience.deadline = anyio.current_time() + (0.5 if again else 30)
        # What serves more than one run has had it at once.
        assert len(held) == (1 if again else 2)
        assert held == sorted(set(held))
        await cell.discard()


async def test_a_cell_states_its_name_and_its_posture(harness: Harness) -> None:
    async with opened(harness) as backend:
        first, second = await backend.create(SPEC), await backend.create(SPEC)
        assert first.id != second.id
        assert first.isolation.image == SPEC.image
        assert first.isolation.image_digest.startswith("sha256:")
        assert first.isolation.runtime
        assert first.isolation.network == "none"


async def test_a_large_send_arrives_whole_though_it_is_read_slowly(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        await boot(cell)
        await cell.send(
            encode_json(
                Kind.RUN,
                1,
                {
                    "mode": "fork",
                    "timeout_s": 20,
                    "keep": 9,
                    "tail": 9,
                    "values": 0,
                    "kill_bytes": 99,
                    "again": False,
                    "compiles": False,
                    "oom_mark": "",
                    "session": False,
                    "step": "",
                },
            )
        )
        for _ in range(200):
            await cell.send(encode(Kind.STDIN, 1, bytes(65536)))
        for frame in encode_file(1, File(path="a.py", content=b"")):
            await cell.send(frame)
        job = encode_job(mode="fork", argv=["/sandbox/a.py"], env={})
        await cell.send(encode(Kind.JOB, 1, job))
        await cell.send(encode(Kind.GO, 1))
        facts = decode_json(await until(cell, lambda frame: frame.kind is Kind.EXIT))
        assert (facts["code"], facts["failure"]) == (0, "")
        await cell.discard()


async def test_the_end_of_the_stream_is_the_end_for_ever(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        await anyio.to_thread.run_sync(harness.kill, cell)
        with anyio.fail_after(5):
            while await cell.receive():
                pass
            for _ in range(3):
                assert await cell.receive() == b""
        with anyio.fail_after(5), pytest.raises(CellLost):
            while True:
                await cell.send(bytes(65536))
        await cell.discard()


async def test_after_a_death_the_engine_says_why(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        await anyio.to_thread.run_sync(harness.kill, cell)
        while await cell.receive():
            pass
        with anyio.fail_after(3):
            death = await cell.death()
        assert not death.out_of_memory
        assert death.by_hand
        assert death.reason
        await cell.discard()


async def test_a_death_by_memory_is_told_from_others(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        await harness.exhaust(cell)
        with anyio.fail_after(30):
            while await cell.receive():
                pass
            death = await cell.death()
        assert death.out_of_memory
        assert not death.by_hand
        await cell.discard()


async def test_that_memory_ran_out_is_told_once(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        assert not await cell.starved(0)
        await harness.exhaust(cell)
        with anyio.fail_after(30):
            while await cell.receive():
                pass
            assert await cell.starved(5)
            assert not await cell.starved(0)
        await cell.discard()


async def test_a_discarded_cell_is_gone_and_its_stream_has_ended(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        assert await anyio.to_thread.run_sync(harness.exists, cell)
        await boot(cell)
        await cell.discard()
        await eventually(lambda: not harness.exists(cell))
        assert await cell.receive() == b""
        with pytest.raises(CellLost):
            await cell.send(b"x")


async def test_discarding_wakes_the_reader(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        ended = anyio.Event()

        async def read() -> None:
            while await cell.receive():
                pass
            ended.set()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                await cell.discard()
                await ended.wait()


async def test_discarding_again_does_nothing(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(cell.discard)
        with anyio.fail_after(1):
            await cell.discard()
        assert not await anyio.to_thread.run_sync(harness.exists, cell)


async def test_a_discard_that_is_cancelled_still_removes_the_cell(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await cell.discard()
        await eventually(lambda: not harness.exists(cell))


async def test_discarding_a_cell_that_is_gone_already_is_quiet(harness: Harness) -> None:
    async with opened(harness) as backend:
        cell = await backend.create(SPEC)
        await anyio.to_thread.run_sync(harness.kill, cell)
        await eventually(lambda: not harness.exists(cell))
        await cell.discard()


# --- a backend


async def test_no_two_live_cells_share_a_user(harness: Harness) -> None:
    async with opened(harness) as one, opened(harness) as other:
        cells = [await backend.create(SPEC) for backend in (one, other) for _ in range(3)]
        uids = [await anyio.to_thread.run_sync(harness.uid, cell) for cell in cells]
        assert len(set(uids)) == 6
        assert 0 not in uids


async def test_describing_a_cell_makes_none(harness: Harness) -> None:
    backend = harness.open()
    assert await backend.describe(SPEC)
    assert harness.cells() == 0
    await backend.aclose()


async def test_a_missing_image_names_the_command_and_leaves_nothing(harness: Harness) -> None:
    backend = harness.without_image()
    try:
        with (
            anyio.fail_after(10),
            pytest.raises(ImageMissing, match="codecell images build python"),
        ):
            await backend.create(MISSING)
        assert await anyio.to_thread.run_sync(harness.cells) == 0
    finally:
        await backend.aclose()


@pytest.mark.parametrize("delay_s", [0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3])
async def test_a_creation_that_is_cancelled_leaves_nothing(
    harness: Harness, delay_s: float
) -> None:
    async with opened(harness) as backend:
        await (await backend.create(SPEC)).discard()  # so that the delays fall into the creation
        with anyio.move_on_after(delay_s):
            cell = await backend.create(SPEC)
            await cell.discard()
        await eventually(lambda: harness.cells() == 0)


@pytest.mark.parametrize("delay_s", [0, 0.02, 0.1, 0.2])
async def test_closing_while_a_creation_is_being_cancelled_leaves_nothing(
    harness: Harness, delay_s: float
) -> None:
    backend = harness.open()
    await (await backend.create(SPEC)).discard()
    made = []
    with anyio.move_on_after(delay_s):
        made.append(await backend.create(SPEC))
    await backend.aclose()
    for cell in made:
        await cell.discard()
    await eventually(lambda: harness.cells() == 0)


async def test_many_creations_at_once_all_succeed(harness: Harness) -> None:
    async with opened(harness) as backend:
        cells: list[Cell] = []

        async def make() -> None:
            cell = await backend.create(SPEC)
            cells.append(cell)
            assert decode_json(await boot(cell))["protocol"] == VERSION

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(make)
        assert len({cell.id for cell in cells}) == 6


async def test_closing_removes_every_cell_whatever_it_does(harness: Harness) -> None:
    backend = harness.open()
    cells = [await backend.create(SPEC) for _ in range(3)]
    await boot(cells[1])
    with anyio.fail_after(10):
        await backend.aclose()
        await backend.aclose()
    await eventually(lambda: harness.cells() == 0)
    for cell in cells:
        with anyio.fail_after(5):
            await cell.discard()


async def test_closing_what_was_never_used_is_quiet(harness: Harness) -> None:
    backend = harness.open()
    await backend.aclose()


async def test_one_backends_end_leaves_its_neighbours_cells_alone(harness: Harness) -> None:
    async with opened(harness) as survivor:
        cell = await survivor.create(SPEC)
        async with opened(harness) as other:
            await other.create(SPEC)
        assert await anyio.to_thread.run_sync(harness.exists, cell)
        assert decode_json(await boot(cell))["protocol"] == VERSION
        await cell.discard()


async def test_a_sweep_removes_what_dead_instances_left_and_nothing_else(harness: Harness) -> None:
    async with opened(harness) as sibling, opened(harness) as sweeper:
        theirs, own = await sibling.create(SPEC), await sweeper.create(SPEC)
        still_there = await anyio.to_thread.run_sync(harness.leave_dead)
        assert await sweeper.sweep() >= 1
        await eventually(lambda: not still_there())
        for cell in (theirs, own):
            assert await anyio.to_thread.run_sync(harness.exists, cell)
        assert await sweeper.sweep() == 0


async def test_the_images_are_told_by_language(harness: Harness) -> None:
    async with opened(harness) as backend:
        for language, image in (await backend.images()).items():
            assert image.language == language
            assert image.digest.startswith("sha256:")


async def test_a_backend_has_a_name(harness: Harness) -> None:
    async with opened(harness) as backend:
        assert backend.kind in {"fake", *BACKENDS}
