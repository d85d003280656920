"""`reuse = "caller"`: one caller's runs share a cell, and nothing passes from one to the next."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import docker
import pytest

from codecell.app import open_runner
from codecell.model import Outcome, Request, Status
from codecell.runner import Runner
from codecell.settings import load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Run = Callable[..., Awaitable[Outcome]]

PLACES = ("/sandbox", "/tmp", "/dev/shm", "/dev/mqueue")


@pytest.fixture
async def reusing(engine: docker.APIClient) -> AsyncIterator[Runner]:
    del engine
    flags = {"pool": {"reuse": "caller", "languages": ["python", "bash"], "min": 1, "max": 1}}
    async with open_runner(load(flags=flags)) as runner:
        yield runner


@pytest.fixture
def run(reusing: Runner) -> Run:
    """Run one program after another; give the agent time to take the cell back."""

    async def go(code: str, *, language: str = "python", caller: str = "ann") -> Outcome:
        outcome = await reusing.execute(Request(language=language, code=code, caller=caller))
        await anyio.sleep(0.3)
        return outcome

    return go


async def told(run: Run, code: str, **who: str) -> Any:
    outcome = await run(code, **who)
    assert outcome.status is Status.SUCCESS, (outcome.error_message, outcome.stderr.text)
    return json.loads(outcome.stdout.text)


SYSV = ("shm", "sem", "msg")
UID = "import json, os; print(json.dumps(os.getuid()))"
LOOK = f"""
import ctypes, json, os, resource, signal, sys
libc = ctypes.CDLL(None)
found = {{place: sorted(os.listdir(place)) for place in {PLACES!r} if os.path.isdir(place)}}
found["/sandbox"].remove("main.py")
print(json.dumps({{
    "uid": os.getuid(),
    "files": found,
    "attributes": os.listxattr("/sandbox"),
    "mode": oct(os.stat("/sandbox").st_mode),
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) [2:],
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    "sysv": [open("/proc/sysvipc/" + kind).read().count("\\n") - 1 for kind in {SYSV!r}
             if os.path.isdir("/proc/sysvipc")],
    "ipc": [libc.shmget(0x1234, 0, 0), libc.semget(0x1234, 0, 0), libc.msgget(0x1234, 0),
            libc.mq_open(b"/queue", os.O_RDWR)],
    "unix": open("/proc/net/unix").read().count("\\n") - 1,
    "tcp": open("/proc/net/tcp").read().count("\\n") - 1,
    "environment": sorted(os.environ),
    "modules": "json.hostile" in sys.modules or hasattr(json, "hostile"),
    "timers": signal.getitimer(signal.ITIMER_REAL),
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)],
    "rlimits": [resource.getrlimit(n) for n in range(16)],
    "umask": os.umask(0o22),
    "nice": os.nice(0),
    "affinity": sorted(os.sched_getaffinity(0)),
    "cwd": os.getcwd(),
}}))
"""
LEAVE_ALL = """
import ctypes, json, os, resource, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
for place in ("/sandbox", "/tmp", "/dev/shm", "/dev/mqueue"):
    if os.path.isdir(place) and os.access(place, os.W_OK):
        if place != "/dev/mqueue":
            os.makedirs(place + "/deep/er/est", exist_ok=True)
            open(place + "/deep/er/file", "w").write("secret")
            os.symlink("/proc/1/root", place + "/link")
            os.mkfifo(place + "/fifo")
            os.chmod(place + "/deep/er", 0)
            os.chmod(place + "/deep", 0)
name = ctypes.c_char_p(b"/queue")
libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)
libc.shmget(0x1234, 4096, 0o1600)
libc.semget(0x1234, 3, 0o1600)
libc.msgget(0x1234, 0o1600)
try:
    os.setxattr("/sandbox", "user.secret", b"x")
except OSError:
    pass
os.chmod("/sandbox", 0o755)
os.environ["LEFT"] = "behind"
os.environ["LD_PRELOAD"] = "/sandbox/evil.so"
json.hostile = True
sys.modules["json.hostile"] = json
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 100)
resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
os.umask(0o777)
os.nice(5)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
server = socket.socket(socket.AF_UNIX); server.bind("\\0abstract"); server.listen()
tcp = socket.socket(); tcp.bind(("127.0.0.1", 0)); tcp.listen()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print(json.dumps(os.getuid()))
"""


@pytest.mark.requirement("reuse:nothing-passes")
async def test_what_a_run_leaves_behind_is_gone_in_the_next_one_of_the_same_cell(run: Run) -> None:
    before = await told(run, LOOK)
    assert await told(run, LEAVE_ALL) == before["uid"], "it was not the same cell"
    after = await told(run, LOOK)
    for told_of in (before, after):
        told_of.pop("processes"), told_of.pop("cwd")
    assert after == before
    assert not any(after["files"].values())
    assert not any(after["sysv"])
    assert after["ipc"] == [-1] * 4


@pytest.mark.requirement("reuse:no-process")
async def test_processes_of_a_run_are_dead_before_the_next_one_begins(run: Run) -> None:
    first = await told(run, LEAVE_ALL)
    code = (
        "import json, os; print(json.dumps([os.getuid(),"
        " sum(name.isdigit() for name in os.listdir('/proc'))]))"
    )
    uid, processes = await told(run, code)
    assert (uid, processes) == (first, 2), "the agent and this program, and nobody else"


@pytest.mark.requirement("reuse:no-memory")
async def test_memory_of_a_run_can_not_be_found_by_the_next_one(run: Run) -> None:
    """Also not in what the program is forked from: the agent never held a run's bytes there."""
    halves = "SECRET-7a1c", "93f0-LEFT"
    first = await run(f"import os\nkept = '{halves[0]}{halves[1]}' * 1000\nprint(os.getuid())")
    search = f"""
import json, os, re
want = {halves[0]!r}.encode() + {halves[1]!r}.encode()
hits = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        start, end, mode = re.match(r"(\\w+)-(\\w+) (\\S+)", line).groups()
        if not mode.startswith("r") or "[v" in line:
            continue
        try:
            memory.seek(int(start, 16))
            data = memory.read(int(end, 16) - int(start, 16))
        except (OSError, ValueError, OverflowError):
            continue
        hits += data.count(want)
# `want` itself, the expression's temporaries: what this program made on its own is less than ten.
print(json.dumps([os.getuid(), hits]))
"""
    uid, hits = await told(run, search)
    assert uid == int(first.stdout.text)
    assert hits < 10


@pytest.mark.requirement("reuse:one-caller")
async def test_a_cell_never_serves_a_second_caller(run: Run) -> None:
    seen: dict[str, set[int]] = {"ann": set(), "bob": set()}
    for _ in range(4):
        for caller, uids in seen.items():
            uids.add(await told(run, UID, caller=caller))
    assert not seen["ann"] & seen["bob"]
    assert len(seen["ann"]) < 4, "cells were not reused at all"


@pytest.mark.requirement("reuse:one-caller")
async def test_two_callers_at_once_stay_apart(reusing: Runner) -> None:
    found: dict[str, set[str]] = {"ann": set(), "bob": set()}

    async def one(caller: str) -> None:
        code = (
            "import os; print(os.getuid(), sorted(os.listdir('/tmp')))\n"
            "open('/tmp/' + str(os.getpid()), 'w')"
        )
        outcome = await reusing.execute(Request(language="python", code=code, caller=caller))
        assert outcome.stdout.text.endswith(" []\n")
        found[caller].add(outcome.stdout.text.split()[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(one, "ann")
            tasks.start_soon(one, "bob")
    assert not found["ann"] & found["bob"]


@pytest.mark.requirement("reuse:fails-closed")
async def test_a_cell_that_can_not_be_wiped_in_time_is_thrown_away(run: Run) -> None:
    deep = "import os\nfor _ in range(90):\n    os.mkdir('d'); os.chdir('d')\nprint(os.getuid())"
    first = await run(deep)
    assert await told(run, UID) != int(first.stdout.text)


@pytest.mark.requirement("reuse:nothing-passes")
async def test_a_cell_is_wiped_after_a_timeout_too(reusing: Runner) -> None:
    code = (
        "import os, time\nprint(os.getuid(), flush=True)\nopen('/tmp/left', 'w')\nwhile True: pass"
    )
    outcome = await reusing.execute(
        Request(language="python", code=code, caller="ann", timeout_s=0.5)
    )
    assert outcome.status is Status.TIMEOUT
    await anyio.sleep(0.3)
    look = "import os; print(os.getuid(), os.listdir('/tmp'))"
    after = await reusing.execute(Request(language="python", code=look, caller="ann"))
    assert after.stdout.text == f"{outcome.stdout.text.strip()} []\n"


@pytest.mark.requirement("reuse:nothing-passes")
async def test_a_shell_that_waits_again_is_a_fresh_one(run: Run) -> None:
    await run(
        "set -x; export LEFT=1; f() { :; }; cd /tmp; alias ls=false; umask 0", language="bash"
    )
    after = await run("echo ${LEFT-none} $(type -t f) $PWD $- $(umask) $#", language="bash")
    assert after.stdout.text == "none /sandbox hB 0022 0\n"
    assert after.stderr.text == ""
