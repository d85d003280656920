"""What an agent reports of a step, checked field by field: a cell's word is hostile until then."""

import math
import re
from typing import Any

from codecell.errors import ProtocolError, SandboxError
from codecell.model import Ending, Facts, Kept, Usage

NEVER_BEGAN = "the program could not be started: "
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")


def facts_from(value: dict[str, Any]) -> Facts:
    """Check an agent's report field by field; pure.

    Raises:
        ProtocolError: a field is missing, of another type or out of range.
        SandboxError: the agent says that the program could not be started.
    """
    failure = words(value.get("failure") or "", 500)
    if failure and value.get("session") is None:
        raise SandboxError(NEVER_BEGAN + failure)
    if (value.get("code") is None) == (value.get("signal") is None):
        raise ProtocolError("a cell's report is malformed: either an exit code or a signal")
    try:
        code, signal = value["code"], value["signal"]
        return Facts(
            ending=Ending(value["ending"]),
            exit_code=_whole(code, 255) if signal is None else None,
            signal=_whole(signal, 64) if code is None else None,
            oom_kills=None if value["oom_kills"] is None else _whole(value["oom_kills"], 2**31),
            heap_full=value.get("heap_full") is True,
            usage=Usage(
                wall_s=_seconds(value["wall_s"]),
                cpu_s=_seconds(value["cpu_s"]),
                peak_memory_bytes=_whole(value["peak_memory_bytes"], 2**48),
            ),
            stdout_bytes=_whole(value["stdout_bytes"], 2**48),
            stderr_bytes=_whole(value["stderr_bytes"], 2**48),
            files_changed=_whole(value.get("files", 0), 2**31),
            kept=_kept(value.get("session")),
            failure=failure,
            stdout_sha256=_digest(value["stdout_sha256"]),
            stderr_sha256=_digest(value["stderr_sha256"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"a cell's report is malformed: {error}") from error


def _kept(value: object) -> Kept | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return Kept(
        boot_id=words(value["boot"], 64),
        generation=_whole(value["generation"], 2**31),
        alive=value["alive"] is True,
        files=value["files"] is True,
        died=words(value["died"], 40),
        memory_bytes=_whole(value["memory_bytes"], 2**48),
    )


def words(value: object, most: int) -> str:
    """Return a cell's text, short and printable: it may hold escapes or half a surrogate pair."""
    if not isinstance(value, str):
        return "(not a text)"
    return "".join(char if char.isprintable() else "?" for char in value[:most])


def _whole(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"not a whole number up to {most}")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("not a digest")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a duration")
    if not math.isfinite(value) or value < 0:
        raise ValueError("not a duration")
    return float(value)
