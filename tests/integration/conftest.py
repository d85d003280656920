"""Images of the tests' own: one prefix per session, removed with everything under it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress

import docker
import pytest
from docker.errors import APIError

from codecell import recipes
from codecell.backends.docker.building import remove_leftovers
from codecell.backends.docker.images import lock_path
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
