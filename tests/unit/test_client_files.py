"""Writing into a client's own file: this server is added, and nothing else is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codecell.cli import client_files
from codecell.cli.client_config import CLIENTS
from codecell.errors import ConfigurationError

SERVER = {"command": "/bin/codecell", "args": ["serve"]}


def test_a_new_file_is_made_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "mcp.json"
    assert client_files.write(path, "servers", SERVER) is None
    assert json.loads(path.read_text()) == {"servers": {"codecell": SERVER}}


def test_what_is_there_stays_and_a_copy_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    before = {"theme": "dünkel", "mcpServers": {"z": {"command": "z"}, "codecell": {}, "a": 1}}
    text = json.dumps(before, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o640)
    backup = client_files.write(path, "mcpServers", SERVER)
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after == {**before, "mcpServers": {**before["mcpServers"], "codecell": SERVER}}  # type: ignore[dict-item]
    assert list(after["mcpServers"]) == ["z", "codecell", "a"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert backup is not None
    assert backup.read_text(encoding="utf-8") == text
    assert client_files.write(path, "mcpServers", SERVER) is None  # nothing to change
    other = client_files.write(path, "mcpServers", {"command": "other"})
    assert other is not None
    assert other != backup
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "mcp.json",
        "mcp.json.bak",
        "mcp.json.bak2",
    ]


@pytest.mark.parametrize(
    "text", ["{", "// a comment\n{}", "[]", '"x"', '{"mcpServers": []}', "\udcff"]
)
def test_a_file_that_is_not_understood_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match="left as it is"):
        client_files.write(path, "mcpServers", SERVER)
    assert path.read_bytes() == text.encode("utf-8", "surrogateescape")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mcp.json"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("{}")
    link.symlink_to(real)
    client_files.write(link, "servers", SERVER)
    assert link.is_symlink()
    assert "codecell" in real.read_text()


@pytest.mark.parametrize("client", list(CLIENTS))
def test_the_command_writes_what_it_would_print(tmp_path: Path, client: str) -> None:
    run = [sys.executable, "-m", "codecell", "client-config", client]
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(
        [*run, "--write"], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    path = client_files.locate(client, tmp_path, tmp_path)
    (servers,) = json.loads(path.read_text()).values()
    written = servers["codecell"]
    printed = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert written["command"] in printed
    assert written["args"][-1] == "serve"
