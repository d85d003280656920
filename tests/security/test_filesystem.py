"""Attacks on the file walls: where a cell can write, how much, and what it can see of the host."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from codecell.model import Outcome, Status
from codecell.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
Facts = Callable[..., Awaitable[Any]]


@pytest.mark.requirement("fs:read-only-root")
async def test_writing_everywhere_succeeds_in_the_scratch_places_alone(facts: Facts) -> None:
    found = await facts("""
import json, os
written = set()
for top, dirs, _ in os.walk("/"):
    dirs[:] = [d for d in dirs if os.path.join(top, d) not in ("/proc", "/sys", "/usr/share")]
    path = os.path.join(top, ".attack")
    try:
        with open(path, "w"):
            pass
    except OSError:
        continue
    os.unlink(path)
    written.add(top)
print(json.dumps(sorted(written)))
""")
    assert found == ["/dev/mqueue", "/dev/shm", "/sandbox", "/tmp"]


@pytest.mark.requirement("fs:read-only-root")
async def test_changing_system_files_fails(facts: Facts) -> None:
    found = await facts("""
import errno, json, os
def fails(action, *args):
    try:
        action(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
print(json.dumps([
    fails(open, "/etc/passwd", "a"), fails(os.unlink, "/etc/passwd"), fails(os.mkdir, "/new"),
    fails(os.chmod, "/usr/bin/env", 0o777), fails(os.rename, "/usr", "/rsu"),
    fails(os.symlink, "/sandbox", "/opt/link"), fails(os.utime, "/etc/passwd"),
    "ro" if os.statvfs("/").f_flag & os.ST_RDONLY else "rw",
]))
""")
    assert set(found[:-1]) <= {"EROFS", "EACCES", "EPERM"}
    assert found[-1] == "ro"


@pytest.mark.requirement("fs:nothing-of-the-host")
async def test_mount_table_has_no_host_directory_and_no_socket(facts: Facts) -> None:
    found = await facts("""
import json, os, stat
real = []
for line in open("/proc/self/mountinfo"):
    before, _, after = line.partition(" - ")
    if after.split()[0] not in ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"):
        real.append(before.split()[4])
sockets = []
for top, dirs, names in os.walk("/"):
    dirs[:] = [d for d in dirs if os.path.join(top, d) not in ("/proc", "/sys")]
    for name in names:
        if stat.S_ISSOCK(os.lstat(os.path.join(top, name)).st_mode):
            sockets.append(os.path.join(top, name))
print(json.dumps({"real": real, "sockets": sockets, "devices": sorted(os.listdir("/dev"))}))
""")
    # Docker mounts a file of its own with our constant host name; read-only, as the root is.
    assert set(found["real"]) <= {"/", "/etc/hostname"}
    assert found["sockets"] == []
    assert set(found["devices"]) <= {
        "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
        "stderr", "stdin", "stdout", "tty", "urandom", "zero",
    }  # fmt: skip


@pytest.mark.requirement("fs:tmpfs-size")
@pytest.mark.parametrize("place", ["/sandbox", "/tmp"])
async def test_filling_a_scratch_place_ends_with_no_space(
    facts: Facts, settings: Settings, place: str
) -> None:
    found = await facts(
        """
import errno, json, os, sys
written, block = 0, b"x" * (1 << 20)
try:
    for number in range(100):
        with open(f"{sys.argv[1]}/{number}", "wb", buffering=0) as file:
            for _ in range(2):
                written += file.write(block)
except OSError as error:
    print(json.dumps([errno.errorcode[error.errno], written]))
else:
    print(json.dumps(["never full", written]))
""",
        args=(place,),
    )
    limits = settings.limits
    assert found[0] == "ENOSPC"
    assert found[1] <= (limits.sandbox if place == "/sandbox" else limits.tmp)


@pytest.mark.requirement("fs:tmpfs-inodes")
@pytest.mark.parametrize("place", ["/sandbox", "/tmp"])
async def test_flood_of_empty_files_ends_with_no_space(facts: Facts, place: str) -> None:
    found = await facts(
        """
import errno, json, os, sys
made = 0
try:
    for made in range(30_000):
        os.close(os.open(f"{sys.argv[1]}/{made}", os.O_CREAT | os.O_WRONLY))
except OSError as error:
    print(json.dumps([errno.errorcode[error.errno], made]))
else:
    print(json.dumps(["never full", made]))
""",
        args=(place,),
    )
    assert found[0] == "ENOSPC"
    assert found[1] < 20_000


@pytest.mark.requirement("fs:tmpfs-inodes")
async def test_flood_of_empty_files_where_none_are_counted_ends_as_out_of_memory(
    execute: Execute,
) -> None:
    outcome = await execute(
        """
import os
for made in range(10_000_000):
    os.close(os.open(f"/dev/shm/{made}", os.O_CREAT | os.O_WRONLY))
""",
        timeout_s=60,
    )
    assert outcome.status is Status.OUT_OF_MEMORY
    assert outcome.usage.peak_memory_bytes <= outcome.plan.cell.limits.memory_bytes


@pytest.mark.requirement("fs:file-size")
async def test_sparse_file_of_a_terabyte_is_too_big(facts: Facts) -> None:
    found = await facts("""
import errno, json, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with open("/sandbox/sparse", "wb") as file:
        file.truncate(1 << 40)
    print(json.dumps("made"))
except OSError as error:
    print(json.dumps(errno.errorcode[error.errno]))
""")
    assert found == "EFBIG"


@pytest.mark.requirement("fs:mount-options")
async def test_scratch_places_have_no_setuid_no_devices_and_only_sandbox_executes(
    facts: Facts,
) -> None:
    found = await facts("""
import json
places = {}
for line in open("/proc/self/mounts"):
    _, place, _, options, *_ = line.split()
    if place in ("/sandbox", "/tmp", "/dev/shm", "/dev/mqueue"):
        places[place] = options.split(",")
print(json.dumps(places))
""")
    assert set(found) == {"/sandbox", "/tmp", "/dev/shm", "/dev/mqueue"}
    for place, options in found.items():
        assert {"nosuid", "nodev"} <= set(options), place
        assert ("noexec" in options) is (place != "/sandbox"), place


@pytest.mark.requirement("fs:mount-options")
async def test_executing_a_binary_works_in_sandbox_and_is_denied_elsewhere(facts: Facts) -> None:
    found = await facts("""
import json, shutil, subprocess
def runs(place):
    shutil.copy("/bin/true", place + "/copy")
    try:
        return subprocess.run([place + "/copy"]).returncode
    except PermissionError:
        return "denied"
print(json.dumps({place: runs(place) for place in ("/sandbox", "/tmp", "/dev/shm")}))
""")
    assert found == {"/sandbox": 0, "/tmp": "denied", "/dev/shm": "denied"}


@pytest.mark.requirement("fs:kernel-settings")
async def test_writing_kernel_settings_fails_for_every_one(facts: Facts) -> None:
    found = await facts("""
import json, os
opened = []
for root in ("/proc/sys", "/sys", "/proc/irq", "/proc/bus", "/proc/fs"):
    for top, dirs, names in os.walk(root):
        for name in names:
            path = os.path.join(top, name)
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                continue
            if os.stat(path).st_rdev != os.stat("/dev/null").st_rdev:
                opened.append(path)
for path in ("/proc/sysrq-trigger", "/proc/kcore", "/proc/1/oom_score_adj"):
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        continue
    if os.stat(path).st_rdev != os.stat("/dev/null").st_rdev:
        opened.append(path)
print(json.dumps(opened))
""")
    assert found == []
