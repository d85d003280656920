"""The parsers of both ends of the protocol against bytes that nobody wrote, and a kept corpus.

The server's end must be safe from any cell, the agent's from a server gone wrong: a fault there
would be a cell's end, never a program's gain. `SOAK` draws more (`make soak`). A case that
once failed is added to corpus/ as a file and is tried for ever.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codecell.errors import ProtocolError
from codecell.frames import HEADER, MAGIC, MAX_PAYLOAD, Decoder, Frame, Kind, decode_json, encode
from codecell.incell.channel import BUFFER, CHUNK, Channel, ServerGone

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
