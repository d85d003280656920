"""The parsers of both ends of the protocol against bytes that nobody wrote, and a kept corpus.

The server's end must be safe from any cell, the agent's from a server gone wrong: a fault there
would be a cell's end, never a program's gain. `SOAK` draws more (`make soak`). A case that
once failed is added to corpus/ as a file and is tried for ever.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codecell import app
from codecell.backends.fake import Act, End, FakeBackend, Raw, Reply, Script, leave
from codecell.collection import Collection
from codecell.errors import ProtocolError
from codecell.files import path_error
from codecell.frames import HEADER, MAGIC, MAX_PAYLOAD, Decoder, Frame, Kind, decode_json, encode
from codecell.incell.channel import BUFFER, CHUNK, Channel, ServerGone
from codecell.link import FILE_FRAMES
from codecell.model import Change, Outcome, Request, Status, Why
from codecell.settings import FileSettings, StoreSettings, load
from codecell.store import Store

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.bin"))
EXAMPLES = 20_000 if os.environ.get("SOAK") else 300
FROM_AGENT = [kind for kind in Kind if kind > 64]

lengths = st.integers(0, 64) | st.sampled_from([MAX_PAYLOAD, MAX_PAYLOAD + 1, 2**31, 2**32 - 1])
headers = st.builds(
    HEADER.pack,
    st.just(MAGIC) | st.integers(0, 255),
    st.sampled_from([int(kind) for kind in Kind]) | st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    lengths,
)
sound = st.builds(encode, st.sampled_from(FROM_AGENT), st.integers(0, 2**32 - 1), st.binary())
streams = st.lists(headers | sound | st.binary(max_size=80), max_size=12).map(b"".join)
budget = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

# A server is opened for each example: fewer of them.
small_budget = settings(budget, max_examples=max(EXAMPLES // 10, 100))


def server_reads(data: bytes, cuts: list[int]) -> list[Frame]:
    """Feed a stream in pieces; whatever it is, it ends in frames or in one kind of error."""
    decoder, frames = Decoder(), []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for start, end in itertools.pairwise(edges):
            for frame in decoder.feed(data[start:end]):
                assert len(frame.payload) <= MAX_PAYLOAD
                assert frame.kind > 64
                frames.append(frame)
                with contextlib.suppress(ProtocolError):
                    assert isinstance(decode_json(frame), dict)
            assert decoder.held < HEADER.size + MAX_PAYLOAD
    except ProtocolError:
        pass
    return frames


@pytest.mark.requirement("out:parsers")
@budget
@given(streams, st.lists(st.integers(0, 2**16), max_size=6))
def test_servers_parser_takes_any_stream_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    assert server_reads(data, cuts) == server_reads(data, [])


@pytest.mark.requirement("out:parsers")
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_servers_parser_takes_the_corpus(path: Path) -> None:
    data = path.read_bytes()
    whole = server_reads(data, [])
    assert server_reads(data, list(range(len(data)))) == whole


class Pipes:
    """An agent's channel whose server is this test."""

    def __init__(self) -> None:
        read, self.to_agent = os.pipe()
        self.from_agent, write = os.pipe()
        os.set_blocking(read, False)
        self._ends = (read, write, self.from_agent)
        self.channel = Channel(read, write)

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        for start in range(0, len(data), CHUNK):
            os.write(self.to_agent, data[start : start + CHUNK])
            for kind, run, payload in self.channel.receive():
                yield kind, run, bytes(payload)

    def close(self) -> None:
        os.close(self.to_agent)
        for fd in self._ends:
            os.close(fd)


def agent_reads(pipes: Pipes, data: bytes) -> list[tuple[int, int, bytes]]:
    frames = []
    try:
        for frame in pipes.feed(data):
            assert len(frame[2]) <= CHUNK
            frames.append(frame)
    except (ValueError, ServerGone):
        pass
    return frames


@pytest.fixture(scope="module")
def channels() -> Iterator[list[Pipes]]:
    """Each channel maps memory that is never given back: a few serve all examples."""
    made: list[Pipes] = []
    yield made
    for pipes in made:
        pipes.close()


def fresh(channels: list[Pipes]) -> Pipes:
    if not channels:
        channels.append(Pipes())
    channels[0].channel._in_end = 0
    return channels[0]


@pytest.mark.requirement("out:parsers")
@budget
@given(data=streams)
def test_agents_parser_takes_any_stream(channels: list[Pipes], data: bytes) -> None:
    frames = agent_reads(fresh(channels), data)
    # What it takes for a frame is one, byte for byte, in order, from the beginning.
    packed = b"".join(HEADER.pack(MAGIC, k, run, len(body)) + body for k, run, body in frames)
    assert data.startswith(packed)
    assert len(packed) <= BUFFER * (len(data) // CHUNK + 1)


@pytest.mark.requirement("out:parsers")
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_agents_parser_takes_the_corpus(channels: list[Pipes], path: Path) -> None:
    data = path.read_bytes()
    frames = agent_reads(fresh(channels), data)
    packed = b"".join(HEADER.pack(MAGIC, k, run, len(body)) + body for k, run, body in frames)
    assert data.startswith(packed)


# --- what the frames say: files, values, reports, sessions

odd = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", 2**63, -1, 10**400, [], {}, [[]]])
)
TRICKS = (
    "a", "b/c", "../a", "/etc/passwd", "a/../../b", "a//b", ".", "..", "a/./b", "a/", "~/x", "-rf",
    "a\0b", "a\nb", "C:\\a", "..\\a", "\u202egnp.exe", "\ud800", "x" * 300, "d/" * 40 + "e", "",
    "lock", "0", "1", "%2e%2e/a", "a?length=1", "a#b", "\u00e9", "e\u0301", "main.py",
)  # fmt: skip
words = st.sampled_from(TRICKS) | st.text(max_size=20)


def said(values: Any) -> bytes:
    return json.dumps(values).encode()


entries = st.fixed_dictionaries(
    {
        "path": words | odd,
        "change": st.sampled_from([change.value for change in Change]) | odd,
        "size": st.integers(0, 40) | odd,
        "mode": st.integers(0, 0o7777) | odd,
    },
    optional={"reason": st.sampled_from([why.value for why in Why]) | odd, "target": words | odd},
)
plain = st.builds(  # most are sound, or nothing would get past the first frame
    lambda path, body: [
        (Kind.ENTRY, said({"path": path, "change": "created", "size": len(body), "mode": 0o644})),
        (Kind.CONTENT, body),
        (Kind.SEALED, said({"whole": True})),
    ],
    words,
    st.binary(min_size=1, max_size=40),
)
loose = st.one_of(
    st.tuples(st.just(Kind.ENTRY), entries.map(said)),
    st.tuples(st.just(Kind.CONTENT), st.binary(max_size=60)),
    st.tuples(st.just(Kind.SEALED), st.builds(said, st.fixed_dictionaries({"whole": odd}))),
    st.tuples(
        st.just(Kind.COLLECTED), st.builds(said, st.fixed_dictionaries({"whole": odd, "more": odd}))
    ),
    st.tuples(st.sampled_from([Kind.ENTRY, Kind.SEALED, Kind.COLLECTED]), st.binary(max_size=20)),
).map(lambda frame: [frame])
collected = st.lists(plain | loose, max_size=8).map(lambda some: [f for part in some for f in part])


def collects(frames: Iterable[tuple[Kind, bytes]], folder: Path) -> None:
    """Take frames about files: whatever they say, what is kept is bounded and in its place."""
    limits = FileSettings(out_count=4, out_file=32, out_size=64)  # type: ignore[arg-type]
    store = Store(StoreSettings(directory=folder))
    try:
        collection = Collection(store, "me", "r1", limits)
        with contextlib.suppress(ProtocolError):
            for kind, payload in frames:
                if collection.take(Frame(kind, 1, payload)):
                    break
        collection.give_up(changes=0)
        report = collection.report()
        assert sum(file.size or 0 for file in report.changed) <= 64
        assert len(report.changed) + len(report.omitted) <= 4 + 4
        for file in report.changed:
            assert path_error(file.path) is None
            if file.uri is not None:
                item = store.find(file.uri, "me")
                assert (item.name, item.size) == (f"files/{file.path}", file.size)
                assert len(store.read(item)) == item.size
        # On the disk nothing is named by what the cell said.
        names = [path.relative_to(folder).parts for path in folder.glob("**/*")]
        assert all(len(parts) <= 2 for parts in names)
        assert all(parts[1] == "lock" or parts[1].isdecimal() for parts in names if len(parts) == 2)
        json.dumps([file.path for file in report.changed]).encode()
    finally:
        store.close()
    assert list(folder.glob("*")) == []


@pytest.fixture(scope="module")
def spools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spools")


@pytest.mark.requirement("out:files")
@pytest.mark.requirement("out:parsers")
@budget
@given(frames=collected)
def test_no_frame_about_files_leads_out_of_the_store(
    spools: Path, frames: list[tuple[Kind, bytes]]
) -> None:
    collects(frames, spools)


SOUND: dict[str, Any] = json.loads(leave().payload)
KEPT = {"boot": "b", "generation": 1, "alive": True, "files": True, "died": "", "memory_bytes": 1}
facts = st.builds(
    lambda changed, kept: {**SOUND, **changed} | ({"session": kept} if kept else {}),
    st.dictionaries(st.sampled_from([*SOUND, "files", "heap_full"]), odd, max_size=2),
    st.none() | odd | st.dictionaries(st.sampled_from(list(KEPT)), odd).map(lambda d: KEPT | d),
)
replies = st.lists(
    st.one_of(
        st.builds(Reply, st.sampled_from([Kind.STDOUT, Kind.STDERR]), st.binary(max_size=50)),
        st.builds(Reply, st.just(Kind.VALUES), st.binary(max_size=50)),
        st.builds(Reply, st.just(Kind.VALUES), st.dictionaries(words, odd).map(said)),
        st.builds(Reply, st.just(Kind.EXIT), facts.map(said)),
        st.builds(Reply, st.sampled_from(FROM_AGENT), st.binary(max_size=20)),
        st.builds(Raw, headers | sound | st.binary(max_size=20)),
    ),
    max_size=6,
)


def answers(acts: Sequence[Act], folder: Path, session: str | None) -> None:
    """Have a run answered so: its caller gets a result, and nothing is left of the cell."""
    settings = load(
        flags={
            "pool": {"min": 0, "max": 0},
            "store": {"directory": str(folder)},
        }
    )
    backend = FakeBackend(scripts=Script(run=(*acts, End())))

    async def ask() -> Outcome:
        with anyio.fail_after(20):
            async with app.open_runner(settings) as runner:
                request = Request(language="python", code="1", session_id=session)
                return await runner.execute(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "open_backend", lambda _: backend)
        outcome = anyio.run(ask)
    assert outcome.status in Status
    assert len(outcome.stdout.text.encode()) <= 6 * 3 * (MAX_PAYLOAD + 1)
    json.dumps(outcome.error_message).encode()
    assert (outcome.error_message or "").isprintable()
    assert backend.engine.cells == []


@pytest.mark.requirement("out:parsers")
@small_budget
@given(acts=replies, session=st.sampled_from([None, "s"]))
def test_whatever_an_agent_answers_a_caller_gets_a_result(
    spools: Path, acts: list[Act], session: str | None
) -> None:
    answers(acts, spools, session)


@pytest.mark.requirement("out:parsers")
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus_as_an_agents_answer(spools: Path, path: Path) -> None:
    data = path.read_bytes()
    for session in (None, "s"):
        answers([Raw(data)], spools, session)
    about_files = [f for f in server_reads(data, []) if f.kind in FILE_FRAMES]
    collects([(frame.kind, frame.payload) for frame in about_files], spools)
