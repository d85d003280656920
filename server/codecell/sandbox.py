"""The narrow waist: a cell is a byte stream to the agent inside it, and a backend makes cells.

Everything above this file works with any backend that keeps these promises; the contract suite
(tests/contract) runs them against every one. Nothing of an engine's own wire format passes here.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from codecell.model import CellSpec, Isolation


@dataclass(frozen=True, slots=True)
class Death:
    """What the engine knows about a cell that ended without saying goodbye."""

    out_of_memory: bool
    exit_code: int | None
    reason: str
    by_hand: bool = False  # somebody, or we, had the engine kill it


class Cell(Protocol):
    """One started container and the stream to its agent."""

    @property
    def id(self) -> str:
        """Name the cell in logs; unique on the engine."""

    @property
    def isolation(self) -> Isolation:
        """State the posture that really applies."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Name the modules that the image wants imported before a program is known."""

    async def send(self, data: bytes) -> None:
        """Deliver bytes to the agent in order, waiting while it does not read.

        Raises:
            CellLost: the stream is closed.
        """

    async def receive(self) -> bytes:
        """Return the agent's next bytes; `b""` once the stream has ended, for ever after."""

    async def death(self) -> Death:
        """After the end of the stream, say why the cell ended; waits at most two seconds."""

    async def starved(self, wait_s: float) -> bool:
        """Tell whether memory ran out since last asked; waits so long for the engine's word."""

    async def discard(self) -> None:
        """Kill everything in the cell and remove it. Idempotent; never raises; may be cancelled."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of ours as the backend holds it."""

    language: str
    reference: str
    digest: str
    version: str  # the language's version as installed
    packages: tuple[str, ...]  # name=version of what the recipe installed on purpose
    size_bytes: int
    current: bool  # its recipe is the one in images/


class Backend(Protocol):
    """Where cells come from."""

    @property
    def kind(self) -> str:
        """Name the backend (`docker`)."""

    async def create(self, spec: CellSpec) -> Cell:
        """Create and start a cell; on any failure or cancellation nothing is left behind.

        Raises:
            ImageMissing: the image is not built; the text names the command.
            EngineUnavailable: the engine does not answer.
            SandboxError: the engine refused, in its own words.
        """

    async def describe(self, spec: CellSpec) -> dict[str, Any]:
        """Return what `create` would ask the engine for, and make nothing; raises as it does."""

    async def surroundings(self) -> dict[str, str]:
        """Name what decides, beside a cell's description, how it is confined: versions, kernel."""

    async def images(self) -> dict[str, Image]:
        """Return the built images of ours by language."""

    async def sweep(self) -> int:
        """Remove what dead instances of codecell left on the engine; return how many."""

    async def aclose(self) -> None:
        """Remove every cell of this instance. Idempotent."""
