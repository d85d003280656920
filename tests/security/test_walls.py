"""A cell's walls as its own kernel shows them: namespaces, masks, limits, mounts; no more."""

import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from codecell.backends.docker import spec
from codecell.model import Outcome, Request
from codecell.runner import Runner
from codecell.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
Facts = Callable[..., Awaitable[Any]]
NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")


def _hosts(name: str) -> str:
    return str(Path("/proc/self/ns", name).readlink())


@pytest.mark.requirement("cell:namespaces")
async def test_comparing_namespaces_finds_none_of_the_hosts_and_none_of_another_cells(
    facts: Facts,
) -> None:
    look = "import json, os\nprint(json.dumps({n: os.readlink(f'/proc/self/ns/{n}') for n in %r}))"
    cells: list[dict[str, str]] = [
        # Two that live at the same time: numbers of dead ones are used again.
        await facts(look % (NAMESPACES,), session_id=name)
        for name in ("one", "two")
    ]
    for name in NAMESPACES:
        found = {_hosts(name), *(cell[name] for cell in cells)}
        assert len(found) == 3, name


MOUNTS = """
import json, os, sys
mounts = {}
for line in open("/proc/self/mountinfo"):
    before, _, after = line.partition(" - ")
    fields = before.split()
    mounts[fields[4]] = {
        "root": fields[3], "options": fields[5].split(","), "type": after.split()[0],
        "source": after.split()[1], "super": after.split()[2].split(","),
    }
there = [path for path in json.load(sys.stdin) if os.path.exists(path)]
print(json.dumps([mounts, there]))
"""


@pytest.mark.requirement("fs:masks")
async def test_looking_at_the_mounts_finds_every_mask_and_every_read_only_path(
    facts: Facts,
) -> None:
    cpus = (f"/sys/devices/system/cpu/cpu{n}/thermal_throttle" for n in range(os.cpu_count() or 1))
    masked = [*spec.MASKED_PATHS, *cpus]
    mounts, there = await facts(MOUNTS, stdin=json.dumps([*masked, *spec.READONLY_PATHS]))
    assert {"/proc/interrupts", "/sys/devices/virtual", "/proc/sys"} <= set(there)
    for path in there:
        if path not in mounts:  # below another mask, or made later by a kernel's module
            assert any(path.startswith(f"{upper}/") for upper in masked if upper in mounts), path
        elif path in masked:
            made = mounts[path]
            empty = made["type"] == "tmpfs" and "ro" in made["options"]
            assert empty or made["root"] == "/null", path
        else:
            assert "ro" in mounts[path]["options"], path


@pytest.mark.requirement("host:mounts")
async def test_mount_table_tells_of_the_host_the_engines_own_folder_and_disk_alone(
    facts: Facts, engine: docker.APIClient
) -> None:
    # Newer engines keep images in containerd's folder, and file systems in their own.
    folders = (f"{engine.info()['DockerRootDir']}/", "/var/lib/containerd/")
    mounts, _ = await facts(MOUNTS, stdin="[]")
    name = re.fullmatch(
        r"(.*)/containers/[0-9a-f]{64}/hostname", mounts.pop("/etc/hostname")["root"]
    )
    assert name is not None
    assert folders[0].rstrip("/").endswith(name[1])  # from the top of its own disk
    root = mounts.pop("/")
    for option in root["super"]:
        _, _, paths = option.partition("dir=")
        assert all(path.startswith(folders) for path in paths.split(":") if path), option
    for place, made in mounts.items():
        # A part of the cell's own /proc, its own /dev/null, or the whole of a file system in memory
        assert made["type"] in {
            "proc", "tmpfs", "devpts", "sysfs", "mqueue", "cgroup", "cgroup2"
        }, place  # fmt: skip
        assert made["root"] in {"/", "/null", place.removeprefix("/proc")}, place


@pytest.mark.requirement("res:rlimits")
@pytest.mark.parametrize("language", ["python", "javascript", "bash"])
async def test_asking_for_own_limits_finds_the_cells_hard_and_soft(
    execute: Execute, settings: Settings, language: str
) -> None:
    code = {
        "python": "print(open('/proc/self/limits').read())",
        "javascript": "console.log(require('fs').readFileSync('/proc/self/limits', 'utf8'))",
        "bash": "cat /proc/self/limits",
    }[language]
    outcome = await execute(code, language)
    limits = outcome.plan.cell.limits
    found = {line[:26].strip(): line[26:].split()[:2] for line in outcome.stdout.text.splitlines()}
    for name, value in {
        "Max core file size": 0,
        "Max file size": settings.limits.sandbox,
        "Max open files": limits.open_files,
        "Max locked memory": spec.LOCKED_BYTES,
    }.items():
        assert found[name] == [str(int(value))] * 2, name


@pytest.mark.requirement("cell:one-file")
async def test_engine_has_made_nothing_that_the_one_file_does_not_say(
    runner: Runner, engine: docker.APIClient
) -> None:
    await runner.execute(Request(language="python", code="1", session_id="seen"))
    (session,) = runner.sessions._open.values()
    (cell,) = session.cells.values()
    made = engine.inspect_container(cell.link.cell.id)["HostConfig"]
    asked = spec.container_spec(
        next(iter(session.cells)), image_id="", uid=1, labels={}, command=(), apparmor=False,
        machine="x86_64",
    )["HostConfig"]  # fmt: skip
    beyond = {name: value for name, value in made.items() if name not in asked}
    beyond.pop("Runtime", None)  # the engine's default, which each result names
    assert {name: value for name, value in beyond.items() if not _says_nothing(value)} == {}


def _says_nothing(value: object) -> bool:
    return not any(value) if isinstance(value, list) else not value
