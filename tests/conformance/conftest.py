"""The Node tools, and the servers that they judge."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
Tool = Callable[..., "subprocess.CompletedProcess[str]"]


def _install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", HERE / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def node_tool() -> Tool:
    """Run one of the installed Node tools, or a script of ours with `node`."""
    install = _install()
    if not (install.BIN / "conformance").exists():
        advice = "the Node tools are not installed: make .make/node"
        if os.environ.get("CI") == "true":
            pytest.fail(advice)
        pytest.skip(advice)

    def run(name: str, *arguments: str, timeout: float = 150) -> "subprocess.CompletedProcess[str]":
        command = [install.NODE] if name == "node" else [install.NODE, install.BIN / name]
        return subprocess.run(
            [*map(str, command), *arguments],
            cwd=HERE,
            env=install.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def everything() -> Iterator[str]:
    """The address of the server with the suite's own fixtures."""
    with subprocess.Popen(
        [sys.executable, HERE / "everything.py"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
