"""Run the probes through a runner, from the outside: what listens, what waits, what is told."""

import json
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib import resources
from typing import Any

import anyio

from codecell import policy
from codecell.app import open_runner
from codecell.attack.bombs import BOMBS, HOLDS, LEAVES, LOOKS
from codecell.attack.catalogue import CALM, PROBES, State, Verdict, judged
from codecell.errors import SandboxError
from codecell.model import Outcome, Request, Status
from codecell.observer import Watch
from codecell.runner import Runner
from codecell.settings import AuditSettings, LanguageSettings, Settings

SIDE_BY_SIDE = 2
NAME = "attack"  # what the language is called whose cells the probes run in
SECRET = "CODECELL_ATTACK_MARK"  # noqa: S105  a variable's name

Tell = Callable[[Verdict], None]


def source() -> str:
    """Return the program with the calm probes."""
    return (resources.files("codecell.incell") / "attack.py").read_text(encoding="utf-8")


def aimed(settings: Settings, language: str, caller: str = "local") -> Settings:
    """Return settings in which `attack` is Python in a caller's cells of a language.

    Image, runtime, filter and limits are those of the language, so the walls are. The probes are
    Python whatever the language is: every image has one, for the agent. No audit log is written:
    a probe is no caller's run.
    """
    chosen = settings.table.find(language)
    limits = policy.cell_spec(chosen, settings, settings.policy_of(caller)).limits
    probes = LanguageSettings(
        image=policy.image_of(chosen, settings),
        python=chosen.python,
        file_name="attack.py",
        run=("/usr/bin/env", chosen.python, "{main}"),
        memory=limits.memory_bytes,
        cpus=limits.cpus,
        processes=limits.pids,
        sandbox=limits.sandbox_bytes,
        tmp=limits.tmp_bytes,
    )
    values: dict[str, Any] = {name: getattr(settings, name) for name in Settings.model_fields}
    values |= {
        "languages": {**settings.languages, NAME: probes},
        "policies": {
            name: given.model_copy(update={"languages": (*given.languages, NAME)})
            if given.languages is not None
            else given
            for name, given in settings.policies.items()
        },
        "audit": AuditSettings(),
    }
    return Settings.model_construct(**values)


@asynccontextmanager
async def opened(
    settings: Settings, language: str, caller: str = "local"
) -> AsyncIterator["Assault"]:
    """Open a runner of its own for the probes, whose cells are made when they are wanted.

    Args:
        settings: the configuration that is put to the test.
        language: whose image and limits the cells have.
        caller: whose policy they are made under.
    """
    own = aimed(settings, language, caller)
    async with open_runner(own, warm=False) as runner:
        yield Assault(runner, own, caller)


class Assault:
    """Probes against one configuration."""

    def __init__(self, runner: Runner, settings: Settings, caller: str) -> None:
        self._runner = runner
        self._caller = caller
        rules = settings.policy_of(caller)
        self._limits = policy.cell_spec(settings.table[NAME], settings, rules).limits
        self._most_s = rules.limits.max_timeout_s
        self._gvisor = False

    async def all(self, tell: Tell = lambda _: None) -> list[Verdict]:
        """Try everything; verdicts come in the order of the catalogue.

        Raises:
            SandboxError: no cell could be had, so nothing was tried.
        """
        found = {verdict.id: verdict for verdict in await self.calm(tuple(CALM), tell)}
        slots = anyio.CapacityLimiter(SIDE_BY_SIDE)

        async def one(name: str) -> None:
            async with slots:
                found[name] = await self._bomb(name)
                tell(found[name])

        async with anyio.create_task_group() as tasks:
            for name in PROBES:
                if name not in found:
                    tasks.start_soon(one, name)
        return [found[name] for name in PROBES]

    async def calm(self, names: Sequence[str], tell: Tell = lambda _: None) -> list[Verdict]:
        """Try those that only look and ask, all in one cell.

        Raises:
            SandboxError: they could not be run.
        """
        with _bait() as facts:
            outcome = await self._run(source(), json.dumps([list(names), facts]), timeout_s=60)
        self._gvisor = outcome.isolation.kernel == "gvisor"
        try:
            answers = json.loads(outcome.stdout.text)
            found = [
                judged(name, State(answers[name][0]), str(answers[name][1]), gvisor=self._gvisor)
                for name in names
            ]
        except (ValueError, LookupError, TypeError) as error:
            said = outcome.error_message or outcome.stderr.text[-300:] or "no answer"
            raise SandboxError(f"the probes did not run: {said}") from error
        for verdict in found:
            tell(verdict)
        return found

    async def _bomb(self, name: str) -> Verdict:
        try:
            broken = await self._try(name)
        except SandboxError as error:
            broken = f"it could not be tried: {error}"
        state = State.HELD if broken is None else State.BROKEN
        return judged(name, state, broken or "", gvisor=self._gvisor)

    async def _try(self, name: str) -> str | None:
        if name == "apart.residue":
            return await self._residue()
        if name == "apart.cells":
            return await self._neighbours()
        bomb = BOMBS[name]
        much = str(self._limits.memory_bytes * 3 // 2)
        outcome = await self._run(bomb.code, much, timeout_s=bomb.timeout_s)
        return bomb.judge(outcome, self._limits)

    async def _residue(self) -> str | None:
        word = f"codecell-{secrets.token_hex(8)}"
        await self._run(LEAVES, word)
        return await self._looks(word)

    async def _neighbours(self) -> str | None:
        word = f"codecell-{secrets.token_hex(8)}"
        found: str | None = "the other cell never stood ready"
        async with anyio.create_task_group() as tasks:
            ready = _Ready()
            tasks.start_soon(self._hold, word, ready)
            with anyio.move_on_after(30):
                await ready.event.wait()
                found = await self._looks(word)
            tasks.cancel_scope.cancel()
        return found

    async def _hold(self, word: str, ready: "_Ready") -> None:
        request = Request(language=NAME, code=HOLDS, args=(word,), caller=self._caller)
        await self._runner.execute(request, watch=ready)

    async def _looks(self, word: str) -> str | None:
        outcome = await self._run(LOOKS, word)
        if outcome.status is not Status.SUCCESS:
            return f"looking ended as {outcome.status.value}"
        return outcome.stdout.text.strip() or None

    async def _run(self, code: str, argument: str, *, timeout_s: float = 20) -> Outcome:
        wanted = min(timeout_s, self._most_s)
        request = Request(
            language=NAME, code=code, args=(argument,), timeout_s=wanted, caller=self._caller
        )
        outcome = await self._runner.execute(request)
        if outcome.status is Status.SETUP_ERROR:
            raise SandboxError(outcome.error_message or "no cell")
        return outcome


class _Ready(Watch):
    """Notices that a program has printed something."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    def output(self, stream: object, data: bytes) -> None:
        """Take the first output for the sign."""
        del stream, data
        self.event.set()


@contextmanager
def _bait() -> Iterator[dict[str, Any]]:
    """Put out what no cell may reach: listeners, an abstract socket, a variable, a file."""
    secret = secrets.token_hex(16)
    with ExitStack() as stack:
        listeners = [stack.enter_context(sock) for sock in _listeners()]
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        abstract.bind(f"\0{secret}")
        abstract.listen()
        file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="codecell-attack-"))
        os.fchmod(file.fileno(), 0o644)  # modes are not the wall that is tried
        os.environ[SECRET] = secret
        stack.callback(os.environ.pop, SECRET, None)
        yield {
            "listeners": [sock.getsockname() for sock in listeners],
            "abstract": secret,
            "secret": secret,
            "files": [file.name, f"/proc/{os.getpid()}/environ"],
            "hostname": socket.gethostname(),
        }


def _listeners() -> Iterator[socket.socket]:
    """Yield listeners on this host's loopback, and on the engine's bridge where it is here."""
    for address in ("127.0.0.1", *_bridges()):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.bind((address, 0))
            sock.listen()
        except OSError:
            sock.close()
        else:
            yield sock


def _bridges() -> Iterator[str]:
    import fcntl
    import struct

    for _, name in socket.if_nameindex():
        if not name.startswith(("docker", "br-")):
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                answer = fcntl.ioctl(sock, 0x8915, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
        yield socket.inet_ntoa(answer[20:24])
