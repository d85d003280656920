"""What `codecell doctor` finds: pure judgements over facts that the command gathered.

Each check is one row: what was looked at, how it is, what was found, and what to do about it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from codecell.host import GIB
from codecell.sandbox import Image

PYTHON_FLOOR = (3, 11)
ENGINE_MINIMUM = (20, 10)
# Below these, known holes of the engine and of runc are open (see SECURITY.md).
ENGINE_FLOOR = (29, 4, 3)
RUNC_FLOORS = ((1, 2, 8), (1, 3, 3), (1, 4, 0))
CONTAINERD_FLOORS = ((1, 7, 29), (2, 0, 7), (2, 1, 5), (2, 2, 0))
FREE_BYTES = 2 * GIB


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the report."""

    name: str
    state: State
    found: str
    advice: str = ""


def numbers(version: str) -> tuple[int, ...]:
    """Read the leading numbers of a version: `20.10.24+dfsg1` is (20, 10, 24)."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def runc_is_sound(version: str) -> bool:
    """Tell whether a runc has the fixes of its own branch; a branch newer than all is taken to."""
    return _is_sound(version, RUNC_FLOORS)


def _is_sound(version: str, floors: Sequence[tuple[int, ...]]) -> bool:
    got = numbers(version)
    for floor in floors:
        if got[:2] == floor[:2]:
            return got >= floor
    return got >= floors[-1]


def check_containerd(version: str) -> list[Check]:
    """Judge what keeps the containers, where the engine tells which it is."""
    if not version:
        return []
    if _is_sound(version, CONTAINERD_FLOORS):
        return [Check("containerd", State.OK, version)]
    floors = ", ".join(".".join(map(str, floor)) for floor in CONTAINERD_FLOORS)
    advice = f"fixes for holes of its own came with {floors}; upgrade it with the engine"
    return [Check("containerd", State.WARNING, version, advice)]


def check_walls(*, kernel: str, seccomp: bool, apparmor: bool, user_namespace: bool) -> Check:
    """Judge what a cell of the configured runtime really gets."""
    found = ", ".join(
        (
            {
                "shared": "the host's own kernel",
                "gvisor": "gVisor's kernel",
                "guest": "a virtual machine's kernel",
            }[kernel],
            "our system call filter" if seccomp else "no system call filter",
            "AppArmor" if apparmor else "no AppArmor",
            "a user namespace" if user_namespace else "no user namespace",
        )
    )
    if not seccomp:
        advice = "register runsc with --oci-seccomp, as `codecell setup --runtime runsc` does"
        return Check("walls", State.WARNING, found, advice)
    if kernel == "shared" and not user_namespace:
        advice = "for strangers' code: gVisor (`codecell setup --runtime runsc`), a rootless engine"
        return Check("walls", State.OK, found, advice)
    return Check("walls", State.OK, found)


def check_python(version: Sequence[int]) -> Check:
    """Judge the interpreter codecell itself runs on."""
    text = ".".join(map(str, version[:3]))
    if tuple(version) >= PYTHON_FLOOR:
        return Check("python", State.OK, text)
    return Check("python", State.PROBLEM, text, "install Python 3.11 or newer")


def check_engine(
    *, version: str, api_version: str, system: str, kernel: str, address: str
) -> list[Check]:
    """Judge the engine's age."""
    found = f"{version} (API {api_version}) at {address}; {system}, kernel {kernel}"
    got = numbers(version)
    if got < ENGINE_MINIMUM:
        return [Check("engine", State.PROBLEM, found, "install Docker Engine 20.10 or newer")]
    if got < ENGINE_FLOOR:
        floor = ".".join(map(str, ENGINE_FLOOR))
        advice = f"before {floor} known holes are open; upgrade before running hostile code"
        return [Check("engine", State.WARNING, found, advice)]
    return [Check("engine", State.OK, found)]


def check_confinement(
    *,
    runc_version: str,
    cgroup_version: str,
    runtimes: Sequence[str],
    default_runtime: str,
    wanted_runtime: str | None,
    security_options: Sequence[str],
    missing_limits: Sequence[str],
) -> list[Check]:
    """Judge what the engine can confine a cell with."""
    checks = []
    if not runc_version:
        checks.append(Check("runc", State.WARNING, "version unknown", "look with `runc --version`"))
    elif runc_is_sound(runc_version):
        checks.append(Check("runc", State.OK, runc_version))
    else:
        floors = ", ".join(".".join(map(str, floor)) for floor in RUNC_FLOORS)
        advice = f"fixes for container escapes came with {floors}; upgrade it with the engine"
        checks.append(Check("runc", State.WARNING, runc_version, advice))
    checks.append(Check("cgroups", State.OK, f"version {cgroup_version}"))
    names = ", ".join(runtimes)
    if wanted_runtime is not None and wanted_runtime not in runtimes:
        advice = f"register {wanted_runtime} with the engine or correct engine.runtime"
        checks.append(Check("runtimes", State.PROBLEM, names, advice))
    else:
        chosen = wanted_runtime or default_runtime
        checks.append(Check("runtimes", State.OK, f"{names} (cells use {chosen})"))
    options = [option.removeprefix("name=") for option in security_options]
    if any(option.startswith("seccomp") for option in options):
        checks.append(Check("security options", State.OK, ", ".join(options)))
    else:
        advice = "the engine or the kernel has no seccomp; codecell does not run without it"
        found = ", ".join(options) or "none"
        checks.append(Check("security options", State.PROBLEM, found, advice))
    if missing_limits:
        advice = (
            "the engine lacks these cgroup controllers (a rootless one needs cgroup v2 with "
            "delegation); nothing is run without them"
        )
        checks.append(
            Check("limits", State.PROBLEM, f"cannot limit {', '.join(missing_limits)}", advice)
        )
    else:
        checks.append(Check("limits", State.OK, "memory, processes, cpus"))
    return checks


def check_images(
    languages: Iterable[str], images: Mapping[str, Image], *, essential: Sequence[str]
) -> list[Check]:
    """Judge each language's image; only the essential ones' absence is a problem."""
    checks = []
    for language in languages:
        command = f"codecell images build {language}"
        image = images.get(language)
        worse = State.PROBLEM if language in essential else State.WARNING
        if image is None:
            checks.append(Check(f"image {language}", worse, "missing", f"run `{command}`"))
        elif not image.current:
            found = f"outdated ({image.version}): the recipe has changed"
            checks.append(Check(f"image {language}", State.WARNING, found, f"run `{command}`"))
        else:
            found = f"{image.version}, {image.size_bytes / 1e6:.0f} MB"
            checks.append(Check(f"image {language}", State.OK, found))
    return checks


def check_disk(free_bytes: int, where: str) -> Check:
    """Judge the space that is left for images."""
    found = f"{free_bytes / GIB:.1f} GiB free at {where}"
    if free_bytes >= FREE_BYTES:
        return Check("disk", State.OK, found)
    return Check(
        "disk", State.WARNING, found, f"free some space: builds want {FREE_BYTES / GIB:.0f} GiB"
    )


def healthy(checks: Iterable[Check]) -> bool:
    """Tell whether nothing essential is missing."""
    return all(check.state is not State.PROBLEM for check in checks)
