"""What an OCI runtime is to a cell: whose kernel serves it, and whether our filter holds there.

Docker knows runtimes by name only. What a name stands for is read from how it was registered with
the engine (`/info`), never guessed from a setting: a cell under an engine whose *default* is gVisor
needs the same care as one that asked for it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from codecell.errors import SandboxError
from codecell.model import CellSpec, Isolation

LIMITS = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "cpus"}
FILTERS = "oci-seccomp"  # runsc's flag: load the container's own seccomp profile inside


class Kernel(StrEnum):
    """Whose system calls a program makes."""

    SHARED = "shared"  # the host's own kernel, as with runc, crun and youki
    GVISOR = "gvisor"  # gVisor's, a process on the host
    GUEST = "guest"  # a kernel of the cell's own in a virtual machine, as with Kata


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime of the engine.

    Attributes:
        name: as the engine knows it.
        kernel: whose kernel a cell gets.
        filters: our seccomp profile is in force in it.
    """

    name: str
    kernel: Kernel
    filters: bool = True

    @property
    def agent_apart(self) -> bool:
        """Whether the agent needs a uid of its own to be out of the program's reach.

        Linux protects PID 1 of a namespace and what is not dumpable. gVisor does neither (measured,
        release 20240729): every signal reaches PID 1, and whoever has its uid opens its descriptors
        through /proc, the stream to the server among them.
        """
        return self.kernel is Kernel.GVISOR


RUNC = Runtime("runc", Kernel.SHARED)


def read_runtimes(info: Mapping[str, Any]) -> dict[str, Runtime]:
    """Read from the engine's `/info` what its runtimes are; pure."""
    return {
        str(name): _read(str(name), details if isinstance(details, Mapping) else {})
        for name, details in (info.get("Runtimes") or {}).items()
    }


def _read(name: str, details: Mapping[str, Any]) -> Runtime:
    program = str(details.get("path") or details.get("runtimeType") or "").rpartition("/")[2]
    words = f"{name} {program}".lower()
    if "runsc" in words or "gvisor" in words:
        flags = [str(flag).lstrip("-") for flag in details.get("runtimeArgs") or ()]
        return Runtime(name, Kernel.GVISOR, FILTERS in flags or f"{FILTERS}=true" in flags)
    if "kata" in words:
        return Runtime(name, Kernel.GUEST)
    return Runtime(name, Kernel.SHARED)


@dataclass(frozen=True, slots=True)
class Host:
    """What the engine said of itself when it was first asked.

    Attributes:
        runtimes: by the engine's name for them.
        default: the one that cells get which ask for none.
        apparmor: it has AppArmor.
        user_namespace: root in a container is nobody on the host.
        machine: its architecture.
        cpus: how many it has.
        lacks: limits that it can't keep, and only warns of when it makes a container.
    """

    runtimes: Mapping[str, Runtime]
    default: str
    apparmor: bool
    user_namespace: bool
    machine: str
    cpus: int
    lacks: tuple[str, ...] = ()

    def check_limits(self) -> None:
        """Refuse an engine whose cells would have no bounds.

        Raises:
            SandboxError: one of the limits would not be kept.
        """
        if self.lacks:
            raise SandboxError(
                f"the engine can't limit {', '.join(self.lacks)}, so nothing is run "
                "(a rootless engine needs cgroup v2 with these controllers delegated to it)"
            )

    def runtime(self, name: str | None) -> Runtime:
        """Return what a cell gets that asks for this runtime, or for none.

        Raises:
            SandboxError: the engine does not know it. A cell never gets another one instead.
        """
        chosen = name or self.default
        if chosen not in self.runtimes:
            known = ", ".join(sorted(self.runtimes))
            raise SandboxError(
                f"runtime {chosen!r} is unknown to the engine; it has: {known} "
                "(`codecell setup --runtime runsc` adds gVisor)"
            )
        return self.runtimes[chosen]

    def isolation(self, spec: CellSpec, image_id: str) -> Isolation:
        """Return the posture of a cell that was made of this."""
        runtime = self.runtime(spec.runtime)
        return Isolation(
            runtime=runtime.name,
            image=spec.image,
            image_digest=image_id,
            kernel=runtime.kernel.value,
            seccomp=runtime.filters,
            apparmor=self.apparmor and runtime.kernel is Kernel.SHARED,
            user_namespace=self.user_namespace,
        )


def read_host(info: Mapping[str, Any]) -> Host:
    """Read the engine's `/info`; pure."""
    options = info.get("SecurityOptions") or ()
    default = str(info.get("DefaultRuntime") or "runc")
    return Host(
        # An engine that tells nothing of its default has runc.
        runtimes={default: Runtime(default, Kernel.SHARED), **read_runtimes(info)},
        default=default,
        apparmor=any("name=apparmor" in option for option in options),
        user_namespace=any(
            f"name={word}" in option for option in options for word in ("userns", "rootless")
        ),
        machine=str(info.get("Architecture") or os.uname().machine),
        cpus=info.get("NCPU") or 64,
        lacks=tuple(name for key, name in LIMITS.items() if info.get(key) is False),
    )
