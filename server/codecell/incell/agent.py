"""PID 1 of a cell: does what the server says over the attached stream, and nothing the program says.

Sent over the stream when the cell starts and executed by the image's own python3 (3.9 or newer), so
any image with python3 can be a cell. Standard library only; never imported by the server.

How it keeps out of the program's reach although both share a uid:
- PID 1 takes no signal from inside its namespace unless it has a handler; the only one is SIGCHLD.
- PR_SET_DUMPABLE=0: it cannot be traced, and its /proc entries (descriptors, memory) are root's.
- A child closes the stream before it does anything else; a run's bytes never rest in this heap (they
  pass through two mappings that a fork does not inherit), so no run can find an earlier one's.

One frame is `magic u8, type u8, run u32, length u32` in network order, then the payload.
server/codecell/frames.py is the other side.
"""

import os
import sys

FRESH = frozenset(sys.modules) - {"linecache"}  # which `-c`, by which we come, brings along

import builtins


class Modules:
    """Modules imported ahead of time, kept out of `sys.modules` until the program imports them.

    `edges` notes which module asked for which, so that an import restores just what it would have
    loaded: a program can't tell from `sys.modules` that anything was prepared.
    """

    def __init__(self):
        self.edges = {}
        self.stash = {}
        self.prepared = frozenset()

    def load(self, names):
        """Import what there is of `names`."""
        original = builtins.__import__

        def importing(name, globals=None, locals=None, fromlist=(), level=0):
            module = original(name, globals, locals, fromlist, level)
            importer = (globals or {}).get("__name__", "")
            base = name
            if level:
                package = globals.get("__package__") or importer
                base = ".".join(filter(None, (package.rsplit(".", level - 1)[0], name)))
            found = self.edges.setdefault(importer, set())
            found.add(base)
            found.update(base + "." + item for item in fromlist or () if isinstance(item, str))
            return module

        builtins.__import__ = importing
        try:
            for name in names:
                try:
                    original(name)
                except ImportError:
                    continue
        finally:
            builtins.__import__ = original

    def hide(self):
        """Leave in `sys.modules` what a fresh interpreter has; hand the rest out on import."""
        for name in list(sys.modules):
            if name not in FRESH:
                self.stash[name] = sys.modules.pop(name)
        self.prepared = frozenset(self.stash)
        if "numpy.random" in self.stash:
            self.stash["numpy.random"].seed()  # drawn before the fork: the same in every child
        find_and_load = _bootstrap._find_and_load

        def _find_and_load(name, import_):
            if name in self.stash:
                self._restore(name)
            return find_and_load(name, import_)

        _bootstrap._find_and_load = _find_and_load

    def _restore(self, name):
        todo = [name]
        while todo:
            current = todo.pop()
            module = self.stash.pop(current, None)
            if module is None:
                continue
            sys.modules[current] = module
            todo.extend(self.edges.get(current, ()))
            parent = current.rpartition(".")[0]
            if parent:
                todo.append(parent)


OWN = [
    "atexit",
    "ctypes",
    "gc",
    "json",
    "mmap",
    "resource",
    "select",
    "signal",
    "struct",
    "time",
    "importlib.machinery",
]
MODULES = Modules()
MODULES.load(OWN)

import atexit
import ctypes
import gc
import json
import mmap
import resource
import select
import signal
import struct
import time
from importlib import _bootstrap
from importlib.machinery import SourceFileLoader

HEADER = struct.Struct(">BBII")
MAGIC = 0xCC
PROTOCOL = 1
CHUNK = 64 * 1024
BUFFER = 4 * CHUNK
SANDBOX = "/sandbox"
PR_SET_DUMPABLE = 4
CONFIG, RUN, JOB, STDIN, GO, CANCEL = 1, 2, 3, 4, 5, 6
HELLO, READY, STDOUT, STDERR, EXIT, FAULT = 65, 66, 67, 68, 69, 70
WAITING = b"+"  # what a child writes where failures go, once it waits for its job
DRAIN_S = 2.0  # longest wait for the end of the output once every process is dead

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def unforked_buffer(size):
    """Return a writable view of memory that a fork does not inherit, and that is never unmapped.

    Not `mmap.mmap`: a child has a hole at the address, and freeing the object there, when the
    child's interpreter ends, would unmap whatever the program has had put into the hole since.
    """
    address = libc.mmap(None, size, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value) or libc.madvise(address, size, 10) != 0:
        raise OSError(ctypes.get_errno(), "mmap")  # 10 is MADV_DONTFORK
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


class Counters:
    """The cell's own cgroup counters (version 1 or 2), kept open; absent under gVisor."""

    def __init__(self):
        self.v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        base = "/sys/fs/cgroup/"
        if self.v2:
            names = ("cpu.stat", "memory.peak", "memory.events")
        else:
            names = (
                "cpuacct/cpuacct.usage",
                "memory/memory.max_usage_in_bytes",
                "memory/memory.oom_control",
            )
        self.cpu, self.peak, self.oom = (self._open(base + name) for name in names)

    @staticmethod
    def _open(path):
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1

    @staticmethod
    def _read(fd):
        if fd < 0:
            return b""
        try:
            return os.pread(fd, 1024, 0)
        except OSError:
            return b""

    @staticmethod
    def _field(text, name):
        for line in text.splitlines():
            key, _, value = line.partition(b" ")
            if key == name:
                return int(value)
        return 0

    def cpu_s(self):
        """CPU seconds of everything in the cell so far, or None where the kernel does not tell."""
        text = self._read(self.cpu)
        if not text:
            return None
        return self._field(text, b"usage_usec") / 1e6 if self.v2 else int(text) / 1e9

    def peak_bytes(self):
        text = self._read(self.peak)
        return int(text) if text.strip().isdigit() else 0

    def oom_kills(self):
        return self._field(self._read(self.oom), b"oom_kill")


class Child:
    """A process made before its program is known; it waits on `go` and then reads its job."""

    def __init__(self, agent, launch):
        self.launch = launch
        self.job = os.memfd_create("job")
        self.stdin = os.memfd_create("stdin")
        self.job_size = self.stdin_size = 0
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        go_r, self.go = os.pipe()
        self.oops, oops_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for fd in (agent.input, agent.output, agent.wake_r, agent.wake_w, self.go):
                    os.close(fd)
                for fd in (out_r, err_r, self.oops):
                    os.close(fd)
                agent.counters_close()
                _enter_child(agent, launch, (self.stdin, out_w, err_w, go_r, self.job, oops_w))
            except Program:
                raise
            except BaseException as error:
                _oops(oops_w, error)
        for fd in (out_w, err_w, go_r, oops_w):
            os.close(fd)
        self.pipes = {out_r: STDOUT, err_r: STDERR}
        for fd in (out_r, err_r, self.oops):
            os.set_blocking(fd, False)
        self.waiting = False

    def arrived(self):
        """Note that the process waits for its job now; false if it died on the way."""
        self.waiting = os.read(self.oops, 1) == WAITING
        return self.waiting

    def start(self):
        os.write(self.go, b"!")
        os.close(self.go)
        os.close(self.job)
        os.close(self.stdin)
        self.go = -1

    def failure(self):
        """The reason why the program never started, or an empty string."""
        try:
            text = os.read(self.oops, 4096)
        except BlockingIOError:
            return ""
        return (text if self.waiting else text.lstrip(WAITING)).decode("utf-8", "replace")[:500]

    def close(self):
        for fd in [*self.pipes, self.oops]:
            os.close(fd)
        self.pipes = {}
        if self.go >= 0:
            for fd in (self.go, self.job, self.stdin):
                os.close(fd)


class Program(Exception):
    """Carries a Python program up to the bottom of the child's stack, where it is run."""


def _oops(fd, error):
    os.write(fd, ("%s: %s" % (type(error).__name__, error)).encode("utf-8", "replace")[:4096])
    os._exit(127)


def _enter_child(agent, launch, fds):
    """Become the process of a run: own group, own streams, first to die when memory runs out."""
    stdin, out, err, go, job, oops = fds
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    os.dup2(stdin, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for fd in (stdin, out, err):
        os.close(fd)
    if libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    os.chdir(SANDBOX)
    if launch == "standby":
        _exec_standby(agent, go, job, oops)
    if launch == "fork":
        MODULES.hide()
        sys.path[0] = SANDBOX
    gc.enable()
    os.write(oops, WAITING)
    if not os.read(go, 1):
        os._exit(0)
    os.close(go)
    size = os.fstat(job).st_size
    with mmap.mmap(job, size, prot=mmap.PROT_READ) as data:
        length = int.from_bytes(data[:4], "big")
        head = json.loads(data[4 : 4 + length])
        _write_files(head["files"], data, 4 + length)
    os.close(job)
    os.environ.update(head["env"])
    if head["mode"] == "fork":
        os.close(oops)
        raise Program(head["argv"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve(head["argv"][0], head["argv"], os.environ)


def _exec_standby(agent, go, job, oops):
    """Start the interpreter now; it reads its job from descriptor 4 when 3 says so; 5 tells failures."""
    high = [os.dup2(fd, 50 + index) for index, fd in enumerate((go, job, oops))]
    for index, fd in enumerate(high):
        os.dup2(fd, 3 + index, inheritable=True)
        os.close(fd)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve(agent.standby[0], agent.standby, {**os.environ, **agent.standby_env})


def _write_files(files, data, offset):
    for path, mode, size in files:
        if "/" in path[len(SANDBOX) + 1 :]:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        try:
            end = offset + size
            while offset < end:
                offset += os.write(fd, data[offset : min(end, offset + 1024 * 1024)])
        finally:
            os.close(fd)


def run_program(argv):
    """Run a Python program as `python3 PROGRAM ARGS` would, in this already initialised interpreter.

    Does not return. The interpreter is not torn down, which would touch, and so copy, every page
    that the child shares with the agent (2.7 ms of a 4.1 ms run); what a program can see of the end
    is done in the interpreter's own order: threads, atexit, flush, destructors, flush.
    """
    path = argv[0]
    module = type(sys)("__main__")
    module.__dict__.update(
        __file__=path,
        __cached__=None,
        __builtins__=builtins,
        __loader__=SourceFileLoader("__main__", path),
        __annotations__={},
    )
    sys.modules["__main__"] = module
    sys.argv[:] = argv
    sys.orig_argv[:] = [sys.executable, *argv]
    old = sys.stdin
    buffer = open(0, "rb", closefd=False)
    buffer.raw.name = "<stdin>"
    sys.stdin = sys.__stdin__ = type(old)(buffer, old.encoding, old.errors, "\n")
    sys.stdin.mode = "r"
    status = 0
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except SystemExit as error:
        status = _exit_status(error.code)
    except BaseException as error:
        error.__traceback__ = error.__traceback__.tb_next  # less this frame
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    del module, old
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    status = _flush(status)
    sys.modules.pop("__main__", None)
    gc.collect()  # young objects only: what was there before the fork is frozen
    own = [name for name in sys.modules if name not in FRESH and name not in MODULES.prepared]
    for name in own:
        del sys.modules[name]
    if own:
        gc.collect()
    status = _flush(status)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


def _exit_status(code):
    """What `sys.exit(code)` means, as the interpreter has it."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _flush(status):
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:
            pass  # closed by the program
        except BaseException:
            status = status or 120
    return status


class Agent:
    """The loop of PID 1."""

    def __init__(self):
        self.input = os.dup2(0, 60, inheritable=False)
        self.output = os.dup2(1, 61, inheritable=False)
        os.set_blocking(self.output, False)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        self.inview, self.outview = unforked_buffer(BUFFER), unforked_buffer(BUFFER)
        self.in_end = self.out_start = self.out_end = 0
        if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.wake_r, self.wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        self.counters = Counters()
        self.launch, self.standby, self.standby_env, self.standby_file = "exec", [], {}, ""
        self.child = None  # the waiting or running process
        self.run = None  # the run in flight

    def counters_close(self):
        for fd in (self.counters.cpu, self.counters.peak, self.counters.oom):
            if fd >= 0:
                os.close(fd)

    # frames out

    def frame(self, kind, run, payload=b""):
        """Queue a small frame; there is always room for one beside a full chunk of output."""
        end = self.out_end
        HEADER.pack_into(self.outview, end, MAGIC, kind, run, len(payload))
        self.outview[end + HEADER.size : end + HEADER.size + len(payload)] = payload
        self.out_end = end + HEADER.size + len(payload)
        self.flush()

    def tell(self, kind, run, **facts):
        self.frame(kind, run, json.dumps(facts).encode())

    def flush(self):
        while self.out_start < self.out_end:
            try:
                self.out_start += os.write(self.output, self.outview[self.out_start : self.out_end])
            except BlockingIOError:
                return
            except OSError:
                os._exit(0)  # nobody is left to tell
        self.out_start = self.out_end = 0

    # frames in

    def receive(self):
        count = os.readv(self.input, [self.inview[self.in_end :]])
        if count == 0:
            os._exit(0)  # the server is gone: so is the cell
        self.in_end += count
        start = 0
        while self.in_end - start >= HEADER.size:
            magic, kind, run, length = HEADER.unpack_from(self.inview, start)
            if magic != MAGIC or length > CHUNK:
                raise ValueError("not a frame")
            if self.in_end - start < HEADER.size + length:
                break
            start += HEADER.size
            self.handle(kind, run, self.inview[start : start + length])
            start += length
        if start:
            rest = self.in_end - start
            self.inview[:rest] = self.inview[start : self.in_end]
            self.in_end = rest

    def handle(self, kind, run, payload):
        if kind == CONFIG:
            self.configure(json.loads(bytes(payload)))
        elif kind == RUN:
            self.begin(run, json.loads(bytes(payload)))
        elif self.run is None or run != self.run["id"]:
            return  # a late frame of a run that is over
        elif kind == JOB:
            self.child.job_size += os.pwrite(self.child.job, payload, self.child.job_size)
        elif kind == STDIN:
            self.child.stdin_size += os.pwrite(self.child.stdin, payload, self.child.stdin_size)
        elif kind == GO:
            self.go()
        elif kind == CANCEL:
            self.end("cancelled")

    def configure(self, config):
        self.launch, self.standby = config["launch"], config["standby"]
        self.standby_env = config["standby_env"]
        if config.get("standby_source"):
            self.standby_file = config["standby_file"]
            with open(self.standby_file, "w", encoding="utf-8") as file:
                file.write(config["standby_source"])
        MODULES.load(config["preload"])
        self.tell(HELLO, 0, protocol=PROTOCOL, boot=os.urandom(8).hex())
        gc.collect()
        gc.disable()
        gc.freeze()
        self.child = Child(self, self.launch)

    def begin(self, run, limits):
        mode = limits["mode"]
        if self.child is None or (self.launch == "standby") != (mode == "standby"):
            if self.child is not None:
                self.discard_child()
            self.child = Child(self, mode)
        self.run = {
            "id": run,
            "ending": "exited",
            "keep": {STDOUT: limits["keep"], STDERR: limits["keep"]},
            "kill_bytes": limits["kill_bytes"],
            "timeout_s": limits["timeout_s"],
            "bytes": {STDOUT: 0, STDERR: 0},
            "status": None,
            "maxrss": 0,
            "deadline": None,
        }

    def discard_child(self):
        os.kill(self.child.pid, signal.SIGKILL)
        os.waitpid(self.child.pid, 0)
        self.child.close()
        self.child = None

    def go(self):
        run = self.run
        run["cpu"] = self.counters.cpu_s()
        run["self"] = time.process_time()
        run["children"] = _children_cpu()
        run["peak"] = self.counters.peak_bytes()
        run["oom"] = self.counters.oom_kills()
        run["started"] = time.monotonic()
        run["deadline"] = run["started"] + run["timeout_s"]
        self.child.start()

    # the end of a run

    def end(self, ending):
        """Kill every process in the cell and reap them all: nothing outlives a run."""
        run = self.run
        if run["status"] is None:
            run["ending"] = ending
            run["ended"] = time.monotonic()
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        while True:
            try:
                self.reaped(*os.wait4(-1, 0))
            except ChildProcessError:
                break
        run["deadline"] = time.monotonic() + DRAIN_S

    def reap(self):
        try:
            while os.read(self.wake_r, 512):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.reaped(pid, status, usage):
                self.end("exited")
                return

    def reaped(self, pid, status, usage):
        """Note one dead process; true when it was the program itself."""
        run = self.run
        if run is None:
            if self.child is not None and pid == self.child.pid:
                os._exit(71)  # the waiting process died before its program came: a dud cell
            return False
        run["maxrss"] = max(run["maxrss"], usage.ru_maxrss * 1024)
        if pid != self.child.pid:
            return False
        run["status"] = status
        run.setdefault("ended", time.monotonic())
        return True

    def finish(self):
        """Every process is dead and the output is out: report, and forget the run."""
        run, child = self.run, self.child
        status = run["status"]
        cpu, peak = self.counters.cpu_s(), self.counters.peak_bytes()
        if cpu is not None and run.get("cpu") is not None:
            cpu_s = cpu - run["cpu"] - (time.process_time() - run["self"])
        else:
            cpu_s = _children_cpu() - run.get("children", 0.0)
        facts = {
            "ending": run["ending"],
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "oom_kills": self.counters.oom_kills() - run.get("oom", 0),
            "wall_s": run["ended"] - run.get("started", run["ended"]),
            "cpu_s": max(cpu_s, 0.0),
            "peak_memory_bytes": peak if peak > run.get("peak", 0) else run["maxrss"],
            "stdout_bytes": run["bytes"][STDOUT],
            "stderr_bytes": run["bytes"][STDERR],
            "failure": child.failure(),
        }
        child.close()
        self.child = self.run = None
        self.tell(EXIT, run["id"], **facts)

    # the loop

    def pump(self, fd, kind):
        """Move one chunk from a program's pipe to the server; past the cap it is only counted."""
        run = self.run
        at = self.out_end + HEADER.size
        try:
            count = os.readv(fd, [self.outview[at : at + CHUNK]])
        except BlockingIOError:
            return
        if count == 0:
            os.close(fd)
            del self.child.pipes[fd]
            return
        run["bytes"][kind] += count
        keep = min(count, run["keep"][kind])
        if keep:
            run["keep"][kind] -= keep
            HEADER.pack_into(self.outview, self.out_end, MAGIC, kind, run["id"], keep)
            self.out_end = at + keep
            self.flush()
        total = run["bytes"][STDOUT] + run["bytes"][STDERR]
        if total > run["kill_bytes"] and run["status"] is None:
            self.end("output_limit")

    def poll(self):
        poller = select.poll()
        poller.register(self.input, select.POLLIN)
        poller.register(self.wake_r, select.POLLIN)
        if self.out_end:
            poller.register(self.output, select.POLLOUT)
        run = self.run
        timeout = None
        if run is None and self.child is not None and not self.child.waiting:
            poller.register(self.child.oops, select.POLLIN)
        if run is not None:
            # Output is taken only while there is room to pass it on: the pipe is the backpressure.
            if self.out_end + HEADER.size + CHUNK < BUFFER - 2 * HEADER.size - 4096:
                for fd in self.child.pipes:
                    poller.register(fd, select.POLLIN)
            if run["deadline"] is not None:
                timeout = max(0.0, run["deadline"] - time.monotonic()) * 1000 + 0.5
        return dict(poller.poll(timeout))

    def loop(self):
        while True:
            ready = self.poll()
            if self.output in ready:
                self.flush()
            if self.wake_r in ready:
                self.reap()
            if self.child is not None and self.child.oops in ready:
                if not self.child.arrived():
                    os._exit(71)
                if self.standby_file:
                    os.unlink(self.standby_file)
                self.frame(READY, 0)
            if self.input in ready:
                self.receive()
            run = self.run
            if run is None or (run["deadline"] is None and run["status"] is None):
                continue
            for fd, kind in list(self.child.pipes.items()):
                if fd in ready:
                    self.pump(fd, kind)
            late = time.monotonic() >= run["deadline"]
            if run["status"] is None:
                if late:
                    self.end("timeout")
            elif not self.child.pipes or late:
                self.finish()


def _children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main():
    """Serve until the server goes; in a forked child, return the Python program to run."""
    agent = Agent()
    try:
        agent.loop()
    except Program as program:
        return program.args[0]
    except BaseException as error:
        if os.getpid() != 1:
            raise
        agent.tell(FAULT, 0, error="%s: %s" % (type(error).__name__, error))
        os._exit(70)
