"""`--file-in`, `--save-files`, `--files` and the Python API's files, in real cells."""

import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest

import codecell
from codecell.settings import PoolSettings, Settings

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def _engine(engine: docker.APIClient) -> None:
    """Fail or skip where no engine answers."""


def run(cwd: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "codecell", "execute", *words],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, done
    return done


def test_files_and_directories_go_in_and_come_out(tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "data" / "sub" / "b.txt").write_text("b")
    (tmp_path / "data" / "link").symlink_to("/etc/passwd")
    (tmp_path / "app.py").write_text(
        "import glob, os\n"
        "print(sorted(p for p in glob.glob('**', recursive=True) if os.path.isfile(p)))\n"
        "os.makedirs('out/x'); open('out/x/new', 'w').write('new'); os.chmod('out/x/new', 0o4755)\n"
        "os.symlink('/etc/passwd', 'out/evil')\n"
        "os.remove('data/a.txt')\n"
    )
    done = run(
        tmp_path, "--file-in", "data", "--file-in", "app.py", "--file-in", "data/a.txt=other/é",
        "--entrypoint", "app.py", "--save-files", "saved", "--files",
    )  # fmt: skip
    assert done.stdout == "['app.py', 'data/a.txt', 'data/sub/b.txt', 'other/é']\n"
    lines = [line.partition(" codecell://")[0] for line in done.stderr.splitlines()]
    assert lines == [
        "codecell: created: out/x/new (3 B, text/plain)",
        "codecell: deleted: data/a.txt",
        "codecell: left out: out/evil: symlink to /etc/passwd",
    ]
    saved = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert saved == [tmp_path / "saved/out/x/new"]
    assert saved[0].read_text() == "new"
    assert saved[0].stat().st_mode & 0o7111 == 0


def test_saving_follows_no_link_and_writes_nowhere_else(tmp_path: Path) -> None:
    outside, saved = tmp_path / "outside", tmp_path / "saved"
    outside.mkdir()
    saved.mkdir()
    (outside / "victim").write_text("mine")
    os.link(outside / "victim", saved / "hard")
    (saved / "soft").symlink_to(outside / "victim")
    (saved / "dir").symlink_to(outside)
    (saved / "full").mkdir()
    (saved / "full" / "x").touch()
    code = (
        "import os; os.mkdir('dir')\n"
        "for p in ('hard', 'soft', 'dir/victim', 'full', 'fine'): open(p, 'w').write('theirs')"
    )
    done = run(tmp_path, "--save-files", "saved", code, status=125)
    assert (outside / "victim").read_text() == "mine"
    assert sorted(path.name for path in outside.iterdir()) == ["victim"]
    assert (saved / "hard").read_text() == (saved / "soft").read_text() == "theirs"
    assert not (saved / "soft").is_symlink()
    assert (saved / "fine").read_text() == "theirs"
    assert sorted(path.name for path in saved.iterdir()) == ["dir", "fine", "full", "hard", "soft"]
    assert [line[:40] for line in done.stderr.splitlines()] == [
        "codecell: 'dir/victim' is not saved: Not",
        "codecell: 'full' is not saved: Is a dire",
    ]


def test_what_cannot_be_sent_is_said_in_a_sentence(tmp_path: Path) -> None:
    assert "cannot read nothing" in run(tmp_path, "--file-in", "nothing", "1", status=125).stderr
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert "at most 16,777,216" in run(tmp_path, "--file-in", "huge", "1", status=125).stderr
    (tmp_path / "x").touch()
    assert "contains '..'" in run(tmp_path, "--file-in", "x=../y", "1", status=125).stderr


def test_the_python_api_sends_and_reads_files() -> None:
    with codecell.open_sandbox_blocking(Settings(pool=PoolSettings(min=0, max=0))) as sandbox:
        outcome = sandbox.execute(
            "python",
            files={"main.py": "import lib; open('out', 'w').write(lib.X * 3)", "lib.py": b"X='ab'"},
        )
        (out,) = outcome.files.changed
        assert (out.path, out.change, out.size) == ("out", "created", 6)
        assert sandbox.read_file(out) == b"ababab"
        assert sandbox.read_file(out, offset=1, length=2) == b"ba"


PICTURE = """
import struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
head = struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0)
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\\0ab"))
class Picture:
    def _repr_png_(self): return png + chunk(b"IEND", b"")
    def __repr__(self): return "a picture"
display(Picture())
Picture()
"""


def test_what_a_plain_run_shows_is_told_and_its_pictures_are_saved(tmp_path: Path) -> None:
    done = run(tmp_path, "--save-files", "saved", PICTURE)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "codecell: display-1: a picture [image/png 2 x 1]",
        "codecell: result: a picture [image/png 2 x 1]",
    ]
    for name in ("display-1", "result"):
        saved = (tmp_path / "saved" / "values" / f"{name}.png").read_bytes()
        assert (saved[:4], saved[-8:]) == (b"\x89PNG", b"IEND\xaeB`\x82")
    done = run(tmp_path, "--language", "javascript", "const a = 6; a * 7")
    assert (done.stdout, done.stderr) == ("", "codecell: result: 42\n")
    done = run(tmp_path, "class A:\n    def __repr__(self): return ' a\\n b'\nA()")
    assert done.stderr.splitlines() == ["codecell: result: ", "codecell:  a", "codecell:  b"]
