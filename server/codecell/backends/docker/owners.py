"""Who made a container, in its labels, and whether that process is still alive; no engine here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

LABEL_INSTANCE = "codecell.instance"
LABEL_OWNER = "codecell.owner"
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Owner:
    """A server process, told apart from every other also after its pid has been used again.

    Attributes:
        boot: this boot of the machine.
        namespace: the pid namespace in which `pid` means something.
        pid: the process.
        started: its start, in clock ticks since boot.
    """

    boot: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Self:
        """Describe this process."""
        return cls(_boot(), _namespace(), os.getpid(), _started(os.getpid()) or "")

    def label(self) -> str:
        """Return the value of `LABEL_OWNER`."""
        return f"{self.boot}/{self.namespace}/{self.pid}/{self.started}"

    @classmethod
    def parse(cls, label: str) -> Self | None:
        """Read a label; None when it is not one of ours."""
        boot, _, rest = label.partition("/")
        parts = rest.split("/")
        if len(parts) != 3 or not parts[1].isdigit():
            return None
        return cls(boot, parts[0], int(parts[1]), parts[2])

    def is_dead(self) -> bool:
        """Tell whether this owner certainly no longer exists; a doubtful one is left alone."""
        boot = _boot()
        if boot == _UNKNOWN:
            return False
        if self.boot != boot:
            return True
        if self.namespace != _namespace():
            return False  # a server in another container: its pids are not ours to judge
        started = _started(self.pid)
        if started is None and _exists(self.pid):
            return False  # a /proc that hides other users' processes: it may well be that server
        return started != self.started


def abandoned(labels: Mapping[str, str], instance: str) -> bool:
    """Tell whether a container of ours belongs to an instance that is dead."""
    if labels.get(LABEL_INSTANCE) == instance:
        return False
    owner = Owner.parse(labels.get(LABEL_OWNER, ""))
    return owner is not None and owner.is_dead()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _UNKNOWN


def _namespace() -> str:
    try:
        return Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return _UNKNOWN


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _started(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]
