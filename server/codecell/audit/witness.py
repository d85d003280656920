"""The observer that writes the audit log, and administrative acts from outside a server."""

import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from codecell import __version__
from codecell.audit.book import Book, open_book
from codecell.audit.writer import Writer, now
from codecell.errors import CodecellError, ConfigurationError
from codecell.model import Outcome, Request, Status
from codecell.observer import CellEvent, Observer, Run, SessionEvent
from codecell.settings import Settings

SHOWN = 200  # characters of what a caller wrote and that is not hashed
# Which limit ended a run, by its verdict.
LIMIT = {
    Status.TIMEOUT: "timeout",
    Status.OUT_OF_MEMORY: "memory",
    Status.OUTPUT_LIMIT: "output_kill",
}

log = structlog.get_logger(__name__)


class Witness(Observer):
    """Writes down what it is told."""

    def __init__(
        self, folder: Path, settings: Settings, alarm: Callable[[str | None], None]
    ) -> None:
        """Open a chain and say that a server has started.

        Raises:
            ConfigurationError: the folder can't be written.
        """
        given = settings.audit
        book, broken = _opened(folder, settings)
        dropped = book.dropped
        self._text = given.text
        self._refuse = given.on_failure == "refuse"
        self._writer = Writer(book, fsync=given.fsync, fsync_s=given.fsync_s, alarm=alarm)
        self.act("server.start", version=__version__, config=config_digest(settings))
        for name in broken:
            self.act("chain.broken", broken=name)
        if dropped:
            self.act("chain.repaired", dropped_bytes=dropped)

    def act(self, event: str, **facts: object) -> None:
        """Write down something that is no run's."""
        self._writer.put(event, partial(_act, facts))

    def close(self) -> None:
        """Say that the server stops, write what waits, let go; blocks, bounded."""
        self.act("server.stop")
        self._writer.close()

    # what is told

    def refused(self, caller: str, request: Request | None, error: CodecellError) -> None:
        """Write who was turned away and why."""
        self._writer.put("run.refused", partial(_refused, caller, request, error, text=self._text))

    def left(self, run: Run) -> None:
        """Write that a caller gave up before its turn."""
        self._writer.put("run.left", partial(_left, run))

    def admitted(self, run: Run) -> Awaitable[None] | None:
        """Write what is about to run; with `refuse` nothing runs before that is written."""
        build = partial(_admitted, run, text=self._text)
        if self._refuse:
            return self._writer.write("run.admitted", build)
        self._writer.put("run.admitted", build)
        return None

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Write the verdict and what it cost."""
        self._writer.put("run.ended", partial(_ended, run, outcome))

    def cell_created(self, event: CellEvent) -> None:
        """Write that there is a cell more."""
        self._writer.put("cell.created", partial(_cell, event))

    def cell_discarded(self, event: CellEvent) -> None:
        """Write that there is a cell less."""
        self._writer.put("cell.discarded", partial(_cell, event))

    def session(self, event: SessionEvent) -> None:
        """Write what became of a session."""
        self._writer.put(f"session.{event.action}", partial(_session, event))


@contextmanager
def administration(settings: Settings, event: str, **facts: object) -> Iterator[None]:
    """Write down an act of the operator's before it is done, and how it came out.

    Without an audit log nothing is written. The log is opened for this act alone.

    Raises:
        ConfigurationError: it can't be written and `audit.on_failure` is `refuse`; the act must
            not be done.
    """
    folder = settings.audit.folder
    if folder is None:
        yield
        return
    try:
        book, _ = _opened(folder, settings)
    except ConfigurationError:
        if settings.audit.on_failure == "refuse":
            raise
        log.exception("the audit log can't be written")
        yield
        return
    try:
        _note(book, settings, event, {**facts, "result": "begun"})
        try:
            yield
        except BaseException as error:
            _note(book, settings, event, {**facts, "result": f"failed: {_cut(str(error))}"})
            raise
        _note(book, settings, event, {**facts, "result": "done"})
    finally:
        book.close()


def _note(book: Book, settings: Settings, event: str, facts: Mapping[str, Any]) -> None:
    try:
        book.append([{"time": now(), "event": event, **_act(facts)}])
        book.sync()
    except OSError as error:
        text = f"audit.folder {settings.audit.folder}: {error.strerror or error}"
        if settings.audit.on_failure == "refuse" and facts["result"] == "begun":
            raise ConfigurationError(text) from error
        log.error("the audit log can't be written", error=text)  # noqa: TRY400  the text says it


def _opened(folder: Path, settings: Settings) -> tuple[Book, list[str]]:
    """Open a chain; also name those that are broken."""
    given = settings.audit
    book, broken = open_book(folder, rotate=int(given.rotate), keep=given.keep)
    for name in broken:
        log.error("an audit chain is broken: see `codecell audit verify`", chain=name)
    return book, broken


def config_digest(settings: Settings) -> str:
    """Return the SHA-256 of the whole configuration as it is in force."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()


def _act(facts: Mapping[str, object]) -> dict[str, Any]:
    return {"pid": os.getpid(), "uid": os.getuid(), **facts}


def _hashed(name: str, text: str, *, whole: bool) -> dict[str, Any]:
    data = text.encode(errors="surrogatepass")
    found: dict[str, Any] = {
        f"{name}_sha256": hashlib.sha256(data).hexdigest(),
        f"{name}_bytes": len(data),
    }
    if whole:
        found[name] = text
    return found


def _asked(request: Request, *, text: bool) -> dict[str, Any]:
    return {
        **_hashed("code", request.code, whole=text),
        **_hashed("stdin", request.stdin, whole=text),
        "session_id": request.session_id,
        "files": len(request.files),
        "args": len(request.args),
        "env": len(request.env),
    }


def _refused(
    caller: str, request: Request | None, error: CodecellError, *, text: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {"caller": caller}
    if request is not None:
        found |= {"language": _cut(request.language), **_asked(request, text=text)}
    return {**found, "error": type(error).__name__, "message": _cut(str(error))}


def _left(run: Run) -> dict[str, Any]:
    return {"caller": run.request.caller, "run_id": run.run_id, "language": run.plan.language}


def _admitted(run: Run, *, text: bool) -> dict[str, Any]:
    plan = run.plan
    cell, limits = plan.cell, plan.limits
    return {
        **_left(run),
        **_asked(run.request, text=text),
        "limits": {
            "timeout_s": limits.timeout_s,
            "memory": cell.limits.memory_bytes,
            "cpus": cell.limits.cpus,
            "processes": cell.limits.pids,
            "sandbox": cell.limits.sandbox_bytes,
            "tmp": cell.limits.tmp_bytes,
            "output_chars": limits.output_chars,
            "output_kill": limits.output_kill_bytes,
        },
        "image": cell.image,
        "runtime": cell.runtime,
        "network": "none",
        "seccomp": cell.seccomp.name,
        "reuse": cell.reuse,
    }


def _ended(run: Run, outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    return {
        **_left(run),
        "verdict": outcome.status.value,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "limit": LIMIT.get(outcome.status),
        "message": _cut(outcome.error_message or ""),
        "runtime": outcome.isolation.runtime,
        "image": outcome.isolation.image,
        "image_digest": outcome.isolation.image_digest,
        "usage": {
            "wall_s": usage.wall_s,
            "cpu_s": usage.cpu_s,
            "peak_memory": usage.peak_memory_bytes,
        },
        "stdout_bytes": outcome.stdout.total_bytes,
        "stderr_bytes": outcome.stderr.total_bytes,
        "elapsed_s": round(outcome.execution_time_s, 6),
    }


def _cell(event: CellEvent) -> dict[str, Any]:
    return {
        "cell": event.cell_id,
        "caller": event.caller,
        "language": event.language,
        "runs": event.runs,
        "reason": event.reason,
    }


def _session(event: SessionEvent) -> dict[str, Any]:
    return {"session": event.session_id, "caller": event.caller, "language": event.language}


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
