"""Fixtures shared by every suite: the real engine, a runner over it, and proof of a clean exit."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import docker
import hypothesis
import pytest

from codecell.app import open_runner
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
