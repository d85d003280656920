"""What is written down, in which order, and what a log that fails does to runs."""

import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

import anyio
import pytest
from click.testing import CliRunner

from codecell import app
from codecell.audit import book as books
from codecell.audit.book import Book
from codecell.audit.chain import verify
from codecell.audit.witness import Witness, administration, config_digest
from codecell.audit.writer import AuditFailed, Writer
from codecell.backends.fake import FakeBackend, Script, leave, say
from codecell.cli import main as cli
from codecell.errors import ConfigurationError, RequestError
from codecell.model import Ending, Request, Status
from codecell.observer import Observer, SessionEvent
from codecell.settings import Settings, load

pytestmark = pytest.mark.anyio
REQUEST = Request(language="python", code="print('secret')", stdin="key")
ACTIONS = get_args(get_type_hints(SessionEvent)["action"])


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    script = Script(run=(say("hi\n"), leave()))
    monkeypatch.setattr(app, "open_backend", lambda _: FakeBackend(scripts=script))


def audited(folder: Path, **audit: Any) -> Settings:
    return load(
        flags={"pool": {"min": 0, "max": 0}, "audit": {"folder": str(folder / "log"), **audit}}
    )


def records(folder: Path) -> list[dict[str, Any]]:
    log = folder / "log"
    assert verify(books.lines(log, "audit.0"), books.head_of(log, "audit.0")).problems == ()
    return [json.loads(line) for _, line in books.lines(log, "audit.0")]


def named(found: list[dict[str, Any]], event: str) -> dict[str, Any]:
    (one,) = [record for record in found if record["event"] == event]
    return one


class Full:
    """Makes `Book.append` fail while it is on, as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.tried = threading.Semaphore(0)
        append = Book.append

        def limited(book: Book, given: Sequence[Mapping[str, Any]]) -> None:
            if self.on:
                self.tried.release()
                raise OSError(28, "No space left on device")
            append(book, given)

        monkeypatch.setattr(Book, "append", limited)


class Alarms(Observer):
    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None]] = []

    def trouble(self, part: str, text: str | None) -> None:
        self.heard.append((part, text))


def _event(action: Any) -> SessionEvent:
    return SessionEvent(action=action, session_id="s1", caller="bob", language="python")


@pytest.mark.requirement("audit:complete")
async def test_a_run_is_written_before_it_begins_and_when_it_has_ended(tmp_path: Path) -> None:
    settings = audited(tmp_path)
    with anyio.fail_after(10):
        async with app.open_runner(settings) as runner:
            outcome = await runner.execute(REQUEST)
            with pytest.raises(RequestError):
                await runner.execute(Request(language="cobol\x1b[2J\n", code="x", caller="bob"))
            runner.observers.session(_event("opened"))
    found = records(tmp_path)
    events = [record["event"] for record in found]
    assert events[0] == "server.start"
    assert events[-1] == "server.stop"
    assert events.index("run.admitted") < events.index("cell.created") < events.index("run.ended")
    assert named(found, "server.start")["config"] == config_digest(settings)
    admitted = named(found, "run.admitted")
    assert admitted["run_id"] == outcome.run_id
    assert admitted["code_sha256"] == sha256(REQUEST.code.encode()).hexdigest()
    assert admitted["stdin_sha256"] == sha256(b"key").hexdigest()
    assert admitted["limits"]["memory"] == 256 * 2**20
    ended = named(found, "run.ended")
    assert (ended["verdict"], ended["exit_code"], ended["limit"]) == ("success", 0, None)
    assert ended["run_id"] == outcome.run_id
    assert set(ended["usage"]) == {"wall_s", "cpu_s", "peak_memory"}
    refused = named(found, "run.refused")
    assert (refused["caller"], refused["error"]) == ("bob", "RequestError")
    assert named(found, "session.opened")["session"] == "s1"
    raw = (tmp_path / "log" / "audit.0.jsonl").read_bytes()
    assert b"secret" not in raw
    assert not set(raw) - set(range(0x20, 0x7F)) - {10}


@pytest.mark.requirement("audit:complete")
async def test_a_limit_that_ended_a_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(run=(leave(ending=Ending.TIMEOUT, exit_code=None),))
    monkeypatch.setattr(app, "open_backend", lambda _: FakeBackend(scripts=script))
    async with app.open_runner(audited(tmp_path)) as runner:
        await runner.execute(REQUEST)
    ended = named(records(tmp_path), "run.ended")
    assert (ended["verdict"], ended["limit"]) == ("timeout", "timeout")


async def test_text_is_written_only_where_the_operator_says_so(tmp_path: Path) -> None:
    async with app.open_runner(audited(tmp_path, text=True)) as runner:
        await runner.execute(REQUEST)
    admitted = named(records(tmp_path), "run.admitted")
    assert (admitted["code"], admitted["stdin"]) == (REQUEST.code, "key")


@pytest.mark.requirement("audit:failure")
async def test_refuse_runs_nothing_while_the_log_fails_and_goes_on_when_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, alarms = Full(monkeypatch), Alarms()
    with anyio.fail_after(10):
        async with app.open_runner(audited(tmp_path), observers=[alarms]) as runner:
            assert (await runner.execute(REQUEST)).status is Status.SUCCESS
            full.on = True
            outcome = await runner.execute(REQUEST)
            assert outcome.status is Status.SETUP_ERROR
            assert outcome.error_message == (
                "the audit log can't be written: No space left on device"
            )
            assert outcome.stdout.text == ""
            assert runner.observers.troubles == {"audit": "No space left on device"}
            full.on = False
            assert (await runner.execute(REQUEST)).status is Status.SUCCESS
            assert runner.observers.troubles == {}
    found = records(tmp_path)
    assert [r["verdict"] for r in found if r["event"] == "run.ended"] == [
        "success", "setup_error", "success",
    ]  # fmt: skip
    assert len([r for r in found if r["event"] == "run.admitted"]) == 2
    assert alarms.heard == [("audit", "No space left on device"), ("audit", None)]


@pytest.mark.requirement("audit:failure")
async def test_continue_runs_on_with_an_alarm_and_writes_it_all_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, alarms = Full(monkeypatch), Alarms()
    settings = audited(tmp_path, on_failure="continue")
    with anyio.fail_after(10):
        async with app.open_runner(settings, observers=[alarms]) as runner:
            full.on = True
            assert (await runner.execute(REQUEST)).status is Status.SUCCESS
            while not alarms.heard:
                await anyio.sleep(0.01)
            full.on = False
            assert (await runner.execute(REQUEST)).status is Status.SUCCESS
    found = records(tmp_path)
    assert [r["event"] for r in found].count("run.admitted") == 2
    assert [r["event"] for r in found].count("run.ended") == 2
    assert alarms.heard[0] == ("audit", "No space left on device")


@pytest.mark.requirement("audit:failure")
async def test_what_is_dropped_is_counted_in_the_log_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Full(monkeypatch)
    monkeypatch.setattr("codecell.audit.writer.MOST_WAITING", 10)
    book = books.open_book(tmp_path / "log", rotate=1 << 20, keep=0)[0]
    writer = Writer(book)
    full.on = True
    for number in range(50):
        writer.put("x", lambda number=number: {"number": number})  # type: ignore[misc]
    assert await anyio.to_thread.run_sync(lambda: full.tried.acquire(timeout=5))
    full.on = False
    await anyio.to_thread.run_sync(writer.close)
    found = records(tmp_path)
    kept = [record["number"] for record in found if record["event"] == "x"]
    assert kept == sorted(kept)
    assert len(kept) + sum(r["records"] for r in found if r["event"] == "chain.lost") == 50


@pytest.mark.requirement("audit:complete")
def test_what_fails_as_the_log_is_closed_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, tried, closing = Book.append, threading.Event(), threading.Event()

    def fails_once(book: Book, given: Sequence[Mapping[str, Any]]) -> None:
        if not tried.is_set():
            tried.set()
            closing.wait(5)
            raise OSError(28, "No space left on device")
        append(book, given)

    monkeypatch.setattr(Book, "append", fails_once)
    writer = Writer(books.open_book(tmp_path / "log", rotate=1 << 20, keep=0)[0])
    writer.put("x", lambda: {"number": 1})
    assert tried.wait(5)
    ending = threading.Thread(target=writer.close)
    ending.start()
    time.sleep(0.1)  # it has asked the thread to end, which is still at its first try
    closing.set()
    ending.join(5)
    assert [record["number"] for record in records(tmp_path) if record["event"] == "x"] == [1]


@pytest.mark.requirement("audit:complete")
def test_every_event_that_observers_hear_of_is_written() -> None:
    told = {name for name in vars(Observer) if not name.startswith("_")}
    heard = {name for name in told if getattr(Witness, name) is not getattr(Observer, name)}
    # Of a run in flight its phases; what stands in the lines of its beginning, its end or a cell.
    assert told - heard == {"queued", "phase", "leased", "trouble"}


@pytest.mark.requirement("audit:complete")
async def test_each_kind_of_event_is_a_line(tmp_path: Path) -> None:
    settings = audited(tmp_path)
    async with app.open_runner(settings) as runner:
        for action in ACTIONS:
            runner.observers.session(_event(action))
        await runner.execute(REQUEST)
        await runner.execute(Request(language="python", code="1", session_id="s"))
        await runner.close_session("local", "s")
    events = [record["event"] for record in records(tmp_path)]
    assert {f"session.{action}" for action in ACTIONS} <= set(events)
    assert events.count("session.opened") == events.count("session.closed") == 2
    assert events.count("cell.created") == events.count("cell.discarded") == 2
    assert events.count("run.admitted") == events.count("run.ended") == 2


@pytest.mark.requirement("audit:complete")
@pytest.mark.parametrize(
    ("status", "limit"),
    [
        (Status.TIMEOUT, "timeout"),
        (Status.OUT_OF_MEMORY, "memory"),
        (Status.OUTPUT_LIMIT, "output_kill"),
        (Status.EXECUTION_ERROR, None),
    ],
)
async def test_the_limit_that_was_hit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Status, limit: str | None
) -> None:
    endings = {
        Status.TIMEOUT: leave(ending=Ending.TIMEOUT, code=None, signal=9),
        Status.OUT_OF_MEMORY: leave(code=None, signal=9, oom_kills=1),
        Status.OUTPUT_LIMIT: leave(ending=Ending.OUTPUT_LIMIT, code=None, signal=9),
        Status.EXECUTION_ERROR: leave(3),
    }
    script = Script(run=(endings[status],))
    monkeypatch.setattr(app, "open_backend", lambda _: FakeBackend(scripts=script))
    async with app.open_runner(audited(tmp_path)) as runner:
        outcome = await runner.execute(REQUEST)
    assert outcome.status is status
    ended = named(records(tmp_path), "run.ended")
    assert (ended["verdict"], ended["limit"]) == (status.value, limit)


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
async def test_lines_are_forced_to_the_disk_as_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: Any
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    book = books.open_book(tmp_path / "log", rotate=1 << 20, keep=0)[0]
    writer = Writer(book, fsync=fsync, fsync_s=0.2)
    for number in range(3):
        await writer.write("x", dict)
        if fsync == "always":
            assert len(synced) == 2 * (number + 1)  # the log and its head, before the answer
    if fsync == "interval":
        with anyio.fail_after(5):
            while not synced:
                await anyio.sleep(0.01)
        assert len(synced) == 2
    await anyio.to_thread.run_sync(writer.close)
    assert len(synced) == {"always": 6, "interval": 2, "never": 0}[fsync]


@pytest.mark.requirement("audit:failure")
async def test_a_disk_that_does_not_take_what_it_was_given_refuses_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = True

    def fsync(_: int) -> None:
        if broken:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    async with app.open_runner(audited(tmp_path, fsync="always")) as runner:
        outcome = await runner.execute(REQUEST)
        assert outcome.status is Status.SETUP_ERROR
        assert outcome.error_message == "the audit log can't be written: Input/output error"
        broken = False
        assert (await runner.execute(REQUEST)).status is Status.SUCCESS
    assert records(tmp_path)  # and the chain is whole


async def test_records_from_many_tasks_keep_their_order(tmp_path: Path) -> None:
    book = books.open_book(tmp_path / "log", rotate=4000, keep=0)[0]
    writer = Writer(book, fsync="always")

    async def task(name: int) -> None:
        for number in range(20):
            await writer.write("x", lambda: {"task": name, "number": number})  # noqa: B023

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for name in range(10):
                tasks.start_soon(task, name)
    await anyio.to_thread.run_sync(writer.close)
    found = records(tmp_path)
    for name in range(10):
        assert [r["number"] for r in found if r["task"] == name] == list(range(20))
    with pytest.raises(AuditFailed):
        await writer.write("x", dict)


def test_an_administrative_act_is_written_before_and_after(tmp_path: Path) -> None:
    settings = audited(tmp_path)
    with administration(settings, "images.build", language="python"):
        assert named(records(tmp_path), "images.build")["result"] == "begun"
    with (
        pytest.raises(ValueError, match="no"),
        administration(settings, "token.add", name="ci"),
    ):
        raise ValueError("no")
    found = [(r["event"], r["result"]) for r in records(tmp_path)]
    assert found == [
        ("images.build", "begun"), ("images.build", "done"),
        ("token.add", "begun"), ("token.add", "failed: no"),
    ]  # fmt: skip


@pytest.mark.requirement("audit:failure")
@pytest.mark.parametrize("choice", ["refuse", "continue"])
def test_an_act_that_can_not_be_written_is_not_done_or_done_with_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    Full(monkeypatch).on = True
    done = False
    try:
        with administration(audited(tmp_path, on_failure=choice), "token.add", name="ci"):
            done = True
    except ConfigurationError as error:
        assert "No space left on device" in str(error)
    assert done == (choice == "continue")


ACTS: dict[tuple[str, ...], str] = {
    ("token", "add", "ci"): "token.add",
    ("token", "remove", "ci"): "token.remove",
    ("images", "build", "bash"): "images.build",
    ("doctor", "--attack"): "doctor.attack",
}


@pytest.mark.requirement("audit:complete")
@pytest.mark.parametrize("command", ACTS, ids=" ".join)
def test_each_act_of_the_operators_is_written_before_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """And not done where it can't be written: no engine, no token file is touched then."""
    full = Full(monkeypatch)
    monkeypatch.setenv("CODECELL_AUDIT__FOLDER", str(tmp_path / "log"))
    monkeypatch.setenv("CODECELL_ENGINE__HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("CODECELL_HTTP__TOKENS", str(tmp_path / "tokens"))
    full.on = True
    refused = CliRunner().invoke(cli, list(command), standalone_mode=False)
    assert "No space left on device" in f"{refused.output} {refused.exception}"
    assert not (tmp_path / "tokens").exists()
    full.on = False
    CliRunner().invoke(cli, list(command), standalone_mode=False)
    found = [(r["event"], r["result"].partition(":")[0]) for r in records(tmp_path)]
    assert found[0] == (ACTS[command], "begun")
    assert found[1][0] == ACTS[command]
    assert found[1][1] in {"done", "failed"}
    assert len(found) == 2


def test_the_acts_are_all_that_the_commands_write_down() -> None:
    folder = Path(str(resources.files("codecell.cli")))
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    assert set(re.findall(r"administration\([^,]*, \"([a-z.]+)\"", text)) == {
        *ACTS.values(),
        "runtime.register",  # of `setup`, which changes this machine
    }


def test_without_an_audit_log_nothing_is_opened(tmp_path: Path) -> None:
    with administration(load(), "token.add", name="ci"):
        pass
    assert list(tmp_path.iterdir()) == []
