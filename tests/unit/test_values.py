"""What a program shows: nothing it sends can be more than a value, or cost more than is allowed."""

import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.incell.values import TEXT_CHARS, Text, as_json
from codecell.model import Form, Value
from codecell.values import IMAGE_ROOM, TEXT_ROOM, Shown, jpeg_size, place, png_size, read

JPEG = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\0\x07\0\x09" + b"\0" * 12 + b"\xff\xd9"


def png(width: int = 3, height: int = 2, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def record(*parts: tuple[str, bytes], role: str = "display", notes: object = ()) -> bytes:
    head = json.dumps(
        {
            "role": role,
            "parts": [[mime, len(data), False] for mime, data in parts],
            "notes": list(notes) if isinstance(notes, tuple) else notes,
        }
    ).encode()
    return struct.pack(">I", len(head)) + head + b"".join(data for _, data in parts)


def test_values_come_in_order_and_the_result_apart() -> None:
    shown = read(
        record(("text/plain", b"one"), ("image/png", png()))
        + record(("text/plain", b"two"), ("text/html", b"<b>two</b>"))
        + record(("text/plain", b"[1]"), ("application/json", b"[1]"), role="result")
    )
    assert [value.text for value in shown.displays] == ["one", "two"]
    assert shown.displays[0].forms == (Form(mime="image/png", data=png(), width=3, height=2),)
    assert shown.displays[1].forms == (Form(mime="text/html", data=b"<b>two</b>"),)
    assert shown.result == Value(text="[1]", json=([1],))


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 5) + b"[1,2]",
        struct.pack(">I", 2) + b"{}",
        record(role="verdict"),
        record(notes="status: success"),
        struct.pack(">I", 48) + b'{"role":"display","parts":[["a",-1,1]],"notes":[]}',
        b"NaN" * 1000,
        struct.pack(">I", 8000) + b"[" * 8000,
    ],
)
def test_what_is_no_record_ends_the_reading_and_is_said(data: bytes) -> None:
    before = record(("text/plain", b"before"))
    shown = read(before + data + before)
    assert [value.text for value in shown.displays] == ["before", ""]
    assert shown.displays[-1].notes == ("what follows is not a value",)
    assert shown.result is None


def test_a_record_that_was_cut_off_is_not_a_value() -> None:
    whole = record(("text/plain", b"whole"))
    shown = read(whole + whole[:-1], cut=True)
    assert [value.text for value in shown.displays] == ["whole", ""]
    assert shown.displays[-1].notes == ("more was shown than is kept",)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    read(data)
    read(record(("text/plain", b"x")) + data)


@given(
    st.lists(st.tuples(st.sampled_from(["image/png", "image/jpeg", "application/json", "text/html",
    "text/plain", "text/x-unknown"]), st.binary(max_size=60)), max_size=6)
)  # fmt: skip
def test_parts_that_are_not_what_they_say_are_left_out(parts: list[tuple[str, bytes]]) -> None:
    (value,) = read(record(*parts)).displays
    assert not any(form.mime.startswith("image/") for form in value.forms)
    json.dumps(value.json).encode()
    value.text.encode()
    assert len(value.forms) + len(value.json) + len(value.notes) <= len(parts)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000,
        "[" * 60 + "]" * 60,
        "NaN",
        "[1e999]",
        '"\\ud800"',
        '{"\\udfff": 1}',
        "{",
        "1" * 5000,
    ],
)
def test_json_that_no_client_could_take_is_left_out(text: str) -> None:
    (value,) = read(record(("application/json", text.encode()))).displays
    assert value.json == ()
    assert value.notes == ("something was left out that is not JSON",)


def test_pictures_are_measured_and_must_be_whole() -> None:
    assert png_size(png(640, 480)) == (640, 480)
    assert jpeg_size(JPEG) == (9, 7)
    for broken in (
        png()[:-1],
        png() + b"\0",
        b"\x89PNG" + b"\0" * 60,
        png(0, 1),
        png(1 << 20, 1 << 20),
    ):
        assert png_size(broken) is None
    for broken in (JPEG[:-1], JPEG[1:], b"\xff\xd8\xff" + b"\xff" * 40, b"\xff\xd8\xff\xd9"):
        assert jpeg_size(broken) is None


@given(st.binary(max_size=80))
def test_no_bytes_break_the_measuring(data: bytes) -> None:
    png_size(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + data)
    jpeg_size(b"\xff\xd8\xff" + data + b"\xff\xd9")


def picture(size: int) -> Form:
    return Form(mime="image/png", data=b"p" * size, width=1, height=1)


def test_what_the_result_has_no_room_for_goes_by_reference() -> None:
    stored: list[tuple[str, int, str]] = []

    def store(name: str, data: bytes, mime: str) -> str:
        stored.append((name, len(data), mime))
        return f"codecell://{name}"

    large, small = picture(IMAGE_ROOM - 10), picture(10)
    values = tuple(
        Value(text="t" * (TEXT_ROOM // 2), forms=(form,)) for form in (large, large, small)
    )
    shown = place(Shown(values), store)
    assert [value.forms[0].uri for value in shown.displays] == [
        None, "codecell://values/display-2.png", None,
    ]  # fmt: skip
    assert stored == [("values/display-2.png", IMAGE_ROOM - 10, "image/png")]
    assert [(len(value.text), value.cut) for value in shown.displays] == [
        (TEXT_ROOM // 2, False), (TEXT_ROOM // 2, False), (0, True),
    ]  # fmt: skip


def test_without_room_in_the_store_a_form_is_left_out_and_said() -> None:
    shown = place(Shown(result=Value(forms=(picture(IMAGE_ROOM + 1),))), lambda *_: None)
    assert shown.result == Value(
        notes=(f"image/png of {IMAGE_ROOM + 1:,} bytes is left out: there is no room",)
    )


# what the program's side makes


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.tuples(inner)
        | st.frozensets(st.integers(), max_size=3)
        | st.binary(max_size=4)
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_a_small_value_is_written_as_python_writes_it(value: Any) -> None:
    text = Text()
    assert text.of(value) == repr(value)
    assert not text.cut


@given(PLAIN, st.integers(0, 30))
def test_a_long_value_is_written_from_its_beginning(value: Any, room: int) -> None:
    text = Text(room)
    written = text.of(value)
    if text.cut and not isinstance(value, str | bytes):
        assert repr(value).startswith(written[:-3][:1])
        assert len(written) <= room + 3
    elif not text.cut:
        assert written == repr(value)


@given(PLAIN)
def test_json_is_what_json_can_say_and_nothing_else(value: Any) -> None:
    text = as_json(value)
    if text is not None:
        assert json.loads(text) == value
        assert json.dumps(json.loads(text), allow_nan=False)


@pytest.mark.parametrize("value", [(1,), {1: 2}, {"a": float("inf")}, [b""], 1 << 2000, object()])
def test_what_json_would_change_is_not_json(value: object) -> None:
    assert as_json(value) is None


def test_containers_are_looked_at_no_further_than_is_written() -> None:
    million = list(range(3_000_000))
    text = Text()
    assert len(text.of(million)) == TEXT_CHARS + 3
    assert text.cut
    loop: list[Any] = [1]
    loop.append(loop)
    assert Text().of(loop) == "[1, [...]]"
    deep: Any = 0
    for _ in range(100_000):
        deep = [deep]
    assert Text().of(deep).startswith("[[[[")
    assert as_json(deep) is None
    assert as_json(loop) is None
    assert as_json(million) is None
    assert Text().of(1 << 1_000_000) == "<int of 1000001 bits>"
    assert len(Text().of("x" * 10_000_000)) < TEXT_CHARS + 10
