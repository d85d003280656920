"""Compare the cell that the engine made with the one asked for; any difference is a defect.

An engine may drop what its kernel cannot do (a swap or process limit) with a mere warning, a daemon
may add mounts or devices of its own, and an image may bring volumes. A cell with a wall missing is
not used: the caller of `defects` fails closed.
"""

from collections.abc import Mapping
from typing import Any

# What the engine may tell in other words without being weaker.
_SUPERSETS = frozenset({"MaskedPaths", "ReadonlyPaths", "Labels"})
_EMPTY: tuple[object, ...] = (None, "", 0, False)


def defects(body: Mapping[str, Any], inspected: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each difference; empty means that every wall stands.

    Args:
        body: what `spec.container_spec` asked for.
        inspected: what `GET /containers/{id}/json` answers. Text in it comes from the engine.
    """
    config, host = _table(inspected, "Config"), _table(inspected, "HostConfig")
    asked = {key: value for key, value in body.items() if key != "HostConfig"}
    return [
        *(f"Config.{line}" for line in _differences(asked, config)),
        *(f"HostConfig.{line}" for line in _differences(body["HostConfig"], host)),
        *_beyond_the_body(body, inspected),
    ]


def _table(inspected: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = inspected.get(key)
    return value if isinstance(value, Mapping) else {}


def _differences(asked: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {_short(made.get(key))}, not {_short(value)}"
        for key, value in asked.items()
        if not _holds(key, value, made.get(key))
    ]


def _holds(key: str, asked: Any, made: Any) -> bool:
    if _is_empty(asked) and _is_empty(made):
        return True
    if key in _SUPERSETS:
        return _includes(asked, made)
    if key in {"Ulimits", "SecurityOpt", "Env"} and isinstance(made, list):
        return _unordered(asked) == _unordered(made)
    return bool(asked == made)


def _is_empty(value: Any) -> bool:
    if isinstance(value, list | dict):
        return not value
    return value in _EMPTY


def _includes(asked: Any, made: Any) -> bool:
    if isinstance(asked, dict):
        return isinstance(made, dict) and asked.items() <= made.items()
    return isinstance(made, list) and set(asked) <= set(made)


def _unordered(values: list[Any]) -> list[str]:
    return sorted(
        repr(sorted(value.items())) if isinstance(value, dict) else repr(value) for value in values
    )


def _beyond_the_body(body: Mapping[str, Any], inspected: Mapping[str, Any]) -> list[str]:
    found = []
    if mounts := inspected.get("Mounts"):
        where = [mount.get("Destination") for mount in mounts if isinstance(mount, Mapping)]
        found.append(f"Mounts has {_short(where)}: a volume of the image, or the daemon's")
    if volumes := _table(inspected, "Config").get("Volumes"):
        found.append(f"Config.Volumes has {_short(sorted(volumes))}")
    networks = _table(_table(inspected, "NetworkSettings"), "Networks")
    if attached := sorted(set(networks) - {"none"}):
        found.append(f"NetworkSettings.Networks has {_short(attached)}")
    asked_apparmor = "apparmor=docker-default" in body["HostConfig"]["SecurityOpt"]
    if asked_apparmor and inspected.get("AppArmorProfile") != "docker-default":
        found.append(f"AppArmorProfile is {_short(inspected.get('AppArmorProfile'))}")
    return found


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
