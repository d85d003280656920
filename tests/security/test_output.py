"""Attacks on the result: floods, forgeries, closed streams and bytes that are no text."""

import hashlib
from collections.abc import Awaitable, Callable

import anyio
import pytest

from codecell.model import Outcome, Status
from codecell.output import mark

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]


@pytest.mark.requirement("out:flood")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_flood_ends_as_output_limit_and_only_the_cap_is_kept(
    execute: Execute, stream: str
) -> None:
    number = {"stdout": 1, "stderr": 2}[stream]
    with anyio.fail_after(60):
        outcome = await execute(
            f"import os\nblock = b'x' * 65536\nwhile True: os.write({number}, block)"
        )
    assert outcome.status is Status.OUTPUT_LIMIT
    captured = getattr(outcome, stream)
    assert captured.truncated
    line = mark(captured.elided_bytes)
    assert len(captured.text) - len(line) == outcome.plan.limits.output_chars
    assert captured.total_bytes < outcome.plan.limits.output_kill_bytes * 2


@pytest.mark.requirement("out:flood")
async def test_flood_from_many_processes_is_counted_together(execute: Execute) -> None:
    with anyio.fail_after(60):
        outcome = await execute("""
import os
for _ in range(4):
    os.fork()
block = b"y" * 65536
while True:
    os.write(1 + os.getpid() % 2, block)
""")
    assert outcome.status is Status.OUTPUT_LIMIT


@pytest.mark.requirement("out:truncated")
async def test_output_past_the_cap_is_cut_and_the_program_runs_on(execute: Execute) -> None:
    outcome = await execute("print('z' * 150_000)\nimport sys\nsys.exit(3)")
    assert outcome.exit_code == 3
    assert outcome.stdout.truncated
    assert outcome.stdout.text == "z" * 50_000 + mark(50_001) + "z" * 49_999 + "\n"
    assert outcome.stdout.sha256 == hashlib.sha256(b"z" * 150_000 + b"\n").hexdigest()
    assert outcome.stdout.total_bytes == 150_001
    assert not outcome.stderr.truncated


@pytest.mark.requirement("out:partial")
async def test_output_before_a_crash_is_kept(execute: Execute) -> None:
    outcome = await execute("import os\nos.write(1, b'one')\nos.write(2, b'two')\nos.abort()")
    assert (outcome.status, outcome.signal) == (Status.EXECUTION_ERROR, "SIGABRT")
    assert (outcome.stdout.text, outcome.stderr.text) == ("one", "two")


@pytest.mark.requirement("out:no-forgery")
@pytest.mark.parametrize("code", [2, 124, 125, 126, 127, 137, 255])
async def test_telling_exit_code_and_engine_words_are_the_programs_own(
    execute: Execute, code: int
) -> None:
    outcome = await execute(
        "import sys\n"
        "print('docker: Error response from daemon: OOMKilled. out_of_memory', file=sys.stderr)\n"
        f"sys.exit({code})"
    )
    assert outcome.status is Status.EXECUTION_ERROR
    assert (outcome.exit_code, outcome.signal) == (code, None)


@pytest.mark.requirement("out:no-forgery")
async def test_protocol_frames_on_every_descriptor_are_only_output(execute: Execute) -> None:
    outcome = await execute("""
import json, os, struct
facts = json.dumps({"ending": "exited", "code": 0, "signal": None, "oom_kills": 9, "wall_s": 0,
                    "cpu_s": 0, "peak_memory_bytes": 0, "stdout_bytes": 0, "stderr_bytes": 0,
                    "failure": ""}).encode()
forged = b"".join(
    struct.pack(">BBII", 0xCC, kind, run, len(facts)) + facts
    for kind in (65, 66, 67, 68, 69, 70) for run in range(4)
)
written = []
for fd in range(256):
    try:
        os.write(fd, forged)
        written.append(fd)
    except OSError:
        pass
with open("/sandbox/written", "w") as file:
    json.dump(written, file)
os.write(2, b"END" + json.dumps(written).encode())
os._exit(9)
""")
    assert outcome.status is Status.EXECUTION_ERROR
    assert outcome.exit_code == 9
    assert outcome.stdout.total_bytes > 1000
    # Its standard input is a private copy that nobody reads again.
    assert outcome.stderr.text.rpartition("END")[2] in {"[1, 2]", "[0, 1, 2]"}


@pytest.mark.requirement("out:closed-streams")
async def test_closing_all_streams_is_not_the_end_of_a_run(execute: Execute) -> None:
    outcome = await execute(
        "import os, time\nfor fd in (0, 1, 2): os.close(fd)\ntime.sleep(0.5)\nos._exit(3)"
    )
    assert (outcome.status, outcome.exit_code) == (Status.EXECUTION_ERROR, 3)
    assert outcome.usage.wall_s >= 0.5


@pytest.mark.requirement("out:closed-streams")
async def test_closing_all_streams_does_not_escape_the_timeout(execute: Execute) -> None:
    with anyio.fail_after(20):
        outcome = await execute(
            "import os, time\nfor fd in (0, 1, 2): os.close(fd)\ntime.sleep(60)", timeout_s=1
        )
    assert outcome.status is Status.TIMEOUT


@pytest.mark.requirement("out:closed-streams")
@pytest.mark.requirement("proc:nothing-survives")
async def test_background_process_that_holds_stdout_does_not_prolong_a_run(
    execute: Execute,
) -> None:
    with anyio.fail_after(20):
        outcome = await execute("echo early; sleep 60 & disown; (sleep 60) &", "bash")
    assert outcome.status is Status.SUCCESS
    assert outcome.stdout.text == "early\n"
    assert outcome.usage.wall_s < 5


@pytest.mark.requirement("out:any-bytes")
async def test_bytes_that_are_no_utf8_are_repaired_and_said_to_be(execute: Execute) -> None:
    outcome = await execute(r"import os; os.write(1, b'a\xff\xfe\xc3'); os.write(2, 'ü€'.encode())")
    assert outcome.status is Status.SUCCESS
    assert outcome.stdout.repaired
    assert outcome.stdout.text == "a\ufffd\ufffd\ufffd"
    assert outcome.stdout.total_bytes == 4
    assert not outcome.stderr.repaired
    assert outcome.stderr.text == "ü€"


@pytest.mark.requirement("out:any-bytes")
async def test_control_bytes_and_nul_arrive_as_they_are(execute: Execute) -> None:
    outcome = await execute("import os; os.write(1, bytes(range(128)))")
    assert outcome.stdout.text == bytes(range(128)).decode()
    assert not outcome.stdout.repaired
