"""Facts of the machine, and counters read from the kernel."""

import datetime as dt
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def _command(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return ""
    return done.stdout.strip() or done.stderr.strip()


def engine_info() -> dict[str, Any]:
    """Return what the engine says of itself, or nothing."""
    text = _command("docker", "info", "--format", "{{json .}}")
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return found


def facts() -> dict[str, Any]:
    """Say on what machine this was measured."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")), "")
    info = engine_info()
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _command("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(
            _command("git", "-C", str(ROOT), "status", "--porcelain", "--", "server", "images")
        ),
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "system": info.get("OperatingSystem", platform.platform()),
        "docker": info.get("ServerVersion", "no engine"),
        "cgroup_version": info.get("CgroupVersion", "?"),
        "storage_driver": info.get("Driver", "?"),
        "runtimes": sorted(info.get("Runtimes") or {}),
        "host_python": _command("/usr/bin/python3", "--version"),
        "host_node": _command("node", "--version"),
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
    }


def busy_s() -> float:
    """Return CPU seconds that the whole machine has spent on anything so far."""
    user, nice, system, _idle, _iowait, irq, softirq = (
        int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@dataclass
class Interval:
    """Wall and whole-machine CPU time of a `with` block."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    _at: tuple[float, float] = field(default=(0.0, 0.0))

    def __enter__(self) -> "Interval":
        self._at = (time.perf_counter(), busy_s())
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._at[0]
        self.cpu_s = busy_s() - self._at[1]


def child_called(word: str) -> int:
    """Return the pid of this process's own youngest child whose command line has a word in it."""
    for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda p: -int(p.name)):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and word in (path / "cmdline").read_text():
                return int(path.name)
        except (OSError, IndexError, ValueError):
            continue
    raise LookupError(f"no child process called {word}")


def status_kib(pid: int, name: str) -> int:
    """Return a field of /proc/PID/status in KiB, such as VmRSS or VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(name)


def reset_peak(pid: int) -> None:
    """Make VmHWM start again from the present size."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cgroup_folder(pid: int, controller: str) -> Path:
    """Find the cgroup of a host process, version 1 (by controller) or 2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path("/sys/fs/cgroup") / controller / path.lstrip("/")
    unified = Path(f"/proc/{pid}/cgroup").read_text().strip().rsplit("::", 1)[1]
    return Path("/sys/fs/cgroup") / unified.lstrip("/")
