"""The story of a run: plan, wait for a place, take a cell, run the steps, tell the truth."""

import secrets
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Literal

import anyio
import structlog

from codecell import policy
from codecell.admission import Admission
from codecell.cases import run_cases
from codecell.ceilings import lowered, run_limits
from codecell.collection import Collection, fetched
from codecell.errors import (
    BusyError,
    CellLost,
    KeyReused,
    Leaving,
    RequestError,
    SandboxError,
)
from codecell.frames import (
    encode_job,
    encode_kernel_job,
    encode_shell_job,
    encode_shell_step,
)
from codecell.idempotency import Retries
from codecell.link import Link
from codecell.model import (
    Ending,
    Facts,
    File,
    Keep,
    LanguageInfo,
    Launch,
    Outcome,
    Plan,
    Request,
    SessionInfo,
    Step,
)
from codecell.observer import Census, Observers, Phase, Run, Watch
from codecell.pool import Pool
from codecell.quota import Quotas
from codecell.recent import Recent
from codecell.sessions import Sessions
from codecell.settings import Settings
from codecell.store import Store
from codecell.tale import Tale
from codecell.turn import Turn
from codecell.words import Words

COLLECT_S = 10.0  # for all the files of a run
STOP_S = 0.5  # for all runs in flight to be stopped

log = structlog.get_logger(__name__)


class Runner:
    """What every surface runs programs with.

    Attributes:
        store: the results that can be read later.
        observers: who is told.
        recent: the runs in flight and the latest ones, where it is among the observers.
    """

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        store: Store | None = None,
        observers: Observers | None = None,
        recent: Recent | None = None,
    ) -> None:
        self.store = store if store is not None else Store(settings.store)
        self.recent = recent if recent is not None else Recent()
        self.observers = observers if observers is not None else Observers()
        self._retries = Retries(settings.retries, pool.tasks)
        self._pool = pool
        self._settings = settings
        self._calls: set[anyio.CancelScope] = set()
        self._leaving = False
        self.sessions = Sessions(pool, settings, self.observers, self.store)
        self._admission = Admission(
            concurrent=settings.runs.concurrent,
            queue=settings.runs.queue,
            quotas=Quotas(settings.limits_of, time.monotonic),
        )

    async def execute(self, request: Request, *, watch: Watch | None = None) -> Outcome:
        """Run a program; whatever the program does is a value.

        Cancellation stops the program's processes; observers still get what it had printed. A
        request with an idempotency key runs once: its run goes on without this call.

        Raises:
            RequestError: the request can't be planned; nothing was touched.
            BusyError: no place and no room to wait.
        """
        key = request.idempotency_key
        if key is None:
            return await self._execute(request, watch)
        try:
            return await self._retries.execute(request, key, self._execute, watch)
        except KeyReused as error:
            self.observers.refused(request.caller, request, error)
            raise

    async def stop(self) -> None:
        """Stop every run, in flight or waiting, and begin no other: the server leaves.

        Their calls end with `Leaving`, so that a surface can still answer them; returns when all
        have, or after half a second.
        """
        self._leaving = True
        for scope in self._calls:
            scope.cancel()
        with anyio.move_on_after(STOP_S):
            while self._calls:  # noqa: ASYNC110  once in a server's life
                await anyio.sleep(0.005)

    async def _execute(self, request: Request, watch: Watch | None) -> Outcome:
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                return await self._planned(request, watch)
            finally:
                self._calls.remove(scope)
        raise Leaving

    async def _planned(self, request: Request, watch: Watch | None) -> Outcome:
        started = time.monotonic()
        try:
            if self._leaving:
                raise Leaving
            if any(file.uri is not None for file in request.files):
                request = fetched(request, self.store, self._settings.files)
            plan = policy.plan(request, self._settings)
            run_id = secrets.token_hex(8)
            run = Run(run_id=run_id, request=request, plan=plan, started=started)
            tale = Tale(run, self.observers, watch, self.store)
        except (BusyError, RequestError) as error:
            self.observers.refused(request.caller, request, error)
            raise
        try:
            async with (
                self._turn(plan) as turn,
                self._admission.slot(request.caller, tale.queued),
            ):
                tale.waits = False
                return await self._admitted(tale, turn)
        except (BusyError, RequestError) as error:
            self.observers.refused(request.caller, request, error)
            raise
        finally:
            if tale.waits:
                self.observers.left(run)

    async def _admitted(self, tale: Tale, turn: Turn | None) -> Outcome:
        """Run what has its place, and tell how it ended however that is."""
        plan, began = tale.plan, tale.run.started
        outcome: Outcome | None = None
        if turn:
            turn.begin(tale.run_id)
        try:
            await self.observers.admit(tale.run)
            facts = await self._run(plan, tale, turn)
            tale.session = await turn.report(facts) if turn else None
            outcome = tale.outcome(facts, time.monotonic() - began)
        except SandboxError as error:
            log.error("run failed", run_id=tale.run_id, error=str(error))  # noqa: TRY400  expected kinds
            tale.session = await turn.report(None) if turn else None
            outcome = tale.setup_error(error, time.monotonic() - began)
        except anyio.get_cancelled_exc_class():
            facts = tale.stopped or Facts(ending=Ending.CANCELLED)
            outcome = tale.outcome(facts, time.monotonic() - began)
            if turn:
                turn.note(facts)
            raise
        finally:
            if outcome is None:  # a bug of ours is passing through
                bug = SandboxError("internal error")
                outcome = tale.setup_error(bug, time.monotonic() - began)
            compiling = outcome.compile.usage.cpu_s if outcome.compile else 0.0
            self._admission.charge(plan.caller, outcome.usage.cpu_s + compiling)
            self.observers.ended(tale.run, outcome)
            log.info(
                "run", run_id=tale.run_id, caller=plan.caller, language=plan.language,
                status=outcome.status.value, wall_s=outcome.usage.wall_s, cpu_s=outcome.usage.cpu_s,
            )  # fmt: skip
        return outcome

    def _turn(self, plan: Plan) -> AbstractAsyncContextManager[Turn | None]:
        if plan.session_id is None:
            return nullcontext()
        return self.sessions.turn(plan, plan.session_id)

    async def _run(self, plan: Plan, tale: Tale, turn: Turn | None) -> Facts:
        try:
            return await self._attempt(plan, tale, turn)
        except CellLost:
            if tale.went:
                raise
        return await self._attempt(plan, tale, turn)  # the cell was dead before it was told

    async def _attempt(self, plan: Plan, tale: Tale, turn: Turn | None) -> Facts:
        tale.phase(Phase.STARTING)
        if plan.cases:
            return await self._cases(plan, tale)
        leased = turn.lease() if turn else self._pool.lease(plan.cell, plan.caller)
        async with leased as link:
            tale.isolation = link.cell.isolation
            files, gone = turn.bring(self.store) if turn else ((), ())
            facts = await self._steps(link, plan, tale, (*files, *plan.files), gone)
            tale.phase(Phase.COLLECTING)
            if facts.files_changed:
                await self._collect(link, facts.files_changed, tale)
            if turn:
                turn.pack(plan.files, tale.files)
            return facts

    async def _cases(self, plan: Plan, tale: Tale) -> Facts:
        """Run a program on several inputs; the steps before it are done once in each cell."""

        async def compiled(link: Link) -> Facts:
            tale.isolation = link.cell.isolation
            before = replace(plan, steps=plan.steps[:-1])
            facts = await self._steps(link, before, tale, plan.files, (), case="compile")
            tale.went = True
            if facts.ending is Ending.EXITED and facts.exit_code == 0:
                tale.begin(plan.steps[-1])
            return facts

        tale.tests = []
        return await run_cases(
            plan,
            lambda: self._pool.lease(plan.cell, plan.caller),
            compiled,
            lambda step: _job(step, plan),
            tale.tests,
        )

    async def _steps(
        self,
        link: Link,
        plan: Plan,
        tale: Tale,
        files: tuple[File, ...],
        gone: tuple[str, ...],
        case: Literal["", "compile"] = "",
    ) -> Facts:
        """Run the steps one after the other in one cell; the first that fails is the last."""
        facts = Facts(ending=Ending.EXITED, exit_code=0)
        for step in plan.steps:
            tale.begin(step)
            try:
                facts = await link.run(
                    step,
                    job=_job(step, plan),
                    files=files,
                    gone=gone,
                    stdin=plan.stdin if step.kind == "run" else b"",
                    limits=plan.limits,
                    on_output=tale.take,
                    case=case,
                )
            finally:
                tale.went = tale.went or link.went
                tale.stopped = link.stopped
            if step.kind == "compile":
                tale.compiled(facts)
            if facts.ending is not Ending.EXITED or facts.exit_code != 0:
                break
            files, gone = (), ()
        return facts

    async def _collect(self, link: Link, changes: int, tale: Tale) -> None:
        """Take in the files; what goes wrong is told in the result and harms nothing else."""
        collection = Collection(self.store, tale.plan.caller, tale.run_id, self._settings.files)
        try:
            await link.collect(collection.limits, collection.take, COLLECT_S)
        except SandboxError as error:
            log.warning("files were lost", run_id=tale.run_id, error=str(error))
            collection.give_up(changes)
        tale.files = collection.report()

    def list_sessions(self, caller: str) -> tuple[SessionInfo, ...]:
        """List the open sessions of a caller."""
        return self.sessions.listing(caller)

    async def close_session(self, caller: str, session_id: str) -> SessionInfo:
        """Close a session; a call that is in it is stopped.

        Raises:
            RequestError: the caller has none of that name.
        """
        policy.check_session_id(session_id)
        return await self.sessions.close(caller, session_id)

    def census(self) -> dict[str, Census]:
        """Count the pool's cells by language."""
        return self._pool.census()

    async def languages(self, caller: str = "local") -> tuple[LanguageInfo, ...]:
        """Tell what a caller can run, as really installed.

        Raises:
            SandboxError: the engine does not answer.
        """
        images = await self._pool.backend.images()
        rules = self._settings.policy_of(caller)
        limits = run_limits(None, rules.limits)
        found = []
        for language in self._settings.table.values():
            if not rules.allows(language.id):
                continue
            words = Words.of(language, rules)
            spec = policy.cell_spec(language, self._settings, rules)
            image = images.get(language.id)
            found.append(
                LanguageInfo(
                    id=language.id,
                    title=language.title,
                    aliases=language.aliases,
                    extensions=language.extensions,
                    file_name=language.file_name,
                    command=words.fill(language.run),
                    compile_command=words.fill(language.compile),
                    installed=image is not None,
                    version=image.version if image else None,
                    warm_cells=self._pool.ready(spec),
                    preinstalled=(*language.preinstalled, *(image.packages if image else ())),
                    limits=limits,
                    max_timeout_s=rules.limits.max_timeout_s,
                    cell_limits=spec.limits,
                    notes="; ".join(
                        filter(None, (language.notes, *lowered(language, rules.limits)))
                    ),
                )
            )
        return tuple(found)


def _job(step: Step, plan: Plan) -> bytes:
    """Return what the waiting process of a step is told."""
    env = dict(step.env)
    if step.keep is Keep.INTERPRETER and plan.cell.kernel is not None:
        shell = plan.cell.kernel.job == "shell"
        encode = encode_shell_step if shell else encode_kernel_job
        return encode(argv=step.argv[2 if shell else 1 :], env=env, code=step.code)
    argv = step.argv if step.launch is Launch.EXEC else step.argv[1:]
    standby = plan.cell.standby
    if step.launch is Launch.STANDBY and standby is not None and standby.job == "shell":
        return encode_shell_job(argv=argv[1:], env=env)
    return encode_job(mode=step.launch, argv=argv, env=env)
