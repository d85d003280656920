"""What codecell is compared with: every peer runs the same one-line program, timed the same way."""

import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from benchmarks import machine

PYTHON = "/usr/bin/python3"
PROGRAMS = {"python": "print(1)", "javascript": "console.log(1)", "bash": "echo 1"}
BARE = {
    "python": [PYTHON, "-c", PROGRAMS["python"]],
    "javascript": [shutil.which("node") or "node", "-e", PROGRAMS["javascript"]],
    "bash": ["/bin/bash", "-c", PROGRAMS["bash"]],
}
# As codecell's own cells have them, as far as `docker run` has a flag for it.
CELL_FLAGS = [
    "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    "--user=20000:20000", "--memory=256m", "--memory-swap=256m", "--cpus=0.5", "--pids-limit=50",
    "--tmpfs=/sandbox:rw,exec,nosuid,nodev,size=64m,mode=0700,uid=20000,gid=20000",
    "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=32m", "--log-driver=none", "--ipc=private",
    "--label=codecell-bench=1",
]  # fmt: skip
ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp", "LANG": "C.UTF-8"}

Peer = Callable[[], float]


def timed(command: list[str], expect: bytes = b"1\n") -> float:
    """Run a command to its end, output captured, and return the seconds it took."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False, env=ENV)
    elapsed = time.perf_counter() - started
    if done.returncode or (expect and done.stdout != expect):
        raise RuntimeError(f"{command[:4]} failed: {done.stdout!r} {done.stderr!r}")
    return elapsed


def chrooted(root: str, code: str) -> Peer:
    """A subprocess of an image's own interpreter, its files unpacked on this machine: no walls."""
    return lambda: timed(["chroot", root, PYTHON, "-c", code], expect=b"")


def bare(language: str) -> Peer:
    """A subprocess of the interpreter on this machine, with no isolation at all."""
    return lambda: timed(BARE[language])


def docker_run_command(image: str = "codecell/python", runtime: str | None = None) -> list[str]:
    """Return the command of a container made for one run and removed after it."""
    chosen = [f"--runtime={runtime}"] if runtime else []
    return [
        "docker", "run", "--rm", *chosen, *CELL_FLAGS, image,
        PYTHON, "-c", PROGRAMS["python"],
    ]  # fmt: skip


class WarmContainer:
    """A container that waits; runs enter it by `docker exec`."""

    def __init__(self, image: str = "codecell/python") -> None:
        self.id = subprocess.run(
            ["docker", "run", "--rm", "-d", *CELL_FLAGS, image, "/bin/sleep", "100000"],
            capture_output=True, text=True, check=True, env=ENV,
        ).stdout.strip()  # fmt: skip

    def run(self) -> float:
        """Run the Python program in it."""
        return timed(["docker", "exec", self.id, PYTHON, "-c", PROGRAMS["python"]])

    def close(self) -> None:
        """Remove it."""
        subprocess.run(["docker", "rm", "-f", self.id], capture_output=True, check=False, env=ENV)


def bubblewrap() -> Peer | None:
    """All namespaces new, this machine's files read-only: bubblewrap as its manual shows it."""
    path = shutil.which("bwrap")
    if path is None:
        return None
    command = [
        path, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp",
        "--unshare-all", "--die-with-parent", "--new-session", *BARE["python"],
    ]  # fmt: skip
    with suppress(RuntimeError):
        timed(command)
        return lambda: timed(command)
    return None


def has_runtime(name: str) -> bool:
    """Tell whether the engine knows an OCI runtime."""
    return name in (machine.engine_info().get("Runtimes") or {})
