"""Write this server into a client's own configuration file, and nothing else in it.

A file that is not understood (JSON with comments, a list where an object belongs) is left alone.
What was there before is kept beside it, once per change, as NAME.bak.
"""

import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from codecell.errors import ConfigurationError


def locate(client: str, home: Path, project: Path) -> Path:
    """Return the file that a client reads.

    Args:
        client: one of `claude-desktop`, `claude-code`, `vscode` and `cursor`.
        home: of the user, for what is configured once.
        project: the folder for what is configured per project.
    """
    match client:
        case "claude-desktop" if sys.platform == "darwin":
            support = home / "Library" / "Application Support"
            return support / "Claude" / "claude_desktop_config.json"
        case "claude-desktop":
            return home / ".config" / "Claude" / "claude_desktop_config.json"
        case "claude-code":
            return project / ".mcp.json"
        case "vscode":
            return project / ".vscode" / "mcp.json"
        case _:
            return project / ".cursor" / "mcp.json"


def merged(text: str, key: str, server: dict[str, Any]) -> str:
    """Return the file's text with `codecell` under `key`; all else stays, in its order.

    Raises:
        ConfigurationError: the text is no JSON object, or has something else under `key`.
    """
    try:
        whole = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ConfigurationError(f"it is not plain JSON ({error})") from error
    if not isinstance(whole, dict):
        raise ConfigurationError("it does not hold a JSON object")
    servers = whole.setdefault(key, {})
    if not isinstance(servers, dict):
        raise ConfigurationError(f"its {key!r} is not an object")
    servers["codecell"] = server
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def write(path: Path, key: str, server: dict[str, Any]) -> Path | None:
    """Put the server into a client's file, which may be missing; return the backup, if any.

    Raises:
        ConfigurationError: the file is not understood or can't be written; it is as it was.
    """
    try:
        path = path.resolve()  # a link stays one
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = merged(before, key, server)
        if after == before:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        backup = _keep(path) if path.exists() else None
        _replace(path, after)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}; it was left as it is") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}; it was left as it is") from error
    return backup


def _keep(path: Path) -> Path:
    backup = path.with_name(path.name + ".bak")
    number = 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.bak{number}")
    backup.write_bytes(path.read_bytes())
    backup.chmod(path.stat().st_mode & 0o777)
    return backup


def _replace(path: Path, text: str) -> None:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
