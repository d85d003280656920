"""The confinement in force for a caller, in plain values: pure, for people, models and auditors.

What no setting changes is written down here, and a test holds it against the body that containers
are created with; everything else is what a plan of this caller's would say.
"""

from codecell.explanation import explain
from codecell.settings import Settings

FIXED: dict[str, str | bool] = {
    "network": "none",
    "capabilities": "none",
    "no_new_privileges": True,
    "root_filesystem": "read-only",
    "writable": "/sandbox and /tmp, in memory, gone with the cell",
    "user": "a number of the cell's own, never root",
    "host_mounts": "none",
    "namespaces": "all private",
    "swap": "none",
}


def posture(caller: str, settings: Settings) -> dict[str, object]:
    """Return what holds a caller's runs; limits in seconds and bytes."""
    first = next(iter(settings.table.values()))
    values = {item.key: item.value for item in explain(caller, first, settings)}
    limits = {
        key.removeprefix("limits."): value
        for key, value in values.items()
        if key.startswith("limits.")
    }
    rules = settings.policy_of(caller)
    own = {key: getattr(rules.limits, key) for key in limits}
    return {
        "caller": caller,
        "policy": values["policy"],
        **FIXED,
        "runtime": values["runtime"] or "the engine's default",
        "seccomp": values["seccomp"],
        "cells": "one run each" if values["reuse"] == "never" else "one caller each",
        "languages": [name for name in settings.table if rules.allows(name)],
        "limits": {key: _plain(value) for key, value in own.items()},
    }


def _plain(value: object) -> object:
    return int(value) if isinstance(value, int) else value
