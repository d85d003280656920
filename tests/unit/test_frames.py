"""The framed protocol: only whole frames of known types get past the decoder."""

import hashlib
import json
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.errors import ProtocolError
from codecell.frames import (
    HEADER,
    MAGIC,
    MAX_PAYLOAD,
    VERSION,
    Decoder,
    Frame,
    Kind,
    decode_json,
    encode,
    encode_bulk,
    encode_file,
    encode_job,
    encode_json,
)
from codecell.incell import boot, channel
from codecell.model import File

AGENT_KINDS = [kind for kind in Kind if kind > 64]
frames = st.builds(
    Frame,
    st.sampled_from(AGENT_KINDS),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=300),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(at)]


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 10**6), max_size=20))
def test_frames_arrive_whole_however_the_bytes_are_split(
    sent: list[Frame], places: list[int]
) -> None:
    data = b"".join(encode(*frame) for frame in sent)
    decoder = Decoder()
    assert [frame for piece in cut(data, places) for frame in decoder.feed(piece)] == sent


@pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD - 1, MAX_PAYLOAD])
def test_every_payload_up_to_the_bound_fits(size: int) -> None:
    data = encode(Kind.STDOUT, 7, bytes(size))
    assert list(Decoder().feed(data)) == [Frame(Kind.STDOUT, 7, bytes(size))]


def test_a_payload_past_the_bound_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="65537 bytes in one STDIN frame"):
        encode(Kind.STDIN, 1, bytes(MAX_PAYLOAD + 1))


@given(st.binary(min_size=HEADER.size, max_size=200))
def test_bytes_that_are_no_header_are_refused_at_once(data: bytes) -> None:
    magic, number, _, length = HEADER.unpack_from(data)
    sound = magic == MAGIC and number in set(AGENT_KINDS) and length <= MAX_PAYLOAD
    decoder = Decoder()
    if not sound:
        with pytest.raises(ProtocolError, match="not a frame"):
            list(decoder.feed(data))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(HEADER.pack(0, Kind.STDOUT, 1, 0), id="wrong magic"),
        pytest.param(HEADER.pack(MAGIC, 0, 1, 0), id="type 0"),
        pytest.param(HEADER.pack(MAGIC, 255, 1, 0), id="unknown type"),
        *(
            pytest.param(HEADER.pack(MAGIC, kind, 1, 0), id=f"the server's own {kind.name}")
            for kind in Kind
            if kind < 64
        ),
        pytest.param(HEADER.pack(MAGIC, Kind.STDOUT, 1, MAX_PAYLOAD + 1), id="too long by one"),
        pytest.param(HEADER.pack(MAGIC, Kind.STDOUT, 1, 2**32 - 1), id="4 GiB"),
    ],
)
def test_a_malformed_header_is_refused_before_its_payload_comes(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a frame"):
        list(Decoder().feed(header))


def test_frames_before_the_malformed_one_are_still_given() -> None:
    frames = Decoder().feed(encode(Kind.STDOUT, 1, b"x") + bytes(HEADER.size))
    assert next(frames) == Frame(Kind.STDOUT, 1, b"x")
    with pytest.raises(ProtocolError):
        next(frames)


@given(st.lists(st.binary(max_size=500), max_size=30), st.integers(1, 700))
def test_the_decoder_never_holds_more_than_one_incomplete_frame(
    payloads: list[bytes], step: int
) -> None:
    data = b"".join(encode(Kind.STDERR, 1, payload) for payload in payloads)
    decoder = Decoder()
    for start in range(0, len(data), step):
        list(decoder.feed(data[start : start + step]))
        assert decoder.held < HEADER.size + 500


def test_an_incomplete_frame_of_the_largest_size_is_all_that_is_held() -> None:
    decoder = Decoder()
    assert list(decoder.feed(encode(Kind.STDOUT, 1, bytes(MAX_PAYLOAD))[:-1])) == []
    assert decoder.held == HEADER.size + MAX_PAYLOAD - 1
    assert len(list(decoder.feed(b"\0"))) == 1
    assert decoder.held == 0


values = st.dictionaries(
    st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())
)


@given(values)
def test_an_object_survives_the_way(value: dict[str, object]) -> None:
    (frame,) = Decoder().feed(encode_json(Kind.EXIT, 1, value))
    assert decode_json(frame) == value


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"nul",
        b"\xff\xfe",
        b"{}{}",
        b"[]",
        b"1",
        b'"text"',
        b"null",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"9" * 60_000,
    ],
    ids=lambda payload: repr(payload[:12]),
)
def test_anything_but_a_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="EXIT frame that is not"):
        decode_json(Frame(Kind.EXIT, 1, payload))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_object_or_refused(payload: bytes) -> None:
    with suppress(ProtocolError):
        assert isinstance(decode_json(Frame(Kind.FAULT, 0, payload)), dict)


@pytest.mark.parametrize(
    "size", [0, 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD], ids=lambda size: f"{size}"
)
def test_bulk_is_cut_into_frames_that_fit_and_add_up(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    payloads = []
    for frame in encode_bulk(Kind.STDIN, 5, data):
        magic, kind, run, length = HEADER.unpack_from(frame)
        assert (magic, kind, run) == (MAGIC, Kind.STDIN, 5)
        assert length == len(frame) - HEADER.size <= MAX_PAYLOAD
        payloads.append(frame[HEADER.size :])
    assert b"".join(payloads) == data


def test_a_job_is_json_in_ascii() -> None:
    job = encode_job(mode="exec", argv=["/bin/bash", "/sandbox/a.sh", "é\n"], env={"A": "ß"})
    assert json.loads(job.decode("ascii")) == {  # node reads it as what Python wrote
        "mode": "exec",
        "argv": ["/bin/bash", "/sandbox/a.sh", "é\n"],
        "env": {"A": "ß"},
    }


@pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD - 39, MAX_PAYLOAD - 38, 3 * MAX_PAYLOAD])
def test_a_file_is_one_frame_and_as_many_more_as_it_takes(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    frames = list(encode_file(7, File(path="é", content=content, mode=0o755)))
    heads = [HEADER.unpack_from(frame) for frame in frames]
    assert [head[1] for head in heads] == [Kind.FILE] + [Kind.DATA] * (len(frames) - 1)
    assert {(head[0], head[2]) for head in heads} == {(MAGIC, 7)}
    assert [HEADER.size + head[3] for head in heads] == [len(frame) for frame in frames]
    first, *rest = [frame[HEADER.size :] for frame in frames]
    assert first[:6] == (0o755).to_bytes(4, "big") + (2).to_bytes(2, "big")
    assert first[6:38] == hashlib.sha256(content).digest()
    assert b"".join([first[38:], *rest]) == "é".encode() + content


def test_both_sides_agree_on_the_protocol() -> None:
    told = {kind.name: kind for kind in Kind if kind is not Kind.CODE}  # which comes before them
    assert {name: getattr(channel, name) for name in told} == told
    assert boot.CODE + bytes(4) == encode(Kind.CODE, 0)
    assert (channel.MAGIC, channel.PROTOCOL, channel.CHUNK) == (MAGIC, VERSION, MAX_PAYLOAD)
    assert channel.HEADER.format == HEADER.format
