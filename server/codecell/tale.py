"""What is known of one run while it goes, and the outcome that it comes to."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from codecell import values
from codecell.cases import tally, total
from codecell.errors import SandboxError, StoreFull
from codecell.frames import Kind
from codecell.model import (
    Captured,
    CaseResult,
    CompileReport,
    Ending,
    Facts,
    FileReport,
    Isolation,
    Outcome,
    SessionReport,
    Status,
    Step,
    Usage,
)
from codecell.observer import Observers, Phase, Place, Run, Watch
from codecell.output import UTF8_MAX, Capture, show, show_together
from codecell.spooling import Spooling
from codecell.store import Store, Writer
from codecell.verdict import signal_name, verdict

log = structlog.get_logger(__name__)


class Tale:
    """What is known of one run while it goes."""

    def __init__(self, run: Run, observers: Observers, watch: Watch | None, store: Store) -> None:
        self.run = run
        self.run_id = run.run_id
        self.plan = plan = run.plan
        self.went = False
        self.files = FileReport()
        self.waits = False
        self.stopped: Facts | None = None  # of a step that was cancelled
        self.session: SessionReport | None = None
        self.isolation = Isolation(
            runtime=plan.cell.runtime or "default", image=plan.cell.image, image_digest=""
        )
        self._step = plan.steps[-1]
        self._compile: CompileReport | None = None
        self._streams: dict[Kind, Spooling] = {}
        self.tests: list[CaseResult] = []
        self._values = Capture(plan.limits.values_bytes)
        self._store = store
        self._observers = observers
        self._watch = watch
        if watch is not None:
            watch.planned(run)

    def queued(self, place: Place) -> None:
        self.waits = True
        self._observers.queued(self.run, place)
        if self._watch is not None:
            self._watch.queued(place)

    def phase(self, phase: Phase) -> None:
        self._observers.phase(self.run, phase)
        if self._watch is not None:
            self._watch.phase(phase)

    def begin(self, step: Step) -> None:
        """Take what comes from now on for the output of this step."""
        limits = self.plan.limits
        self._step = step
        self.phase(Phase.COMPILING if step.kind == "compile" else Phase.RUNNING)
        if step.kind == "compile":
            most = limits.output_chars * UTF8_MAX
            out = err = Spooling(most, 0, most, self._begins("stdout"))
        else:
            out = Spooling.of(limits, self._begins("stdout"))
            err = Spooling.of(limits, self._begins("stderr"))
        self._streams = {Kind.STDOUT: out, Kind.STDERR: err}

    def _begins(self, name: str) -> Callable[[], Writer]:
        return lambda: self._store.writer(self.plan.caller, self.run_id, name)

    def take(self, stream: Kind, data: bytes) -> None:
        if stream is Kind.VALUES:
            self._values.add(data)
            return
        self._streams[stream].add(data)
        if self._watch is not None:
            self._watch.output("stdout" if stream is Kind.STDOUT else "stderr", data)

    def compiled(self, facts: Facts) -> None:
        """Put away what the compiler did and said; nothing of it is the program's."""
        output = self._streams[Kind.STDOUT].finish(facts.stdout_bytes + facts.stderr_bytes)
        limits = self.plan.limits
        self._compile = CompileReport(
            exit_code=facts.exit_code,
            signal=signal_name(facts.signal) if facts.signal is not None else None,
            output=show(output, min(limits.output_chars, limits.total_chars)),
            usage=facts.usage,
            timeout_s=self._step.timeout_s,
        )
        self._streams = {}

    def outcome(self, facts: Facts, elapsed_s: float) -> Outcome:
        status, message = verdict(facts, self.plan, self._step)
        if self._step.kind == "compile":  # the program never ran
            return self._outcome(
                status=status, message=message, facts=None, usage=Usage(), elapsed_s=elapsed_s
            )
        if self.plan.cases and facts.ending is not Ending.CANCELLED:
            status, message = tally(self.tests)
            # Not the compiler's facts: what it printed is not the program's.
            facts = Facts(ending=Ending.EXITED, exit_code=0 if status is Status.SUCCESS else None)
            usage = total(self.tests)
            return self._outcome(
                status=status, message=message, facts=facts, usage=usage, elapsed_s=elapsed_s
            )
        usage = facts.usage
        if usage == Usage():  # the cell died with its agent: only our own clock is left
            usage = replace(usage, wall_s=elapsed_s)
        return self._outcome(
            status=status,
            message=message,
            facts=facts,
            usage=usage,
            elapsed_s=elapsed_s,
        )

    def setup_error(self, error: SandboxError, elapsed_s: float) -> Outcome:
        return self._outcome(
            status=Status.SETUP_ERROR,
            message=str(error),
            facts=None,
            usage=Usage(),
            elapsed_s=elapsed_s,
        )

    def _outcome(
        self,
        *,
        status: Status,
        message: str | None,
        facts: Facts | None,
        usage: Usage,
        elapsed_s: float,
    ) -> Outcome:
        number = facts.signal if facts else None
        streams = self._shown(facts)
        shown = self._shown_values()
        return Outcome(
            run_id=self.run_id,
            status=status,
            exit_code=facts.exit_code if facts else None,
            signal=signal_name(number) if number is not None else None,
            stdout=streams["stdout"],
            stderr=streams["stderr"],
            usage=usage,
            execution_time_s=elapsed_s,
            error_message=message,
            plan=self.plan,
            isolation=self.isolation,
            compile=self._compile,
            files=self.files,
            session=self.session,
            result=shown.result,
            displays=shown.displays,
            tests=tuple(self.tests),
        )

    def _shown(self, facts: Facts | None) -> dict[str, Captured]:
        """Show the streams; one that is not shown whole, or to nobody, can be read later."""
        if not self._streams:
            return {"stdout": Captured(), "stderr": Captured()}
        out, err = self._streams[Kind.STDOUT], self._streams[Kind.STDERR]
        if facts is None:
            streams = {"stdout": out.finish(), "stderr": err.finish()}
        else:
            streams = {
                "stdout": out.finish(facts.stdout_bytes, facts.stdout_sha256),
                "stderr": err.finish(facts.stderr_bytes, facts.stderr_sha256),
            }
        shown = show_together(streams, self.plan.limits)
        unanswered = facts is not None and facts.ending is Ending.CANCELLED
        for name, spooling in (("stdout", out), ("stderr", err)):
            wanted = shown[name].truncated or (unanswered and streams[name].head)
            item = spooling.keep("text/plain") if wanted else None
            if item is not None:
                shown[name] = replace(shown[name], uri=item.uri, stored_bytes=item.size)
        return shown

    def _shown_values(self) -> values.Shown:
        data = self._values.kept
        if not data:
            return values.Shown()
        cut = len(data) >= self.plan.limits.values_bytes
        return values.place(values.read(data, cut=cut), self._stored)

    def _stored(self, name: str, data: bytes, mime: str) -> str | None:
        try:
            return self._store.put(self.plan.caller, self.run_id, name, data, mime=mime).uri
        except StoreFull as error:
            log.warning("a result was not stored", run_id=self.run_id, error=str(error))
            return None
