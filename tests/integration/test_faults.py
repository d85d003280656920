"""Faults around a server: each is our failure, said as such, and leaves nothing behind.

Every test lets the fault happen once, counts containers, descriptors, threads and memory, lets it
happen again, and counts anew: what a fault costs, it costs once.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from codecell.app import open_runner
from codecell.audit import book as books
from codecell.audit import writer as audit_writer
from codecell.audit.chain import verify
from codecell.backends.docker.owners import LABEL_INSTANCE, LABEL_OWNER, Owner
from codecell.http.operator import snapshot
from codecell.model import Outcome, Request, SessionState, Status, Why
from codecell.runner import Runner
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Flat = Callable[..., AbstractAsyncContextManager[None]]
COLD = {"languages": ["python"], "min": 0, "max": 0}
ENDLESS = "import time\nprint('begin', flush=True)\nwhile True: time.sleep(1)"
MIB = 1 << 20
# docker-py leaves its socket to the garbage collector where connecting fails (transport/unixconn).
docker_leaks = pytest.mark.filterwarnings("ignore:unclosed <socket.*family=1:ResourceWarning")


async def python(runner: Runner, code: str, **fields: Any) -> Outcome:
    return await runner.execute(Request(language="python", code=code, **fields))


def started(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return stat.rpartition(")")[2].split()[19]


def children(pid: int) -> list[int]:
    """Return those of every thread: the reaper is started from a worker."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def works(runner: Runner) -> None:
    outcome = await python(runner, "print('it works')")
    assert (outcome.status, outcome.stdout.text) == (Status.SUCCESS, "it works\n"), (
        outcome.error_message
    )


def names(folder: Path, pattern: str) -> list[str]:
    return [path.name for path in folder.glob(pattern)]


async def often(runner: Runner) -> None:
    """Have the engine's client make all the connections that it keeps: some 20."""
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(works, runner)


def fill(folder: Path) -> Path:
    """Leave not one byte of a file system."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 65536)
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(b"x"):
            pass
    return path


# --- disks


@pytest.mark.requirement("clean:faults")
@pytest.mark.parametrize("second_engine", [700 * MIB], indirect=True, ids=["700 MiB"])
async def test_an_engine_whose_disk_is_full_is_our_failure_until_there_is_room(
    second_engine: Any, flat: Flat
) -> None:
    settings = load(flags={"engine": {"host": second_engine.address}, "pool": COLD})
    with closing(docker.APIClient(base_url=second_engine.address, version="auto")) as client:
        async with open_runner(settings) as runner:

            async def fault() -> None:
                filler = await anyio.to_thread.run_sync(fill, second_engine.folder)
                for _ in range(3):
                    outcome = await python(runner, "print(1)")
                    assert outcome.status is Status.SETUP_ERROR
                    assert "no space left on device" in (outcome.error_message or "").lower()
                    assert "\n" not in (outcome.error_message or "")
                    assert outcome.stdout.text == outcome.stderr.text == ""
                filler.unlink()
                await works(runner)

            with anyio.fail_after(120):
                await often(runner)
                await fault()
                async with flat(client):
                    await fault()


FOUR_FILES = """
for name in "abcd":
    with open(name, "wb") as file:
        file.write(name.encode() * 300_000)
print("whole")
"""


@pytest.mark.requirement("clean:disk")
async def test_a_spool_whose_disk_is_full_costs_files_and_no_run(
    small_disk: Path, flat: Flat
) -> None:
    settings = load(flags={"pool": COLD, "store": {"directory": str(small_disk)}})
    async with open_runner(settings) as runner:

        async def fault() -> None:
            outcome = await python(runner, FOUR_FILES)
            assert (outcome.status, outcome.stdout.text) == (Status.SUCCESS, "whole\n")
            assert [file.path for file in outcome.files.changed] == ["a", "b", "c"]
            assert [(o.path, o.reason) for o in outcome.files.omitted] == [("d", Why.NO_ROOM)]
            for file in outcome.files.changed:
                item = runner.store.find(str(file.uri), "local")
                assert runner.store.read(item) == file.path.encode() * 300_000
            filler = fill(small_disk)
            outcome = await python(runner, FOUR_FILES)
            assert (outcome.status, outcome.stdout.text) == (Status.SUCCESS, "whole\n")
            assert outcome.files.changed == ()
            assert {item.reason for item in outcome.files.omitted} == {Why.NO_ROOM}
            filler.unlink()
            for item in tuple(runner.store.items("local")):
                runner.store.forget("local", {item.run_id})

        with anyio.fail_after(60):
            await often(runner)
            await fault()
            async with flat():
                await fault()
        assert names(small_disk, "*/*") == ["lock"]
    assert names(small_disk, "*") == []


@pytest.mark.requirement("audit:failure")
@pytest.mark.parametrize("choice", ["refuse", "continue"])
async def test_an_audit_log_whose_disk_is_full_loses_no_run_silently(
    small_disk: Path, flat: Flat, choice: str
) -> None:
    folder = small_disk / "log"
    settings = load(flags={"pool": COLD, "audit": {"folder": str(folder), "on_failure": choice}})
    async with open_runner(settings) as runner:

        async def fault() -> None:
            filler = fill(small_disk)
            for number in range(8):  # the last page of the log has room for a few lines yet
                outcome = await python(runner, f"print('ran {number}')")
                if outcome.status is Status.SETUP_ERROR:
                    assert choice == "refuse"
                    assert "the audit log can't be written: No space left on device" in (
                        outcome.error_message or ""
                    )
                    assert outcome.stdout.text == ""
                else:
                    assert outcome.stdout.text == f"ran {number}\n"
            assert runner.observers.troubles == {"audit": "No space left on device"}
            assert (outcome.status is Status.SETUP_ERROR) == (choice == "refuse")
            filler.unlink()
            while runner.observers.troubles:
                await anyio.sleep(0.05)
                await works(runner)

        with anyio.fail_after(120):
            await often(runner)
            await fault()
            async with flat():
                await fault()
    found = verify(books.lines(folder, "audit.0"), books.head_of(folder, "audit.0"))
    assert found.problems == ()
    text = "".join(line.decode() for _, line in books.lines(folder, "audit.0"))
    ran = text.count('"verdict":"success"')
    assert text.count('"event":"run.admitted"') == ran > 0
    if choice == "continue":
        assert ran >= 1 + 2 * 8


# --- the engine hangs


class Mute:
    """A socket that takes every connection and never says a word."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                self._taken.append(self._listener.accept()[0])

    def hang_up(self) -> None:
        while self._taken:
            self._taken.pop().close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.hang_up()


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[Mute]:
    made = Mute(tmp_path / "mute.sock")
    yield made
    made.close()


@pytest.mark.requirement("clean:faults")
@docker_leaks
async def test_an_engine_that_never_answers_is_our_failure_in_time(mute: Mute, flat: Flat) -> None:
    flags = {"engine": {"host": mute.address, "timeout_s": 1}, "pool": COLD}
    async with open_runner(load(flags=flags)) as runner:

        async def fault() -> None:
            began = time.monotonic()
            outcome = await python(runner, "print(1)")
            assert outcome.status is Status.SETUP_ERROR
            assert "no container engine answers" in (outcome.error_message or "")
            assert time.monotonic() - began < 10
            mute.hang_up()

        with anyio.fail_after(60):
            await fault()
            async with flat():
                await fault()
                await fault()


@pytest.mark.requirement("clean:faults")
@docker_leaks
@pytest.mark.parametrize("spares", [0, 1])
async def test_an_engine_that_is_restarted_between_runs_costs_none(
    second_engine: Any, flat: Flat, spares: int
) -> None:
    pool = {"languages": ["python"], "min": spares, "max": spares}
    settings = load(flags={"engine": {"host": second_engine.address}, "pool": pool})
    async with open_runner(settings) as runner:

        async def fault() -> None:
            session = await python(runner, "x = 1", session_id="s")
            assert session.status is Status.SUCCESS
            await anyio.to_thread.run_sync(second_engine.restart)
            await works(runner)
            after = await python(runner, "print('x' in globals())", session_id="s")
            assert after.stdout.text == "False\n", after.error_message
            assert after.session is not None
            assert after.session.state is SessionState.LOST_AND_RECREATED
            await runner.close_session("local", "s")

        with anyio.fail_after(150):
            await often(runner)
            await fault()
            # The engine's client keeps as many connections as it once needed at a time.
            async with flat(descriptors=25):
                await fault()


# --- the wall clock


class Clock:
    """Moves what this process takes for the time of day; `time.monotonic` goes on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        real, real_ns, clock = time.time, time.time_ns, self

        class Moved(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.now(tz) + timedelta(seconds=clock.ahead_s)

        patch.setattr(time, "time", lambda: real() + self.ahead_s)
        patch.setattr(time, "time_ns", lambda: real_ns() + int(self.ahead_s * 1e9))
        patch.setattr(audit_writer, "datetime", Moved)


@pytest.mark.requirement("clean:clock")
@pytest.mark.parametrize("jump_s", [3600.0, -3600.0], ids=["forwards", "backwards"])
async def test_the_time_of_day_is_of_no_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flat: Flat, jump_s: float
) -> None:
    clock = Clock(monkeypatch)
    settings = load(
        flags={
            "pool": {"languages": ["python"], "min": 1, "max": 1},
            "sessions": {"idle_s": 600},
            "store": {"ttl_s": 600},
            "audit": {"folder": str(tmp_path / "log")},
        }
    )
    async with open_runner(settings) as runner:

        async def jumped() -> None:
            clock.ahead_s += jump_s

        async def fault() -> None:
            step = {"session_id": "s"}
            before = await python(runner, "x = 41\nopen('kept', 'w').write('k')", **step)
            assert before.status is Status.SUCCESS
            stored = str(before.files.changed[0].uri)
            ended: list[Outcome] = []

            async def in_flight(code: str, timeout_s: float) -> None:
                ended.append(await python(runner, code, timeout_s=timeout_s))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_flight, "import time; time.sleep(1.5); print('whole')", 20)
                tasks.start_soon(in_flight, "while True: pass", 1)
                await anyio.sleep(0.7)
                await jumped()
            by_status = {outcome.status: outcome for outcome in ended}
            assert by_status[Status.SUCCESS].stdout.text == "whole\n"
            for outcome in ended:
                assert 0.9 < outcome.usage.wall_s < 5
                assert 0.9 < outcome.execution_time_s < 30
            after = await python(runner, "print(x + 1)", **step)
            assert after.stdout.text == "42\n"
            assert after.session is not None
            assert after.session.state is SessionState.REUSED
            (info,) = runner.list_sessions("local")
            assert 0 <= info.idle_s < 60
            assert runner.store.read(runner.store.find(stored, "local")) == b"k"
            assert 0 <= int(str(snapshot(runner, settings, "local")["uptime_s"])) < 120
            await runner.close_session("local", "s")

        with anyio.fail_after(120):
            await often(runner)
            await fault()
            async with flat():
                await fault()
    log = tmp_path / "log"
    assert verify(books.lines(log, "audit.0"), books.head_of(log, "audit.0")).problems == ()


# --- images


@pytest.fixture
def own_tag(engine: docker.APIClient) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """Settings whose image of Python nobody else uses, and what makes it."""
    prefix = f"codecell-fault-{os.getpid()}"

    def make() -> None:
        engine.tag("codecell/python:latest", f"{prefix}/python", "latest")

    yield load(flags={"engine": {"image_prefix": prefix}, "pool": COLD}), make
    with suppress(docker.errors.ImageNotFound):
        engine.remove_image(f"{prefix}/python:latest", force=True)


@pytest.mark.requirement("clean:faults")
async def test_an_image_that_is_removed_under_us_is_named_with_what_builds_it(
    engine: docker.APIClient,
    own_tag: tuple[Settings, Callable[[], None]],
    flat: Flat,
) -> None:
    settings, make = own_tag
    tag = f"{settings.engine.image_prefix}/python:latest"
    await anyio.to_thread.run_sync(make)
    async with open_runner(settings) as runner:

        async def fault() -> None:
            ended: list[Outcome] = []

            async def in_flight() -> None:
                code = "import time; print('a', flush=True); time.sleep(1); print('b')"
                ended.append(await python(runner, code))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_flight)
                await anyio.sleep(0.7)
                await anyio.to_thread.run_sync(lambda: engine.remove_image(tag, force=True))
            assert ended[0].stdout.text in {"a\nb\n", ""}  # it may not have begun by then
            for _ in range(2):
                outcome = await python(runner, "print(1)")
                assert outcome.status is Status.SETUP_ERROR
                assert outcome.error_message == (
                    "the image for python is not built; run `codecell images build python`"
                )
            await anyio.to_thread.run_sync(make)
            await works(runner)

        with anyio.fail_after(60):
            await often(runner)
            await fault()
            async with flat():
                await fault()


async def test_an_image_that_is_replaced_serves_from_the_next_cell_on(
    engine: docker.APIClient,
    own_tag: tuple[Settings, Callable[[], None]],
) -> None:
    """What an upgrade does to a server that goes on."""
    settings, make = own_tag
    prefix = settings.engine.image_prefix
    await anyio.to_thread.run_sync(make)
    async with open_runner(settings) as runner:
        first = await python(runner, "print(1)", session_id="kept")
        old = first.isolation.image_digest
        made = engine.create_container("codecell/python:latest", ["true"])["Id"]
        new = engine.commit(made, f"{prefix}/python", "latest")["Id"]
        engine.remove_container(made, force=True)
        try:
            second = await python(runner, "print(2)")
            assert second.stdout.text == "2\n", second.error_message
            assert second.isolation.image_digest == new != old
            kept = await python(runner, "print(3)", session_id="kept")
            assert (kept.stdout.text, kept.isolation.image_digest) == ("3\n", old)
        finally:
            await runner.close_session("local", "kept")
    with suppress(docker.errors.APIError):
        engine.remove_image(new, force=True)


# --- a server killed at every stage of a run

STAGED = """
import sys, time, anyio, docker
from codecell.app import open_runner
from codecell.backends.docker.backend import DockerBackend
from codecell.link import Link
from codecell.model import Request
from codecell.pool import Pool
from codecell.settings import load

def here():
    print("here", flush=True)
    time.sleep(600)

def blocks(owner, name):
    kept = getattr(owner, name)
    def instead(*args, **named):
        if sys.argv[1].endswith("after " + name):
            kept(*args, **named)
        here()
    setattr(owner, name, staticmethod(instead) if name == "_attach" else instead)

def waits(owner, name):
    kept = getattr(owner, name)
    async def instead(*args, **named):
        if sys.argv[1].endswith("after " + name):
            await kept(*args, **named)
            await anyio.sleep(0.5)
        here()
    setattr(owner, name, instead)

stage = sys.argv[1].split()[-1]
if stage in ("_attach",):
    blocks(DockerBackend, stage)
elif stage in ("create_container_from_config", "start"):
    blocks(docker.APIClient, stage)
elif stage in ("boot", "_start", "run", "collect"):
    waits(Link, stage)
else:
    waits(Pool, stage)

async def main():
    settings = load(flags={"pool": {"languages": ["python"], "min": 0, "max": 0}})
    async with open_runner(settings) as runner:
        code = "import time; open('f', 'w').write('x'); print('on', flush=True); time.sleep(%s)"
        await runner.execute(Request(language="python", code=code % sys.argv[2]))

anyio.run(main)
"""


@pytest.mark.requirement("clean:server-killed")
@pytest.mark.parametrize(
    "stage",
    [
        "after create_container_from_config", "before _attach", "after _attach", "after start",
        "after boot", "before _start", "after _start", "after run",
        "before collect", "after collect", "before _retire", "before aclose",
    ],
)  # fmt: skip
async def test_a_server_killed_at_any_stage_leaves_no_container_and_no_process(
    engine: docker.APIClient, stage: str
) -> None:
    seconds = "600" if stage == "after _start" else "0"
    server = await anyio.open_process(
        [sys.executable, "-c", STAGED, stage, seconds], stderr=subprocess.DEVNULL
    )
    assert server.stdout is not None
    owner = replace(Owner.current(), pid=server.pid, started=started(server.pid))
    label = f"{LABEL_OWNER}={owner.label()}"

    def left() -> list[str]:
        found = engine.containers(all=True, filters={"label": label})
        names = []
        for item in found:
            with suppress(docker.errors.NotFound):
                names.append(engine.inspect_container(item["Id"])["Name"])
        return names

    try:
        with anyio.fail_after(60):
            assert (await server.stdout.receive()).startswith(b"here")
        assert await anyio.to_thread.run_sync(left)  # a cell there is, whatever the stage
        reapers = children(server.pid)
        assert len(reapers) == 1
    finally:
        server.send_signal(signal.SIGKILL)
        await server.wait()
        await server.aclose()
    with anyio.fail_after(15):  # 5 s are promised; the machine may be busy
        while await anyio.to_thread.run_sync(left):
            await anyio.sleep(0.05)
        while any(map(alive, reapers)):
            await anyio.sleep(0.05)


# --- others on the same engine


@pytest.mark.requirement("clean:others")
async def test_what_another_version_made_is_swept_only_when_its_server_is_certainly_dead(
    engine: docker.APIClient, flat: Flat
) -> None:
    """An older or newer server runs beside this one: its labels may say things unknown to us."""
    me = Owner.current()
    labels = {
        "alive": f"{me.boot}/{me.namespace}/{os.getppid()}/{started(os.getppid())}",
        "of a format to come": f"{me.boot}/{me.namespace}/1/2/3/4",
        "without words": "",
        "in another namespace": f"{me.boot}/1/{2**22}/1",
    }
    made = {
        name: engine.create_container(
            "codecell/python:latest", ["true"],
            labels={LABEL_OWNER: label, LABEL_INSTANCE: f"other-{name}"},
        )["Id"]
        for name, label in labels.items()
    }  # fmt: skip
    dead = engine.create_container(
        "codecell/python:latest", ["true"],
        labels={LABEL_OWNER: f"{me.boot}/{me.namespace}/{2**22}/1", LABEL_INSTANCE: "other"},
    )["Id"]  # fmt: skip
    try:
        async with flat(), open_runner(load(flags={"pool": COLD})) as runner:
            with anyio.fail_after(30):
                await works(runner)
                there = set(made.values())
                while True:
                    found = {item["Id"] for item in engine.containers(all=True)}
                    if dead not in found:
                        break
                    await anyio.sleep(0.1)
            assert there <= found
    finally:
        for container in (*made.values(), dead):
            with suppress(docker.errors.NotFound):
                engine.remove_container(container, force=True)
