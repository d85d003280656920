"""What the attack tests share: programs that report as JSON, and a look at the host's processes."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from codecell.model import Outcome, Status
from codecell.settings import Settings, load

Execute = Callable[..., Awaitable[Outcome]]
GONE_S = 5.0


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The default limits; only fewer spares, as most attacks are Python's."""
    return load(flags={"pool": {"languages": ["python"], "min": 2}})


@pytest.fixture
def facts(execute: Execute) -> Callable[..., Awaitable[Any]]:
    """Run a program that must succeed, and return the JSON it printed."""

    async def run(code: str, language: str = "python", **fields: object) -> Any:
        outcome = await execute(code, language, **fields)
        assert outcome.status is Status.SUCCESS, (outcome.error_message, outcome.stderr.text)
        return json.loads(outcome.stdout.text)

    return run


class Host:
    """The processes of this machine, cells' included."""

    def pids(self, token: str) -> list[int]:
        """Return who has `token` on its command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except OSError:
                continue
            if token.encode() in command:
                found.append(int(path.parent.name))
        return found

    async def appears(self, token: str) -> int:
        """Wait until a process in a cell has `token` on its command line."""
        with anyio.fail_after(20):
            while True:
                for pid in self.pids(token):
                    if self.container(pid):
                        return pid
                await anyio.sleep(0.05)

    async def disappears(self, token: str) -> None:
        """Wait until nobody has `token` on its command line, at most 5 seconds."""
        with anyio.fail_after(GONE_S):
            while self.pids(token):
                await anyio.sleep(0.05)

    def container(self, pid: int) -> str | None:
        """Return the id of the container a process is in."""
        try:
            text = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii")
        except OSError:
            return None
        found = re.search(r"[0-9a-f]{64}", text)
        return found.group() if found else None


@pytest.fixture
def host(engine: object) -> Host:
    del engine  # the cells' processes are ours to see where the engine is on this machine
    return Host()
