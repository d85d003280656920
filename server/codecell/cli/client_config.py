"""What to paste into an MCP client so that it starts this server on stdio; pure text."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Configuration of one client.

    Attributes:
        title: the client's name.
        where: where the text goes.
        text: what to paste there.
        key: under which its own file has servers.
        server: what stands there for this one.
    """

    title: str
    where: str
    text: str
    key: str
    server: dict[str, object]


def command() -> list[str]:
    """Return the absolute command that serves: the console script, else this interpreter."""
    beside = Path(sys.executable).with_name("codecell")
    if beside.is_file():
        return [str(beside), "serve"]
    found = shutil.which("codecell")
    if found is not None:
        return [str(Path(found).absolute()), "serve"]
    return [sys.executable, "-m", "codecell", "serve"]


def _claude_desktop(argv: list[str]) -> ClientConfig:
    where = "claude_desktop_config.json (Settings > Developer > Edit Config)"
    return _file("Claude Desktop", where, "mcpServers", _server(argv))


def _claude_code(argv: list[str]) -> ClientConfig:
    text = f"claude mcp add codecell -- {shlex.join(argv)}"
    server = {"type": "stdio", **_server(argv)}
    return ClientConfig("Claude Code", "a shell, in your project", text, "mcpServers", server)


def _vscode(argv: list[str]) -> ClientConfig:
    return _file("VS Code", ".vscode/mcp.json", "servers", {"type": "stdio", **_server(argv)})


def _cursor(argv: list[str]) -> ClientConfig:
    where = ".cursor/mcp.json, or ~/.cursor/mcp.json for every project"
    return _file("Cursor", where, "mcpServers", _server(argv))


def _file(title: str, where: str, key: str, server: dict[str, object]) -> ClientConfig:
    text = json.dumps({key: {"codecell": server}}, indent=2)
    return ClientConfig(title, where, text, key, server)


def _server(argv: list[str]) -> dict[str, object]:
    return {"command": argv[0], "args": argv[1:]}


CLIENTS: dict[str, Callable[[list[str]], ClientConfig]] = {
    "claude-desktop": _claude_desktop,
    "claude-code": _claude_code,
    "vscode": _vscode,
    "cursor": _cursor,
}
