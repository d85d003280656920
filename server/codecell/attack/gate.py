"""Keeps a server from running anything before the critical probes have held in a cell of its own.

The probes run in the background from the start, once for each policy whose cells are made in
another way. A run that comes meanwhile waits for them; one that comes later passes at the cost of
looking at a flag. What held is remembered for a week, for exactly this kind of cell, image, engine,
kernel and version of codecell, so that most starts try nothing.
"""

import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup

from codecell import __version__, policy
from codecell.attack.assault import opened, source
from codecell.attack.catalogue import AT_START, State, Verdict
from codecell.backends import open_backend
from codecell.errors import SandboxError
from codecell.observer import Observer, Run
from codecell.settings import Settings

HELD_FOR_S = 7 * 24 * 3600.0
REMEMBERED = 32

UNSAFE = 1  # exit status of a server whose walls did not hold

log = structlog.get_logger(__name__)


def guarding(settings: Settings, tasks: TaskGroup, leave: Callable[[], None]) -> list[Observer]:
    """Return what keeps a server's runs back until the walls have held, as its observers.

    Args:
        settings: says whether there is to be such a check at all.
        tasks: where the check goes on in the background.
        leave: called once a wall is found missing: the server must end.
    """
    if settings.security.attack_check == "off":
        return []
    gate = Gate(settings, leave, memory_of_this_user())
    tasks.start_soon(gate.watch)
    return [gate]


class WallBroken(SandboxError):
    """A critical probe got through; nothing runs on this engine with this configuration."""


class Gate(Observer):
    """Lets runs begin once the walls have been tried."""

    def __init__(self, settings: Settings, leave: Callable[[], None], memory: "Memory") -> None:
        """Be shut.

        Args:
            settings: what is put to the test.
            leave: called once a wall is found missing: the server must end.
            memory: of what has held before.
        """
        self._settings = settings
        self._leave = leave
        self._memory = memory
        self._one = anyio.Lock()
        self._open = False  # the walls of every policy have held
        self._held: set[str] = set()  # policies whose walls have
        self._same: set[str] = set()  # fingerprints that were tried
        self._broken: str | None = None

    async def watch(self) -> None:
        """Try the walls now, so that the first run need not wait; never raises.

        Where they can't be tried (no engine, no image) the first run tries them.
        """
        found = True
        for caller in self._settings.policies_in_use().values():
            try:
                await self._pass(caller, self._usual(caller))
            except WallBroken:
                return
            except SandboxError as error:
                found = False
                log.warning("the walls were not tried yet", caller=caller, error=str(error))
        self._open = found

    def _usual(self, caller: str) -> str:
        """Return the language to try a caller's walls in: Python if that may be."""
        rules = self._settings.policy_of(caller)
        wanted = ("python", *self._settings.pool.languages, *self._settings.table)
        usual = self._settings.pool.languages or ("python",)
        allowed = [name for name in wanted if rules.allows(name)]
        return str(next((name for name in allowed if name in usual), allowed[0]))

    def admitted(self, run: Run) -> Awaitable[None] | None:
        """Let a run begin at once, or after the walls have held."""
        return None if self._open else self._pass(run.plan.caller, run.plan.language)

    async def _pass(self, caller: str, language: str) -> None:
        policy_name = self._settings.policy_of(caller).name
        if policy_name in self._held and self._broken is None:
            return
        async with self._one:
            if self._broken is not None:
                raise WallBroken(self._broken)
            if policy_name not in self._held:
                await self._try(caller, language)
                self._held.add(policy_name)

    async def _try(self, caller: str, language: str) -> None:
        """Try the walls of a kind of cell, unless a cell that is made the same has been tried."""
        key = await fingerprint(self._settings, language, caller)
        if key not in self._same and not self._memory.knows(key):
            async with opened(self._settings, language, caller) as assault:
                verdicts = await assault.calm(AT_START)
            broken = [verdict for verdict in verdicts if verdict.state is State.BROKEN]
            if broken:
                self._refuse(broken)
            self._memory.keep(key)
        self._same.add(key)

    def _refuse(self, broken: list[Verdict]) -> None:
        names = ", ".join(verdict.id for verdict in broken)
        self._broken = f"walls are missing on this engine ({names}): nothing is run"
        for verdict in broken:
            log.error(
                "a wall is missing", probe=verdict.id, wall=verdict.probe.wall, got=verdict.detail
            )
        log.error("this server leaves; see `codecell doctor --attack` and security.attack_check")
        self._leave()
        raise WallBroken(self._broken)


async def fingerprint(settings: Settings, language: str, caller: str = "local") -> str:
    """Return a digest of everything that decides about the walls of a caller's cells.

    Raises:
        SandboxError: the engine does not answer or lacks the image.
    """
    rules = settings.policy_of(caller)
    spec = policy.cell_spec(settings.table[language], settings, rules)
    backend = open_backend(settings)
    try:
        body = await backend.describe(spec)
        engine = await backend.surroundings()
    finally:
        await backend.aclose()
    parts = [
        __version__,
        source(),
        {key: value for key, value in body.items() if key != "Labels"},
        engine,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Memory:
    """What has held before, in a file of this user's; a file that is no good is an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def knows(self, key: str) -> bool:
        """Tell whether the walls held with this fingerprint within a week."""
        then = self._read().get(key)
        return isinstance(then, int | float) and 0 <= time.time() - then < HELD_FOR_S

    def keep(self, key: str) -> None:
        """Note that they held just now; where that can't be written they are tried again."""
        known = {**self._read(), key: time.time()}
        newest = dict(sorted(known.items(), key=lambda item: item[1])[-REMEMBERED:])
        new = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(newest, file)
            new.rename(self._path)
        except OSError as error:
            log.info("what the probes found is not remembered", error=str(error))

    def _read(self) -> dict[str, float]:
        try:
            if self._path.stat().st_uid != os.getuid():
                return {}
            values = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(key): float(value) for key, value in values.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}


def memory_of_this_user() -> Memory:
    """Return the file where XDG has such things."""
    state = os.environ.get("XDG_STATE_HOME") or ""
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local/state"
    return Memory(folder / "codecell" / "walls.json")
