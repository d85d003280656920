"""Attacks on and by processes: hiding from the end of a run, and reaching for the agent."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from codecell.model import Outcome, Status

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
Facts = Callable[..., Awaitable[Any]]


@pytest.mark.requirement("proc:nothing-survives")
@pytest.mark.parametrize("timeout_s", [20.0, 2.0], ids=["finished", "timed out"])
async def test_daemon_in_a_session_of_its_own_is_dead_after_the_run(
    execute: Execute, host: Any, timeout_s: float
) -> None:
    token = secrets.token_hex(8)
    outcome = await execute(
        f"""
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.closerange(0, 256)
        os.execv("/bin/sh", ["sh", "-c", "sleep 300; : {token}"])
    os._exit(0)
seen = []
while not seen:
    time.sleep(0.05)
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid():
            try:
                seen += [pid] if b"{token}" in open(f"/proc/{{pid}}/cmdline", "rb").read() else []
            except OSError:
                pass
print("daemon is up", flush=True)
if {timeout_s} < 10:
    time.sleep(60)
""",
        timeout_s=timeout_s,
    )
    assert outcome.status is (Status.SUCCESS if timeout_s > 10 else Status.TIMEOUT)
    assert outcome.stdout.text == "daemon is up\n"
    await host.disappears(token)


@pytest.mark.requirement("proc:cells-apart")
async def test_listing_processes_finds_only_the_cells_own(facts: Facts) -> None:
    found = await facts("""
import json, os
pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
print(json.dumps({"pids": pids, "own": os.getpid(), "parent": os.getppid()}))
""")
    assert found["pids"] == [1, found["own"]]
    assert found["parent"] == 1


@pytest.mark.requirement("agent:unkillable")
async def test_signalling_the_agent_changes_nothing(execute: Execute) -> None:
    outcome = await execute("""
import os, signal
for number in sorted(signal.valid_signals()):
    os.kill(1, number)
    signal.pidfd_send_signal(os.pidfd_open(1), number)
for _ in range(1000):
    os.kill(1, signal.SIGCHLD)
print("the agent is still there", flush=True)
os._exit(5)
""")
    assert outcome.status is Status.EXECUTION_ERROR
    assert outcome.exit_code == 5
    assert outcome.stdout.text == "the agent is still there\n"


@pytest.mark.requirement("agent:unkillable")
async def test_killing_everyone_ends_only_the_programs_own(execute: Execute) -> None:
    outcome = await execute("""
import os, signal, subprocess
child = subprocess.Popen(["sleep", "60"])
os.kill(-1, signal.SIGKILL)
print(child.wait(), flush=True)
""")
    assert outcome.status is Status.SUCCESS
    assert outcome.stdout.text == "-9\n"


@pytest.mark.requirement("agent:unkillable")
async def test_starving_the_agent_by_limits_and_priorities_is_refused(facts: Facts) -> None:
    found = await facts("""
import ctypes, errno, json, os, platform, resource
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": 251, "aarch64": 30}
def fails(action, *args):
    try:
        action(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def ioprio(kind, who):
    if libc.syscall(numbers[platform.machine()], kind, who, 3 << 13) != 0:
        raise OSError(ctypes.get_errno(), "ioprio_set")
idle = os.sched_param(0)
agent = {
    "files": fails(resource.prlimit, 1, resource.RLIMIT_NOFILE, (0, 0)),
    "cpu time": fails(resource.prlimit, 1, resource.RLIMIT_CPU, (1, 1)),
    "only asked": fails(resource.prlimit, 1, resource.RLIMIT_CPU),
    "scheduler": fails(os.sched_setscheduler, 1, os.SCHED_IDLE, idle),
    "parameter": fails(os.sched_setparam, 1, idle),
    "affinity": fails(os.sched_setaffinity, 1, {0}),
    "nice": fails(os.setpriority, os.PRIO_PROCESS, 1, 19),
    "nice, group": fails(os.setpriority, os.PRIO_PGRP, 1, 19),
    "nice, user": fails(os.setpriority, os.PRIO_USER, os.getuid(), 19),
    "io": fails(ioprio, 1, 1),
    "io, user": fails(ioprio, 3, os.getuid()),
    "oom": fails(lambda: open("/proc/1/oom_score_adj", "w").write("1000")),
    "name": fails(lambda: open("/proc/1/comm", "w").write("x")),
}
child = os.fork()
if child == 0:
    import time
    time.sleep(60)
own = [
    fails(resource.prlimit, child, resource.RLIMIT_NOFILE, (9, 9)),
    fails(os.sched_setscheduler, child, os.SCHED_IDLE, idle),
    fails(os.sched_setaffinity, child, {0}),
    fails(os.setpriority, os.PRIO_PROCESS, child, 19),
    fails(resource.setrlimit, resource.RLIMIT_NOFILE, (99, 99)),
    fails(os.sched_setaffinity, 0, {0}),
    fails(os.setpriority, os.PRIO_PROCESS, 0, 5),
    fails(ioprio, 1, 0),
]
print(json.dumps({"agent": agent, "own": own}))
""")
    assert set(found["agent"].values()) <= {"EPERM", "EACCES"}, found["agent"]
    assert set(found["own"]) == {"done"}, found["own"]


@pytest.mark.requirement("agent:untraceable")
async def test_reading_the_agent_through_proc_is_denied(facts: Facts) -> None:
    found = await facts("""
import errno, json, os
def fails(action, *args):
    try:
        action(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "read"
print(json.dumps({
    **{name: fails(lambda name=name: open(f"/proc/1/{name}", "rb").read(1))
       for name in ("mem", "maps", "environ", "auxv", "smaps", "stack", "syscall", "personality")},
    "write mem": fails(open, "/proc/1/mem", "r+b"),
    "fd": fails(os.listdir, "/proc/1/fd"),
    "stream": fails(open, "/proc/1/fd/0", "rb"),
    "cwd": fails(os.readlink, "/proc/1/cwd"),
    "exe": fails(os.readlink, "/proc/1/exe"),
    "root": fails(os.listdir, "/proc/1/root"),
}))
""")
    assert set(found.values()) <= {"EACCES", "EPERM"}, found


@pytest.mark.requirement("agent:stream-closed")
@pytest.mark.parametrize("language", ["python", "javascript", "bash"])
async def test_program_inherits_no_descriptor_of_the_agent(execute: Execute, language: str) -> None:
    shown = "for fd in /proc/self/fd/*; do readlink $fd; done; true"
    code = {
        "python": "import os\nfor fd in os.listdir('/proc/self/fd'):\n"
        "    try: print(os.readlink(f'/proc/self/fd/{fd}'))\n    except OSError: pass",
        "javascript": "const fs = require('fs');\n"
        "for (const fd of fs.readdirSync('/proc/self/fd'))\n"
        "  try { console.log(fs.readlinkSync(`/proc/self/fd/${fd}`)) } catch {}",
        "bash": shown,
    }[language]
    outcome = await execute(code, language)
    assert outcome.status is Status.SUCCESS
    found = outcome.stdout.text.split("\n")
    sockets = [name for name in found if name.startswith("socket:")]
    pipes = {name for name in found if name.startswith("pipe:")}
    assert sockets == []
    # stdout and stderr; node's event loop has pipes of its own
    assert len(pipes) == 2 or language == "javascript"
