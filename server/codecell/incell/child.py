"""A process made before its program is known, on both sides of the fork."""

from __future__ import annotations

import gc
import os
import sys

from codecell.incell.channel import STDERR, STDOUT
from codecell.incell.compact import loads
from codecell.incell.files import AsOwner
from codecell.incell.libc import drop_bounds, set_dumpable
from codecell.incell.modules import MODULES
from codecell.incell.program import FAREWELL, Kernel, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
    from typing import Any, NoReturn
else:
    import _signal as signal  # the same without the enums, and so without `enum`

SANDBOX = "/sandbox"
FORK, STANDBY, KERNEL = "fork", "standby", "kernel"
WAITING = b"+"  # what a child writes where failures go, once it waits for its job
GO, OOPS = ".go", ".oops"  # behind the script's name: the pipes of one that takes no descriptors
FAILURE_CHARS = 500


class Standby:
    """An interpreter that waits by itself: how it is started, and the script that makes it wait."""

    __slots__ = ("_source", "command", "env", "file", "kernel", "main")

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        file: str,
        source: str,
        kernel: str,
        main: str,
    ) -> None:
        self.command, self.env, self.file = command, env, file
        self._source = source
        self.kernel = kernel  # what a Python is in a session, as text: see kernel.py
        self.main = main  # the program's file, where it is opened while there is no program yet

    def lay_out(self) -> None:
        """Write the script for the interpreter that is about to start."""
        if self.file:
            with open(self.file, "w", encoding="utf-8") as script:
                script.write(self._source)
        if self.main:
            with AsOwner():
                os.close(os.open(self.main, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))

    def pipe(self, name: str) -> tuple[int, int]:
        """Return a pipe's ends; it has a name where the interpreter can't close descriptors."""
        if not self.main:
            return os.pipe()
        path = self.file + name
        with AsOwner():
            os.mkfifo(path, 0o600)
            # To read and write: no hang-up while the interpreter has not opened it yet.
            return os.open(path, os.O_RDWR | os.O_NONBLOCK), os.open(path, os.O_WRONLY)

    def loaded(self) -> None:
        """Remove the script and the names: the interpreter has read them."""
        for path in (self.file, self.file + GO, self.file + OOPS):
            if self.file and os.path.exists(path):
                os.unlink(path)

    def take_back(self) -> None:
        """Remove the empty program of an interpreter that was killed before it had one."""
        if self.main:
            os.unlink(self.main)


class Child:
    """The process; it waits on `go` and then reads its job."""

    __slots__ = (
        "_go", "_job", "_job_size", "_stdin", "_stdin_size",
        "launch", "oops", "pid", "pipes", "waiting",
    )  # fmt: skip

    def __init__(self, launch: str, standby: Standby, secret: Iterable[int]) -> None:
        """Fork; of the agent's descriptors the child has no more than `secret`, which it closes."""
        self.launch = launch
        self.waiting = False
        if launch == STANDBY:
            standby.lay_out()
        self._job, self._stdin = os.memfd_create("job"), os.memfd_create("stdin")
        self._job_size = self._stdin_size = 0
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        if launch == STANDBY:
            go_r, self._go = standby.pipe(GO)
            self.oops, oops_w = standby.pipe(OOPS)
        else:
            go_r, self._go = os.pipe()
            self.oops, oops_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                for fd in (*secret, self._go, out_r, err_r, self.oops):
                    os.close(fd)
                _settle(self._stdin, out_w, err_w)
                _wait(launch, standby, go_r, self._job, oops_w)
            except Program:
                raise
            except BaseException as error:
                _fail(oops_w, error)
        for fd in (out_w, err_w, go_r, oops_w):
            os.close(fd)
        self.pipes = {out_r: STDOUT, err_r: STDERR}
        for fd in (out_r, err_r, self.oops):
            os.set_blocking(fd, False)

    def arrived(self) -> bool:
        """Note that the process waits for its job now; false if it died on the way."""
        self.waiting = os.read(self.oops, 1) == WAITING
        return self.waiting

    def add_job(self, data: memoryview) -> None:
        self._job_size += os.pwrite(self._job, data, self._job_size)

    def add_stdin(self, data: memoryview) -> None:
        self._stdin_size += os.pwrite(self._stdin, data, self._stdin_size)

    def start(self) -> None:
        os.write(self._go, b"!")
        self._shut()

    def renew(self) -> None:
        """Empty job and stdin for the next step of a session; the child has both open as well."""
        for fd in (self._job, self._stdin):
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
        self._job_size = self._stdin_size = 0

    def step(self, text: bytes) -> None:
        """Begin a step of a session; the first byte is what any waiting process waits for."""
        os.write(self._go, b"\n" + text)

    def failure(self) -> str:
        """Return the reason why the program never started, or an empty string."""
        try:
            text = os.read(self.oops, 4096)
        except BlockingIOError:
            return ""
        text = text if self.waiting else text.lstrip(WAITING)
        return text.decode("utf-8", "replace")[:FAILURE_CHARS]

    def kill(self) -> None:
        """End a process whose program has not come."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.close()

    def close(self) -> None:
        for fd in (*self.pipes, self.oops):
            os.close(fd)
        self.pipes = {}
        if self._go >= 0:
            self._shut()

    def _shut(self) -> None:
        for fd in (self._go, self._job, self._stdin):
            os.close(fd)
        self._go = self._job = self._stdin = -1


# Below this line everything happens in the child.


def _fail(oops: int, error: BaseException) -> NoReturn:
    os.write(oops, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:4096])
    os._exit(127)


def _settle(stdin: int, out: int, err: int) -> None:
    """Become the process of a run: own uid, group and streams, first to die for want of memory."""
    if os.getuid() == 0:
        _become(os.stat(SANDBOX).st_uid)
    for number in (signal.SIGCHLD, FAREWELL):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    os.dup2(stdin, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for fd in (stdin, out, err):
        os.close(fd)
    set_dumpable(dumpable=True)
    score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(score, b"1000")
    os.close(score)
    os.chdir(SANDBOX)


def _become(uid: int) -> None:
    """Lose root's uid and all that goes with it, for good; Runtime.agent_apart says why."""
    drop_bounds()
    os.setgroups([uid])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or uid == 0:
        raise PermissionError("still root")


def _wait(launch: str, standby: Standby, go: int, job: int, oops: int) -> NoReturn:
    """Wait for the program and become it."""
    if launch == STANDBY:
        _exec_standby(standby, go, job, oops)
    if launch == FORK:
        MODULES.apart()
        sys.path[0] = SANDBOX
    gc.enable()
    os.write(oops, WAITING)
    if not os.read(go, 1):
        os._exit(0)
    head = take(job)
    if head["mode"] == KERNEL:
        raise Program(head["argv"], Kernel(standby.kernel, go, job, oops, head))
    os.close(go)
    os.close(job)
    for name, value in head["env"].items():  # by `update` an empty one costs as much as 20 names
        os.environ[name] = value
    if head["mode"] == FORK:
        os.close(oops)
        raise Program(head["argv"])
    _exec(head["argv"], os.environ.copy())


def take(job: int) -> dict[str, Any]:
    """Read the job; what follows its first line, if anything, is `code`."""
    text, _, code = os.pread(job, os.fstat(job).st_size, 0).partition(b"\n")
    head: dict[str, Any] = loads(text.decode())
    head["code"] = code
    return head


def _exec_standby(standby: Standby, go: int, job: int, oops: int) -> NoReturn:
    """Start the interpreter: it reads its job from descriptor 4 when 3 says so, and fails on 5."""
    if standby.main:
        _exec(standby.command, {**os.environ, **standby.env})
    high = [os.dup2(fd, 50 + index) for index, fd in enumerate((go, job, oops))]
    for index, fd in enumerate(high):
        os.dup2(fd, 3 + index, inheritable=True)
        os.close(fd)
    _exec(standby.command, {**os.environ, **standby.env})


def _exec(argv: list[str], env: dict[str, str]) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # which Python itself sets
        signal.signal(number, signal.SIG_DFL)
    os.execve(argv[0], argv, env)
