"""Fixtures shared by every suite: the real engine, a runner over it, and proof of a clean exit."""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import docker
import hypothesis
import pytest

from codecell.app import open_runner
from codecell.backends.docker.owners import LABEL_OWNER, Owner
from codecell.errors import EngineUnavailable
from codecell.model import Outcome, Request
from codecell.runner import Runner
from codecell.settings import Settings, load

# How long one example takes says more of the machine's other work than of ours.
hypothesis.settings.register_profile("codecell", deadline=None)
hypothesis.settings.load_profile("codecell")

Execute = Callable[..., Awaitable[Outcome]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.APIClient]:
    """The real engine; without one a test fails in CI and is skipped on a desk."""
    from codecell.backends.docker.connect import connect

    try:
        client = connect(load().engine)
    except EngineUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have an engine: {error}")
        pytest.skip(str(error))
    yield client
    client.close()


@pytest.fixture(scope="session")
def settings() -> Settings:
    return load()


def under_gvisor() -> bool:
    """Tell whether these tests were asked to run under gVisor, as `make gvisor` does."""
    return (load().engine.runtime or "").startswith("runsc")


@pytest.fixture(scope="session")
def gvisor() -> bool:
    return under_gvisor()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under gVisor leave out what the manifest says is otherwise there, and why."""
    if not under_gvisor():
        return
    path = Path(__file__).parent / "security" / "requirements.py"
    spec = importlib.util.spec_from_file_location("security_requirements", path)
    assert spec is not None
    assert spec.loader is not None
    manifest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(manifest)
    otherwise = [
        item for item in items if manifest.is_otherwise(item.nodeid.removeprefix("tests/"))
    ]
    if otherwise:
        config.hook.pytest_deselected(items=otherwise)
        items[:] = [item for item in items if item not in otherwise]


@pytest.fixture
async def runner(engine: docker.APIClient, settings: Settings) -> AsyncIterator[Runner]:
    async with open_runner(settings) as opened:
        yield opened


@pytest.fixture
async def execute(runner: Runner) -> Execute:
    """Run a program as a caller would: `await execute(code, language="bash", timeout_s=2)`."""

    async def run(code: str, language: str = "python", **fields: object) -> Outcome:
        return await runner.execute(Request(language=language, code=code, **fields))  # type: ignore[arg-type]

    return run


class HttpServer:
    """`codecell serve` over HTTP as a process of its own; `url` is what it said it serves."""

    def __init__(self, transport: str, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codecell", "serve", "--transport", transport, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CODECELL_HTTP__PORT": "0", **environment},
        )
        self.lines: list[str] = []
        self.url = self._announced()
        self.base = self.url.rpartition("/")[0]

    def _announced(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "serving MCP on" in line:
                self._reader = threading.Thread(target=self._drain, daemon=True)
                self._reader.start()
                return line.split()[-1]
        pytest.fail("the server did not start: " + "".join(self.lines))

    def _drain(self) -> None:
        assert self.process.stderr is not None
        with suppress(ValueError):
            self.lines.extend(self.process.stderr)

    def cells(self, engine: docker.APIClient) -> list[str]:
        """Return the containers that belong to this process."""
        found = engine.containers(all=True, filters={"label": LABEL_OWNER})
        named = [item for item in found if item["Names"]]
        owners = [(item["Id"], Owner.parse(item["Labels"][LABEL_OWNER])) for item in named]
        return [id_ for id_, owner in owners if owner and owner.pid == self.process.pid]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()


ServeHttp = Callable[..., HttpServer]


@pytest.fixture(scope="module")
def serve_http(engine: docker.APIClient) -> Iterator[ServeHttp]:
    """Start servers over HTTP; they end with the module at the latest."""
    del engine
    begun: list[HttpServer] = []

    def start(transport: str = "http", *arguments: str, **environment: str) -> HttpServer:
        begun.append(HttpServer(transport, *arguments, **environment))
        return begun[-1]

    yield start
    for server in begun:
        server.close()


@pytest.fixture
def busy_machine() -> Iterator[Callable[[], None]]:
    """Take every processor twice over, from the call of this to the end of the test."""
    spinning: list[subprocess.Popen[bytes]] = []

    def spin() -> None:
        command = [sys.executable, "-c", "while True: pass"]
        spinning.extend(subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1)))

    yield spin
    for process in spinning:
        process.kill()
        process.wait()


@pytest.fixture
def run_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `codecell` with these arguments to its end."""

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "codecell", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )

    return start
