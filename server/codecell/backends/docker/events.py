"""What the engine says happened to this instance's containers, read by one thread.

A finished container with AutoRemove can't be inspected, so the reason of a death (out of memory,
exit code) is only in the event stream; and a discarded cell is known to be gone by its `destroy`.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import docker
import requests
from anyio.lowlevel import EventLoopToken
from docker.errors import DockerException

from codecell.errors import EngineUnavailable

RETRY_S = 0.5
SIGKILL = "9"  # as the engine writes it


@dataclass(slots=True)
class Fate:
    """What became of one container."""

    exit_code: int | None = None
    killed: bool = False  # through the engine; it says so before it tells of the death
    died: anyio.Event = field(default_factory=anyio.Event)
    destroyed: anyio.Event = field(default_factory=anyio.Event)
    starved: anyio.Event = field(default_factory=anyio.Event)  # replaced once it is told


class Events:
    """The fates of the containers that are being watched."""

    def __init__(self, connect: Callable[[], docker.APIClient], label: str) -> None:
        self._connect = connect
        self._label = label
        self._fates: dict[str, tuple[Fate, EventLoopToken]] = {}
        self._stop = threading.Event()
        self._stream: Any = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def watch(self, name: str, loop: EventLoopToken) -> Fate:
        """Begin to note what happens to the container called `name`, for waiters on `loop`."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(
                    target=self._read, name="engine-events", daemon=True
                )
                self._thread.start()
            return self._fates.setdefault(name, (Fate(), loop))[0]

    def forget(self, name: str) -> None:
        """Stop noting what happens to a container."""
        with self._lock:
            self._fates.pop(name, None)

    def close(self) -> None:
        """End the reading thread; blocks until it has ended, a second at most."""
        self._stop.set()
        if self._stream is not None:
            self._stream.close()
        if self._thread is not None:
            self._thread.join(1.0)

    def _read(self) -> None:
        while not self._stop.is_set():
            client = None
            try:
                client = self._connect()
                filters = {"type": ["container"], "label": [self._label]}
                self._stream = client.events(filters=filters, decode=True)
                for event in self._stream:
                    self._note(event)
            except (
                EngineUnavailable,
                DockerException,
                requests.RequestException,
                OSError,
                ValueError,
            ):
                pass  # the engine went away, or close() cut the stream; runs notice on their own
            except AttributeError:
                pass  # docker-py's close() races with the reader inside urllib3
            finally:
                if client is not None:
                    client.close()
            self._stop.wait(RETRY_S)

    def _note(self, event: dict[str, Any]) -> None:
        attributes = event.get("Actor", {}).get("Attributes", {})
        with self._lock:
            fate, loop = self._fates.get(attributes.get("name", ""), (None, None))
        if fate is None:
            return
        match event.get("Action"):
            case "oom":
                self._tell(loop, fate.starved)
            case "kill":
                fate.killed |= attributes.get("signal") == SIGKILL
            case "die":
                code = attributes.get("exitCode", "")
                fate.exit_code = int(code) if code.isdigit() else None
                self._tell(loop, fate.died)
            case "destroy":
                self._tell(loop, fate.died)
                self._tell(loop, fate.destroyed)

    @staticmethod
    def _tell(loop: EventLoopToken | None, event: anyio.Event) -> None:
        with suppress(anyio.RunFinishedError):
            anyio.from_thread.run_sync(event.set, token=loop)
