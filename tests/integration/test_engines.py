"""Engines that are set up otherwise: users remapped, rootless, another runtime by name.

Each is a `dockerd` of the test's own with a network namespace, a mount namespace and folders of its
own; what it reads of this machine's users is a copy.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from codecell.app import open_runner
from codecell.attack.assault import opened
from codecell.attack.catalogue import State
from codecell.model import Request, Status
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

SUBORDINATE = 300_000
PRIVATELY = """
mount --make-rprivate / || exit 1
for name in passwd group subuid subgid; do
  [ -e /etc/$name ] || continue
  mount --bind "$ETC/$name" /etc/$name || exit 1
done
exec "$@"
"""
PROGRAMS = {
    "prints": ("print(input()[::-1])", Status.SUCCESS),
    "writes": ("open('/sandbox/a', 'w').write('x'); print(open('a').read())", Status.SUCCESS),
    "is mapped": ("print(open('/proc/self/uid_map').read().split())", Status.SUCCESS),
    "fails": ("raise SystemExit(3)", Status.EXECUTION_ERROR),
    "takes all memory": ("a = []\nwhile True: a.append(b'x' * (1 << 22))", Status.OUT_OF_MEMORY),
    "does not end": ("while True: pass", Status.TIMEOUT),
}


def copied_users(folder: Path, user: str, uid: int) -> Path:
    """Copy this machine's users, with one more who has subordinate ids."""
    etc = folder / "etc"
    etc.mkdir()
    for name, line in (
        ("passwd", f"{user}:x:{uid}:{uid}::/nonexistent:/usr/sbin/nologin"),
        ("group", f"{user}:x:{uid}:"),
    ):
        known = (Path("/etc") / name).read_text(encoding="utf-8").rstrip("\n")
        (etc / name).write_text(f"{known}\n{line}\n", encoding="utf-8")
    for name in ("subuid", "subgid"):
        (etc / name).write_text(f"{user}:{SUBORDINATE}:65536\n", encoding="utf-8")
    return etc


@pytest.fixture(scope="module")
def remapped(begin_engine: Callable[..., Any], engine: docker.APIClient) -> Iterator[str]:
    """An engine with `userns-remap`, and `kata` as another name for runc."""

    def prepare(folder: Path) -> dict[str, Any]:
        etc = copied_users(folder, "cellremap", 61_990)
        runtimes = {"kata": {"path": "runc"}}
        (folder / "daemon.json").write_text(json.dumps({"runtimes": runtimes}), encoding="utf-8")
        return {
            "under": [
                "unshare",
                "--net",
                "--mount",
                "env",
                f"ETC={etc}",
                "sh",
                "-c",
                PRIVATELY,
                "sh",
            ],
            "arguments": ["--userns-remap=cellremap", f"--config-file={folder}/daemon.json"],
        }

    with begin_engine(prepare) as made:
        yield made.address


def settings(address: str, **engine: str) -> Settings:
    return load(flags={"engine": {"host": address, **engine}, "pool": {"min": 0, "max": 0}})


@pytest.mark.parametrize("name", PROGRAMS)
async def test_programs_end_as_stated_with_remapped_users(remapped: str, name: str) -> None:
    code, status = PROGRAMS[name]
    async with open_runner(settings(remapped)) as runner:
        request = Request(language="python", code=code, stdin="abc\n", timeout_s=3)
        outcome = await runner.execute(request)
    assert outcome.status is status, (outcome.error_message, outcome.stderr.text)
    assert outcome.isolation.user_namespace
    if name == "is mapped":
        assert outcome.stdout.text == f"['0', '{SUBORDINATE}', '65536']\n"


@pytest.mark.requirement("engine:remapped")
async def test_every_wall_holds_with_remapped_users(remapped: str) -> None:
    with anyio.fail_after(100):
        async with opened(settings(remapped), "python") as assault:
            found = await assault.all()
    broken = {verdict.id: verdict.detail for verdict in found if verdict.state is not State.HELD}
    assert broken == {}


async def test_a_runtime_called_kata_is_taken_and_the_result_says_so(remapped: str) -> None:
    async with open_runner(settings(remapped, runtime="kata")) as runner:
        outcome = await runner.execute(Request(language="python", code="print(1)"))
    assert (outcome.status, outcome.stdout.text) == (Status.SUCCESS, "1\n"), outcome.error_message
    assert (outcome.isolation.runtime, outcome.isolation.kernel) == ("kata", "guest")


def test_doctor_tells_of_remapped_users(remapped: str, run_cli: Callable[..., Any]) -> None:
    done = run_cli("doctor", "--json", CODECELL_ENGINE__HOST=remapped)
    (walls,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "walls"]
    assert "a user namespace" in walls["found"]


# What rootlesskit does: a user namespace of an ordinary user's, mapped by somebody who may.
ROOTLESS = """
import ctypes, os, sys, warnings  # all before this user can no longer read them
uid, first, folder, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def unshare(flags):
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
ready, mapped = os.pipe(), os.pipe()
if os.fork() == 0:
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{os.getppid()}/{name}", "w") as file:
            file.write(f"0 {uid} 1\\n1 {first} 65536\\n")
    os.write(mapped[1], b".")
    os._exit(0)
os.setgroups([])
os.setresgid(*[int(uid)] * 3)
os.setresuid(*[int(uid)] * 3)
unshare(0x10000000)
libc.prctl(4, 1, 0, 0, 0)
os.write(ready[1], b".")
os.read(mapped[0], 1)
os.wait()
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
unshare(0x00020000 | 0x40000000)
os.system("mount --make-rprivate / && mount -t tmpfs tmpfs /run")
os.environ.update(
    ROOTLESSKIT_STATE_DIR=folder, ROOTLESSKIT_PARENT_EUID=uid, ROOTLESSKIT_PARENT_EGID=uid,
    HOME=folder, XDG_RUNTIME_DIR=folder, PATH=folder + "/bin:" + os.environ["PATH"],
)
os.execvp(command[0], command)
"""


@pytest.fixture(scope="module")
def rootless(begin_engine: Callable[..., Any], engine: docker.APIClient) -> Iterator[str]:
    """An engine that is an ordinary user's process, as dockerd-rootless.sh would start it."""
    uid = 61_991

    def prepare(folder: Path) -> dict[str, Any]:
        proxy = (
            folder / "bin" / "rootlesskit-docker-proxy"
        )  # it wants to see one; there are no ports
        proxy.parent.mkdir()
        proxy.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
        proxy.chmod(0o755)
        (folder / "daemon.json").write_text("{}", encoding="ascii")
        for path in (folder, proxy.parent, folder / "daemon.json"):
            os.chown(path, uid, uid)
        launch = [sys.executable, "-c", ROOTLESS, str(uid), str(SUBORDINATE), str(folder)]
        return {
            "under": launch,
            "arguments": ["--rootless", f"--config-file={folder}/daemon.json"],
        }

    with begin_engine(prepare) as made:
        yield made.address


@pytest.mark.requirement("engine:rootless")
async def test_a_rootless_engine_runs_programs_where_it_keeps_limits_and_nothing_elsewhere(
    rootless: str,
) -> None:
    client = docker.APIClient(base_url=rootless, version="auto", timeout=60)
    try:
        info = client.info()
    finally:
        client.close()
    assert "name=rootless" in info["SecurityOptions"]
    async with open_runner(settings(rootless)) as runner:
        outcome = await runner.execute(Request(language="python", code="print(1)"))
    if info["MemoryLimit"] and info["PidsLimit"] and info["CpuCfsQuota"]:
        assert (outcome.status, outcome.stdout.text) == (Status.SUCCESS, "1\n")
        assert outcome.isolation.user_namespace
    else:  # cgroup v1, or v2 without delegation
        assert outcome.status is Status.SETUP_ERROR
        assert "can't limit memory, processes, cpus, so nothing is run" in outcome.error_message
        assert outcome.stdout.text == ""
