"""Images of the tests' own, removed with everything under them; and runs in every language."""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import docker
import pytest
from docker.errors import APIError

from codecell import recipes
from codecell.app import open_runner
from codecell.backends.docker.building import remove_leftovers
from codecell.backends.docker.images import list_images, lock_path
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
