"""What the posture says is what cells are created with."""

from codecell import policy
from codecell.backends.docker.spec import container_spec
from codecell.model import Request
from codecell.posture import FIXED, posture
from codecell.settings import LimitSettings, Settings

SETTINGS = Settings.model_construct(limits=LimitSettings(timeout_s=7))


def test_the_fixed_walls_are_those_of_the_containers() -> None:
    spec = policy.plan(Request(language="python", code="1"), SETTINGS).cell
    body = container_spec(
        spec, image_id="i", uid=20_000, labels={}, command=["x"], apparmor=False, machine="x86_64"
    )
    host = body["HostConfig"]
    assert {
        "network": host["NetworkMode"],
        "capabilities": {"ALL": "none"}[host["CapDrop"][0]],
        "no_new_privileges": "no-new-privileges" in host["SecurityOpt"],
        "root_filesystem": "read-only" if host["ReadonlyRootfs"] else "writable",
        "writable": f"{' and '.join(host['Tmpfs'])}, in memory, gone with the cell",
        "user": "a number of the cell's own, never root" if body["User"][0] != "0" else "root",
        "host_mounts": "none" if host["Binds"] == host["Mounts"] == [] else "some",
        "namespaces": "all private" if host["IpcMode"] == "private" else "shared",
        "swap": "none" if host["MemorySwap"] == host["Memory"] else "some",
    } == FIXED


def test_the_limits_are_the_callers() -> None:
    shown = posture("ann", SETTINGS)
    assert shown["caller"] == "ann"
    assert shown["policy"] == "default"
    limits = shown["limits"]
    assert isinstance(limits, dict)
    assert limits["timeout_s"] == 7
    assert limits["memory"] == 256 * 1024 * 1024
    assert type(limits["memory"]) is int
