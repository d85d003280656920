"""What a program showed beside its output, taken from the bytes that its cell sent; pure.

The bytes are the program's own and hostile. What is not well-formed ends the reading and is said in
a note; a value never decides a run's status. incell/values.py writes the records.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from codecell.model import Form, Value

MOST_VALUES = 120
MOST_PARTS = 12
HEAD_BYTES = 8 * 1024
NOTE_CHARS = 200
MOST_NOTES = 10
JSON_DEPTH, JSON_NODES = 48, 50_000
MOST_PIXELS = 64_000_000
MOST_CHUNKS = 20_000

# What a result itself has room for; the rest goes by reference.
TEXT_ROOM = 40_000  # characters, of all values together
RICH_ROOM = 120_000  # bytes of HTML and the like
IMAGE_ROOM = 300_000  # bytes of pictures

TEXTS = frozenset(("text/html", "text/markdown", "text/latex", "image/svg+xml"))
PICTURES = frozenset(("image/png", "image/jpeg"))
SUFFIX = {
    "text/html": ".html",
    "text/markdown": ".md",
    "text/latex": ".tex",
    "image/svg+xml": ".svg",
    "image/png": ".png",
    "image/jpeg": ".jpg",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """All that a program showed."""

    displays: tuple[Value, ...] = ()
    result: Value | None = None


class _Malformed(ValueError):
    """Not a record."""


def read(data: bytes, *, cut: bool = False) -> Shown:
    """Return the values in a cell's records.

    Args:
        data: the records, one after the other.
        cut: whether the cell had more than it could send.
    """
    displays: list[Value] = []
    result = None
    problem = "more was shown than is kept" if cut else ""
    at = 0
    try:
        while at < len(data) and len(displays) < MOST_VALUES:
            role, value, at = _record(data, at)
            if role == "result":
                result = value
            else:
                displays.append(value)
    except _Malformed:
        problem = problem or "what follows is not a value"
    if problem:
        displays.append(Value(notes=(problem,)))
    return Shown(tuple(displays), result)


def _record(data: bytes, at: int) -> tuple[str, Value, int]:
    size = int.from_bytes(data[at : at + 4], "big")
    at += 4
    if size > HEAD_BYTES or at + size > len(data):
        raise _Malformed
    head = _loads(data[at : at + size])
    at += size
    if not isinstance(head, dict) or head.get("role") not in ("display", "result"):
        raise _Malformed
    parts, notes = head.get("parts"), head.get("notes")
    if not isinstance(parts, list) or len(parts) > MOST_PARTS or not isinstance(notes, list):
        raise _Malformed
    value = Value(notes=tuple(_words(note) for note in notes[:MOST_NOTES]))
    for part in parts:
        if not isinstance(part, list) or len(part) != 3:
            raise _Malformed
        mime, length, cut = part
        if type(length) is not int or not 0 <= length <= len(data) - at:
            raise _Malformed
        value = _with(value, mime, data[at : at + length], cut=cut is True)
        at += length
    return head["role"], value, at


def _with(value: Value, mime: object, data: bytes, *, cut: bool) -> Value:
    """Add one form to a value, or a note that it is not what it says."""
    if mime == "text/plain":
        return replace(value, text=data.decode("utf-8", "replace"), cut=cut)
    if mime == "application/json":
        found = tuple(_json(data))
        return replace(value, json=found) if found else _without(value, "JSON")
    if mime in TEXTS:
        text = data.decode("utf-8", "replace").encode()
        return replace(value, forms=(*value.forms, Form(mime=str(mime), data=text)))
    if mime in PICTURES:
        size = png_size(data) if mime == "image/png" else jpeg_size(data)
        if size is None:
            return _without(value, str(mime))
        form = Form(mime=str(mime), data=data, width=size[0], height=size[1])
        return replace(value, forms=(*value.forms, form))
    return _without(value, "a type that is known")


def _without(value: Value, what: str) -> Value:
    return replace(value, notes=(*value.notes, f"something was left out that is not {what}"))


def _words(note: object) -> str:
    text = note if isinstance(note, str) else "(not a text)"
    return text[:NOTE_CHARS].encode("utf-8", "replace").decode()


def _loads(data: bytes) -> Any:
    def refuse(_: str) -> None:
        raise _Malformed

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _Malformed from error


def _json(data: bytes) -> Iterator[Any]:
    """Yield the value of a JSON text, unless it is too deep or no text can hold it."""
    try:
        value = _loads(data)
    except _Malformed:
        return
    todo, left = [(value, 0)], JSON_NODES
    while todo:
        item, depth = todo.pop()
        left -= 1
        if left < 0 or depth > JSON_DEPTH:
            return
        if isinstance(item, dict):
            todo += [(inner, depth + 1) for inner in item.values()]
            todo += [(key, depth + 1) for key in item]
        elif isinstance(item, list):
            todo += [(inner, depth + 1) for inner in item]
        elif isinstance(item, float) and not math.isfinite(item):
            return  # such as 1e999
        elif isinstance(item, str) and not _encodable(item):
            return
    yield value


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG that is whole; None for anything else."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[8:16] != b"\0\0\0\rIHDR" or len(data) < 45:
        return None
    at = 8
    for _ in range(MOST_CHUNKS):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        at += 12 + length
        if at > len(data):
            return None
        if kind == b"IEND":
            break
    width, height = struct.unpack_from(">II", data, 16)
    return (width, height) if at == len(data) and _sane(width, height) else None


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG; None for anything else."""
    if data[:3] != b"\xff\xd8\xff" or data[-2:] != b"\xff\xd9":
        return None
    at = 2
    for _ in range(MOST_CHUNKS):
        if at + 9 > len(data) or data[at] != 0xFF:
            return None
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return (width, height) if _sane(width, height) else None
        at += 2 + max(length, 2)
    return None


def _sane(width: int, height: int) -> bool:
    return width > 0 and height > 0 and width * height <= MOST_PIXELS


def place(shown: Shown, store: Callable[[str, bytes, str], str | None]) -> Shown:
    """Decide what the result itself holds; the rest is stored, and where it can't be, left out.

    Args:
        shown: everything.
        store: takes a name, the bytes and a MIME type; returns the address, None without room.
    """
    room = _Room(store)
    displays = tuple(room.place(value, f"display-{n}") for n, value in enumerate(shown.displays, 1))
    return Shown(displays, room.place(shown.result, "result") if shown.result else None)


class _Room:
    """What is left of the room."""

    def __init__(self, store: Callable[[str, bytes, str], str | None]) -> None:
        self._store = store
        self._text, self._rich, self._image = TEXT_ROOM, RICH_ROOM, IMAGE_ROOM

    def place(self, value: Value, name: str) -> Value:
        text = value.text[: self._text]
        self._text -= len(text)
        forms, notes = [], list(value.notes)
        found = value.json
        if found and not self._takes_rich(len(json.dumps(found[0], ensure_ascii=False).encode())):
            found = ()
            notes.append("its JSON is left out: the result has no room for it")
        for form in value.forms:
            if self._fits(form):
                forms.append(form)
                continue
            uri = self._store(f"values/{name}{SUFFIX[form.mime]}", form.data, form.mime)
            if uri is None:
                notes.append(
                    f"{form.mime} of {len(form.data):,} bytes is left out: there is no room"
                )
            else:
                forms.append(replace(form, uri=uri))
        return replace(
            value,
            text=text,
            cut=value.cut or len(text) < len(value.text),
            json=found,
            forms=tuple(forms),
            notes=tuple(notes),
        )

    def _fits(self, form: Form) -> bool:
        size = len(form.data)
        if form.mime not in PICTURES:
            return self._takes_rich(size)
        if size > self._image:
            return False
        self._image -= size
        return True

    def _takes_rich(self, size: int) -> bool:
        if size > self._rich:
            return False
        self._rich -= size
        return True
