"""Files that a request brings and files that a run leaves, in real cells."""

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from codecell.app import open_runner
from codecell.errors import RequestError, ResourceNotFound
from codecell.model import Input, Outcome, Request, Status, Why
from codecell.runner import Runner
from codecell.settings import load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def execute(cold_runner: Runner) -> Execute:
    async def run(code: str, language: str = "python", **fields: Any) -> Outcome:
        return await cold_runner.execute(Request(language=language, code=code, **fields))

    return run


def files(**contents: str | bytes) -> tuple[Input, ...]:
    return tuple(
        Input(path=path, content=data if isinstance(data, bytes) else data.encode())
        for path, data in contents.items()
    )


def changed(outcome: Outcome) -> dict[str, str]:
    assert outcome.status is Status.SUCCESS, (outcome.error_message, outcome.stderr.text)
    return {file.path: file.change.value for file in outcome.files.changed}


def omitted(outcome: Outcome) -> dict[str | None, Why]:
    return {item.path: item.reason for item in outcome.files.omitted}


# in


async def test_files_are_there_before_the_program_begins(execute: Execute) -> None:
    code = """
import os
for path in ("a.txt", "deep/er/b.bin", "run.sh"):
    info = os.stat(path)
    print(path, open(path, "rb").read(), oct(info.st_mode & 0o777), info.st_uid == os.getuid())
"""
    outcome = await execute(
        code, files=files(**{"a.txt": "é", "deep/er/b.bin": b"\0\xff", "run.sh": "#!/bin/sh\n"})
    )
    assert outcome.stdout.text.splitlines() == [
        "a.txt b'\\xc3\\xa9' 0o644 True",
        "deep/er/b.bin b'\\x00\\xff' 0o644 True",
        "run.sh b'#!/bin/sh\\n' 0o755 True",
    ]
    assert changed(outcome) == {}
    assert outcome.files.omitted == ()


@pytest.mark.parametrize(
    ("language", "entrypoint", "brought"),
    [
        (
            "python",
            "app/run.py",
            {"app/run.py": "from lib import x\nprint(x)", "app/lib.py": "x=7"},
        ),
        ("python", None, {"main.py": "import pkg\nprint(pkg.x)", "pkg/__init__.py": "x = 7"}),
        ("bash", "bin/go.sh", {"bin/go.sh": ". ./lib.sh; echo $X", "lib.sh": "X=7"}),
        ("bash", None, {"main.sh": ". ./lib.sh; echo $X", "lib.sh": "X=7"}),
        (
            "javascript",
            "src/app.js",
            {"src/app.js": "console.log(require('./lib').x)", "src/lib.js": "exports.x = 7"},
        ),
        (
            "javascript",
            "main.js",
            {
                "package.json": '{"type": "module"}',
                "main.js": "import { x } from './lib.js'; console.log(x)",
                "lib.js": "export const x = 7",
            },
        ),
    ],
)
async def test_one_of_the_files_can_be_the_program(
    execute: Execute, language: str, entrypoint: str | None, brought: dict[str, str]
) -> None:
    outcome = await execute("", language=language, files=files(**brought), entrypoint=entrypoint)
    assert (outcome.stdout.text, outcome.stderr.text) == ("7\n", "")
    assert changed(outcome) == {}


async def test_code_can_be_put_where_entrypoint_says(execute: Execute) -> None:
    outcome = await execute(
        "import lib; print(lib.x, __file__)", files=files(**{"app/lib.py": "x=7"}),
        entrypoint="app/go.py",
    )  # fmt: skip
    assert outcome.stdout.text == "7 /sandbox/app/go.py\n"


@pytest.mark.requirement("file:paths")
async def test_what_cannot_be_accepted_is_refused_by_name_and_nothing_runs(
    cold_runner: Runner,
) -> None:
    for brought, words in (
        ({"ok": "", "/etc/x": ""}, r"files\[1\].path '/etc/x' is absolute"),
        ({"../x": ""}, r"files\[0\].path '../x' contains '..'"),
        ({"main.py": ""}, r"files\[0\].path 'main.py' is the path of code too"),
        ({"main.py/x": ""}, "needs a directory where code is a file"),
    ):
        with pytest.raises(RequestError, match=words):
            await cold_runner.execute(
                Request(language="python", code="print(1)", files=files(**brought))
            )


async def test_a_stored_result_can_be_sent_back_in(cold_runner: Runner, execute: Execute) -> None:
    first = await execute("open('a.bin', 'wb').write(bytes(range(256)))")
    (made,) = first.files.changed
    again = await execute(
        "print(open('b.bin','rb').read() == bytes(range(256)))",
        files=(Input(path="b.bin", uri=made.uri),),
    )
    assert again.stdout.text == "True\n"
    with pytest.raises(RequestError, match=r"files\[0\].uri .*does not exist"):
        await execute("1", files=(Input(path="b", uri=made.uri),), caller="another")


# out


async def test_every_change_is_told_and_every_content_can_be_read(
    cold_runner: Runner, execute: Execute
) -> None:
    code = """
import os
open("new.txt", "w").write("new")
os.makedirs("a/b"); open("a/b/empty", "w").close()
open("changed.txt", "a").write("more")
os.remove("gone.txt")
os.chmod("mode.txt", 0o600)
open("same.txt", "w").write("same")
"""
    outcome = await execute(
        code,
        files=files(**{"changed.txt": "x", "gone.txt": "x", "mode.txt": "x", "same.txt": "same"}),
    )
    assert changed(outcome) == {
        "a/b/empty": "created",
        "changed.txt": "modified",
        "gone.txt": "deleted",
        "mode.txt": "modified",
        "new.txt": "created",
    }
    by_path = {file.path: file for file in outcome.files.changed}
    new = by_path["new.txt"]
    assert (new.size, new.mode, new.mime) == (3, 0o644, "text/plain")
    assert new.sha256 == hashlib.sha256(b"new").hexdigest()
    assert by_path["mode.txt"].mode == 0o600
    assert (
        cold_runner.store.read(cold_runner.store.find(by_path["changed.txt"].uri or "", "local"))
        == b"xmore"
    )
    with pytest.raises(ResourceNotFound):
        cold_runner.store.find(new.uri or "", "another")


C_WRITES = '#include <stdio.h>\nint main(void) { fputs("x", fopen("o", "w")); }'


@pytest.mark.parametrize(
    ("language", "code", "made"),
    [
        ("bash", "echo x >out.txt", {"out.txt": "created"}),
        ("javascript", "require('fs').writeFileSync('out.txt', 'x')", {"out.txt": "created"}),
        ("c", C_WRITES, {"o": "created"}),
        ("java", "class M { public static void main(String[] a) {} }", {}),
        ("typescript", "console.log(1)", {}),
        ("python", "open('main.py', 'a').write('#')", {"main.py": "modified"}),
        ("python", "import os; os.remove('main.py')", {"main.py": "deleted"}),
        ("python", "open('main.py', 'w').write(open('main.py').read())", None),
        ("bash", "sed -i s/x/y/ main.sh # x", {"main.sh": "modified"}),
    ],
)  # fmt: skip
async def test_what_the_compiler_made_is_not_the_programs(
    execute: Execute, language: str, code: str, made: dict[str, str] | None
) -> None:
    outcome = await execute(code, language=language)
    if made is None:
        made = {"main.py": "modified"}  # it was truncated before it was read
    assert changed(outcome) == made


async def test_whatever_the_ending_files_come_back(execute: Execute) -> None:
    outcome = await execute("open('part', 'w').write('x' * 10)\nwhile True: pass", timeout_s=0.5)
    assert outcome.status is Status.TIMEOUT
    assert [(file.path, file.size) for file in outcome.files.changed] == [("part", 10)]
    outcome = await execute("open('part', 'w').write('x')\n1/0")
    assert outcome.status is Status.EXECUTION_ERROR
    assert [file.path for file in outcome.files.changed] == ["part"]


async def test_a_change_through_a_mapping_is_seen(execute: Execute) -> None:
    code = """
import mmap
with open("data", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
    m[0]  # read first: the kernel then notes no time of modification
    m[0:1] = b"y"
"""
    for size, seen in ((100, {"data": "modified"}), (2**20, {"data": "modified"}), (2**20 + 1, {})):
        # The last one is a limit that the specification states: hashing costs more than it finds.
        outcome = await execute(code, files=files(data="x" * size))
        assert changed(outcome) == seen


async def test_a_change_through_a_mapping_of_an_earlier_steps_file_is_not_seen(
    cold_runner: Runner, execute: Execute
) -> None:
    """The other limit that the specification states; a write to the file is seen."""
    mapped = """
import mmap
with open("data", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
    m[0]
    m[0:1] = b"y"
"""
    steps = (
        ("open('data', 'w').write('x' * 100)", {"data": "created"}),
        (mapped, {}),
        ("print(open('data').read(1)); open('data', 'r+').write('z')", {"data": "modified"}),
    )
    for code, seen in steps:
        outcome = await execute(code, session_id="mapping")
        assert changed(outcome) == seen
    assert outcome.stdout.text == "y\n"
    await cold_runner.close_session("local", "mapping")


HOSTILE = """
import os, socket
os.symlink("/etc/passwd", "passwd"); os.symlink("/proc/1/mem", "mem"); os.symlink("loop", "loop")
os.symlink("/", "root"); os.mkfifo("fifo")
os.mkdir("links"); os.symlink("..", "links/up")
s = socket.socket(socket.AF_UNIX); s.bind("socket")
with open("sparse", "wb") as f: f.truncate(40 << 20)
open(b"bad\\xff\\nname", "w").close()
open("plain", "w").write("p"); os.link("plain", "hard")
open("none", "w").write("secret"); os.chmod("none", 0)
os.mkdir("shut"); open("shut/inside", "w").write("i"); os.chmod("shut", 0)
path = "d" * 200
for _ in range(12): os.mkdir(path); path += "/" + "d" * 200
open("deep", "w").close()
fd = os.open(".", os.O_RDONLY)
for n in range(40):
    os.mkdir("n", dir_fd=fd); fd = os.open("n", os.O_RDONLY, dir_fd=fd)
open(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "w").close()
"""


@pytest.mark.requirement("out:files")
async def test_nothing_hostile_is_followed_and_all_of_it_is_told(
    cold_runner: Runner, execute: Execute
) -> None:
    outcome = await execute(HOSTILE)
    assert changed(outcome) == dict.fromkeys(
        ["deep", "hard", "none", "plain", "shut/inside"], "created"
    )
    assert omitted(outcome) == {
        "bad\\xff\nname": Why.NAME,
        "fifo": Why.FIFO,
        "links/up": Why.SYMLINK,
        "loop": Why.SYMLINK,
        "mem": Why.SYMLINK,
        "passwd": Why.SYMLINK,
        "root": Why.SYMLINK,
        "socket": Why.SOCKET,
        "sparse": Why.TOO_LARGE,
        None: Why.NOT_SEARCHED,
    }
    targets = {item.path: item.target for item in outcome.files.omitted if item.target}
    assert targets["passwd"] == "/etc/passwd"
    assert targets["mem"] == "/proc/1/mem"
    by_path = {file.path: file for file in outcome.files.changed}
    assert by_path["none"].mode == 0
    read = cold_runner.store.read(cold_runner.store.find(by_path["none"].uri or "", "local"))
    assert read == b"secret"


@pytest.mark.requirement("file:bounds-out")
async def test_ten_thousand_files_are_counted_and_some_come(execute: Execute) -> None:
    started = time.monotonic()
    outcome = await execute("for n in range(10_000): open(f'{n:05}', 'w').close()")
    taken = time.monotonic() - started
    assert outcome.status in (Status.SUCCESS, Status.EXECUTION_ERROR), outcome.stderr.text
    assert len(outcome.files.changed) == 200
    (rest,) = outcome.files.omitted
    assert rest.reason is Why.TOO_MANY
    assert rest.count > 5000
    assert taken < 10


@pytest.mark.requirement("file:bounds-out")
async def test_more_than_may_come_in_all_is_left_out_by_name(execute: Execute) -> None:
    outcome = await execute("for n in range(5): open(str(n), 'wb').write(bytes(9 << 20))")
    assert changed(outcome) == dict.fromkeys("012", "created")
    assert omitted(outcome) == {"3": Why.TOO_LARGE, "4": Why.TOO_LARGE}


async def test_ten_megabytes_in_and_out(cold_runner: Runner, execute: Execute) -> None:
    data = hashlib.sha256(b"seed").digest() * (10 * 2**20 // 32)
    await execute("1")
    started = time.monotonic()
    outcome = await execute(
        "import shutil; shutil.copyfile('in', 'out')", files=(Input(path="in", content=data),)
    )
    taken = time.monotonic() - started
    (out,) = outcome.files.changed
    assert (out.path, out.size, out.sha256) == ("out", len(data), hashlib.sha256(data).hexdigest())
    assert taken < 5  # a second, on a machine with nothing else to do


@pytest.mark.requirement("store:gone")
async def test_a_sessions_files_go_with_the_session(cold_runner: Runner, execute: Execute) -> None:
    outcome = await execute("open('kept', 'w').write('x'); print('y' * 10**6)", session_id="files")
    alone = await execute("open('kept', 'w').write('x')")
    (kept,), (other,) = outcome.files.changed, alone.files.changed
    addresses = [kept.uri or "", outcome.stdout.uri or ""]
    for address in addresses:
        assert cold_runner.store.find(address, "local").size
    await cold_runner.close_session("local", "files")
    for address in addresses:
        with pytest.raises(ResourceNotFound):
            cold_runner.store.find(address, "local")
    assert cold_runner.store.find(other.uri or "", "local").size == 1


@pytest.mark.requirement("file:changing")
async def test_a_file_that_changes_while_it_is_read_is_named_and_not_sent(
    cold_runner: Runner, execute: Execute
) -> None:
    outcome = await execute(
        """
import subprocess
open("growing", "wb").write(bytes(8 << 20))
subprocess.Popen(["sh", "-c", "while :; do echo x >> growing; done"])
open("still", "w").write("s")
""",
        session_id="changing",
    )
    await cold_runner.close_session("local", "changing")
    assert changed(outcome) == {"still": "created"}
    assert omitted(outcome) == {"growing": Why.CHANGED}


async def test_files_that_do_not_fit_say_so(execute: Execute) -> None:
    with pytest.raises(RequestError, match=r"files are .* bytes together; at most 16,777,216"):
        await execute("1", files=files(big=bytes(17 * 2**20)))


async def test_a_cell_used_again_is_as_clean_as_a_new_one(engine: Any) -> None:
    flags = {"pool": {"reuse": "caller", "min": 1, "max": 1, "languages": ["python"]}}
    async with open_runner(load(flags=flags)) as runner:
        for n in range(4):
            outcome = await runner.execute(
                Request(
                    language="python",
                    code=f"import os; print(sorted(os.listdir())); open('out{n}', 'w').write('x')",
                    files=files(data="x"),
                )
            )
            assert outcome.stdout.text == "['data', 'main.py']\n"
            assert changed(outcome) == {f"out{n}": "created"}


# output


@pytest.mark.parametrize("size", [700_000, 1_000_000, 12_000_000])
async def test_a_long_output_can_be_read_from_its_beginning(
    cold_runner: Runner, execute: Execute, size: int
) -> None:
    outcome = await execute(f"for n in range({size} // 10): print(f'{{n:09}}')")
    assert outcome.status is Status.SUCCESS
    data = b"".join(b"%09d\n" % n for n in range(size // 10))
    shown = outcome.stdout
    assert (shown.total_bytes, shown.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert shown.text.startswith(data[:1000].decode())
    assert shown.text.endswith(data[-1000:].decode())
    item = cold_runner.store.find(shown.uri or "", "local")
    assert item.size == shown.stored_bytes
    limits = outcome.plan.limits
    most = limits.stream_bytes
    assert cold_runner.store.read(item) == data[:most]


@pytest.mark.usefixtures("engine")
async def test_the_end_of_a_long_output_comes_with_the_end_of_its_program() -> None:
    """What waits for room in the stream goes on when there is room: it came 2 s late."""
    flood = "import sys\nfor n in range(200): sys.stdout.write('x' * 99_999 + '\\n')"
    flags = {"pool": {"languages": ["python"], "min": 1, "max": 1, "reuse": "caller"}}
    async with open_runner(load(flags=flags)) as runner:
        await runner.execute(Request(language="python", code="pass"))
        late = []
        for _ in range(12):
            outcome = await runner.execute(Request(language="python", code=flood))
            assert outcome.stdout.total_bytes == 20_000_000
            late.append(outcome.execution_time_s - outcome.usage.wall_s)
        assert max(late) < 1.5, late


async def test_a_larger_cap_keeps_more(engine: Any) -> None:
    flags = {"pool": {"min": 0, "max": 0}, "limits": {"stream": "8MiB"}}
    async with open_runner(load(flags=flags)) as runner:
        outcome = await runner.execute(
            Request(
                language="python",
                code="import os\nfor n in range(100): os.write(2, b'%099999d\\n' % n)",
            )
        )
        item = runner.store.find(outcome.stderr.uri or "", "local")
        assert item.size == outcome.plan.limits.stream_bytes
        assert runner.store.read(item, 5_000_000, 100_000) == b"%099999d\n" % 50
        assert (
            outcome.stderr.sha256
            == hashlib.sha256(b"".join(b"%099999d\n" % n for n in range(100))).hexdigest()
        )
