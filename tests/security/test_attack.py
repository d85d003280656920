"""The probes of `doctor --attack`: all hold in a real cell, and each can fail."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
from click.testing import CliRunner

from codecell import cli, parcel
from codecell.app import open_runner
from codecell.attack import assault as assault_module
from codecell.attack import bombs
from codecell.attack.assault import SECRET, opened
from codecell.attack.catalogue import AT_START, BOMBS, CALM, PROBES, State, Verdict
from codecell.attack.gate import Gate, Memory
from codecell.backends.docker import backend
from codecell.backends.docker.spec import container_spec
from codecell.model import Request, Status
from codecell.settings import load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

Body = dict[str, Any]
Weaken = Callable[[Body], None]


@pytest.fixture
def weaken(monkeypatch: pytest.MonkeyPatch, engine: docker.APIClient) -> Callable[[Weaken], None]:
    """Have every cell made with a wall missing, and nobody compare it with what was asked."""
    del engine

    def by(change: Weaken) -> None:
        def weak(*args: Any, **kwargs: Any) -> Body:
            body = container_spec(*args, **kwargs)
            change(body)
            return body

        monkeypatch.setattr(backend, "container_spec", weak)
        monkeypatch.setattr(backend, "defects", lambda *_: [])

    return by


async def calm(*names: str) -> dict[str, Verdict]:
    async with opened(load(), "python") as assault:
        return {verdict.id: verdict for verdict in await assault.calm(names or tuple(CALM))}


def host(body: Body) -> Body:
    values: Body = body["HostConfig"]
    return values


# --- each wall that Docker builds, taken away


def no_filter(body: Body) -> None:
    host(body)["SecurityOpt"] = ["no-new-privileges", "seccomp=unconfined"]


def new_privileges(body: Body) -> None:
    host(body)["SecurityOpt"] = [o for o in host(body)["SecurityOpt"] if "seccomp" in o]


def root(body: Body) -> None:
    body["User"] = "0:0"
    host(body).update(
        CapDrop=[], SecurityOpt=["seccomp=unconfined"], MaskedPaths=[], ReadonlyPaths=[],
        ReadonlyRootfs=False,
    )  # fmt: skip


def writable_root(body: Body) -> None:
    host(body)["ReadonlyRootfs"] = False


def host_network(body: Body) -> None:
    body.update(NetworkDisabled=False, Hostname="")
    host(body).update(NetworkMode="host")


def name_server(body: Body) -> None:
    body["NetworkDisabled"] = False
    host(body)["Dns"] = ["192.0.2.53"]


def host_processes(body: Body) -> None:
    host(body)["PidMode"] = "host"


def masks(body: Body) -> None:
    host(body).update(MaskedPaths=[], ReadonlyPaths=[])


def scratch(body: Body) -> None:
    tmpfs = host(body)["Tmpfs"]
    tmpfs["/tmp"] = tmpfs["/tmp"].replace("noexec,nosuid,nodev", "exec,suid,dev")


def host_folder(body: Body) -> None:
    host(body)["Binds"] = [f"{os.environ['TMPDIR']}:{os.environ['TMPDIR']}:ro",
                           "/dev/null:/run/docker.sock:ro"]  # fmt: skip


def told(body: Body) -> None:
    body["Env"].append(f"X={os.environ.get(SECRET, '')}")
    body["Hostname"] = socket.gethostname()
    host(body)["CgroupnsMode"] = "host"
    host(body)["Ulimits"] = []


WEAKENED: list[tuple[Weaken, set[str]]] = [
    (no_filter, {"seccomp.active", "call.namespaces", "call.tracing", "call.keyrings",
                 "call.io-uring", "call.kernel-programs", "call.mounts", "call.host-control",
                 "socket.rare"}),
    (new_privileges, {"priv.no-new-privileges"}),
    (root, {"priv.root", "priv.capabilities", "priv.no-new-privileges", "fs.devices",
            "fs.kernel-settings", "fs.read-only-root", "socket.raw", "seccomp.active"}),
    (writable_root, {"fs.read-only-root"}),
    (host_network, {"net.interfaces", "net.listener", "net.abstract", "host.name"}),
    (name_server, {"net.dns", "fs.host-mounts"}),
    (host_processes, {"proc.foreign"}),
    (masks, {"fs.masked"}),
    (scratch, {"fs.mount-options"}),
    (host_folder, {"fs.engine-socket", "fs.host-mounts", "fs.server-files"}),
    (told, {"server.environment", "host.name", "host.container-id", "res.core-dumps"}),
]  # fmt: skip


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Have every agent made with one place of its source changed."""

    def change(part: str, old: str, new: str) -> None:
        source = parcel.source
        assert source(part).count(old) == 1
        monkeypatch.setattr(parcel, "source", lambda name: source(name).replace(old, new))
        parcel.texts.cache_clear()

    yield change
    parcel.texts.cache_clear()


@pytest.fixture
def root_stays_root(agents: Callable[[str, str, str], None]) -> None:
    """Have an agent that is root start programs as root."""
    drop = "if os.getuid() == 0:\n        _become"
    agents("child.py", drop, drop.replace("== 0", "< 0"))


@pytest.mark.requirement("attack:can-fail")
@pytest.mark.usefixtures("root_stays_root")
@pytest.mark.parametrize(("change", "expected"), WEAKENED, ids=lambda x: getattr(x, "__name__", ""))
async def test_a_wall_that_is_taken_away_is_named(
    weaken: Callable[[Weaken], None], change: Weaken, expected: set[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    await anyio.Path(tmp_path).chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    weaken(change)
    with anyio.fail_after(60):
        found = await calm()
    broken = {name for name, verdict in found.items() if verdict.state is State.BROKEN}
    assert expected <= broken, {name: found[name].detail for name in expected - broken}
    assert all(found[name].detail for name in broken)
    if change not in (no_filter, root, host_network):
        assert broken == expected, {name: found[name].detail for name in broken - expected}


def bigger(body: Body) -> None:
    h = host(body)
    h.update(Memory=h["Memory"] * 3, MemorySwap=h["Memory"] * 3, PidsLimit=1000)
    for place, options in h["Tmpfs"].items():
        words = [word for word in options.split(",") if not word.startswith("nr_inodes")]
        size = next(word for word in words if word.startswith("size="))
        more = f"size={int(size[5:]) * 3 // 2}"
        h["Tmpfs"][place] = ",".join([more if word == size else word for word in words])
    h["Ulimits"] = [limit for limit in h["Ulimits"] if limit["Name"] != "fsize"]


@pytest.mark.requirement("attack:can-fail")
async def test_limits_that_are_too_high_are_named(weaken: Callable[[Weaken], None]) -> None:
    weaken(bigger)
    with anyio.fail_after(100):
        async with opened(load(), "python") as assault:
            found = {name: await assault._bomb(name) for name in BOMBS if name != "bomb.output"}
    broken = {name for name, verdict in found.items() if verdict.state is State.BROKEN}
    assert broken == {"bomb.memory", "bomb.fork", "bomb.tmpfs", "bomb.inodes"}, found


# What this host may have none of, or no change to a cell takes away: each probe is aimed at
# something that gives way, in a cell with all its walls.
YIELDING = {
    "net.routes": ('"192.0.2.1"', '"127.0.0.1"'),
    "net.metadata": ('("169.254.169.254", 80)', '("127.0.0.1", 80)'),
    "socket.vsock": ("(40, 1, 0)", "(1, 1, 0)"),
    "socket.kernel-crypto": ("(38, 5, 0)", "(1, 5, 0)"),
    "priv.setuid-files": (
        '"/usr/libexec"):',
        '(open("/sandbox/s", "w").close(), os.chmod("/sandbox/s", 0o4755), "/sandbox")[2]):',
    ),
    # The native door, which is open.
    "call.foreign-doors": ("b814000000cd80c3", "b8270000000f05c3"),
    "res.open-files": ("hard <= 65536", "hard <= 16"),
    # A process of the program's own in the agent's place.
    "agent.unkillable": ('AGENT = "/proc/1"', 'AGENT = "/proc/%d" % (os.fork() or signal.pause())'),
}


@pytest.mark.requirement("attack:can-fail")
async def test_a_probe_whose_target_gives_way_says_so(
    engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    del engine
    text = assault_module.source()
    for old, new in YIELDING.values():
        assert text.count(old) == 1
        text = text.replace(old, new)
    monkeypatch.setattr(assault_module, "source", lambda: text)
    with anyio.fail_after(60):
        found = await calm(*YIELDING)
    held = [name for name, verdict in found.items() if verdict.state is not State.BROKEN]
    assert held == []


@pytest.mark.requirement("attack:can-fail")
async def test_an_agent_that_can_be_traced_is_named(
    agents: Callable[[str, str, str], None],
) -> None:
    agents("agent.py", "set_dumpable(dumpable=False)", "set_dumpable(dumpable=True)")
    with anyio.fail_after(60):
        found = await calm("agent.memory", "agent.layout")
    assert {verdict.state for verdict in found.values()} == {State.BROKEN}


@pytest.mark.requirement("attack:can-fail")
async def test_output_without_end_is_named(engine: docker.APIClient) -> None:
    del engine
    limits = {"output_kill": "1TiB", "max_timeout_s": 2, "timeout_s": 2}
    async with opened(load(flags={"limits": limits}), "python") as assault:
        verdict = await assault._bomb("bomb.output")
    assert (verdict.state, verdict.detail) == (State.BROKEN, "it ended as timeout: " + "x" * 200)


@pytest.mark.requirement("attack:can-fail")
async def test_time_without_end_is_named(
    agents: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    agents("agent.py", "late = time.monotonic() >= run.deadline", "late = False")
    monkeypatch.setattr("codecell.link.GRACE_S", 30.0)  # the second wall behind the agent's
    bomb = bombs.BOMBS["bomb.time"]
    ends = bomb.code.replace("while True:\n    pass", "import time\ntime.sleep(2)")
    monkeypatch.setitem(bombs.BOMBS, "bomb.time", replace(bomb, code=ends))
    with anyio.fail_after(60):
        async with opened(load(), "python") as assault:
            verdict = await assault._bomb("bomb.time")
    assert (verdict.state, verdict.detail) == (State.BROKEN, "it ended as success: ")


@pytest.mark.requirement("attack:can-fail")
async def test_what_an_earlier_run_left_is_named(agents: Callable[[str, str, str], None]) -> None:
    agents("agent.py", "            wipe()  # what", "            pass  # what")
    settings = load(flags={"pool": {"reuse": "caller", "languages": ["python"], "min": 0}})
    with anyio.fail_after(60):
        async with opened(settings, "python") as assault:
            verdict = await assault._bomb("apart.residue")
    assert verdict.state is State.BROKEN
    assert "/tmp/codecell-" in verdict.detail


@pytest.mark.requirement("attack:can-fail")
async def test_cells_that_share_a_network_are_named(weaken: Callable[[Weaken], None]) -> None:
    weaken(host_network)
    with anyio.fail_after(60):
        async with opened(load(), "python") as assault:
            verdict = await assault._bomb("apart.cells")
    assert (verdict.state, verdict.detail) == (State.BROKEN, "abstract socket, loopback port")


@pytest.mark.requirement("attack:can-fail")
def test_every_probe_is_shown_to_fail() -> None:
    shown = set().union(*(expected for _, expected in WEAKENED), YIELDING)
    shown |= {"agent.memory", "agent.layout", "bomb.output", "bomb.time", "apart.residue",
              "apart.cells", "bomb.memory", "bomb.fork", "bomb.tmpfs", "bomb.inodes"}  # fmt: skip
    assert set(PROBES) - shown == set()


@pytest.mark.requirement("attack:can-fail")
async def test_a_wall_that_stands_holds_and_the_report_says_so(engine: docker.APIClient) -> None:
    del engine
    with anyio.fail_after(100):
        done = await anyio.to_thread.run_sync(
            lambda: CliRunner().invoke(
                cli.main, ["doctor", "--attack", "--json"], standalone_mode=False
            )
        )
    report = json.loads(done.stdout)
    assert [probe["id"] for probe in report["probes"]] == list(PROBES)
    broken = [probe for probe in report["probes"] if probe["verdict"] == "broken"]
    assert (done.return_value, report["ok"], broken) == (0, True, [])


@pytest.mark.requirement("attack:can-fail")
async def test_the_probes_are_made_under_the_policy_of_a_caller(engine: docker.APIClient) -> None:
    del engine
    policies = {"small": {"limits": {"memory": "128MiB", "processes": 20}}}
    settings = load(flags={"policies": policies, "callers": {"ann": {"policy": "small"}}})
    for caller, memory_mib in (("ann", 128), ("local", 256)):
        async with opened(settings, "python", caller) as assault:
            assert assault._limits.memory_bytes == memory_mib << 20
            assert (await assault._bomb("bomb.fork")).state is State.HELD


@pytest.mark.requirement("attack:start")
async def test_a_server_whose_wall_is_missing_runs_nothing_and_leaves(
    weaken: Callable[[Weaken], None], tmp_path: Path
) -> None:
    weaken(new_privileges)
    settings = load(flags={"pool": {"languages": ["python"], "min": 0, "max": 0}})
    left = anyio.Event()
    gate = Gate(settings, left.set, Memory(tmp_path / "state" / "walls.json"))
    with anyio.fail_after(60):
        async with (
            open_runner(settings, observers=[gate]) as runner,
            anyio.create_task_group() as t,
        ):
            t.start_soon(gate.watch)
            outcome = await runner.execute(Request(language="python", code="print('it ran')"))
            await left.wait()
    assert outcome.status is Status.SETUP_ERROR
    assert outcome.error_message == (
        "walls are missing on this engine (priv.no-new-privileges): nothing is run"
    )
    assert outcome.stdout.text == ""
    assert not (tmp_path / "state").exists()


@pytest.mark.requirement("attack:start")
async def test_walls_that_held_are_remembered_for_this_engine_and_this_kind_of_cell(
    engine: docker.APIClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del engine
    settings = load(flags={"pool": {"languages": ["python"], "min": 0, "max": 0}})
    tried: list[str] = []

    def counting(*args: Any) -> Any:
        tried.append(args[2])
        return opened(*args)

    monkeypatch.setattr("codecell.attack.gate.opened", counting)
    path = tmp_path / "state" / "walls.json"
    with anyio.fail_after(60):
        for _ in range(2):
            gate = Gate(settings, pytest.fail, Memory(path))
            await gate.watch()
            assert gate.admitted(None) is None  # type: ignore[arg-type]  open: it looks at nothing
        assert tried == ["default"]
        # Another policy is other walls, unless its cells are made the same.
        policies = {
            "small": {"limits": {"memory": "128MiB"}, "languages": ["python"]},
            "brief": {"limits": {"max_timeout_s": 5}},
            "nobodys": {"seccomp": "no-sockets"},
        }
        callers = {"ann": {"policy": "brief"}, "bob": {"policy": "small"}}
        more = load(flags={"policies": policies, "callers": callers})
        await Gate(more, pytest.fail, Memory(path)).watch()
        assert tried == ["default", "bob"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.requirement("attack:can-fail")
def test_the_catalogue_and_the_probes_are_the_same() -> None:
    from codecell.incell import attack

    assert set(CALM) == set(attack.PROBES)
    assert set(AT_START) < set(CALM)
