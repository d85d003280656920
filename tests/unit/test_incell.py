"""The agent's parts, each on its own.

The loop of PID 1 is never run here: it ends a run with `kill(-1)`, which is for containers alone.
"""

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.frames import HEADER, MAGIC, MAX_PAYLOAD, Decoder, Kind, encode
from codecell.incell import channel as channels
from codecell.incell.channel import Channel, ServerGone
from codecell.incell.compact import dumps, loads
from codecell.incell.counters import Reading, field
from codecell.incell.output import Output
from codecell.incell.program import exit_status
from codecell.incell.run import NEVER, Run, exit_or_signal
from codecell.incell.snapshot import TooMuch, take
from codecell.parcel import PARTS, boot, parcel, source

FILES = sorted(
    item.name for item in resources.files("codecell.incell").iterdir() if item.name.endswith(".py")
)


def test_all_that_cells_are_sent_is_read_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade in place must not mix its agent with this server's."""
    parcel()
    monkeypatch.setattr(resources, "files", None)
    standby = (f"standby{end}" for end in (".js", ".sh", "_tsc.js", ".R", ".m"))
    for name in (*FILES, "kernel.js", *standby):
        assert source(name)


def in_fresh_interpreter(code: str, *flags: str, check: bool = True) -> Any:
    """Run `code` where the agent was made as in a cell; `agent` has its modules."""
    prelude = (
        f"boot = {{'__name__': 'boot'}}\nexec({boot()!r}, boot)\ntake = boot['take']\n"
        "agent = boot['load'](*boot['read'](take(int.from_bytes(take(4), 'big'))))\n"
        "agent = {name.rpartition('.')[2]: module for name, module in agent.items()}\n"
    )
    return subprocess.run(
        [sys.executable, "-I", *flags, "-c", prelude + code],
        input=parcel(),
        capture_output=True,
        check=check,
        timeout=30,
    )


# shipping


def test_every_module_is_shipped_after_those_it_imports() -> None:
    assert {*PARTS, "boot"} <= {name.removesuffix(".py") for name in FILES}
    assert PARTS[0] == "modules"
    for index, part in enumerate(PARTS):
        for node in ast.parse(source(f"{part}.py")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("codecell"):
                assert node.module in {f"codecell.incell.{earlier}" for earlier in PARTS[:index]}


@pytest.mark.parametrize("name", FILES)
def test_source_is_python_3_9(name: str) -> None:
    tree = ast.parse(source(name), feature_version=(3, 9))
    if "from __future__ import annotations" in source(name):
        return
    for node in ast.walk(tree):  # evaluated when the cell starts
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            assert annotation is None or isinstance(annotation, ast.Constant | ast.Name)


@pytest.mark.parametrize("flags", [(), ("-S",)])
def test_agent_made_of_its_parcel_leaves_no_module_of_ours(flags: tuple[str, ...]) -> None:
    done = in_fresh_interpreter(
        "import sys\n"
        "print(sorted(agent))\n"
        "print([name for name in sys.modules if name.startswith('codecell')])\n"
        "print(callable(agent['agent'].main), callable(agent['program'].run_program))\n",
        *flags,
    )
    assert done.stdout.decode().splitlines() == [str(sorted(PARTS)), "[]", "True True"]


def test_what_one_interpreter_compiled_another_takes_instead_of_the_sources() -> None:
    main = f"boot = {{'__name__': 'boot'}}\nexec({boot()!r}, boot)\nagent = boot['boot']()\n"
    command = [
        sys.executable,
        "-I",
        "-c",
        main + "import os; os.write(2, repr(list(agent)).encode())",
    ]
    first = subprocess.run(command, input=parcel(), capture_output=True, check=True, timeout=30)
    frames = list(Decoder().feed(first.stdout))
    assert {frame.kind for frame in frames} == {Kind.CODE}
    code = b"".join(frame.payload for frame in frames)
    again = subprocess.run(command, input=parcel(code), capture_output=True, check=True, timeout=30)
    assert again.stdout == b""
    assert again.stderr == first.stderr
    assert b"PID 1 of a cell" not in parcel(code).replace(code, b"")


def test_agent_imports_nothing_heavy() -> None:
    heavy = ["re", "enum", "json", "typing", "dataclasses", "contextlib", "subprocess", "logging"]
    done = in_fresh_interpreter(
        f"import sys\nprint([n for n in {heavy} if n in sys.modules])", "-S"
    )
    assert done.stdout == b"[]\n"


# modules


def test_prepared_modules_are_not_seen_before_they_are_imported() -> None:
    done = in_fresh_interpreter("""
import sys
modules = agent["modules"]
modules.MODULES.load(["json", "no_such_module"])
modules.MODULES.hide()
print(set(sys.modules) - modules.FRESH)
prepared = modules.MODULES.stash["json"]
import json
print(json is prepared, {"json.decoder", "re", "enum"} <= set(sys.modules))
print("ctypes" in sys.modules, "json" in modules.MODULES.stash)
""")
    assert done.stdout.decode().splitlines() == ["set()", "True True", "False False"]


def test_import_of_prepared_modules_shows_what_a_fresh_interpreter_would() -> None:
    show = "import sys, {name}\nprint(sorted(set(sys.modules) - {{'linecache'}}))\n"
    for name in ("json", "collections", "importlib", "signal", "json.decoder", "ctypes"):
        hidden = (
            "modules = agent['modules']\n"
            "modules.MODULES.load(modules.USUAL)\nmodules.MODULES.hide()\ndel modules\n"
        )
        done = in_fresh_interpreter(hidden + show.format(name=name), "-S")
        plain = subprocess.run(
            [sys.executable, "-I", "-S", "-c", "import os\n" + show.format(name=name)],
            capture_output=True,
            check=True,
        )
        assert done.stdout == plain.stdout, name


def test_what_the_agent_imports_later_is_hidden_from_its_next_child() -> None:
    done = in_fresh_interpreter("""
import sys
modules = agent["modules"].MODULES
modules.hide()
import colorsys
modules.hide_new()
print("colorsys" in sys.modules, "colorsys" in modules.stash)
import colorsys
print("colorsys" in sys.modules, "colorsys" in modules.stash)
""")
    assert done.stdout.decode().splitlines() == ["False True", "True False"]


def test_failed_import_shows_no_line_of_ours() -> None:
    done = in_fresh_interpreter(
        "agent['modules'].MODULES.hide()\nimport no_such_module\n", check=False
    )
    assert b"no_such_module" in done.stderr
    assert b"_find_and_load" not in done.stderr


# program


ENDING = """
import atexit, threading, time
class A:
    def __del__(self): print("del")
a = A()
atexit.register(print, "atexit")
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
"""


CYCLE = """
class A:
    def __del__(self): print("del")
a = A()
a.a = a
"""


def run_program(tmp_path: Path, code: str) -> Any:
    main = tmp_path / "main.py"
    main.write_text(code, encoding="utf-8")
    return in_fresh_interpreter(
        f"agent['modules'].MODULES.hide()\nagent['program'].run_program([{str(main)!r}, 'one'])",
        check=False,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print(__name__, __file__, sys.argv, __spec__, __doc__)",
        "'A docstring.'\nprint(__doc__)",
        "def f():\n    1 / 0\nf()",
        "x = = 2",
        "import sys; sys.exit()",
        "import sys; sys.exit(7)",
        "import sys; sys.exit(-1)",
        "import sys; sys.exit('bye')",
        "raise KeyboardInterrupt",
        ENDING,
        CYCLE,
        "import gc\n" + CYCLE + "gc.collect(1)\ngc.collect(1)\ndel a",
        "import sys; sys.stdout.close()",
        "import sys; sys.stderr.write('no newline'); print('x', end='')",
        "import os; os.close(1); print('lost')",
        "import sys; print(repr(sys.stdin.read()), sys.stdin.name)",
    ],
)
def test_program_runs_as_by_the_interpreter_itself(tmp_path: Path, code: str) -> None:
    done = run_program(tmp_path, code)
    plain = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "main.py"), "one"], input=b"", capture_output=True
    )
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)
    if "os.close(1)" not in code:  # the interpreter complains of it, to a stderr nobody reads
        assert done.stderr == plain.stderr


@pytest.mark.parametrize(
    ("code", "status"),
    [(None, 0), (0, 0), (3, 3), (256, 0), (-1, 255), (True, 1), ("text", 1), (1.5, 1), ((), 1)],
)
def test_exit_status_is_the_interpreters(
    code: object, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(code) == status
    assert capsys.readouterr().err == (
        "" if code is None or type(code) in (int, bool) else f"{code}\n"
    )


# run


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (0, (0, None)),
        (7 << 8, (7, None)),
        (255 << 8, (255, None)),
        (signal.SIGKILL, (None, 9)),
        (signal.SIGSEGV | 0x80, (None, 11)),
        (64, (None, 64)),
        (None, (None, 9)),
    ],
)
def test_wait_status_is_a_code_or_a_signal(
    status: int | None, found: tuple[int | None, int | None]
) -> None:
    assert exit_or_signal(status) == found


LIMITS = {
    "timeout_s": 5.0, "kill_bytes": 100, "keep": 10, "tail": 4, "values": 0, "again": False,
}  # fmt: skip


def a_run() -> Run:
    child: Any = SimpleNamespace(pid=7, start=lambda: None, failure=lambda: "")
    return Run(1, child, {**LIMITS, "compiles": False, "session": "", "step": ""})


def test_run_that_never_went_has_used_nothing() -> None:
    run = a_run()
    assert run.deadline == NEVER
    run.over("cancelled")
    run.reaped(7, signal.SIGKILL, 3)
    facts = run.facts(Reading(cpu_s=9.0, peak_bytes=0, oom_kills=2))
    assert (facts["ending"], facts["code"], facts["signal"]) == ("cancelled", None, 9)
    assert (facts["wall_s"], facts["cpu_s"], facts["oom_kills"]) == (0.0, 0.0, 0)
    assert facts["peak_memory_bytes"] == 3 * 1024


def test_first_reason_and_first_status_of_the_program_stand() -> None:
    run = a_run()
    run.go(Reading(cpu_s=1.0, peak_bytes=50, oom_kills=0))
    assert not run.reaped(8, signal.SIGKILL, 2)
    assert run.reaped(7, 3 << 8, 1)
    run.over("exited")
    run.over("timeout")
    assert not run.reaped(7, signal.SIGKILL, 1)  # the same pid, given out again
    facts = run.facts(Reading(cpu_s=None, peak_bytes=80, oom_kills=1))
    assert (facts["ending"], facts["code"], facts["signal"]) == ("exited", 3, None)
    assert (facts["peak_memory_bytes"], facts["oom_kills"]) == (80, 1)
    assert run.facts(Reading(cpu_s=None, peak_bytes=80, oom_kills=None))["oom_kills"] is None


def test_output_of_both_streams_ends_a_run() -> None:
    run = a_run()
    run.outputs[channels.STDOUT].take(memoryview(b"x" * 72))
    run.outputs[channels.STDERR].take(memoryview(b"x" * 28))
    assert not run.too_much
    run.outputs[channels.STDERR].take(memoryview(b"x"))
    assert run.too_much


def rest_of(output: Output) -> bytes:
    """All that an output sends at the end, in pieces of three bytes."""
    chunk = memoryview(bytearray(3))
    pieces = []
    while count := output.rest(chunk):
        pieces.append(bytes(chunk[:count]))
    return b"".join(pieces)


def read(output: Output, data: bytes) -> int:
    """Have an output take what was read, as the agent does; return how much is passed on."""
    chunk = memoryview(bytearray(len(data)))
    place = output.place(chunk)
    place[: len(data)] = data
    return output.take(place[: len(data)], placed=place is not chunk)


@given(
    st.lists(st.binary(max_size=90), max_size=12),
    st.integers(0, 140),
    st.integers(1, 40),
)
def test_beginning_and_end_of_an_output_are_sent_and_the_whole_is_hashed(
    chunks: list[bytes], keep: int, tail: int
) -> None:
    data = b"".join(chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codecell.incell.output.HELD", 64)
        output, passed = Output(channels.STDOUT, keep, tail), b""
        for chunk in filter(None, chunks):
            passed += chunk[: read(output, chunk)]
    assert passed == data[:keep]
    assert rest_of(output) == data[keep:][-tail:]
    assert output.size == len(data)
    whole = "" if len(data) <= min(keep, 64) else hashlib.sha256(data).hexdigest()
    assert output.sha256 == whole


def test_an_end_is_kept_however_much_comes() -> None:
    output = Output(channels.STDERR, 10, 1000)
    data = bytes(range(256)) * 256
    for _ in range(9):
        read(output, data)
    assert rest_of(output) == data[-1000:]
    assert output.sha256 == hashlib.sha256(data * 9).hexdigest()


# channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, int, int]]:
    """A channel, where to write for it to receive, and where to read what it sends."""
    source_r, source_w = os.pipe()
    sink_r, sink_w = os.pipe()
    yield Channel(source_r, sink_w), source_w, sink_r
    for fd in (source_r, source_w, sink_r, sink_w):
        with suppress(OSError):
            os.close(fd)


def test_frames_out_are_the_servers(ends: tuple[Channel, int, int]) -> None:
    channel, _, sink = ends
    channel.chunk()[:5] = b"hello"
    channel.pass_on(channels.STDOUT, 3, 5)
    channel.tell(channels.EXIT, 3, code=None, failure='"\\\n\ud83d\ude00', wall_s=0.5)
    first, second = Decoder().feed(os.read(sink, 4096))
    assert first == (Kind.STDOUT, 3, b"hello")
    assert second.kind is Kind.EXIT
    assert json.loads(second.payload) == {"code": None, "failure": '"\\\n😀', "wall_s": 0.5}
    assert not channel.pending


def test_a_little_output_waits_for_company_but_not_for_long(
    ends: tuple[Channel, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _, sink = ends
    os.set_blocking(sink, False)
    now = 100.0
    monkeypatch.setattr(channels.time, "monotonic", lambda: now)
    for _ in range(2):
        channel.pass_on(channels.STDOUT, 3, 5)
        assert 0 < channel.held_s <= channels.HOLD_S
        assert not channel.held_out
        with pytest.raises(BlockingIOError):
            os.read(sink, 4096)
    now += channels.HOLD_S
    assert channel.held_out
    channel.flush()
    assert channel.held_s == float("inf")
    assert len(list(Decoder().feed(os.read(sink, 4096)))) == 2
    channel.pass_on(channels.STDOUT, 3, channels.LITTLE + 1)
    assert channel.held_s == float("inf")
    assert len(os.read(sink, 1 << 20)) > channels.LITTLE


def test_full_channel_has_room_for_the_report(ends: tuple[Channel, int, int]) -> None:
    channel, _, sink = ends
    os.set_blocking(sink, False)
    while channel.room:
        chunk = channel.chunk()
        assert len(chunk) == channels.CHUNK
        channel.pass_on(channels.STDOUT, 1, len(chunk))
    assert channel.pending
    channel.frame(channels.EXIT, 1, b"x" * 8000)
    received, decoder = [], Decoder()
    while channel.pending:
        received += decoder.feed(os.read(sink, 1 << 20))
        channel.flush()
    received += decoder.feed(os.read(sink, 1 << 20))
    assert received[-1] == (Kind.EXIT, 1, b"x" * 8000)
    assert all(frame.kind is Kind.STDOUT for frame in received[:-1])


def test_frames_in_are_cut_however_they_come(ends: tuple[Channel, int, int]) -> None:
    channel, source, _ = ends
    stream = encode(Kind.GO, 2) + encode(Kind.JOB, 2, b"abc") + encode(Kind.STDIN, 2, b"")
    found = []
    for start in range(0, len(stream), 7):
        os.write(source, stream[start : start + 7])
        found += [(kind, run, bytes(data)) for kind, run, data in channel.receive()]
    assert found == [(Kind.GO, 2, b""), (Kind.JOB, 2, b"abc"), (Kind.STDIN, 2, b"")]


def test_what_is_not_a_frame_is_refused(ends: tuple[Channel, int, int]) -> None:
    channel, source, _ = ends
    os.write(source, HEADER.pack(MAGIC, Kind.JOB, 1, MAX_PAYLOAD + 1))
    with pytest.raises(ValueError, match="not a frame"):
        list(channel.receive())


def test_end_of_the_stream_is_the_end(ends: tuple[Channel, int, int]) -> None:
    channel, source, sink = ends
    os.close(source)
    with pytest.raises(ServerGone):
        list(channel.receive())
    os.close(sink)
    with pytest.raises(ServerGone):
        channel.frame(channels.READY, 0)


# small things


def test_what_cannot_be_laid_out_as_it_was_ends_the_cell_before_the_next_case(
    tmp_path: Path,
) -> None:
    (tmp_path / "made").write_text("m")
    kept = take(str(tmp_path))
    (tmp_path / "made").unlink()
    kept.lay_out()
    assert (tmp_path / "made").read_text() == "m"
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TooMuch):
        take(str(tmp_path)).lay_out()


@pytest.mark.parametrize(
    "value",
    [{"a": [1, -2, 0.5, None, True, 'é\n"\\\x00😀']}, {}, [], "text", 0, None],
)
def test_compact_json_is_json(value: object) -> None:
    assert json.loads(dumps(value)) == value
    assert loads(json.dumps(value)) == value
    assert loads(json.dumps(value, separators=(",", ":"), ensure_ascii=False)) == value


def test_field_of_a_counter_file() -> None:
    text = b"low 0\noom_kill 3\noom_kill_disable 0\n"
    assert (field(text, b"oom_kill"), field(text, b"none"), field(b"", b"x")) == (3, 0, 0)


def test_cpu_time_is_the_cells_less_the_agents() -> None:
    before = Reading(cpu_s=1.0, peak_bytes=0, oom_kills=0)
    after = Reading(cpu_s=3.0, peak_bytes=0, oom_kills=0)
    before.agent_s, after.agent_s = 0.25, 0.75
    assert after.cpu_since(before) == 1.5
    after.cpu_s = None
    before.children_s, after.children_s = 1.0, 1.25
    assert after.cpu_since(before) == 0.25
    assert before.cpu_since(after) == 0.0
