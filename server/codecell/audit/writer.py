"""The thread that writes a book: in order, in batches, bounded, never silent about a failure."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import anyio
import structlog
from anyio.lowlevel import EventLoopToken, current_token

from codecell.audit.book import Book
from codecell.errors import SandboxError

MOST_WAITING = 10_000
BATCH = 256
RETRY_S = 1.0
CLOSE_S = 1.5

log = structlog.get_logger(__name__)

Build = Callable[[], Mapping[str, Any]]


class AuditFailed(SandboxError):
    """The audit log can't be written, and without it nothing may run."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One record on its way; what takes time, such as hashing, `build` does in the thread."""

    event: str
    build: Build
    time: str
    written: anyio.Event | None = None
    token: EventLoopToken | None = None
    error: str | None = None
    record: Mapping[str, Any] | None = field(default=None)

    def made(self) -> Mapping[str, Any]:
        if self.record is None:
            self.record = {"time": self.time, "event": self.event, **self.build()}
        return self.record


class Writer:
    """Takes records from the event loop and writes them in a thread of its own.

    Attributes:
        trouble: why the log can't be written just now; None while it can.
        lost: records that were dropped because too many waited for a log that failed.
    """

    def __init__(
        self,
        book: Book,
        *,
        fsync: Literal["always", "interval", "never"] = "interval",
        fsync_s: float = 1.0,
        alarm: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """Start the thread.

        Args:
            book: what is written to; closed with the writer.
            fsync: when lines are forced to the disk.
            fsync_s: how often, for `interval`.
            alarm: told, in the thread, of each failure (a text) and of its end (None).
        """
        self.trouble: str | None = None
        self.lost = 0
        self._book = book
        self._fsync, self._fsync_s = fsync, fsync_s
        self._alarm = alarm
        self._waiting: deque[_Entry] = deque()
        self._some = threading.Condition()
        self._closing = False
        self._unsynced: float | None = None  # since when
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()

    def put(self, event: str, build: Build) -> None:
        """Have a record written soon; never waits. Past the bound it is counted as lost."""
        entry = _Entry(event, build, now())
        with self._some:
            if len(self._waiting) >= MOST_WAITING:
                self.lost += 1
                return
            self._waiting.append(entry)
            self._some.notify()

    async def write(self, event: str, build: Build) -> None:
        """Have a record written, and wait until it is.

        Raises:
            AuditFailed: it could not be; the record is withdrawn.
        """
        entry = _Entry(event, build, now(), anyio.Event(), current_token())
        with self._some:
            if len(self._waiting) >= MOST_WAITING or self._closing:
                raise AuditFailed("the audit log can't be written: too much waits for it")
            self._waiting.append(entry)
            self._some.notify()
        assert entry.written is not None  # noqa: S101  made above
        await entry.written.wait()
        if entry.error is not None:
            raise AuditFailed(f"the audit log can't be written: {entry.error}")

    def close(self) -> None:
        """Write what waits, force it to the disk and let go; blocks, bounded."""
        with self._some:
            self._closing = True
            self._some.notify()
        self._thread.join(CLOSE_S)

    # the thread

    def _work(self) -> None:
        while True:
            with self._some:
                while not self._waiting and not self._closing:
                    if not self._some.wait(self._patience()):
                        break
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
                closing = self._closing
                done = closing and not self._waiting
            if batch:
                self._write(batch, last=closing)
            self._sync(force=done)
            if done:
                break
        with suppress(OSError):
            self._book.close()

    def _patience(self) -> float | None:
        if self._unsynced is None:
            return None
        return max(0.0, self._unsynced + self._fsync_s - time.monotonic())

    def _write(self, batch: list[_Entry], *, last: bool) -> None:
        lost = self.lost
        try:
            records = [entry.made() for entry in batch]
            if lost:
                records.append({"time": now(), "event": "chain.lost", "records": lost})
            self._book.append(records)
            self.lost -= lost
            if self._fsync == "always":
                self._synced(batch)
                return
        except OSError as error:
            self._failed(batch, error.strerror or str(error), last=last)
            return
        except Exception as error:  # a bug of ours; whoever waits must hear of it
            log.exception("writing the audit log failed")
            self._failed(batch, type(error).__name__, last=last)
            return
        if self._fsync == "interval" and self._unsynced is None:
            self._unsynced = time.monotonic()
        self._tell(None)
        _answer(batch)

    def _synced(self, batch: list[_Entry]) -> None:
        """Force what was written to the disk; where that fails, nobody may rely on it."""
        text = None
        try:
            self._book.sync()
        except OSError as error:
            text = error.strerror or str(error)
        self._tell(text)
        for entry in batch:
            entry.error = text
        _answer(batch)

    def _failed(self, batch: list[_Entry], text: str, *, last: bool) -> None:
        """Withdraw what somebody waits for, keep the rest for the next try.

        What was begun before the closing is tried once more: there may be room by now.
        """
        self._tell(text)
        waited = [entry for entry in batch if entry.written is not None]
        for entry in waited:
            entry.error = text
        _answer(waited)
        with self._some:
            rest = [entry for entry in batch if entry.written is None]
            if last:
                self.lost += len(rest) + len(self._waiting)
                self._waiting.clear()
                log.error("audit records lost", records=self.lost)
                return
            self._waiting.extendleft(reversed(rest))
            if not self._closing and not any(entry.written for entry in self._waiting):
                self._some.wait(RETRY_S)

    def _sync(self, *, force: bool) -> None:
        if self._unsynced is None:
            return
        if force or time.monotonic() - self._unsynced >= self._fsync_s:
            self._unsynced = None
            try:
                self._book.sync()
            except OSError as error:
                self._tell(error.strerror or str(error))

    def _tell(self, trouble: str | None) -> None:
        if (trouble is None) == (self.trouble is None):
            self.trouble = trouble
            return
        self.trouble = trouble
        if trouble is None:
            log.warning("the audit log is written again")
        else:
            log.error("the audit log can't be written", chain=self._book.name, error=trouble)
        self._alarm(trouble)


def _answer(entries: list[_Entry]) -> None:
    """Wake those who wait, each loop once."""
    tokens = {entry.token for entry in entries if entry.token is not None}
    for token in tokens:
        events = [e.written for e in entries if e.token == token and e.written is not None]

        def wake(events: list[anyio.Event] = events) -> None:
            for event in events:
                event.set()

        with suppress(RuntimeError):  # the loop has ended; nobody waits any more
            anyio.from_thread.run_sync(wake, token=token)


def now() -> str:
    """Return the time as the log has it: UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
