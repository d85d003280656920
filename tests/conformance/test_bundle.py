"""The bundle for Claude Desktop: the official tool packs it, and a client starts what is in it."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uv
from mcp import Client, StdioServerParameters

from codecell import __version__

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = json.loads((ROOT / "deploy/mcpb/manifest.json").read_text(encoding="utf-8"))
# Nothing is fetched: the environment that uv would make is made beforehand, from what is here.
OFFLINE = {"UV_OFFLINE": "1", "UV_NO_SYNC": "1", "UV_NO_CONFIG": "1"}


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(node_tool: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, packed by `make mcpb`'s script and unpacked by the official tool."""
    build = tmp_path_factory.mktemp("bundle")
    said = run(sys.executable, ROOT / "deploy/mcpb/bundle.py", build)
    assert "Manifest schema validation passes!" in said
    folder = build / "unpacked"
    bundle = build / f"codecell-{__version__}.mcpb"
    done = node_tool("mcpb", "unpack", str(bundle), str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def environment(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What uv needs to find the bundle installed; its dependencies come from our environment."""
    venv = tmp_path_factory.mktemp("environment") / "venv"
    tool = uv.find_uv_bin()
    run(tool, "venv", "--python", sys.executable, venv, **OFFLINE)
    (site,) = venv.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    install = [tool, "pip", "install", "--no-deps", "--no-build-isolation", "--python", venv]
    run(*install, unpacked, **OFFLINE)
    return {**OFFLINE, "UV_PROJECT_ENVIRONMENT": str(venv)}


def filled(text: str, folder: Path) -> str:
    """Put in what the client does: where the bundle is, and what its user chose."""
    text = text.replace("${__dirname}", str(folder))
    for name, entry in MANIFEST["user_config"].items():
        text = text.replace(f"${{user_config.{name}}}", str(entry["default"]))
    assert "${" not in text
    return text


@pytest.mark.anyio
@pytest.mark.docker
async def test_a_client_starts_the_server_by_the_manifests_command(
    unpacked: Path, environment: dict[str, str]
) -> None:
    config = json.loads((unpacked / "manifest.json").read_text(encoding="utf-8"))["server"][
        "mcp_config"
    ]
    assert config["command"] == "uv"
    server = StdioServerParameters(
        command=uv.find_uv_bin(),
        args=[filled(argument, unpacked) for argument in config["args"]],
        env={
            **{name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ},
            **{name: filled(value, unpacked) for name, value in config["env"].items()},
            **environment,
        },
    )
    async with Client(server) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        code = {"language": "python", "code": "print(6 * 7)"}
        result = (await client.call_tool("execute_code", code)).structured_content
    assert tools == [tool["name"] for tool in MANIFEST["tools"]]
    assert result is not None
    assert (result["status"], result["stdout"]) == ("success", "42\n")
    chosen = MANIFEST["user_config"]
    assert result["limits"]["timeout_s"] == chosen["timeout_s"]["default"]
    assert f"{result['limits']['memory_bytes'] >> 20}MiB" == chosen["memory"]["default"]


def test_the_package_in_use_is_the_bundles(unpacked: Path, environment: dict[str, str]) -> None:
    look = "import codecell, codecell.recipes as r; print(codecell.__file__, r.folder())"
    project = ["--directory", unpacked, "--no-dev", "python", "-I", "-c", look]
    said = run(uv.find_uv_bin(), "run", *project, **environment)
    venv = environment["UV_PROJECT_ENVIRONMENT"]
    assert [Path(path).is_relative_to(venv) for path in said.split()] == [True, True]


def test_the_bundle_pins_what_the_lock_pins(unpacked: Path) -> None:
    text = (unpacked / "pyproject.toml").read_text(encoding="utf-8")
    pinned = re.findall(r'^  "([a-z0-9.-]+==\S+)",$', text, re.MULTILINE)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert pinned == re.findall(r"^([a-z0-9.-]+==\S+) ", lock, re.MULTILINE)
    assert len(pinned) > 20


def test_the_bundle_holds_no_path_of_this_machine_and_no_index(unpacked: Path) -> None:
    for path in unpacked.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".toml", ".lock"):
            text = path.read_text(encoding="utf-8")
            assert str(ROOT) not in text, path
            assert not re.search(r"index-url|find-links|https?://", text), path


def test_the_bundle_holds_the_package_and_nothing_else(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir()}
    content = {"manifest.json", "pyproject.toml", "README.md", "LICENSE", "images", "server"}
    assert names - {"build"} == content
    assert not list(unpacked.rglob("__pycache__"))


def test_the_manifest_is_of_this_version() -> None:
    assert MANIFEST["version"] == __version__
