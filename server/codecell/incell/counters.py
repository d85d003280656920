"""What the kernel has counted for the cell."""

from __future__ import annotations

import os
import resource
import time

BASE = "/sys/fs/cgroup/"


class Reading:
    """The counters at one moment; what the kernel does not tell (gVisor) is None."""

    __slots__ = ("agent_s", "children_s", "cpu_s", "oom_kills", "peak_bytes")

    def __init__(self, cpu_s: float | None, peak_bytes: int, oom_kills: int | None) -> None:
        self.cpu_s = cpu_s
        self.peak_bytes = peak_bytes
        self.oom_kills = oom_kills
        self.agent_s = time.process_time()
        reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.children_s = reaped.ru_utime + reaped.ru_stime

    def cpu_since(self, before: Reading) -> float:
        """CPU seconds of everything in the cell but the agent."""
        if self.cpu_s is None or before.cpu_s is None:
            used = self.children_s - before.children_s
        else:
            used = self.cpu_s - before.cpu_s - (self.agent_s - before.agent_s)
        return max(used, 0.0)

    def kills_since(self, before: Reading) -> int | None:
        """Count the processes that the kernel ended for want of memory."""
        if self.oom_kills is None or before.oom_kills is None:
            return None
        return self.oom_kills - before.oom_kills


class Counters:
    """The cell's own cgroup files (version 1 or 2), kept open; absent under gVisor."""

    __slots__ = ("cpu", "held", "oom", "peak", "v2")

    def __init__(self) -> None:
        self.v2 = os.path.exists(BASE + "cgroup.controllers")
        self.cpu = _open("cpu.stat" if self.v2 else "cpuacct/cpuacct.usage")
        self.peak = _open("memory.peak" if self.v2 else "memory/memory.max_usage_in_bytes")
        self.held = _open("memory.current" if self.v2 else "memory/memory.usage_in_bytes")
        self.oom = _open("memory.events" if self.v2 else "memory/memory.oom_control")

    def descriptors(self) -> tuple[int, ...]:
        return tuple(fd for fd in (self.cpu, self.held, self.peak, self.oom) if fd >= 0)

    def held_bytes(self) -> int:
        """Return what the cell holds in memory now; 0 where the kernel does not tell."""
        text = _read(self.held).strip()
        return int(text) if text.isdigit() else 0

    def read(self) -> Reading:
        cpu, peak, oom = _read(self.cpu), _read(self.peak), _read(self.oom)
        cpu_s = None
        if cpu:
            cpu_s = field(cpu, b"usage_usec") / 1e6 if self.v2 else int(cpu) / 1e9
        kills = field(oom, b"oom_kill") if oom else None
        return Reading(cpu_s, int(peak) if peak.strip().isdigit() else 0, kills)


def field(text: bytes, name: bytes) -> int:
    """Return one value of a file of `name value` lines; 0 if it is not there."""
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return 0


def _open(name: str) -> int:
    try:
        return os.open(BASE + name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read(fd: int) -> bytes:
    if fd < 0:
        return b""
    try:
        return os.pread(fd, 1024, 0)
    except OSError:
        return b""
