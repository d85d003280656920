"""Sessions from the command line: in a running server, and by hand."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import docker
import pytest

pytestmark = pytest.mark.docker
CODECELL = [sys.executable, "-m", "codecell"]


@pytest.fixture(scope="module")
def url(engine: docker.APIClient) -> Iterator[str]:
    """A server over HTTP on a port of its own."""
    del engine
    server = subprocess.Popen(
        [*CODECELL, "serve", "--transport", "http", "--port", "0"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "CODECELL_POOL__MIN": "1"},
    )  # fmt: skip
    assert server.stderr is not None
    said = server.stderr.readline()
    found = re.search(r"http://\S+", said)
    assert found, said
    yield found[0]
    server.terminate()
    server.wait(20)
    server.stderr.close()


def codecell(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CODECELL, *arguments], input=stdin, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_calls_of_one_session_share_their_variables(url: str) -> None:
    there = ("execute", "--url", url, "--session-id", "cli")
    assert codecell(*there, "x = 6").returncode == 0
    done = codecell(*there, "--output-format", "json", "print(x * 7)")
    result = json.loads(done.stdout)
    assert (result["stdout"], result["session"]["state"]) == ("42\n", "reused")
    short = codecell(*there, "--max-output-tokens", "5", "print('a' * 10 + 'b' * 90 + 'c' * 9)")
    assert "90 of its 110 bytes are left out" in short.stderr
    failed = codecell(*there, "-l", "python", "import os; os._exit(3)")
    assert failed.returncode == 3
    assert "session cli: The program ended its interpreter (exit code 3)" in failed.stderr


def test_the_repl_goes_on_in_a_servers_session(url: str) -> None:
    codecell("execute", "--url", url, "--session-id", "talk", "x = 6")
    done = codecell("repl", "--url", url, "--session-id", "talk", stdin="print(x)\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "6\n", "")


def test_the_repl_keeps_a_session_of_its_own() -> None:
    steps = (
        "def f(n):\n    return n * 7\n\nx = (\n  6)\nprint(f(x))\nx + 1\n1 / 0\n"
        "%language bash\ny=4; echo $((y + 1))\n%language cobol\nprint"
    )
    done = codecell("repl", stdin=steps)
    assert (done.returncode, done.stdout) == (0, "42\n7\n5\n")
    assert "ZeroDivisionError" in done.stderr
    assert "language 'cobol' is not supported" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--session-id", "a", "1"), "`codecell serve --transport http`"),
        (("--session-id", "a", "--url", "http://127.0.0.1:1", "1"), "no codecell server answers"),
        (("--url", "ftp://x", "1"), "--url must be like http://127.0.0.1:8000"),
        (("--url", "http://x", "--token-file", "/nowhere", "1"), "cannot read the token"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    done = codecell("execute", *arguments)
    assert done.returncode == 125
    assert words in done.stderr
    assert "Traceback" not in done.stderr
