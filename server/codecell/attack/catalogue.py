"""What is probed, as data: each probe, the guarantee it attacks, and how grave a breach is."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

OWN_KERNEL = "gVisor's own kernel answers; the host's does not see the call"


class State(StrEnum):
    """What a probe found."""

    HELD = "held"
    BROKEN = "broken"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Probe:
    """One attack.

    Attributes:
        wall: ID of the guarantee in SECURITY.md.
        asks: what is tried.
        critical: a breach lets a program out, or up, or at others; a server does not start then.
        gvisor: why a breach under gVisor is none; None where it counts there too.
    """

    wall: str
    asks: str
    critical: bool = True
    gvisor: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one probe came to."""

    id: str
    probe: Probe
    state: State
    detail: str = ""


# Those of incell/attack.py, by the name of their function: they look and ask, in one cell.
CALM: Mapping[str, Probe] = {
    "net.interfaces": Probe("net:no-interface", "any network interface but loopback"),
    "net.routes": Probe("net:no-interface", "a route to anywhere, by IPv4 and IPv6"),
    "net.metadata": Probe("net:no-interface", "a route to a cloud's metadata address"),
    "net.dns": Probe("net:no-interface", "a name server of the host's"),
    "net.listener": Probe(
        "net:loopback-host-unreachable", "listeners on this host's loopback and bridge"
    ),
    "net.abstract": Probe("net:abstract-sockets", "an abstract UNIX socket of this host"),
    "socket.raw": Probe("seccomp:no-raw-packets", "raw and packet sockets"),
    "socket.vsock": Probe("seccomp:no-vsock", "a socket to the hypervisor"),
    "socket.kernel-crypto": Probe("seccomp:no-kernel-crypto", "the kernel's crypto sockets"),
    "socket.rare": Probe(
        "seccomp:no-module-loading", "protocols whose module would be loaded", critical=False
    ),
    "priv.root": Probe("priv:not-root", "being or becoming root"),
    "priv.capabilities": Probe("priv:no-capabilities", "any capability in any set"),
    "priv.no-new-privileges": Probe("priv:no-new-privileges", "privileges by execution"),
    "priv.setuid-files": Probe("priv:not-root", "setuid files in the image", critical=False),
    "seccomp.active": Probe("seccomp:active", "running without a filter", gvisor=OWN_KERNEL),
    "fs.read-only-root": Probe("fs:read-only-root", "writing outside the scratch places"),
    "fs.kernel-settings": Probe(
        "fs:kernel-settings", "kernel settings, cgroups and sysrq for writing", gvisor=OWN_KERNEL
    ),
    "fs.masked": Probe(
        "host:no-info", "what /proc and /sys tell of the host", critical=False, gvisor=OWN_KERNEL
    ),
    "fs.host-mounts": Probe(
        "fs:nothing-of-the-host", "mounts that come from the host",
        gvisor="gVisor's mount table names its own gofer's mounts",
    ),
    "fs.mount-options": Probe(
        "fs:mount-options", "setuid, devices and execution where they don't belong",
        critical=False,
        gvisor="gVisor keeps noexec, and tells of no mount option; there is no setuid and no mknod",
    ),
    "fs.engine-socket": Probe("fs:nothing-of-the-host", "the engine's socket"),
    "fs.devices": Probe(
        "fs:nothing-of-the-host", "devices, there or made anew",
        gvisor="the devices that gVisor's own kernel has; none is the host's",
    ),
    "fs.server-files": Probe("fs:nothing-of-the-host", "files of the server's"),
    "call.namespaces": Probe("seccomp:no-namespaces", "new namespaces", gvisor=OWN_KERNEL),
    "call.tracing": Probe("seccomp:no-tracing", "ptrace and its relatives", gvisor=OWN_KERNEL),
    "call.keyrings": Probe(
        "seccomp:no-keyring", "the kernel's keyrings", critical=False, gvisor=OWN_KERNEL
    ),
    "call.io-uring": Probe("seccomp:no-io-uring", "io_uring", critical=False, gvisor=OWN_KERNEL),
    "call.kernel-programs": Probe(
        "seccomp:no-kernel-programs", "bpf, perf events, userfaultfd", gvisor=OWN_KERNEL
    ),
    "call.mounts": Probe("seccomp:no-mounts", "mounting, old and new", gvisor=OWN_KERNEL),
    "call.host-control": Probe(
        "seccomp:no-host-control", "modules, kexec, clock, reboot, host name", gvisor=OWN_KERNEL
    ),
    "call.foreign-doors": Probe(
        "seccomp:no-foreign-architecture", "the 32-bit and x32 doors", critical=False,
        gvisor=OWN_KERNEL,
    ),
    "agent.memory": Probe("agent:untraceable", "the agent's memory and its stream"),
    "agent.layout": Probe(
        "agent:untraceable", "where the agent's memory is, and its environment", critical=False,
        gvisor="gVisor shows them to everyone; the environment is constant, the memory is closed",
    ),
    "agent.unkillable": Probe("agent:unkillable", "stopping and ending the agent"),
    "proc.foreign": Probe("proc:cells-apart", "processes that are not the cell's"),
    "server.environment": Probe("host:no-environment", "the server's environment"),
    "host.name": Probe("host:no-info", "this host's name", critical=False),
    "host.container-id": Probe(
        "host:no-info", "the container's id", critical=False,
        gvisor="gVisor's own cgroups are called so; the name opens nothing",
    ),
    "res.core-dumps": Probe("res:no-core-dumps", "core dumps", critical=False),
    "res.open-files": Probe("res:open-files", "open files without bound", critical=False),
}  # fmt: skip

# Those of bombs.py: each has runs of its own.
BOMBS: Mapping[str, Probe] = {
    "bomb.memory": Probe("res:memory", "all the memory there is"),
    "bomb.fork": Probe(
        "res:fork-bomb", "more processes than allowed",
    ),
    "bomb.tmpfs": Probe("fs:tmpfs-size", "filling every place that can be written"),
    "bomb.inodes": Probe(
        "fs:tmpfs-inodes", "a flood of empty files", critical=False,
        gvisor="gVisor ignores nr_inodes; the memory limit holds",
    ),
    "bomb.output": Probe("out:flood", "a flood of output", critical=False),
    "bomb.time": Probe("res:time", "an endless loop that ignores every signal"),
    "apart.residue": Probe("cell:used-once", "what an earlier run left"),
    "apart.cells": Probe("net:cells-apart", "sockets, files and processes of another cell"),
}  # fmt: skip

PROBES: Mapping[str, Probe] = {**CALM, **BOMBS}
# What a server tries before it runs anything: one cell, and most of the walls.
AT_START = tuple(name for name, probe in CALM.items() if probe.critical)


def judged(name: str, state: State, detail: str, *, gvisor: bool) -> Verdict:
    """Return a verdict; what is no breach under gVisor is not applicable there."""
    probe = PROBES[name]
    if state is State.BROKEN and gvisor and probe.gvisor is not None:
        return Verdict(name, probe, State.NOT_APPLICABLE, f"{probe.gvisor} ({detail})")
    return Verdict(name, probe, state, detail)
