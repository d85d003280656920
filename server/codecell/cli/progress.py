"""Show how far the set-up is: bars on a terminal, one line per stage elsewhere; on stderr."""

import sys
import time
from threading import Lock
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

HEARTBEAT_S = 5.0


class Display:
    """Receives progress from any thread; satisfies the images' `Progress`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._lock = Lock()
        self._began = time.monotonic()
        self._shown: dict[str, tuple[int, float]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None
        if self._console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=20),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}", markup=False, table_column=None),
                console=self._console,
            )

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; what was drawn stays."""
        if self._bars is not None:
            self._bars.stop()

    def __call__(
        self, image: str, step: int, steps: int, text: str, *, detail: bool = False
    ) -> None:
        """Show one event; without a terminal, details only as a sign of life."""
        with self._lock:
            if self._bars is not None:
                self._draw(self._bars, image, step, steps, text)
                return
            now = time.monotonic()
            last_step, last_time = self._shown.get(image, (-1, 0.0))
            if detail and step == last_step and now - last_time < HEARTBEAT_S:
                return
            self._shown[image] = (step, now)
            far = f" {step}/{steps}" if steps > 1 else ""
            print(  # noqa: T201  stderr, and rich would wrap the line
                f"[{now - self._began:6.1f} s] {image}{far}: {text}", file=sys.stderr, flush=True
            )

    def engine(self, text: str, *, detail: bool = False) -> None:
        """Show what is being done to the engine; satisfies the host's `Report`."""
        self("engine", 1, 1, text, detail=detail)

    def _draw(self, bars: Progress, image: str, step: int, steps: int, text: str) -> None:
        if image not in self._tasks:
            self._tasks[image] = bars.add_task(image, total=steps, text="")
        room = max(20, self._console.width - 60)
        bars.update(self._tasks[image], completed=step, total=steps, text=text[:room])
