"""Modules that most runs have no use for: their source lies here until one is wanted."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

SOURCES: dict[str, str] = {}  # filled by boot
LOADED: dict[str, ModuleType] = {}  # the agent's own modules, and then these


def module(name: str) -> Any:
    """Return a module of incell/, made now unless it was before; `sys.modules` stays as it is."""
    name = "codecell.incell." + name
    made = LOADED.get(name)
    if made is None:
        made = type(sys)(name)
        hidden = [other for other in LOADED if other not in sys.modules]
        sys.modules.update({other: LOADED[other] for other in hidden})
        try:
            code = compile(SOURCES[name], "<" + name + ">", "exec", dont_inherit=True)
            exec(code, made.__dict__)
        finally:
            for other in hidden:
                del sys.modules[other]
        LOADED[name] = made
    return made
