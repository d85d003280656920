"""The manifest of a real cell against a model: the same program is run on this machine, and what it
left is read by other means. Random trees of files, links, fifos, sockets, holes, deletions, modes
and names of any bytes.
"""

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codecell import open_sandbox_blocking
from codecell.api import BlockingSandbox
from codecell.model import Outcome, Status
from codecell.settings import load

pytestmark = pytest.mark.docker

EXAMPLES = 400 if os.environ.get("SOAK") else 12

PROGRAM = """
import json, os, socket, stat, sys
os.umask(0o022)
todo = json.loads(sys.stdin.read())
def path(word):
    return bytes.fromhex(word)
def is_file(name):
    return stat.S_ISREG(os.lstat(name).st_mode)
for kind, first, second in todo["acts"]:
    name = path(first)
    try:
        if kind == "write":
            if os.path.lexists(name) and not is_file(name):
                continue
            os.makedirs(os.path.dirname(name) or b".", exist_ok=True)
            with open(name, "wb") as file:
                file.write(path(second))
        elif kind == "append" and is_file(name):
            with open(name, "ab") as file:
                file.write(path(second))
        elif kind == "hole" and is_file(name):
            os.truncate(name, int(second))
        elif kind == "remove":
            os.unlink(name)
        elif kind == "symlink":
            os.symlink(path(second), name)
        elif kind == "link" and is_file(path(second)):
            os.link(path(second), name)
        elif kind == "fifo":
            os.mkfifo(name)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(name)
        elif kind == "rename":
            os.rename(name, path(second))
        elif kind == "mkdir":
            os.mkdir(name)
    except OSError:
        pass
for first, mode in todo["modes"]:
    try:
        if is_file(path(first)):
            os.chmod(path(first), mode)
    except OSError:
        pass
"""

SENT = {"data/in.csv": b"1,2\n", "top": b"top", "deep/er/x": b"\0" * 5000}
words = [
    *(b"a", b"top", b"data/in.csv", b"data/new", b"deep/er/x", b"deep/er", b"data", b"d/e/f"),
    *(b"bad\xff\nname", b"d/\xc3", "naïve é".encode(), b"-rf", b" ", b"n" * 255),
    *(b"back\\xff", b"back\xff"),  # which look alike when they are told
]
places = st.sampled_from(words).map(bytes.hex)
targets = st.sampled_from([b"/etc/passwd", b"..", b"/proc/1/mem", b"top", b"loop", b"\xff"])
contents = st.binary(max_size=30).map(bytes.hex) | st.just((b"x" * 70_000).hex())
acts = st.one_of(
    st.tuples(st.sampled_from(["write", "append"]), places, contents),
    st.tuples(st.just("hole"), places, st.sampled_from(["0", "3", "9000", str(40 << 20)])),
    st.tuples(st.sampled_from(["remove", "fifo", "socket", "mkdir"]), places, st.just("")),
    st.tuples(st.just("symlink"), places, targets.map(bytes.hex)),
    st.tuples(st.sampled_from(["link", "rename"]), places, places),
)
modes = st.tuples(places, st.sampled_from([0, 0o400, 0o600, 0o644, 0o755, 0o777]))


@pytest.fixture(scope="module")
def sandbox(engine: Any) -> Iterator[BlockingSandbox]:
    del engine
    flags = {"pool": {"languages": ["python"], "min": 1, "max": 1, "reuse": "caller"}}
    with open_sandbox_blocking(load(flags=flags)) as opened:
        yield opened


def local(root: Path, todo: dict[str, Any]) -> None:
    """Run the program here, without its modes: every content is read afterwards."""
    for name, content in SENT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        (root / name).chmod(0o644)
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=root,
        input=json.dumps(todo),
        text=True,
        check=True,
        umask=0o022,
    )


def expected(root: Path, todo: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Look at what the program left, as a plain walk of this machine sees it."""
    local(root, {**todo, "modes": []})
    top = os.fsencode(root)
    contents: dict[bytes, bytes] = {}
    left: list[bytes] = []
    for above, below, files in os.walk(top):
        links = [name for name in below if stat.S_ISLNK(os.lstat(above + b"/" + name).st_mode)]
        left += [os.path.relpath(above + b"/" + name, top) for name in (*files, *links)]
    for name in left:
        if stat.S_ISREG(os.lstat(top + b"/" + name).st_mode):
            contents[name] = Path(os.fsdecode(top + b"/" + name)).read_bytes()
    local_modes = {**todo, "acts": []}
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=root, input=json.dumps(local_modes), text=True, check=True,
    )  # fmt: skip
    changed: dict[str, Any] = {}
    omitted: list[Any] = []
    for name in left:
        info = os.lstat(top + b"/" + name)
        mode = stat.S_IMODE(info.st_mode)
        shown = name.decode("utf-8", "backslashreplace")
        change = "modified" if shown in SENT and shown.encode() == name else "created"
        kind = {
            stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
        }.get(stat.S_IFMT(info.st_mode))  # fmt: skip
        if shown.encode() != name:
            omitted.append((shown, change, "name_not_utf8"))
        elif kind is not None:
            omitted.append((shown, change, kind))
        elif info.st_size > 16 << 20:
            omitted.append((shown, change, "too_large"))
        elif change == "created" or contents[name] != SENT[shown] or mode != 0o644:
            digest = hashlib.sha256(contents[name]).hexdigest()
            changed[shown] = (change, len(contents[name]), mode, digest)
    gone = [name for name in SENT if os.fsencode(name) not in left]
    changed |= dict.fromkeys(gone, ("deleted", None, None, None))
    return changed, sorted(omitted)


def told(outcome: Outcome) -> tuple[dict[str, Any], list[Any]]:
    report = outcome.files
    return (
        {f.path: (f.change.value, f.size, f.mode, f.sha256) for f in report.changed},
        sorted((f.path, f.change and f.change.value, f.reason.value) for f in report.omitted),
    )


@pytest.mark.requirement("file:manifest")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(acts, min_size=1, max_size=14), st.lists(modes, max_size=3))
def test_the_manifest_is_what_a_plain_walk_finds(
    sandbox: BlockingSandbox,
    tmp_path_factory: pytest.TempPathFactory,
    acts: list[tuple[str, str, str]],
    modes: list[tuple[str, int]],
) -> None:
    todo = {"acts": acts, "modes": modes}
    root = tmp_path_factory.mktemp("model")
    changed, omitted = expected(root, todo)
    outcome = sandbox.execute("python", PROGRAM, files=SENT, stdin=json.dumps(todo))
    assert outcome.status is Status.SUCCESS, (outcome.error_message, outcome.stderr.text)
    assert told(outcome) == (changed, omitted)
    for file in outcome.files.changed:
        if file.uri is not None:
            data = sandbox.read_file(file)
            assert hashlib.sha256(data).hexdigest() == file.sha256
