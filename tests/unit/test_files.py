"""Paths in, manifests out: what is accepted is exact, and the rest is refused."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ByteSize

from codecell.collection import Collection
from codecell.errors import ProtocolError, RequestError
from codecell.files import DEPTH, NAME_BYTES, PATH_BYTES, check, path_error
from codecell.frames import Frame, Kind, encode_file
from codecell.incell.channel import HEADER
from codecell.incell.files import Tree
from codecell.model import Change, Input, Why
from codecell.settings import FileSettings, StoreSettings
from codecell.store import Store

once = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LIMITS = FileSettings(
    in_count=4,
    in_size=ByteSize(300),
    out_count=5,
    out_file=ByteSize(64),
    out_size=ByteSize(150),
)

# Names that are fine beside every kind that is not, and any other text at all.
names = st.sampled_from(
    ["a", "b.txt", "naïve", "日本", "a b", "-rf", "new\nline", "back\\slash", "..", ".", "", "...",
     "n" * NAME_BYTES, "n" * (NAME_BYTES + 1), "é" * 128, "nul\0", "\ud800", "~", "CON", "%2e%2e"]
) | st.text(max_size=5)  # fmt: skip
paths = (
    st.lists(names, min_size=1, max_size=DEPTH + 2).map("/".join)
    | st.text(max_size=20)
    | st.sampled_from(["/etc/passwd", "//x", "a//b", "a/", "x/" * 600 + "y", "a/../../etc/passwd"])
)
brought = st.lists(st.tuples(paths, st.binary(max_size=120)), max_size=6)


@pytest.mark.requirement("file:paths")
@once
@given(brought)
def test_a_file_is_written_exactly_where_its_path_says_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[str, bytes]]
) -> None:
    given_files = [Input(path=path, content=content) for path, content in sent]
    try:
        accepted = check(given_files, LIMITS, room=10**6, main="main.py")
    except RequestError as error:
        assert str(error).startswith(("files[", "files has ", "files are ", "code.path "))
        assert str(error).isprintable()
        return
    assert [(file.path, file.content) for file in accepted] == sent
    root = tmp_path_factory.mktemp("cell") / "sandbox"
    root.mkdir()
    beside = sorted(root.parent.iterdir())
    tree = Tree(str(root))
    tree.begin()
    for file in accepted:
        for frame in encode_file(1, file):
            tree.open(memoryview(frame)[HEADER.size :])
    tree.close()
    assert tree.failure == ""
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    assert {path: file.read_bytes() for path, file in found.items()} == dict(sent)
    for file in accepted:
        assert found[file.path].stat().st_mode & 0o777 == file.mode
    assert sorted(root.parent.iterdir()) == beside
    assert tree.changes() == []


@pytest.mark.requirement("file:paths")
@once
@given(paths)
def test_an_accepted_path_stays_inside_and_within_what_a_file_system_takes(path: str) -> None:
    if path_error(path) is None:
        assert not PurePosixPath(path).is_absolute()
        assert os.path.normpath(path) == path
        assert ".." not in path.split("/")
        assert len(path.encode()) <= PATH_BYTES
        assert max(len(part.encode()) for part in path.split("/")) <= NAME_BYTES


@pytest.mark.requirement("file:bounds-in")
@once
@given(st.lists(st.integers(0, 200), max_size=6))
def test_too_many_and_too_large_are_refused_before_anything_runs(sizes: list[int]) -> None:
    sent = [Input(path=str(n), content=bytes(size)) for n, size in enumerate(sizes)]
    if len(sizes) > LIMITS.in_count or sum(sizes) > 300:
        with pytest.raises(RequestError, match=r"^files (has|are) "):
            check(sent, LIMITS, room=10**6)
    else:
        assert len(check(sent, LIMITS, room=10**6)) == len(sizes)
    if sum(sizes) > 10:
        with pytest.raises(RequestError, match=r"^files (has|are) "):
            check(sent, LIMITS, room=10)


# hostile manifests

values: Any = (
    st.none() | st.booleans() | st.integers(-5, 70) | st.floats() | st.text(max_size=3)
    | st.sampled_from([2**62, 2**63, 10**400, [], {}])
)  # fmt: skip
good_paths = st.sampled_from(["a", "b/c", "plot.png", "é"])
entries = st.fixed_dictionaries(
    {
        "path": good_paths | paths | values,
        "change": st.sampled_from(list(Change)) | values,
        "size": st.integers(0, 70) | values,
        "mode": st.just(0o644) | values,
    },
    optional={"reason": st.sampled_from(list(Why)) | values, "target": paths | values},
)
sound = st.fixed_dictionaries(
    {
        "path": good_paths,
        "change": st.sampled_from([Change.CREATED, Change.MODIFIED]),
        "size": st.integers(0, 20),
        "mode": st.just(0o600),
    }
)


def frame(kind: Kind, value: Any) -> Frame:
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Frame(kind, 1, payload)


def a_whole_file(entry: dict[str, Any]) -> list[Frame]:
    content = bytes(entry["size"])
    return [
        frame(Kind.ENTRY, entry),
        frame(Kind.CONTENT, content),
        frame(Kind.SEALED, {"whole": True}),
    ]


hostile = (
    st.builds(lambda value: [frame(Kind.ENTRY, value)], entries)
    | st.builds(lambda data: [frame(Kind.CONTENT, data)], st.binary(max_size=90))
    | st.builds(
        lambda whole: [frame(Kind.SEALED, {"whole": whole})], st.booleans() | values
    )
    | st.builds(
        lambda more, whole: [frame(Kind.COLLECTED, {"more": more, "whole": whole})],
        values, st.booleans() | values,
    )
    | st.builds(
        lambda kind, data: [frame(kind, data)],
        st.sampled_from([Kind.ENTRY, Kind.SEALED, Kind.COLLECTED]),
        st.binary(max_size=20),
    )
    | sound.map(a_whole_file)
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(StoreSettings(directory=tmp_path_factory.mktemp("store")))
    yield made
    made.close()


@pytest.mark.requirement("file:bounds-out")
@once
@given(st.lists(hostile, max_size=12))
def test_whatever_a_cell_says_of_its_files_is_bounded_true_and_its_callers(
    store: Store, frames: list[list[Frame]]
) -> None:
    collection = Collection(store, "me", "run", LIMITS)
    try:
        for one in (one for several in frames for one in several):
            if collection.take(one):
                break
    except ProtocolError as error:
        assert "cell" in str(error)
    collection.give_up(100)
    report = collection.report()
    kept = [file for file in report.changed if file.uri is not None]
    assert len(report.changed) <= LIMITS.out_count
    assert len(report.changed) + len(report.omitted) <= LIMITS.out_count + 3
    assert sum(file.size or 0 for file in kept) <= LIMITS.out_size
    assert len({file.path for file in report.changed}) == len(report.changed)
    for file in report.changed:
        assert path_error(file.path) is None
        assert (file.uri is None) == (file.change is Change.DELETED)
    for file in kept:
        data = store.read(store.find(file.uri or "", "me"))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
        assert file.mode is not None
        assert file.mode <= 0o7777
    for left_out in report.omitted:
        (left_out.path or "").encode()
        assert len(left_out.target or "") <= 500
    assert store.size == sum(file.size or 0 for file in kept)  # nothing half is left behind
    assert list(store.items("you")) == []
    store.forget("me", ["run"])


@pytest.mark.requirement("out:files")
@pytest.mark.requirement("file:paths")
def test_a_directory_of_this_machine_is_out_of_a_trees_reach(tmp_path: Path) -> None:
    """A link put where a directory was is not followed, neither to write nor to read."""
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("host")
    (tmp_path / "sandbox" / "up").symlink_to("../other")
    tree = Tree(str(tmp_path / "sandbox"))
    tree.begin()
    (sent,) = check([Input(path="up/x", content=b"gotcha")], LIMITS, room=10**6)
    for data in encode_file(1, sent):
        tree.open(memoryview(data)[HEADER.size :])
    assert "up/x" in tree.failure
    assert (tmp_path / "other" / "x").read_text() == "host"
    assert tree.changes() == [("up", "created")]
