"""One container of ours: its attached stream, its fate, and its making in a worker thread."""

import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from codecell.backends.docker.events import Fate
from codecell.backends.docker.stream import AttachedStream
from codecell.errors import SandboxError
from codecell.model import Isolation
from codecell.sandbox import Death

GONE_S = 2.0  # how long a cell may take to go after its stream was closed


@dataclass(frozen=True, slots=True)
class Started:
    """A container that runs, and the socket that is attached to it."""

    name: str
    isolation: Isolation
    preload: tuple[str, ...]
    socket: socket.socket
    fate: Fate


class Handover:
    """Carries what a worker thread makes to a task that may have given up by then."""

    def __init__(self, undo: Callable[[Started], None]) -> None:
        self._undo = undo
        self._lock = threading.Lock()
        self._given_up = False
        self._made: Started | None = None

    def run(self, make: Callable[[], Started]) -> Started:
        """Make it, in the thread; undo it there when nobody waits any more."""
        made = make()
        with self._lock:
            if not self._given_up:
                self._made = made
                return made
        self._undo(made)
        raise SandboxError("nobody waits for this cell any more")

    def give_up(self) -> None:
        """Say, on the event loop, that nobody waits any more; does not block."""
        with self._lock:
            self._given_up = True
            made = self._made
        if made is not None:
            threading.Thread(target=self._undo, args=(made,), name="undo-cell").start()


class DockerCell:
    """A container of ours and the socket to its agent."""

    def __init__(
        self, started: Started, stream: AttachedStream, bury: Callable[[Started], Awaitable[None]]
    ) -> None:
        self._started = started
        self._stream = stream
        self._bury = bury
        self._discarded = False

    @property
    def id(self) -> str:
        """The container's name."""
        return self._started.name

    @property
    def isolation(self) -> Isolation:
        """What was asked of the engine and found to be so."""
        return self._started.isolation

    @property
    def preload(self) -> tuple[str, ...]:
        """What the image's label asks for."""
        return self._started.preload

    async def send(self, data: bytes) -> None:
        """Deliver bytes to the agent."""
        await self._stream.send(data)

    async def receive(self) -> bytes:
        """Return the agent's next bytes."""
        return await self._stream.receive()

    async def death(self) -> Death:
        """Ask the engine's events why the container ended."""
        fate = self._started.fate
        with anyio.move_on_after(GONE_S):
            await fate.died.wait()
        words = self._stream.last_words.decode("utf-8", "replace").strip().splitlines()
        reason = words[-1] if words else f"its container ended with code {fate.exit_code}"
        if not fate.died.is_set():
            reason = "its stream broke; is the container engine still there?"
        return Death(fate.starved.is_set(), fate.exit_code, reason, by_hand=fate.killed)

    async def starved(self, wait_s: float) -> bool:
        """Take the engine's word; it comes some 10 ms after the kernel has killed."""
        fate = self._started.fate
        with anyio.move_on_after(wait_s):
            await fate.starved.wait()
        if not fate.starved.is_set():
            return False
        fate.starved = anyio.Event()
        return True

    async def discard(self) -> None:
        """Hang up; see to it that the container goes."""
        if self._discarded:
            return
        self._discarded = True
        self._stream.close()
        await self._bury(self._started)
