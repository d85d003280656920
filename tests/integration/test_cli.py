"""The command line against the real engine: output as it is, exit statuses as promised."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from codecell.backends.docker.posture import defects
from codecell.cli.client_config import CLIENTS
from codecell.cli.demo import PROGRAMS
from codecell.languages import DEFAULT_SET

pytestmark = pytest.mark.docker

CODECELL = [sys.executable, "-m", "codecell"]


@pytest.fixture(autouse=True)
def _engine(engine: docker.APIClient) -> None:
    """Fail or skip where no engine answers."""


def codecell(
    *arguments: str, stdin: bytes = b"", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CODECELL, *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "stdout", "stderr"),
    [
        (["print(6 * 7)"], b"", 0, b"42\n", b""),
        (["-l", "bash", "echo out; echo err >&2; exit 3"], b"", 3, b"out\n", b"err\n"),
        (["-l", "js", "console.log('hi')"], b"", 0, b"hi\n", b""),
        (["-"], b"print('from stdin')", 0, b"from stdin\n", b""),
        (["-f", "-"], b"#!/bin/bash\necho from bash", 0, b"from bash\n", b""),
        (["#!/usr/bin/env node\nconsole.log('shebang')"], b"", 0, b"shebang\n", b""),
        (["-i", "a\n", "print(input())"], b"", 0, b"a\n", b""),
        (["-i", "@@a", "print(input())"], b"", 0, b"@a\n", b""),
        (["-i", "@-", "print(input())"], b"piped\n", 0, b"piped\n", b""),
        (["-e", "A=b=c", "import os; print(os.environ['A'])"], b"", 0, b"b=c\n", b""),
        (["import sys; print(sys.argv[1:])", "--", "-x", "y z"], b"", 0, b"['-x', 'y z']\n", b""),
        (
            ["-l", "bash", r"printf 'a\033[31m\r\n\xff'"],
            b"",
            0,
            "a\x1b[31m\r\n\ufffd".encode(),
            b"",
        ),
        (["-l", "bash", "kill -SEGV $$"], b"", 139, b"", b"codecell: execution_error: "),
        (
            ["-t", "0.5", "print(1, flush=True)\nwhile 1: 1"],
            b"",
            124,
            b"1\n",
            b"codecell: timeout: ",
        ),
        (["x = bytearray(10**9)\nx[::4096] = x[::4096]"], b"", 137, b"", b"out_of_memory"),
        (["import sys; sys.exit(125)"], b"", 125, b"", b"codecell: execution_error: "),
        (
            ["--max-output-tokens", "5", "print('a' * 10 + 'b' * 90 + 'c' * 9)"],
            b"",
            0,
            b"a" * 10 + b"\n[... 90 bytes elided ...]\n" + b"c" * 9 + b"\n",
            b"codecell: stdout is cut: 90 of its 110 bytes are left out",
        ),
    ],
)
def test_execute(
    arguments: list[str], stdin: bytes, status: int, stdout: bytes, stderr: bytes
) -> None:
    done = codecell("execute", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (status, stdout), done.stderr
    assert stderr in done.stderr
    assert bool(done.stderr) == bool(stderr or status)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-l", "pyhton", "1"], [b"language 'pyhton' is not supported", b"Did you mean 'python'?"]),
        ([" "], [b"code is empty"]),
        (["-t", "nan", "1"], [b"timeout must be"]),
        (["-t", "301", "1"], [b"timeout must be", b"at most 300"]),
        (["--max-output-tokens", "0", "1"], [b"max_output_tokens must be", b"at least 1"]),
        (["-f", "absent.py"], [b"cannot read absent.py"]),
        (["--session-id", "s1", "1"], [b"sessions live in a running server", b"codecell serve"]),
    ],
)
def test_what_can_not_be_run_is_125_and_one_sentence(
    arguments: list[str], words: list[bytes], tmp_path: Path
) -> None:
    done = codecell("execute", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"codecell: ")
    assert done.stderr.count(b"\n") == 1
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["-f", "what.xyz"], ["-e", "A", "1"], ["--output-format", "xml", "1"]]
)
def test_wrong_usage_is_2(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "what.xyz").write_text("?")
    done = codecell("execute", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")


def test_without_an_engine_it_is_our_failure() -> None:
    done = codecell("execute", "print(1)", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert done.returncode == 125
    assert done.stderr.startswith(b"codecell: setup_error: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("name", "code", "stdout"),
    [
        ("a.py", "print('py')", b"py\n"),
        ("a.mjs", "import fs from 'fs'; console.log(typeof fs.readFileSync)", b"function\n"),
        ("a.JS", "console.log('js')", b"js\n"),
        ("a.sh", "echo $#", b"2\n"),
        ("script", "#!/bin/bash -e\necho shebang", b"shebang\n"),
    ],
)
def test_the_language_is_guessed_from_the_file(
    tmp_path: Path, name: str, code: str, stdout: bytes
) -> None:
    (tmp_path / name).write_text(code)
    done = codecell("execute", "-f", name, "one", "two", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, stdout), done.stderr


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xff\xfe")
    done = codecell("execute", "-f", "a.py", cwd=tmp_path)
    assert done.returncode == 125
    assert b"a.py is not UTF-8 text" in done.stderr


def test_json_is_the_structured_result() -> None:
    done = codecell("execute", "--output-format", "json", "-l", "bash", "echo out; exit 4")
    result = json.loads(done.stdout)
    assert done.returncode == result["exit_code"] == 4
    assert (result["status"], result["stdout"]) == ("execution_error", "out\n")
    assert result["isolation"]["network"] == "none"


def test_verbose_tells_all() -> None:
    done = codecell("execute", "-v", "print(1)")
    assert done.stdout == b"1\n"
    for word in (b"status: success", b"peak memory", b"limits: 30 s", b"isolation: runtime"):
        assert word in done.stderr


def test_a_cut_is_told() -> None:
    done = codecell("execute", "print('x' * 300_000)")
    head, mark, tail = re.split(rb"\n(\[.*\])\n", done.stdout)
    assert (len(head) + len(tail), tail[-2:]) == (100_000, b"x\n")
    assert mark == b"[... 200,001 bytes elided ...]"
    assert b"stdout is cut: 200001 of its 300001 bytes are left out" in done.stderr


def test_a_terminal_gets_no_control_characters() -> None:
    main, other = pty.openpty()
    with subprocess.Popen(
        [*CODECELL, "execute", "-l", "bash", r"printf '\033]0;title\007'"],
        stdin=subprocess.DEVNULL,
        stdout=other,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.wait(60) == 0
    os.close(other)
    shown = os.read(main, 1000)
    os.close(main)
    assert shown == "␛]0;title␇".encode()


def test_languages() -> None:
    done = codecell("languages")
    assert done.returncode == 0
    assert all(name.encode() in done.stdout for name in DEFAULT_SET)
    listed = json.loads(codecell("languages", "--json").stdout)["languages"]
    assert [language["id"] for language in listed][:3] == list(DEFAULT_SET)
    assert all(language["installed"] for language in listed)


def test_languages_without_an_engine() -> None:
    done = codecell("languages", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert done.returncode == 125
    assert done.stderr.startswith(b"codecell: ")


def test_the_demonstration_is_as_expected() -> None:
    done = codecell("demo", COLUMNS="160")
    text = done.stdout.decode()
    assert done.returncode == 0, text
    for word in (
        *DEFAULT_SET,
        "timeout",
        "interfaces: lo",
        "168 primes",
        "claude mcp add",
        '"servers"',
    ):
        assert word in text


def test_the_demonstration_says_when_it_is_not() -> None:
    done = codecell("demo", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert done.returncode == 1


def test_every_language_has_a_program_in_the_demonstration() -> None:
    assert tuple(PROGRAMS) == DEFAULT_SET


@pytest.mark.parametrize("client", CLIENTS)
def test_client_configuration_starts_a_server(client: str) -> None:
    text = codecell("client-config", client).stdout.decode()
    if client == "claude-code":
        command = text.split(" -- ")[1].split()
    else:
        (servers,) = json.loads(text).values()
        command = [servers["codecell"]["command"], *servers["codecell"]["args"]]
    assert Path(command[0]).is_absolute()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_policy_explain_prints_the_body_that_a_cell_is_really_made_with(
    engine: docker.APIClient, tmp_path: Path
) -> None:
    config = tmp_path / "codecell.toml"
    config.write_text(
        "[policies.guest]\nlimits = { memory = '128MiB', processes = 20 }\n"
        "[callers.bob]\npolicy = 'guest'\n",
        encoding="utf-8",
    )
    done = codecell("policy", "explain", "--caller", "bob", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    host = shown["container"]["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["NetworkMode"]) == (128 * 2**20, 20, "none")
    assert {"key": "limits.memory", "value": 128 * 2**20,
            "origin": "policies.guest.limits.memory"} in shown["values"]  # fmt: skip
    made = engine.create_container_from_config(shown["container"])
    try:
        assert defects(shown["container"], engine.inspect_container(made["Id"])) == []
    finally:
        engine.remove_container(made["Id"], force=True)


def test_policy_explain_without_an_engine_still_tells_the_values() -> None:
    done = codecell("policy", "explain", CODECELL_ENGINE__HOST="unix:///nowhere.sock")
    assert done.returncode == 0
    assert b"limits.memory" in done.stdout
    assert done.stderr.startswith(b"codecell: no container: ")
