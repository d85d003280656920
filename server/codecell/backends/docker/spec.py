"""What a cell is, for an auditor: the exact body of `POST /containers/create` (Docker API 1.41).

`container_spec` is pure and complete: every wall that Docker builds is here, also those that are
Docker's default today, so that neither a daemon's configuration nor a later default removes one
silently. `posture.defects` compares the engine's answer with this body, field by field. The system
calls are in `seccomp`; what the agent adds inside (time, output, end of all processes) in `incell`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from codecell.backends.docker import seccomp
from codecell.backends.docker.runtimes import RUNC, Kernel, Runtime
from codecell.languages import SANDBOX
from codecell.model import CellSpec

KIB = 1024
SHM_BYTES = 16 * KIB * KIB
LOCKED_BYTES = 64 * KIB
PAGE_BYTES = 4 * KIB
CPU_PERIOD_US = 20_000
LEAST_QUOTA_US = 1_000  # the kernel takes no less
GVISOR_LEAST_PIDS = 1024
# What the agent does with them: end everyone; become the program; read and wipe what is another's.
AGENT_CAPABILITIES = ("KILL", "SETUID", "SETGID", "SETPCAP", "DAC_OVERRIDE", "FOWNER")

ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": SANDBOX,
    "TMPDIR": "/tmp",  # noqa: S108 - the cell's own tmpfs
    "LANG": "C.UTF-8",
    "USER": "cell",  # also where the image's passwd file does not name the uid
    "HOSTNAME": "cell",  # Docker would add it anyway
}

MASKED_PATHS = (
    # Docker's own list, for engines whose list is older.
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    # Counters of the whole host: timing and power side channels (GHSA-6fw5-f8r9-fgfm,
    # GHSA-jq35-85cj-fj4p); powercap and thermal zones are under /sys/devices/virtual.
    "/proc/interrupts",
    "/proc/softirqs",
    "/sys/devices/virtual",
    # What the host is made of: disks, devices, firmware tables, loaded modules, boot parameters.
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/diskstats",
    "/proc/kallsyms",
    "/proc/modules",
    "/proc/partitions",
    "/proc/swaps",
    "/sys/block",
    "/sys/bus",
    "/sys/class",
    "/sys/dev",
    "/sys/devices/pci0000:00",
    "/sys/devices/platform",
    "/sys/hypervisor",
    "/sys/kernel/btf",
    "/sys/kernel/debug",
    "/sys/kernel/notes",
    "/sys/kernel/security",
    "/sys/kernel/slab",
    "/sys/kernel/tracing",
    "/sys/module",
    "/sys/power",
    # Names this boot of this host for ever.
    "/proc/sys/kernel/random/boot_id",
)

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def container_spec(
    spec: CellSpec,
    *,
    image_id: str,
    uid: int,
    labels: Mapping[str, str],
    command: Sequence[str],
    apparmor: bool,
    machine: str,
    runtime: Runtime = RUNC,
    host_cpus: int = 64,
) -> dict[str, Any]:
    """Return the create body of one cell.

    Args:
        spec: what the cell is for and its limits.
        image_id: the image's own digest; a name could change its meaning between check and use.
        uid: user and group of everything in the cell; no other live cell has it.
        labels: by which the sweep finds what dead instances left.
        command: the agent; PID 1.
        apparmor: the engine has AppArmor, so its `docker-default` profile is asked for by name.
        machine: the engine's architecture, as `/info` names it.
        runtime: what `spec.runtime`, or the engine's default, really is.
        host_cpus: how many CPUs' thermal counters are masked.

    Raises:
        ValueError: the uid is root's, or not one.
        ConfigurationError: there is no seccomp profile for this architecture.
    """
    if not 0 < uid < 2**31:
        raise ValueError(f"a cell's uid is a positive number, never root's: {uid}")
    return {
        "Image": image_id,
        # The agent is PID 1: immune to signals from its own namespace, and with it dies the cell.
        # As the entrypoint, so that nothing of the image's own ENTRYPOINT or CMD is merged in.
        "Entrypoint": list(command),
        "Cmd": [],
        # Numeric and of this cell alone: per-uid quotas (inotify, pipes, keys) are not namespaced.
        # Under gVisor the agent is root of gVisor's kernel, a process that has no capability on the
        # host, and only the program is `uid`: see `Runtime.agent_apart`.
        "User": "0:0" if runtime.agent_apart else f"{uid}:{uid}",
        # From scratch, never the server's; the agent adds the request's own to the program alone.
        "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
        # A literal on the read-only root (CVE-2024-21626); programs start in /sandbox.
        "WorkingDir": "/",
        "Labels": dict(labels),
        # Constant: nothing of the host or of the container's id.
        "Hostname": "cell",
        "Domainname": "",
        # Without it Docker would still set up a network sandbox and copy the host's resolv.conf.
        "NetworkDisabled": True,
        # The stream to the agent. It closes with the server's connection, and the agent with it.
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        # A health check would be an exec into the cell.
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",
        "StopTimeout": 0,
        "HostConfig": _host_config(spec, uid, apparmor, machine, runtime, host_cpus),
    }


def _host_config(
    spec: CellSpec, uid: int, apparmor: bool, machine: str, runtime: Runtime, host_cpus: int
) -> dict[str, Any]:
    limits = spec.limits
    gvisor = runtime.kernel is Kernel.GVISOR
    return {
        # --- privileges -------------------------------------------------------------------
        "Privileged": False,
        # For the agent where it is root; the program loses them with its uid (incell/child.py).
        "CapAdd": list(AGENT_CAPABILITIES) if runtime.agent_apart else [],
        # Not one; and as the uid is not root's, all five sets are empty.
        "CapDrop": ["ALL"],
        # No setuid program, file capability or ptrace can give any back; and our own system calls.
        "SecurityOpt": [
            "no-new-privileges",
            f"seccomp={seccomp.profile(machine, spec.seccomp, agent_apart=runtime.agent_apart)}",
            *(["apparmor=docker-default"] if apparmor else []),
        ],
        "GroupAdd": [],
        "Devices": [],
        "DeviceRequests": [],
        "DeviceCgroupRules": [],
        # --- namespaces: all the cell's own -----------------------------------------------
        "NetworkMode": "none",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",  # "host" would switch off the daemon's user namespace remapping
        "IpcMode": "private",
        "CgroupnsMode": "private",  # hides container id and paths
        "PortBindings": {},
        "PublishAllPorts": False,
        # Second line behind NetworkDisabled: name resolution that tells nothing of the host's.
        "Dns": ["127.0.0.1"],
        "DnsSearch": ["."],
        "DnsOptions": [],
        "ExtraHosts": [],
        "Links": [],
        "Sysctls": {},
        # --- files --------------------------------------------------------------------------
        "ReadonlyRootfs": True,
        "Binds": [],  # no host path, and never the engine's socket
        "Mounts": [],
        "VolumesFrom": [],
        # The only places that can be written, in memory that counts as the cell's. Programs are
        # compiled and executed in /sandbox alone.
        "Tmpfs": {
            SANDBOX: _tmpfs(limits.sandbox_bytes, "exec", f"mode=0700,uid={uid},gid={uid}"),
            "/tmp": _tmpfs(limits.tmp_bytes, "noexec", "mode=1777"),  # noqa: S108
        },
        "ShmSize": SHM_BYTES,
        "MaskedPaths": [
            *MASKED_PATHS,
            *(f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle" for cpu in range(host_cpus)),
        ],
        "ReadonlyPaths": list(READONLY_PATHS),
        # A flood must not land on the host's disk; the attached stream is all there is.
        "LogConfig": {"Type": "none", "Config": {}},
        # --- resources ------------------------------------------------------------------------
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # equal: no swap; it would double the limit
        "OomKillDisable": False,
        "OomScoreAdj": 500,  # when the host itself runs out, cells go first
        # A quota, not shares. The period is short so that a throttled cell's agent gets its turn
        # within some 10 ms of a deadline (Docker's NanoCpus means 100 ms).
        "CpuPeriod": CPU_PERIOD_US,
        "CpuQuota": max(LEAST_QUOTA_US, round(limits.cpus * CPU_PERIOD_US)),
        # gVisor's own threads count: below this it dies of a few forks. The program's limit is
        # `nproc` there.
        "PidsLimit": max(limits.pids, GVISOR_LEAST_PIDS) if gvisor else limits.pids,
        # No nproc where the kernel is shared: it is counted per uid over all namespaces, and the
        # cgroup counts the cell. gVisor counts for itself, so there it is the cell's.
        "Ulimits": [
            {"Name": name, "Soft": value, "Hard": value}
            for name, value in (
                ("core", 0),
                ("nofile", limits.open_files),
                ("fsize", limits.sandbox_bytes),
                ("memlock", LOCKED_BYTES),
                *((("nproc", limits.pids),) if gvisor else ()),
            )
        ],
        # --- life -----------------------------------------------------------------------------
        "Init": False,
        "AutoRemove": True,  # when the agent ends for whatever reason, nothing is left
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        **({"Runtime": spec.runtime} if spec.runtime else {}),
    }


def _tmpfs(size_bytes: int, execution: str, owner: str) -> str:
    # Inodes are kernel memory and need no page each: without a bound, empty files are a bomb.
    inodes = max(KIB, size_bytes // PAGE_BYTES)
    return f"rw,{execution},nosuid,nodev,size={size_bytes},nr_inodes={inodes},{owner}"
