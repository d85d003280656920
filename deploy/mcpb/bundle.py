"""Make build/codecell-VERSION.mcpb, the bundle that Claude Desktop installs: `make mcpb`.

The bundle is the source of the package, the recipes of its images and a manifest: `uv`, which the
client brings, makes the environment on the user's machine. Its dependencies are pinned to the
versions of requirements.lock. The official tool judges the manifest and packs.
"""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTENT = ("LICENSE", "README.md", "pyproject.toml", "images", "server")
MANIFEST = Path(__file__).with_name("manifest.json")


def constraints(lock: str) -> str:
    """Return uv's table that pins every package to the version of a lock; pure."""
    pins = "".join(
        f'  "{pin}",\n' for pin in re.findall(r"^([a-z0-9.-]+==\S+)", lock, re.MULTILINE)
    )
    return f"\n[tool.uv]\nconstraint-dependencies = [\n{pins}]\n"


def stage(folder: Path) -> None:
    """Put what the bundle holds into a folder, which must not exist."""
    folder.mkdir(parents=True)
    for name in CONTENT:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    shutil.copy(MANIFEST, folder / "manifest.json")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(constraints(lock))


def mcpb(*arguments: str | Path) -> None:
    """Run the official tool; it comes with the Node tools of tests/conformance."""
    tools = runpy.run_path(str(ROOT / "tests/conformance/install.py"))
    command = [tools["NODE"], tools["BIN"] / "mcpb", *arguments]
    subprocess.run(list(map(str, command)), env=tools["environment"](), check=True)


def main() -> int:
    build = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    folder = build / "mcpb"
    shutil.rmtree(folder, ignore_errors=True)
    stage(folder)
    version = json.loads(MANIFEST.read_text(encoding="utf-8"))["version"]
    mcpb("validate", folder / "manifest.json")
    mcpb("pack", folder, build / f"codecell-{version}.mcpb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
