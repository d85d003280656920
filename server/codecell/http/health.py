"""`/health`: this process answers. `/ready`: it can run programs, or what keeps it from that."""

from collections.abc import Awaitable, Callable

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from codecell.errors import SandboxError
from codecell.runner import Runner
from codecell.settings import Settings

Ready = Callable[[], Awaitable[list[str]]]

_KNOWN_FOR_S = 1.0  # an engine asked once a second is no burden, whoever asks how often


def health_routes(ready: Ready | None) -> list[Route]:
    """Return the two routes; both are open and say nothing that an attacker could use."""

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readiness(_: Request) -> JSONResponse:
        missing = await ready() if ready is not None else []
        if missing:
            return JSONResponse({"ready": False, "missing": missing}, 503)
        return JSONResponse({"ready": True})

    return [Route("/health", health), Route("/ready", readiness)]


class Readiness:
    """What a server that is to run programs still lacks.

    Cells count until the first are there; afterwards a pool that a burst of calls emptied is no
    reason to be taken out of service.
    """

    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._settings = settings
        self._lock = anyio.Lock()
        self._asked_at = float("-inf")
        self._missing: list[str] = []
        self._was_warm = settings.pool.min == 0

    async def __call__(self) -> list[str]:
        """Return what is missing, in words; nothing when ready."""
        async with self._lock:
            if anyio.current_time() - self._asked_at >= _KNOWN_FOR_S:
                self._missing = await self._look()
                self._asked_at = anyio.current_time()
            return self._missing

    async def _look(self) -> list[str]:
        try:
            found = {info.id: info for info in await self._runner.languages()}
        except SandboxError:
            return ["the container engine does not answer"]
        wanted = [found[name] for name in self._settings.pool.languages if name in found]
        missing = [f"the {part} log can't be written" for part in self._runner.observers.troubles]
        missing += [f"no image for {info.id}" for info in wanted if not info.installed]
        self._was_warm = self._was_warm or all(info.warm_cells for info in wanted)
        if not missing and not self._was_warm:
            cold = ", ".join(info.id for info in wanted if not info.warm_cells)
            missing.append(f"no cell is ready yet for {cold}")
        return missing
