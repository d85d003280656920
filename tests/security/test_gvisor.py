"""The same walls under gVisor, on the real engine: a kernel of its own, and an agent apart.

`make gvisor` runs the whole suites of languages and fidelity under it as well; here is what
gVisor needs handled differently, each thing found by running it (release 20240729).
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import docker
import pytest

from codecell import recipes
from codecell.app import open_runner
from codecell.attack.assault import opened
from codecell.attack.catalogue import State
from codecell.backends.docker.images import list_images
from codecell.backends.docker.runtimes import Kernel, read_runtimes
from codecell.model import Input, Outcome, Request, SessionReport, SessionState, Status
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
Facts = Callable[..., Awaitable[Any]]
SOME = ("python", "javascript", "bash", "c", "go", "java", "ruby")  # the rest: make gvisor
SIGNALS = (1, 2, 3, 6, 9, 10, 12, 14, 15, 19, 20, 31, 34, 43, 64)


@pytest.fixture(scope="module")
def settings(engine: docker.APIClient) -> Settings:
    found = read_runtimes(engine.info()).get("runsc")
    if found is None or found.kernel is not Kernel.GVISOR:
        advice = "no gVisor: run `codecell setup --runtime runsc`"
        pytest.fail(advice) if os.environ.get("CI") == "true" else pytest.skip(advice)
    pool = {"languages": ["python"], "min": 2, "max": 2}
    limits = {"memory": "512MiB"}  # gVisor's own share of fifty processes is in it
    return load(flags={"engine": {"runtime": "runsc"}, "pool": pool, "limits": limits})


@pytest.fixture(scope="module")
async def runner(engine: docker.APIClient, settings: Settings) -> AsyncIterator[Any]:
    async with open_runner(settings) as one:
        yield one


@pytest.mark.requirement("gvisor:kernel")
async def test_reading_the_kernels_log_finds_gvisors_and_the_result_says_so(
    execute: Execute,
) -> None:
    outcome = await execute(
        "import ctypes\nbuffer = ctypes.create_string_buffer(4096)\n"
        "print(open('/proc/version').read())",
    )
    assert outcome.status is Status.SUCCESS, outcome.error_message
    assert "gvisor" in outcome.stdout.text.lower() or "4.4.0" in outcome.stdout.text
    isolation = outcome.isolation
    assert (isolation.runtime, isolation.kernel, isolation.seccomp) == ("runsc", "gvisor", True)


@pytest.mark.requirement("gvisor:kernel")
@pytest.mark.parametrize("language", SOME)
async def test_hello(
    execute: Execute, engine: docker.APIClient, settings: Settings, language: str
) -> None:
    if language not in list_images(engine, settings.engine.image_prefix):
        advice = f"no image for {language}; run `codecell images build --all`"
        pytest.fail(advice) if os.environ.get("CI") == "true" else pytest.skip(advice)
    outcome = await execute(recipes.read(language).hello().decode(), language, timeout_s=60)
    assert outcome.status is Status.SUCCESS, (outcome.error_message, outcome.stderr.text)
    assert outcome.stdout.text.strip() == f"hello from {language}"


@pytest.mark.requirement("gvisor:agent-apart")
async def test_signalling_the_agent_is_refused_for_every_signal(facts: Facts) -> None:
    found = await facts(f"""
import errno, json, os
answers = {{}}
for number in {SIGNALS}:
    try:
        os.kill(1, number)
        answers[number] = "sent"
    except OSError as error:
        answers[number] = errno.errorcode[error.errno]
print(json.dumps(answers))
""")
    assert set(found.values()) == {"EPERM"}


@pytest.mark.requirement("gvisor:agent-apart")
async def test_opening_the_agents_stream_and_memory_through_proc_is_denied(facts: Facts) -> None:
    found = await facts("""
import errno, json, os
answers = {}
places = ["mem", "root", "cwd"]
for fd in os.listdir("/proc/1/fd"):
    if not os.readlink(f"/proc/1/fd/{fd}").startswith(("/dev/null", "/sys/fs/cgroup")):
        places.append(f"fd/{fd}")
for name in places:
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        try:
            os.close(os.open(f"/proc/1/{name}", mode))
            answers[f"{name} {mode}"] = "opened"
        except OSError as error:
            answers[f"{name} {mode}"] = errno.errorcode[error.errno]
print(json.dumps(answers))
""")
    assert {name: why for name, why in found.items() if why not in {"EACCES", "EPERM"}} == {}
    assert any(name.startswith("fd/61") for name in found)


@pytest.mark.requirement("gvisor:agent-apart")
async def test_a_program_has_no_capability_and_can_not_become_the_agents_user(facts: Facts) -> None:
    found = await facts("""
import errno, json, os, resource
def fails(action, *args):
    try:
        action(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
lines = [line.split() for line in open("/proc/self/status")]
print(json.dumps({
    "caps": [value for name, value in (l for l in lines if len(l) == 2) if name.startswith("Cap")],
    "uids": os.getresuid() + os.getresgid(), "groups": os.getgroups(),
    "setuid": fails(os.setuid, 0), "setgid": fails(os.setgid, 0),
    "groups0": fails(os.setgroups, [0]),
    "limits": fails(resource.prlimit, 1, resource.RLIMIT_NOFILE, (1, 1)),
}))
""")
    assert set(found["caps"]) == {"0" * 16}
    assert len(set(found["uids"])) == 1
    assert found["uids"][0] >= 20_000
    assert found["groups"] in ([], [found["uids"][0]])
    assert [found[key] for key in ("setuid", "setgid", "groups0", "limits")] == ["EPERM"] * 4


@pytest.mark.requirement("gvisor:filter")
async def test_our_filter_is_in_force_inside_gvisor_too(facts: Facts) -> None:
    found = await facts("""
import ctypes, errno, json
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *map(ctypes.c_long, arguments))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
status = [line.split() for line in open("/proc/self/status")]
print(json.dumps({
    "mode": [line[1] for line in status if line[0] == "Seccomp:"],
    "unshare": call(272, 0x10000000), "mount": call(165, 0, 0, 0, 0, 0), "ptrace": call(101, 0),
    "keyctl": call(250, 0), "bpf": call(321, 0), "vsock": call(41, 40, 1, 0),
    "raw": call(41, 17, 3, 0), "clone newuser": call(56, 0x10000000, 0),
    "clone3": call(435, 0, 0), "io_uring": call(425, 1, 0),
}))
""")
    assert found.pop("mode") == ["2"]
    # A C library without clone3 takes clone, and a program without io_uring takes threads.
    assert [found.pop(name) for name in ("clone3", "io_uring")] == ["ENOSYS"] * 2
    assert set(found.values()) == {"EPERM"}


@pytest.mark.requirement("gvisor:process-limit")
@pytest.mark.parametrize("kind", ["processes", "threads"])
async def test_starting_without_end_stops_at_the_cells_process_limit(
    execute: Execute, settings: Settings, kind: str
) -> None:
    start = {
        "processes": "    if os.fork() == 0:\n        time.sleep(60); os._exit(0)",
        "threads": "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    }[kind]
    outcome = await execute(
        "import os, threading, time\nmade = 0\ntry:\n  while made < 3000:\n"
        f"{start}\n    made += 1\nexcept (OSError, RuntimeError): pass\n"
        "os.write(1, str(made).encode()); os._exit(0)"
    )
    assert outcome.status is Status.SUCCESS, outcome.error_message
    assert 1 < int(outcome.stdout.text) <= settings.limits.processes


@pytest.mark.requirement("gvisor:ends")
@pytest.mark.parametrize(
    "code",
    [
        """
import os
print("begin", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        "print('begin', flush=True)\nwhile True: pass",
        """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
print("begin", flush=True)
while True:
    pass
""",
    ],
    ids=["fork bomb", "loop", "ignores signals"],
)
async def test_endless_programs_end_at_their_timeout(execute: Execute, code: str) -> None:
    with anyio.fail_after(40):
        outcome = await execute(code, timeout_s=2)
    assert outcome.status is Status.TIMEOUT, outcome.error_message
    assert outcome.stdout.text == "begin\n"


@pytest.mark.requirement("gvisor:ends")
async def test_memory_bomb_ends_within_the_cells_memory(execute: Execute) -> None:
    outcome = await execute(
        "print('begin', flush=True)\nhoard = []\nwhile True: hoard.append(b'x' * (4 << 20))",
        timeout_s=60,
    )
    # The host's kernel kills the process behind the program, or all of gVisor: the engine knows.
    assert outcome.status is Status.OUT_OF_MEMORY, outcome.error_message
    assert outcome.stdout.text == "begin\n"
    assert outcome.usage.peak_memory_bytes <= outcome.plan.cell.limits.memory_bytes


@pytest.mark.requirement("session:truthful")
@pytest.mark.parametrize(
    "bomb",
    ["bytearray(10**9)", "hoard = []\nwhile True: hoard.append(b'x' * (4 << 20))"],
    ids=["at once", "slowly"],
)
async def test_report_is_true_whether_a_memory_bomb_ends_the_program_or_all_of_gvisor(
    execute: Execute, bomb: str
) -> None:
    async def step(code: str) -> tuple[Outcome, SessionReport]:
        outcome = await execute(code, session_id=f"bomb{len(bomb)}", timeout_s=60)
        assert outcome.session is not None
        return outcome, outcome.session

    await step("open('file', 'w').write('text'); x = 'kept'")
    ended, report = await step(f"print('begin', flush=True)\n{bomb}")
    assert (ended.status, ended.stdout.text) == (Status.OUT_OF_MEMORY, "begin\n")
    lost = report.state is SessionState.LOST_AND_RECREATED
    assert report.kept == (() if lost else ("files",))
    assert ("ran out of memory in this call" in (report.reason or "")) == lost
    after, report = await step("import os; print(os.listdir('.'), globals().get('x', 'lost'))")
    assert after.stdout.text == ("[] lost\n" if lost else "['file'] lost\n")
    assert report.state is SessionState.REUSED


@pytest.mark.requirement("gvisor:ends")
async def test_flood_ends_as_output_limit(execute: Execute) -> None:
    outcome = await execute("import os\nwhile True: os.write(1, b'x' * 65536)", timeout_s=60)
    assert outcome.status is Status.OUTPUT_LIMIT
    kept = outcome.stdout.text.count("x")
    assert kept == outcome.plan.limits.output_chars  # and a line that tells of the middle


@pytest.mark.requirement("gvisor:kernel")
async def test_reused_cell_under_gvisor_is_wiped(engine: docker.APIClient) -> None:
    pool = {"languages": ["python"], "min": 1, "max": 1, "reuse": "caller"}
    flags = {"engine": {"runtime": "runsc"}, "pool": pool}
    async with open_runner(load(flags=flags)) as one:
        leave = Request(
            language="python",
            code="import os\nfor place in ('/sandbox', '/tmp', '/dev/shm'):\n"
            " os.makedirs(f'{place}/a/b'); open(f'{place}/a/b/c', 'w').write('x')\n"
            " os.chmod(f'{place}/a', 0)\n"
            "import ctypes; libc = ctypes.CDLL(None); os.chmod('/sandbox', 0o777)\n"
            "made = libc.shmget(7, 9, 0o1666), libc.semget(7, 1, 0o1666), libc.msgget(7, 0o1666)\n"
            "assert min(made) >= 0 and libc.mq_open(b'/q', os.O_CREAT, 0o666, None) < 0",
        )
        left = await one.execute(leave)
        assert left.status is Status.SUCCESS, left.stderr.text
        look = (
            "import ctypes, os; libc = ctypes.CDLL(None)\n"
            "assert [libc.shmget(7, 0, 0), libc.semget(7, 0, 0), libc.msgget(7, 0)] == [-1] * 3\n"
            "assert os.stat('/sandbox').st_mode & 0o777 == 0o700\n"
            "print([os.listdir(p) for p in ('/sandbox', '/tmp', '/dev/shm')])"
        )
        found = await one.execute(Request(language="python", code=look))
    assert found.stdout.text == "[['main.py'], [], []]\n", found.error_message


@pytest.mark.requirement("gvisor:probes")
async def test_every_probe_holds_or_says_why_it_says_nothing(settings: Settings) -> None:
    with anyio.fail_after(150):
        async with opened(settings, "python") as assault:
            found = {verdict.id: verdict for verdict in await assault.all()}
    broken = {name: v.detail for name, v in found.items() if v.state is State.BROKEN}
    assert broken == {}
    silent = {name for name, v in found.items() if v.state is State.NOT_APPLICABLE}
    assert silent == {
        "fs.masked", "fs.mount-options", "fs.devices", "agent.layout", "host.container-id",
        "bomb.inodes",
    }  # fmt: skip


@pytest.mark.requirement("gvisor:kernel")
async def test_what_a_program_is_sent_is_its_own(facts: Facts) -> None:
    files = (Input(path="lib/data.txt", content=b"sent"),)
    found = await facts(
        "import json, os\nopen('lib/data.txt', 'a').write(' and changed')\n"
        "open('lib/more.txt', 'w').close()\n"
        "print(json.dumps([os.stat(p).st_uid - os.getuid() for p in ('lib', 'lib/data.txt')]))",
        files=files,
    )
    assert found == [0, 0]


@pytest.mark.requirement("gvisor:no-fallback")
async def test_a_runtime_that_the_engine_lacks_is_never_replaced_by_another(
    engine: docker.APIClient,
) -> None:
    flags = {"engine": {"runtime": "runsc-of-nobody"}, "pool": {"min": 0, "max": 0}}
    async with open_runner(load(flags=flags)) as one:
        outcome = await one.execute(Request(language="python", code="print(1)"))
    assert outcome.status is Status.SETUP_ERROR
    assert "runsc-of-nobody" in (outcome.error_message or "")
    assert (outcome.stdout.text, outcome.isolation.kernel) == ("", "none")
