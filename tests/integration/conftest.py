"""Images of the tests' own, removed with everything under them; and runs in every language."""

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import docker
import pytest
from docker.errors import APIError

from codecell import recipes
from codecell.app import open_runner
from codecell.backends.docker.building import remove_leftovers
from codecell.backends.docker.images import list_images, lock_path
from codecell.backends.docker.owners import LABEL_OWNER, Owner
from codecell.model import Outcome, Request
from codecell.runner import Runner
from codecell.settings import Settings, load


def remove_prefix(client: docker.APIClient, prefix: str) -> None:
    for item in client.images(filters={"label": f"{recipes.LABEL_PREFIX}={prefix}"}):
        for tag in item.get("RepoTags") or ():
            with suppress(APIError):
                client.remove_image(tag, force=True)
    remove_leftovers(client, prefix)


@pytest.fixture(scope="session")
def image_settings(engine: docker.APIClient) -> Iterator[Settings]:
    """Settings whose images nobody else uses."""
    prefix = f"codecell-test-{os.getpid()}-{secrets.token_hex(3)}"
    yield load(flags={"engine": {"image_prefix": prefix}})
    remove_prefix(engine, prefix)
    lock_path(prefix).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def installed(engine: docker.APIClient, settings: Settings) -> set[str]:
    return set(list_images(engine, settings.engine.image_prefix))


@pytest.fixture(scope="session")
async def cold_runner(engine: docker.APIClient) -> AsyncIterator[Runner]:
    """One runner for the whole matrix, which makes a cell when one is wanted."""
    async with open_runner(load(), warm=False) as opened:
        yield opened


class Run:
    """Runs programs of a language, or does without where its image is missing."""

    def __init__(self, runner: Runner, installed: set[str]) -> None:
        self._runner = runner
        self._installed = installed

    async def __call__(self, language: str, code: str, **fields: object) -> Outcome:
        if language not in self._installed:
            advice = f"no image for {language}; run `codecell images build --all`"
            if os.environ.get("CI") == "true":
                pytest.fail(advice)
            pytest.skip(advice)
        request = Request(language=language, code=code, **fields)  # type: ignore[arg-type]
        return await self._runner.execute(request)


@pytest.fixture
def run(cold_runner: Runner, installed: set[str]) -> Run:
    return Run(cold_runner, installed)


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
