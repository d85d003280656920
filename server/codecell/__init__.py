"""codecell: an MCP server that runs untrusted code in hardened containers made ahead of time.

Importing this package runs nothing. The public Python API is `open_sandbox` (async) and
`open_sandbox_blocking`, loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codecell.api import open_sandbox, open_sandbox_blocking

__version__ = "0.1.0"
__all__ = ["__version__", "open_sandbox", "open_sandbox_blocking"]


def __getattr__(name: str) -> object:
    if name in {"open_sandbox", "open_sandbox_blocking"}:
        return getattr(import_module("codecell.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
