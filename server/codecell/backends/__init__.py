"""The table of backends: name -> "module:factory", imported when it is opened."""

from importlib import import_module
from typing import cast

from codecell.sandbox import Backend
from codecell.settings import Settings

BACKENDS = {"docker": "codecell.backends.docker.backend:open_docker"}


def open_backend(settings: Settings, name: str = "docker") -> Backend:
    """Make the named backend; nothing is contacted yet."""
    module, _, factory = BACKENDS[name].partition(":")
    return cast("Backend", getattr(import_module(module), factory)(settings))
