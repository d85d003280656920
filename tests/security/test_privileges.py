"""Attacks on the kernel: identities, capabilities, and system calls that a cell must not reach."""

import json
import platform
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from codecell.model import Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
Facts = Callable[..., Awaitable[Any]]

native = platform.machine()
x86_only = pytest.mark.skipif(native != "x86_64", reason="machine code and numbers of x86-64")

# Makes each raw system call in argv (JSON: name -> [number, arguments...]) in a child of its own
# and prints what the kernel answered.
CALLS = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
answers = {}
for name, numbers in json.loads(sys.argv[1]).items():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        result = libc.syscall(*map(ctypes.c_long, numbers))
        number = ctypes.get_errno()
        text = errno.errorcode.get(number, str(number)) if result == -1 else "allowed"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    status = os.waitpid(pid, 0)[1]
    answers[name] = os.read(reader, 99).decode() or f"signal {os.WTERMSIG(status)}"
    os.close(reader)
print(json.dumps(answers))
"""


async def _answers(facts: Facts, calls: dict[str, list[int]]) -> dict[str, str]:
    found: dict[str, str] = await facts(CALLS, args=(json.dumps(calls),))
    assert set(found) == set(calls)
    return found


@pytest.mark.requirement("priv:not-root")
async def test_becoming_another_user_fails(facts: Facts) -> None:
    found = await facts("""
import json, os
def fails(action, *args):
    try:
        action(*args)
    except OSError:
        return True
    return False
print(json.dumps({
    "ids": [*os.getresuid(), *os.getresgid()],
    "groups": os.getgroups(),
    "fails": [fails(os.setuid, 0), fails(os.setgid, 0), fails(os.setresuid, 1, 1, 1),
              fails(os.setgroups, [0]), fails(os.chown, "/sandbox/main.py", 0, 0)],
}))
""")
    assert len(set(found["ids"])) == 1
    assert min(found["ids"]) > 0
    assert set(found["groups"]) <= set(found["ids"])
    assert all(found["fails"])


@pytest.mark.requirement("priv:not-root")
@pytest.mark.parametrize("language", ["python", "javascript", "bash"])
async def test_searching_the_image_finds_no_setuid_file(execute: Execute, language: str) -> None:
    find = "find / -xdev -perm /6000 -type f 2>/dev/null; echo done"
    code = {
        "python": f"import subprocess; subprocess.run(['sh', '-c', {find!r}])",
        "javascript": f"process.stdout.write(require('child_process').execSync({find!r}))",
        "bash": find,
    }[language]
    outcome = await execute(code, language)
    assert outcome.stdout.text == "done\n"


@pytest.mark.requirement("priv:own-uid")
async def test_two_cells_at_the_same_time_have_different_uids(execute: Execute) -> None:
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await execute("import os, time; time.sleep(1); print(os.getuid())"))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(run)
    assert len({outcome.stdout.text for outcome in outcomes}) == 3


@pytest.mark.requirement("priv:no-capabilities")
@pytest.mark.requirement("priv:no-new-privileges")
@pytest.mark.requirement("seccomp:active")
@pytest.mark.parametrize("language", ["python", "javascript", "bash"])
async def test_own_status_shows_no_capability_no_new_privileges_and_a_filter(
    execute: Execute, language: str
) -> None:
    code = {
        "python": "print(open('/proc/self/status').read())",
        "javascript": "console.log(require('fs').readFileSync('/proc/self/status', 'utf8'))",
        "bash": "cat /proc/self/status",
    }[language]
    text = (await execute(code, language)).stdout.text
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@x86_only
@pytest.mark.requirement("seccomp:no-vsock")
@pytest.mark.requirement("seccomp:no-kernel-crypto")
@pytest.mark.requirement("seccomp:no-raw-packets")
@pytest.mark.requirement("seccomp:no-module-loading")
async def test_making_rare_sockets_is_refused(facts: Facts) -> None:
    answers = await _answers(
        facts,
        {
            "vsock": [41, 40, 1, 0],
            "vsock with upper bits": [41, 40 | 1 << 32, 1, 0],
            "vsock pair": [53, 40, 1, 0, 0],
            "kernel crypto": [41, 38, 5, 0],
            "packet": [41, 17, 3, 0],
            "raw": [41, 2, 3, 1],
            "xdp": [41, 44, 3, 0],
            "sctp by number": [41, 2, 1, 132],
            "sctp by type": [41, 2, 5, 0],
            "dccp": [41, 2, 6, 0],
            "mptcp": [41, 2, 1, 262],
            "smc": [41, 2, 1, 256],
            "tipc": [41, 30, 1, 0],
            "netfilter": [41, 16, 3, 12],
            "audit": [41, 16, 3, 9],
        },
    )
    assert set(answers.values()) == {"EPERM"}, answers


@x86_only
@pytest.mark.requirement("seccomp:no-namespaces")
async def test_new_namespaces_are_refused_by_every_call(facts: Facts) -> None:
    flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    answers = await _answers(
        facts,
        {f"unshare {flag:#x}": [272, flag] for flag in flags}
        | {f"clone {flag:#x}": [56, flag | 17, 0, 0, 0, 0] for flag in flags}
        | {"setns": [308, 0, 0]},
    )
    assert set(answers.values()) == {"EPERM"}, answers
    assert await _answers(facts, {"clone3": [435, 0, 0]}) == {"clone3": "ENOSYS"}


@x86_only
@pytest.mark.requirement("seccomp:no-io-uring")
async def test_io_uring_is_not_there(facts: Facts) -> None:
    answers = await _answers(facts, {"setup": [425, 8, 0], "enter": [426, 0], "register": [427, 0]})
    assert set(answers.values()) == {"ENOSYS"}


@x86_only
@pytest.mark.requirement("seccomp:no-keyring")
async def test_keyrings_are_refused(facts: Facts) -> None:
    answers = await _answers(
        facts, {"add": [248, 0, 0, 0, 0, 0], "request": [249, 0, 0, 0, 0], "control": [250, 0, 0]}
    )
    assert set(answers.values()) == {"EPERM"}


@x86_only
@pytest.mark.requirement("seccomp:no-tracing")
async def test_tracing_is_refused_even_of_oneself(facts: Facts) -> None:
    answers = await _answers(
        facts,
        {
            "traceme": [101, 0, 0, 0, 0],
            "attach": [101, 16, 1, 0, 0],
            "seize": [101, 0x4206, 1, 0, 0],
            "process_vm_readv": [310, 1, 0, 0, 0, 0, 0],
            "process_vm_writev": [311, 1, 0, 0, 0, 0, 0],
            "kcmp": [312, 1, 1, 0, 0, 0],
            "pidfd_getfd": [438, 0, 0, 0],
        },
    )
    assert set(answers.values()) == {"EPERM"}, answers


@x86_only
@pytest.mark.requirement("seccomp:no-kernel-programs")
async def test_bpf_perf_and_userfaultfd_are_refused(facts: Facts) -> None:
    answers = await _answers(
        facts,
        {
            "bpf": [321, 0, 0, 0],
            "perf": [298, 0, 0, -1, -1, 0],
            "userfaultfd": [323, 0],
            "memfd_secret": [447, 0],
            "modify_ldt": [154, 0, 0, 0],
            "vmsplice": [278, 0, 0, 0, 0],
        },
    )
    assert set(answers.values()) == {"EPERM"}, answers


@x86_only
@pytest.mark.requirement("seccomp:no-mounts")
async def test_mounting_is_refused_by_every_call(facts: Facts) -> None:
    answers = await _answers(
        facts,
        {
            "mount": [165, 0, 0, 0, 0, 0],
            "umount2": [166, 0, 0],
            "pivot_root": [155, 0, 0],
            "chroot": [161, 0],
            "open_tree": [428, 0, 0, 0],
            "move_mount": [429, 0, 0, 0, 0, 0],
            "fsopen": [430, 0, 0],
            "mount_setattr": [442, 0, 0, 0, 0, 0],
            "open_by_handle_at": [304, 0, 0, 0],
            "name_to_handle_at": [303, 0, 0, 0, 0, 0],
        },
    )
    assert set(answers.values()) == {"EPERM"}, answers


@x86_only
@pytest.mark.requirement("seccomp:no-host-control")
async def test_steering_the_host_is_refused(facts: Facts) -> None:
    answers = await _answers(
        facts,
        {
            "init_module": [175, 0, 0, 0],
            "finit_module": [313, 0, 0, 0],
            "delete_module": [176, 0, 0],
            "kexec_load": [246, 0, 0, 0, 0],
            "kexec_file_load": [320, 0, 0, 0, 0, 0],
            "settimeofday": [164, 0, 0],
            "clock_settime": [227, 0, 0],
            "sethostname": [170, 0, 0],
            "reboot": [169, 0, 0, 0, 0],
            "swapon": [167, 0, 0],
            "iopl": [172, 3],
            "ioperm": [173, 0, 1, 1],
            "syslog": [103, 3, 0, 0],
            "sync": [162],
            "syncfs": [306, 0],
            "fanotify_init": [300, 0, 0],
        },
    )
    assert set(answers.values()) == {"EPERM"}, answers


@x86_only
@pytest.mark.requirement("seccomp:no-foreign-architecture")
async def test_machine_code_for_the_32_bit_and_x32_doors_dies_of_sigsys(facts: Facts) -> None:
    found = await facts("""
import ctypes, json, mmap, os
def run(code):
    pid = os.fork()
    if pid == 0:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex(code))
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        ctypes.CFUNCTYPE(ctypes.c_long)(start)()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])
print(json.dumps({
    "getpid, native": run("b827000000" "0f05" "c3"),
    "getpid, int 0x80": run("b814000000" "cd80" "c3"),
    "socketcall, int 0x80": run("b866000000" "cd80" "c3"),
    "getpid, x32": run("b827000040" "0f05" "c3"),
}))
""")
    assert found == {
        "getpid, native": 0,
        "getpid, int 0x80": 31,
        "socketcall, int 0x80": 31,
        "getpid, x32": 31,
    }
