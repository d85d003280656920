"""The machine codecell is set up on: root rights, apt, the distribution's engine.

Used by set-up alone, never while serving. Every failure is one line that says what to do. Nothing
here speaks to an engine: whether one answers is asked through a callable.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from codecell.errors import ConfigurationError, EngineUnavailable

GIB = 1024**3
ENGINE_PACKAGES = ("docker.io", "iptables", "mmdebstrap", "debian-archive-keyring")
NEEDED_BYTES = 2 * GIB
BY_HAND = "install Docker Engine 20.10 or newer by hand, start it, and run `codecell setup` again"


class Report(Protocol):
    """Told what is being done, in a few words."""

    def __call__(self, text: str, *, detail: bool = False) -> None:
        """Show one line; a detail is some tool's own output, for displays with room for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePaths:
    """Where the distribution's engine keeps its state; tests use others."""

    run: Path = Path("/var/run")
    data: Path = Path("/var/lib/docker")
    log: Path = Path("/var/log/codecell-dockerd.log")

    def pid_files(self) -> tuple[tuple[Path, str], ...]:
        """Return (pid file, name of the process it must belong to), the engine's first."""
        return (
            (self.run / "docker.pid", "dockerd"),
            (self.run / "docker/containerd/containerd.pid", "containerd"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What has to be done so that an engine answers; `error` where nothing can be."""

    install: tuple[str, ...] = ()
    start: str = ""  # "systemd", "dockerd" or "" for nothing
    error: str = ""


def plan_engine(
    *, answers: bool, installed: bool, apt: bool, root: bool, systemd: bool, free_bytes: int
) -> Plan:
    """Decide what to do about the engine; pure."""
    if answers:
        return Plan()
    if not installed and not apt:
        return Plan(error=f"no container engine answers and this system has no apt-get; {BY_HAND}")
    if not root:
        need = "start" if installed else "install and start"
        return Plan(
            error=f"no container engine answers and it takes root to {need} one; "
            "run the same command as root, or allow `sudo -n` for this user"
        )
    if free_bytes < NEEDED_BYTES:
        return Plan(error=disk_full("the engine and the images", free_bytes, NEEDED_BYTES))
    return Plan(
        install=() if installed else ENGINE_PACKAGES, start="systemd" if systemd else "dockerd"
    )


def disk_full(what: str, free_bytes: int, needed_bytes: int, where: str = "/var/lib") -> str:
    """Say in one line that the disk is too full."""
    return (
        f"the disk is too full for {what}: {free_bytes / GIB:.1f} GiB free at {where}, "
        f"{needed_bytes / GIB:.1f} GiB needed; free some space and run the same command again"
    )


def free_bytes(path: Path) -> int:
    """Return the free space of the file system that holds, or will hold, a path."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def root_prefix() -> tuple[str, ...] | None:
    """Return what makes a command run as root: nothing, `sudo -n`, or None where neither works."""
    if os.geteuid() == 0:
        return ()
    if shutil.which("sudo") and _call(["sudo", "-n", "true"]).returncode == 0:
        return ("sudo", "-n")
    return None


def is_stale(text: str, expected: str, name_of: Callable[[int], str | None]) -> bool:
    """Tell whether a pid file's text names no living process of the expected program."""
    try:
        return name_of(int(text.strip())) != expected
    except ValueError:
        return True


def process_name(pid: int) -> str | None:
    """Return the short name of a living process; None for no such process or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return None if rest.split()[0] == "Z" else name


def ensure_engine(
    answers: Callable[[], bool],
    report: Report,
    *,
    paths: EnginePaths | None = None,
    deadline_s: float = 60.0,
) -> bool:
    """Make an engine answer at the default socket: do nothing, start one, or install and start one.

    Args:
        answers: asks the engine; may be called many times.
        report: is told, in a few words, what is being done.
        paths: where the engine's state is.
        deadline_s: seconds that a started engine has until it answers.

    Returns:
        True when something was installed or started.

    Raises:
        ConfigurationError: this machine lacks what it takes (root, apt, space).
        EngineUnavailable: the engine did not install or start; with its own last words.
    """
    paths = EnginePaths() if paths is None else paths
    if answers():
        return False
    prefix = root_prefix()
    present = installed("dockerd")
    plan = plan_engine(
        answers=False,
        installed=present,
        apt=shutil.which("apt-get") is not None,
        root=prefix is not None,
        systemd=Path("/run/systemd/system").is_dir(),
        free_bytes=free_bytes(paths.data),
    )
    if plan.error or prefix is None:
        raise ConfigurationError(plan.error)
    if plan.install:
        install_packages(plan.install, report, prefix=prefix)
        if _wait(answers, 3.0):  # the package's own script may have started it
            return True
    if plan.start == "systemd":
        _start_by_systemd(prefix, answers, report, deadline_s)
    else:
        start_dockerd(["dockerd"], prefix, answers, report, paths=paths, deadline_s=deadline_s)
    return True


def install_packages(names: Sequence[str], report: Report, *, prefix: Sequence[str]) -> None:
    """Install Debian packages with apt.

    Raises:
        ConfigurationError: there is no apt.
        EngineUnavailable: apt failed; with its last line.
    """
    if not shutil.which("apt-get"):
        raise ConfigurationError(f"{', '.join(names)} missing and no apt-get here; {BY_HAND}")
    apt = [
        *prefix,
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=120",
    ]
    report("apt-get update")
    # Its status is of no use: one unreachable third-party source fails it. The install decides.
    _follow([*apt, "update"], report)
    report(f"apt-get install {' '.join(names)}")
    code, last = _follow([*apt, "install", "-y", "--no-install-recommends", *names], report)
    if code != 0:
        raise EngineUnavailable(
            f"apt-get install {' '.join(names)} failed ({last}); "
            "correct that and run the same command again"
        )


def _start_by_systemd(
    prefix: Sequence[str], answers: Callable[[], bool], report: Report, deadline_s: float
) -> None:
    report("starting the engine (systemctl start docker)")
    done = _call([*prefix, "systemctl", "start", "docker"])
    if done.returncode != 0 or not _wait(answers, deadline_s):
        words = last_line(done.stderr.decode(errors="replace")) or "it does not answer"
        raise EngineUnavailable(
            f"systemd could not start the engine ({words}); see `journalctl -u docker`"
        )


def start_dockerd(
    command: Sequence[str],
    prefix: Sequence[str],
    answers: Callable[[], bool],
    report: Report,
    *,
    paths: EnginePaths,
    deadline_s: float,
) -> None:
    """Start dockerd on its own, detached from us, and wait until it answers.

    A second attempt follows the first when the engine gave up, after the state that a killed engine
    can leave behind has been cleared away.

    Raises:
        EngineUnavailable: it does not answer in time or gave up twice; with its last log line.
    """
    for attempt in (1, 2):
        _clear_leftovers(prefix, paths, report, thorough=attempt == 2)
        report("starting the engine (dockerd)" if attempt == 1 else "starting the engine again")
        script = 'log=$1; shift; exec "$@" </dev/null >"$log" 2>&1'
        process = subprocess.Popen(  # noqa: S603  fixed words, no shell
            [*prefix, "sh", "-c", script, "sh", str(paths.log), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env=_environment(),
        )
        if _wait(answers, deadline_s, while_true=partial(_is_running, process)):
            process.returncode = 0  # it outlives us on purpose: no ResourceWarning, no wait
            return
        if process.poll() is None:
            _end(process)
            break
    words = _last_words([*prefix, "tail", "-n", "40", str(paths.log)])
    raise EngineUnavailable(f"the engine did not start ({words}); the whole log is {paths.log}")


def _clear_leftovers(
    prefix: Sequence[str], paths: EnginePaths, report: Report, *, thorough: bool
) -> None:
    """Remove pid files of dead engines; when thorough, a dead engine's runtime state and mounts."""
    alive = False
    for path, name in paths.pid_files():
        read = _call([*prefix, "cat", str(path)])
        if read.returncode != 0:
            continue
        if is_stale(read.stdout.decode(errors="replace"), name, process_name):
            report(f"removing the stale {path.name} of a killed engine")
            _call([*prefix, "rm", "-f", str(path)])
        else:
            alive = True
    if not thorough or alive:
        return
    report("clearing what a killed engine left behind")
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    for mount in leftover_mounts(mounts, (paths.data, paths.run / "docker")):
        _call([*prefix, "umount", "-l", mount])
    _call(
        [*prefix, "rm", "-rf", str(paths.run / "docker/containerd"), str(paths.run / "docker.sock")]
    )


def leftover_mounts(mounts: str, roots: Sequence[Path]) -> list[str]:
    """Pick the mount points strictly below an engine's folders, deepest first."""
    points = [line.split()[1] for line in mounts.splitlines() if len(line.split()) > 1]
    below = [p for p in points if any(p.startswith(f"{root.resolve()}/") for root in roots)]
    return sorted(below, key=len, reverse=True)


def grant_access(socket: Path, user: str, report: Report, *, prefix: Sequence[str]) -> None:
    """Let a user who may become root use the engine: for ever by group, and now by ownership.

    The group counts from the next login on; owning the socket lasts until the engine restarts.

    Raises:
        EngineUnavailable: neither worked.
    """
    report(f"letting {user} use the engine (group docker)")
    _call([*prefix, "usermod", "-aG", "docker", user])
    if _call([*prefix, "chown", user, str(socket)]).returncode != 0:
        raise EngineUnavailable(
            f"user {user} may not use the engine at {socket}; "
            "join the group docker and log in again"
        )


def as_root(command: Sequence[str], *, prefix: Sequence[str]) -> str:
    """Run a command with root's rights and return what it printed.

    Raises:
        EngineUnavailable: it failed; with its last line.
    """
    done = _call([*prefix, *command])
    if done.returncode != 0:
        words = last_line(done.stderr.decode(errors="replace")) or f"status {done.returncode}"
        raise EngineUnavailable(f"{' '.join(command)} failed: {words}")
    return done.stdout.decode(errors="replace")


def installed(program: str) -> bool:
    """Tell whether a program is there; system folders count even where PATH leaves them out."""
    return shutil.which(program, path=system_path()) is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def system_path() -> str:
    """Return PATH with the system folders, where dockerd and mmdebstrap may be."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": system_path(), "LC_ALL": "C"}


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603  fixed words, no shell
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=_environment()
    )


def _follow(command: Sequence[str], report: Report) -> tuple[int, str]:
    """Run a command, report each line of its output, and return its status and its last line."""
    last = ""
    with subprocess.Popen(  # noqa: S603  fixed words, no shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            if line.strip():
                last = line.strip()
                report(last, detail=True)
    return process.returncode, last


def _last_words(command: Sequence[str]) -> str:
    return last_line(_call(command).stdout.decode(errors="replace")) or "it said nothing"


def _wait(
    answers: Callable[[], bool], deadline_s: float, while_true: Callable[[], bool] = lambda: True
) -> bool:
    """Ask until the engine answers, the deadline passes, or there is nobody left to answer."""
    end = time.monotonic() + deadline_s
    while True:
        if answers():
            return True
        if time.monotonic() >= end or not while_true():
            return False
        time.sleep(0.2)
