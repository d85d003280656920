"""A chain on disk: locked, rotated, taken up again after a kill, undone where a write fails."""

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from codecell.audit import book as books
from codecell.audit.book import Book, open_book
from codecell.audit.chain import Finding, verify
from codecell.errors import ConfigurationError


def opened(folder: Path, *, rotate: int = 1 << 20, keep: int = 0) -> Book:
    return open_book(folder, rotate=rotate, keep=keep)[0]


def checked(folder: Path, name: str = "audit.0") -> Finding:
    return verify(books.lines(folder, name), books.head_of(folder, name))


def write(book: Book, *names: str, **more: Any) -> None:
    book.append([{"event": name, **more} for name in names])


def test_a_chain_goes_on_where_it_was_left(tmp_path: Path) -> None:
    for _ in range(3):
        book = opened(tmp_path)
        write(book, "a", "b")
        book.close()
    found = checked(tmp_path)
    assert (found.problems, found.lines) == ((), 6)


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    old = os.umask(0)
    try:
        book = opened(folder, rotate=1)
        write(book, "a")
        write(book, "b")
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 3
    book.close()


def test_a_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "audit.0.jsonl").symlink_to(victim)
    with pytest.raises(ConfigurationError, match=r"audit\.folder"):
        opened(folder)
    assert victim.read_text() == "x"


@pytest.mark.requirement("audit:own-files")
def test_two_servers_in_one_folder_write_chains_of_their_own(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    for name in "abc":
        write(first, name)
        write(second, name)
    assert (first.name, second.name) == ("audit.0", "audit.1")
    assert books.chains(tmp_path) == ["audit.0", "audit.1"]
    first.close()
    third = opened(tmp_path)
    assert third.name == "audit.0"
    for name in books.chains(tmp_path):
        assert checked(tmp_path, name).problems == ()
    second.close()
    third.close()


@pytest.mark.requirement("audit:rotation")
def test_rotation_keeps_the_chain(tmp_path: Path) -> None:
    book = opened(tmp_path, rotate=600)
    for number in range(40):
        write(book, "x", number=number)
    book.close()
    assert len(books.older(tmp_path, "audit.0")) > 5
    found = checked(tmp_path)
    assert (found.problems, found.lines) == ((), 40)
    (books.older(tmp_path, "audit.0")[2]).unlink()
    assert "missing" in checked(tmp_path).problems[0]


@pytest.mark.requirement("audit:rotation")
def test_old_files_go_and_only_as_the_head_says(tmp_path: Path) -> None:
    book = opened(tmp_path, rotate=600, keep=2)
    for number in range(40):
        write(book, "x", number=number)
    book.close()
    assert len(books.older(tmp_path, "audit.0")) == 2
    found = checked(tmp_path)
    assert found.problems == ()
    assert "begins at line" in found.notes[0]
    books.older(tmp_path, "audit.0")[0].unlink()
    assert "at the beginning are missing" in checked(tmp_path).problems[0]


def test_a_line_without_an_end_is_cut_off_and_told(tmp_path: Path) -> None:
    book = opened(tmp_path)
    write(book, "a")
    book.close()
    with (tmp_path / "audit.0.jsonl").open("ab") as file:
        file.write(b'{"seq":2,"ev')
    assert checked(tmp_path).problems == ()  # a server may just be writing it
    book = opened(tmp_path)
    assert book.dropped == 12
    write(book, "b")
    book.close()
    found = checked(tmp_path)
    assert (found.problems, found.lines) == ((), 2)


@pytest.mark.requirement("audit:tampering")
@pytest.mark.parametrize("harm", ["cut", "change", "head", "empty"])
def test_a_chain_that_was_tampered_with_is_left_as_it_is(tmp_path: Path, harm: str) -> None:
    book = opened(tmp_path)
    write(book, "a", "b", "c")
    book.close()
    path = tmp_path / "audit.0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if harm == "cut":
        path.write_bytes(b"".join(lines[:2]))
    elif harm == "change":
        path.write_bytes(b"".join([*lines[:2], lines[2].replace(b'"c"', b'"d"')]))
    elif harm == "empty":
        path.unlink()
    else:
        (tmp_path / "audit.0.head").write_bytes(b"")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.stat().st_size}
    book, broken = open_book(tmp_path, rotate=1 << 20, keep=0)
    assert (book.name, broken) == ("audit.1", ["audit.0"])
    write(book, "x")
    book.close()
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    assert checked(tmp_path).problems


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"audit\.folder .*/file/log"):
        opened(tmp_path / "file" / "log")


def test_when_every_chain_is_taken_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "MOST_CHAINS", 2)
    held = [opened(tmp_path), opened(tmp_path)]
    with pytest.raises(ConfigurationError, match="all 2 chains are taken"):
        opened(tmp_path)
    for book in held:
        book.close()


@pytest.mark.requirement("audit:failure")
def test_a_write_that_fails_half_way_is_undone_and_can_be_tried_again(tmp_path: Path) -> None:
    book = opened(tmp_path)
    write(book, "a")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        with pytest.raises(OSError, match="too large"):
            write(book, "b", text="x" * 5000)
        assert checked(tmp_path).problems == ()
        write(book, "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    write(book, "b", text="x" * 5000)
    book.close()
    found = checked(tmp_path)
    assert (found.problems, found.lines) == ((), 3)


WRITES = """
import sys
import time
from pathlib import Path
from codecell.audit.book import open_book
book, _ = open_book(Path(sys.argv[1]), rotate=3000, keep=0)
print("ready", flush=True)
while True:
    book.append([{"event": "x", "text": "y" * 300}] * 3)
"""


@pytest.mark.requirement("audit:failure")
def test_a_server_that_is_killed_leaves_a_chain_that_goes_on(tmp_path: Path) -> None:
    for pause in (0, 0.01, 0.03, 0.05, 0.08):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITES, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(pause)  # to be killed in the middle of something
        writer.kill()
        writer.wait()
        writer.stdout.close()
        assert checked(tmp_path).problems == ()
    assert books.chains(tmp_path) == ["audit.0"]
