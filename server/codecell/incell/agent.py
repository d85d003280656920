"""PID 1 of a cell: does what the server says over the attached stream, and only that.

How it keeps out of the program's reach although both share a uid:
- PID 1 takes no signal from inside its namespace unless it has a handler; there are two: SIGCHLD,
  and FAREWELL, by which an interpreter of ours has PID 1 look whether its program is ending.
- It is not dumpable: it cannot be traced, and its /proc entries (descriptors, memory) are root's.
- A child closes the stream before it does anything else; a run's bytes never rest in this heap.
- Whatever the program can make many of (signals, dead processes, output) is taken a bounded number
  at a time, so that neither the server nor a deadline waits behind it.

One page, however long: signals, ends, output and orders come in any order, and who changes what one
of them does to a run must see what the others do.
"""

from __future__ import annotations

import gc
import os
import select
import time

from codecell.incell.channel import (
    CANCEL,
    CHUNK,
    COLLECT,
    CONFIG,
    DATA,
    EXIT,
    FAULT,
    FILE,
    GO,
    HELLO,
    JOB,
    NEVER,
    PROTOCOL,
    READY,
    REMOVE,
    RUN,
    STDIN,
    VALUES,
    Channel,
    ServerGone,
)
from codecell.incell.child import FORK, STANDBY, Child, Standby
from codecell.incell.compact import loads
from codecell.incell.counters import Counters
from codecell.incell.files import Tree
from codecell.incell.lazy import module
from codecell.incell.libc import set_dumpable, widen
from codecell.incell.modules import MODULES, USUAL
from codecell.incell.program import FAREWELL, Program, prepare
from codecell.incell.run import Run, exit_or_signal
from codecell.incell.session import DRAIN_BYTES, INTERRUPT_S, Session
from codecell.incell.wipe import wipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from typing import Any, NoReturn
else:
    import _signal as signal  # see child.py

FLOOD = 256 * 1024  # bytes of a stream from which on it is looked at from time to time only,
PACE_S, PIPE = 0.002, 1024 * 1024  # so often, and its pipe holds so much meanwhile
REST_S = 0.05  # a cell that nobody comes for so long has time to prepare more
DRAIN_S = 2.0  # longest wait for the end of the output once every process is dead
DELIVER_MOST = 64  # frames of files before another look at the stream
REAP_MOST = 64  # dead processes before another look at the clock and the stream
DUD, FAULTY = 71, 70  # exit codes: the waiting process died; the agent failed


class Agent:
    """The loop of PID 1."""

    __slots__ = (
        "changes", "channel", "counters", "greeted", "later", "launch", "number", "outbox", "run",
        "session", "snapshot", "spare", "standby", "tree", "wake_r", "wake_w",
    )  # fmt: skip

    def __init__(self) -> None:
        self.channel = Channel(os.dup2(0, 60, inheritable=False), os.dup2(1, 61, inheritable=False))
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        _outlive()
        set_dumpable(dumpable=False)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.wake_r, self.wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGCHLD, FAREWELL):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        self.counters = Counters()
        self.greeted = False
        self.launch = ""
        self.later: tuple[str, ...] = ()  # modules to be imported when there is time
        self.number = 0  # of the last run that was begun
        self.standby = Standby([], {}, "", "", "", "")
        self.spare: Child | None = None  # waits for its program
        self.run: Run | None = None
        self.snapshot: Any = None  # what test cases begin with
        self.tree = Tree()
        self.changes: tuple[Run, list[tuple[str, str]]] | None = None  # that the server may ask for
        self.outbox: Iterator[None] | None = None  # sends them
        self.session = Session(os.urandom(8).hex())

    def fork(self, launch: str) -> Child:
        MODULES.hide_new()
        channel = self.channel
        secret = (channel.input, channel.output, self.wake_r, self.wake_w)
        return Child(launch, self.standby, (*secret, *self.counters.descriptors()))

    # what the server says

    def handle(self, kind: int, number: int, payload: memoryview) -> None:
        run = self.run
        if kind == CONFIG:
            self.configure(loads(str(payload, "utf-8")))
        elif kind == RUN:
            self.begin(number, loads(str(payload, "utf-8")))
        elif kind == COLLECT:
            self.collect(number, loads(str(payload, "utf-8")))
        elif run is not None and number == run.number:
            self.handle_run(run, kind, payload)  # else it is a late frame of a run that is over

    def handle_run(self, run: Run, kind: int, payload: memoryview) -> None:
        if kind == FILE:
            self.tree.open(payload)
        elif kind == DATA:
            self.tree.write(payload)
        elif kind == REMOVE:
            self.tree.remove(str(payload, "utf-8"))
        elif kind == JOB:
            run.child.add_job(payload)
        elif kind == STDIN:
            run.child.add_stdin(payload)
        elif kind == GO:
            self.go(run)
        elif kind == CANCEL:
            self.stop(run, "cancelled")

    def configure(self, config: dict[str, Any]) -> None:
        self.launch = config["launch"]
        self.standby = Standby(
            config["standby"],
            config["standby_env"],
            config["standby_file"],
            config["standby_source"],
            config["kernel"],
            config["standby_main"],
        )
        if self.launch == FORK:
            MODULES.load(config["preload"])
            if config["again"]:
                MODULES.load(USUAL)
            else:
                self.later = USUAL
            prepare()
            MODULES.hide()
        gc.disable()
        gc.freeze()  # without a collection: it finds next to nothing, in 0.5 to 0.9 ms
        self.spare = self.fork(self.launch)

    def prepare_more(self) -> None:
        """Import what many programs begin with, where nobody has come for this cell at once.

        Where cells are used as fast as they are made it would be a tenth of what one costs us.
        """
        MODULES.load(self.later)
        self.later = ()
        gc.freeze()
        if self.spare is not None:
            self.spare.kill()
        self.spare = self.fork(self.launch)

    def begin(self, number: int, limits: dict[str, Any]) -> None:
        """Take the spare, or a new child where the spare is not what this run needs."""
        if self.run is not None:
            raise ValueError("a run within a run")
        self.changes = self.outbox = None
        self.later = ()
        self.number = number
        self.tree.begin()
        if limits["step"] and self.session.child is not None:
            self.session.child.renew()
            self.run = Run(number, self.session.child, limits)
            return
        child, mode = self.spare, limits["mode"]
        if child is not None and (child.launch == STANDBY) != (mode == STANDBY):
            child.kill()
            if child.launch == STANDBY:
                self.standby.take_back()
            child = None
        self.spare = None
        self.run = Run(number, child or self.fork(mode), limits)
        if limits["step"]:
            self.session.take(self.run.child)

    def go(self, run: Run) -> None:
        """Let the program begin, if its files could be written."""
        self.tree.close()
        if self.tree.failure and run.step:
            run.status, run.done = 0, True  # the interpreter never hears of it, and lives
        elif self.tree.failure:
            self.end(run, "exited")
        else:
            run.go(self.counters.read())

    # the end of a run

    def stop(self, run: Run, ending: str) -> None:
        """End a run before its time; a session's interpreter is asked to first, and may live."""
        if not run.step or run.started == 0.0 or run.ended:
            self.end(run, ending)
            return
        run.over(ending)
        run.deadline = time.monotonic() + INTERRUPT_S
        try:
            os.killpg(run.child.pid, signal.SIGINT)
        except ProcessLookupError:
            pass

    def end(self, run: Run, ending: str) -> None:
        """Kill every process in the cell and reap them all: nothing outlives a run."""
        run.over(ending)
        run.done = False
        kill_all()
        for pid, status, maxrss_kib in the_dead():
            run.reaped(pid, status, maxrss_kib)
        run.deadline = time.monotonic() + DRAIN_S
        run.gather()

    def part(self, run: Run | None) -> None:
        """Kill every process if the program is ending at this moment.

        The kernel takes 2 ms to unmap a node, and nothing that is still to be told waits for that:
        what was printed is in the pipes, and none of them runs again. They are reaped behind the
        report, before anything else happens in this cell.
        """
        if run is not None and not run.step and run.parts():
            kill_all()
            run.deadline = time.monotonic() + DRAIN_S
            run.gather()

    def reap(self) -> None:
        """Take in the dead, some at a time."""
        run = self.run
        try:
            # Once: a program can write here for ever, by SIGCHLD.
            woken = os.read(self.wake_r, 4096)
        except BlockingIOError:
            woken = b""
        # Where the kernel counts no CPU time for the cell, only reaping tells what was used.
        if FAREWELL in woken and self.counters.cpu >= 0:
            self.part(run)
        for _ in range(REAP_MOST):
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.took_in(pid, status, usage.ru_maxrss):
                return
        try:
            os.write(self.wake_w, b"+")  # there may be more
        except BlockingIOError:
            pass

    def took_in(self, pid: int, status: int, maxrss_kib: int) -> bool:
        """Act on one dead process; true where that was the end of all the others."""
        interpreter = self.session.is_child(pid)
        if self.run is not None:
            if not self.run.reaped(pid, status, maxrss_kib) and not interpreter:
                return False
            self.end(self.run, "exited")
        elif self.spare is not None and self.spare.pid == pid:
            os._exit(DUD)
        elif interpreter:
            self.bury(status)
        else:
            return False
        return True

    def finish(self, run: Run) -> None:
        """Every process is dead and the output is out: report, and forget the run."""
        facts = run.facts(self.counters.read())
        if not run.done:
            run.child.close()
            if run.child is self.session.child:
                self.session.ended()
        self.run = None
        if run.step:
            facts["failure"] = self.session.failure()
        facts["failure"] = self.tree.failure or facts["failure"]
        if run.session:
            held = self.counters.held_bytes()
            facts["session"] = self.session.facts(held)
            # The kernel keeps one peak for the cell's life: a step below it held at least this.
            facts["peak_memory_bytes"] = facts["peak_memory_bytes"] or held
        if changes := self.look(run):
            self.changes = run, changes
            facts["files"] = len(changes)
        self.channel.tell(EXIT, run.number, **facts)
        if run.parting:
            reap_all()
        if self.changes is None:
            self.renew(run)

    def look(self, run: Run) -> list[tuple[str, str]]:
        """Return what the program changed; what the compiler did is where it begins."""
        if run.ending == "cancelled":
            return []
        if run.compiles:
            self.tree.accept()
            if run.case:
                self.snapshot = module("snapshot").take()
            return []
        if run.case:
            return []
        changes = self.tree.changes()
        if changes and run.parting:  # nobody may write any more while files are read
            reap_all()
            changes = self.tree.changes()
        if run.session:
            self.tree.accept(look=False)
        return changes

    def renew(self, run: Run) -> None:
        """Make the cell ready once more, where that is wanted."""
        if run.session:
            self.stand_by(run)
        elif run.again:
            wipe()  # what it can't wipe ends the cell, as every failure of the agent does
            self.tree.forget()
            if run.case != "next":
                self.snapshot = None
            if self.snapshot is not None:
                self.snapshot.lay_out()
                self.ready()
            else:
                self.spare = self.fork(run.child.launch if run.case == "next" else self.launch)

    def stand_by(self, run: Run) -> None:
        """Have a process ready for the next step of a session, if none is that will take it."""
        if run.child.launch == STANDBY and not run.child.waiting:
            self.standby.loaded()
        if not run.compiles and not run.done:
            # Nothing waits with a file open that the session may do anything to.
            self.spare = self.fork(run.child.launch if self.standby.main else self.launch)

    def bury(self, status: int) -> None:
        """The interpreter of a session ended between two steps: so does all but the files."""
        code, number = exit_or_signal(status)
        kill_all()
        reap_all()
        if self.session.child is not None:
            self.session.child.close()
        self.session.ended(f"signal {number}" if code is None else f"code {code}")
        self.spare = self.fork(self.launch)

    def collect(self, number: int, limits: dict[str, int]) -> None:
        """Begin to send what a run has changed."""
        if self.changes is not None and self.changes[0].number == number:
            self.outbox = self.tree.send(self.channel, number, self.changes[1], limits)

    def deliver(self, outbox: Iterator[None]) -> None:
        """Send some of it, as long as there is room."""
        for _ in range(DELIVER_MOST):
            if not self.channel.room:
                return
            for _ in outbox:
                break
            else:
                if self.changes is not None:
                    run = self.changes[0]
                    self.changes = self.outbox = None
                    self.renew(run)
                return

    # the loop

    def pump(self, run: Run, fd: int) -> bool:
        """Move one chunk from a program's pipe to the server; past its cap the end is kept.

        Returns:
            Whether there was anything.
        """
        kind = run.child.pipes[fd]
        output = run.outputs[kind]
        chunk = self.channel.chunk()
        place = output.place(chunk)
        try:
            count = os.readv(fd, [place])
        except BlockingIOError:
            return False
        if count == 0:
            os.close(fd)
            del run.child.pipes[fd]
            return False
        keep = output.take(place[:count], placed=place is not chunk)
        if keep:
            self.channel.pass_on(kind, run.number, keep)
        if output.size > FLOOD and fd not in run.wide:
            run.wide[fd] = kind != VALUES and widen(fd, PIPE)
        if run.done:
            run.drained += count
        if run.too_much and run.status is None and not run.ended:
            self.stop(run, "output_limit")
        if kind == VALUES and output.size > output.keep:
            os.close(fd)  # a file, and it may be a large one
            del run.child.pipes[fd]
            return False
        return True

    def move(self, run: Run, ready: dict[int, int]) -> None:
        """Take what is in a run's pipes, as far as there is room."""
        for fd in list(run.child.pipes):
            for _ in range(PIPE // CHUNK if run.wide.get(fd) else fd in ready):
                if not self.channel.room or not self.pump(run, fd):
                    break

    def pass_ends(self, run: Run) -> bool:
        """Send the ends of the streams as far as there is room; true when all is sent."""
        for kind, output in run.outputs.items():
            while self.channel.room:
                size = output.rest(self.channel.chunk())
                if not size:
                    break
                self.channel.pass_on(kind, run.number, size)
            else:
                return False
        return True

    def poll(self) -> dict[int, int]:
        """Wait until there is something to do; return what is ready."""
        poller = select.poll()
        poller.register(self.channel.input, select.POLLIN)
        poller.register(self.wake_r, select.POLLIN)
        if self.channel.pending:
            poller.register(self.channel.output, select.POLLOUT)
        run, spare = self.run, self.spare
        if spare is not None and not spare.waiting:
            poller.register(spare.oops, select.POLLIN)
        timeout_s = self.channel.held_s
        if run is not None:
            timeout_s = min(timeout_s, self.attend(run, poller))
        elif self.outbox is not None and self.channel.room:
            timeout_s = 0.0
        elif self.later:
            timeout_s = min(timeout_s, REST_S)
        if timeout_s == NEVER:
            return dict(poller.poll())
        # Rounded up, so that a deadline has passed then; but not to look is not to wait.
        return dict(poller.poll(timeout_s * 1000 + 0.5 if timeout_s else 0))

    def attend(self, run: Run, poller: select.poll) -> float:
        """Look out for what a run does; return the seconds until the next look at the latest."""
        now = time.monotonic()
        timeout_s = max(0.0, run.deadline - now)
        # What a short run prints is read when it ends: to be woken for it costs as much as to run.
        young_s = run.started + PACE_S - now if run.status is None else 0.0
        if run.step and run.status is None and not self.session.deaf:
            poller.register(run.child.oops, select.POLLIN)
        if not self.channel.room:
            return timeout_s  # output waits meanwhile: the pipe is the backpressure
        for fd in run.child.pipes:
            if run.status is None and run.wide.get(fd):
                timeout_s = min(timeout_s, PACE_S)  # else each 8 kB of a flood would wake us
            elif young_s > 0.0:
                timeout_s = min(timeout_s, young_s)
            else:
                poller.register(fd, select.POLLIN)
        return 0.0 if run.done else timeout_s  # what is in the pipes is all there is to come

    def welcome(self, spare: Child) -> None:
        """Say that a child waits, or give the cell up."""
        if not spare.arrived():
            os._exit(DUD)
        self.standby.loaded()
        if not self.greeted:
            self.greeted = True
            counts = self.counters.oom >= 0
            self.channel.tell(HELLO, 0, protocol=PROTOCOL, boot=self.session.boot, counts=counts)
        self.ready()

    def ready(self) -> None:
        """Say that a run can come, and behind which: one may be on its way already."""
        self.channel.tell(READY, self.number, memory_bytes=self.counters.held_bytes())

    def loop(self) -> NoReturn:
        while True:
            ready = self.poll()
            if self.channel.output in ready:
                self.channel.flush()  # first: what waits for room is only looked at below
            if self.wake_r in ready:
                self.reap()
            if self.spare is not None and self.spare.oops in ready:
                self.welcome(self.spare)
            if self.channel.input in ready:
                for kind, number, payload in self.channel.receive():
                    self.handle(kind, number, payload)
            if self.run is not None:
                self.serve(self.run, ready)
            else:
                self.between_runs(ready)
            if self.channel.held_out:
                self.channel.flush()

    def between_runs(self, ready: dict[int, int]) -> None:
        """Send what the last run has changed, or use a quiet moment."""
        if self.outbox is not None:
            self.deliver(self.outbox)
        elif self.later and self.greeted and not ready:
            self.prepare_more()

    def serve(self, run: Run, ready: dict[int, int]) -> None:
        """Move output, and see whether the run is over."""
        if not run.told:  # then nothing more belongs to it: what lives on may print for ever
            self.move(run, ready)
        if run.step and run.status is None and not self.session.deaf:
            code = self.session.heard(run.number)
            if code is not None:
                # As wait4 would have it: an exit code, or the signal that it was interrupted by.
                run.status, run.done = signal.SIGINT if run.ended else code << 8, True
                run.over("exited")
                run.deadline = time.monotonic() + DRAIN_S
                run.gather()
        late = time.monotonic() >= run.deadline
        if run.status is None:
            if late and run.ended:
                self.end(run, run.ending)
            elif late:
                self.stop(run, "timeout")
        elif late:
            self.finish(run)
        elif run.told or self.at_end(run):
            run.told = True
            if self.pass_ends(run):
                self.finish(run)

    def at_end(self, run: Run) -> bool:
        """Tell whether all output is in: nobody is left who could write more, or none waits."""
        return not run.child.pipes or ((run.parting or run.done) and self.drained(run))

    def drained(self, run: Run) -> bool:
        """Move what is left in the pipes; false while there is no room for it.

        What lives on after a step may print for ever.
        """
        for fd in list(run.child.pipes):
            while self.channel.room and run.drained <= 2 * DRAIN_BYTES and self.pump(run, fd):
                pass
        return self.channel.room


def _outlive() -> None:
    """Be the last to die for want of memory.

    A program may lower its own score as far as the engine left it room (to 0, with runc 1.1), and
    would then outlive an agent that still has the engine's.
    """
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("0")
    except OSError:
        pass  # the engine left no room: none for the program either


def kill_all() -> None:
    """Kill every process in the cell but this one."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass


def reap_all() -> None:
    """Wait until every process is dead."""
    for _ in the_dead():
        pass


def the_dead() -> Iterator[tuple[int, int, int]]:
    """Reap until there is no child left: pid, wait status, largest resident size in KiB."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return
        yield pid, status, usage.ru_maxrss


def main() -> Program:
    """Serve until the server goes; in a forked child, return the Python program to run."""
    agent = Agent()
    try:
        agent.loop()
    except Program as program:
        return program
    except ServerGone:
        os._exit(0)
    except BaseException as error:
        if os.getpid() != 1:
            raise
        os.set_blocking(agent.channel.output, True)  # a report may still be on its way
        agent.channel.tell(FAULT, 0, error=f"{type(error).__name__}: {error}"[:300])
        os._exit(FAULTY)
