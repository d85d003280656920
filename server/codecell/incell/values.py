"""What a program shows beside what it prints: the value of its last expression, what it displays.

Made only in a program that shows something (lazy.py). Each value is one record in a file that the
agent sends on when every process is dead: u32 length, JSON head `{role, parts, notes}`, and the
bytes of the parts, each a MIME type, a size and whether it was cut. Everything is bounded: by what
is looked at, by size, by number and, where the program did not ask for it, by time.
"""

from __future__ import annotations

import _thread
import os
import sys

from codecell.incell.compact import dumps
from codecell.incell.lazy import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any, NoReturn
else:
    import _signal as signal  # see child.py

FILE = "/tmp/.codecell-values"
TEXT_CHARS = 20_000
RICH_BYTES = 200_000  # of HTML, SVG, LaTeX, Markdown, JSON each
IMAGE_BYTES = 3_000_000
TOTAL_BYTES = 8_000_000
MOST = 100  # values of one program
JSON_NODES, DEPTH = 20_000, 40
SECONDS, WALL_SECONDS = 2.0, 10.0  # of CPU, and in all: the machine may be busy

METHODS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_latex_", "text/latex"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_json_", "application/json"),
)
KNOWN = frozenset(("text/plain", *(mime for _, mime in METHODS)))
BINARY = frozenset(("image/png", "image/jpeg"))
OPEN: dict[object, str] = {list: "[", tuple: "(", set: "{", frozenset: "frozenset({", dict: "{"}
CLOSE: dict[object, str] = {list: "]", tuple: ")", set: "}", frozenset: "})", dict: "}"}


class _TooLong(BaseException):
    """Time is up for what nobody asked for."""


class _Full(Exception):
    """A text has got as long as it may."""


class Text:
    """A `repr` of bounded length that looks at no more of a container than it writes."""

    def __init__(self, room: int = TEXT_CHARS) -> None:
        self.cut = False
        self._room = room
        self._parts: list[str] = []
        self._within: set[int] = set()

    def of(self, value: object) -> str:
        """Return the text; `cut` tells whether it is less than the whole."""
        try:
            self._value(value)
        except _Full:
            self.cut = True
        return "".join(self._parts) + ("..." if self.cut else "")

    def _put(self, text: str) -> None:
        self._parts.append(text[: self._room])
        self._room -= len(text)
        if self._room < 0:
            raise _Full

    def _value(self, value: Any) -> None:
        kind = type(value)
        if kind in OPEN:
            self._container(value, kind)
        elif kind in (str, bytes, bytearray) and len(value) > self._room:
            self._put(repr(value[: self._room]))
            raise _Full
        elif kind is int and value.bit_length() > 14_000:  # past 4,300 digits there is no text
            self._put(f"<int of {value.bit_length()} bits>")
        else:
            self._put(str.__str__(repr(value)))

    def _container(self, value: Any, kind: type) -> None:
        if not value:
            self._put(repr(value))
        elif id(value) in self._within or len(self._within) >= DEPTH:
            self._put(OPEN[kind] + "..." + CLOSE[kind])
        else:
            self._within.add(id(value))
            self._put(OPEN[kind])
            for index, item in enumerate(value):
                self._put(", " if index else "")
                self._value(item)
                if kind is dict:
                    self._put(": ")
                    self._value(value[item])
            self._put("," if kind is tuple and len(value) == 1 else "")
            self._put(CLOSE[kind])
            self._within.discard(id(value))


def as_json(value: object) -> str | None:
    """Return a value as JSON where it is JSON already: plain types alone, finite, and not large."""
    nodes, size = JSON_NODES, 0
    todo: list[tuple[Any, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        kind = type(item)
        nodes -= 1
        if nodes < 0 or depth > DEPTH or size > RICH_BYTES:
            return None
        if kind is dict or kind is list:
            inner = item.values() if kind is dict else item
            if len(item) > nodes or (kind is dict and not all(type(key) is str for key in item)):
                return None
            size += sum(map(len, item)) if kind is dict else 0
            todo += [(one, depth + 1) for one in inner]
        elif not _is_scalar(item, kind):
            return None
        elif kind is str:
            size += len(item)
    text = dumps(value)
    return text if len(text) <= RICH_BYTES else None


def _is_scalar(value: Any, kind: type) -> bool:
    if kind is float:
        return bool(value - value == 0)  # neither infinite nor no number
    if kind is int:
        return bool(value.bit_length() <= 1024)
    return value is None or kind is bool or kind is str


class Bundle:
    """One value in every form it has."""

    def __init__(self, value: object) -> None:
        self.parts: list[tuple[str, bytes, bool]] = []
        self.notes: list[str] = []
        self._text(value)
        self._rich(value)

    def add(self, mime: str, data: object) -> None:
        """Add one form; what it can't be is said instead."""
        if mime not in KNOWN or data is None or self.has(mime):
            return
        if mime == "application/json" and type(data) is not str:
            data = as_json(data)
        if mime in BINARY and type(data) is str:
            import binascii

            data = binascii.a2b_base64(data)
        if type(data) is str:
            data = data.encode("utf-8", "backslashreplace")
        if type(data) is not bytes:
            self.notes.append(f"{mime} is left out: it is neither text nor bytes")
            return
        most = IMAGE_BYTES if mime in BINARY else RICH_BYTES
        if len(data) > most:
            self.notes.append(
                f"{mime} of {len(data):,} bytes is left out: at most {most:,} are kept"
            )
            return
        self.parts.append((mime, data, False))

    def has(self, mime: str) -> bool:
        """Tell whether a form is there already."""
        return any(mime == known for known, _, _ in self.parts)

    def _text(self, value: object) -> None:
        text = Text()
        try:
            words = text.of(value)
        except Exception as error:
            words = f"<{type(value).__name__}>"
            self.notes.append(f"its repr raised {type(error).__name__}")
        self.parts.append(("text/plain", words.encode("utf-8", "backslashreplace"), text.cut))

    def _rich(self, value: object) -> None:
        data = as_json(value)
        if data is not None:
            self.add("application/json", data)
        kind = type(value)
        if isinstance(value, type) or kind.__module__ == "builtins":
            return
        for mime, make in self._forms(value, kind):
            try:
                made = make()
                # Some come with metadata.
                self.add(mime, made[0] if type(made) is tuple and len(made) == 2 else made)
            except Exception as error:
                self.notes.append(f"{mime} is left out: making it raised {type(error).__name__}")

    def _forms(self, value: Any, kind: type) -> Iterator[tuple[str, Callable[[], object]]]:
        # Looked up in the type: an object that answers to any name does not count.
        whole = getattr(kind, "_repr_mimebundle_", None)
        if whole is not None:
            try:
                found = whole(value, include=None, exclude=None)
                found = found[0] if type(found) is tuple else found
                for mime, data in list(found.items())[:MOST]:
                    yield str(mime), partial(_same, data)
            except Exception as error:
                self.notes.append(f"its MIME bundle raised {type(error).__name__}")
        for name, mime in METHODS:
            method = getattr(kind, name, None)
            if method is not None and not (mime == "image/jpeg" and self.has("image/png")):
                yield mime, partial(method, value)
        figure = sys.modules.get("matplotlib.figure")
        if figure is not None and isinstance(value, figure.Figure):
            yield "image/png", lambda: module("figures").png(value)


def partial(function: Callable[..., object], value: object) -> Callable[[], object]:
    """Do later; `functools` may not be there, and a program could see that it came."""
    return lambda: function(value)


def _same(value: object) -> object:
    return value


class Values:
    """The values of one program, in the order in which they came."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.seen: set[int] = set()  # figures that are not to be shown once more at the end

    def display(self, *values: object) -> None:
        """Show values now, as the program asks."""
        for value in values:
            self.seen.add(id(value))
            if self.count <= MOST:
                bundle = Bundle(value)
                self._write("display", bundle.parts, bundle.notes)

    def image(self, mime: str, data: bytes, text: str) -> None:
        """Show a picture that is made already."""
        parts = [("text/plain", text.encode("utf-8", "backslashreplace"), False)]
        notes = []
        if len(data) <= IMAGE_BYTES:
            parts.append((mime, data, False))
        else:
            notes.append(
                f"{mime} of {len(data):,} bytes is left out: at most {IMAGE_BYTES:,} are kept"
            )
        self._write("display", parts, notes)

    def result(self, value: object) -> None:
        """Show the value of the last expression; of what that does, nothing else is seen."""
        self.seen.add(id(value))

        def show() -> None:
            bundle = Bundle(value)
            self._write("result", bundle.parts, bundle.notes)

        problem = quietly(show)
        if problem:
            text = f"<{type(value).__name__}>".encode()
            self._write("result", [("text/plain", text, False)], [problem])

    def _write(self, role: str, parts: list[tuple[str, bytes, bool]], notes: list[str]) -> None:
        self.count += 1
        if self.count > MOST and role == "display":
            if self.count > MOST + 1:
                return
            parts, notes = [], [f"more than {MOST} values: the further ones are left out"]
        size = sum(len(data) for _, data, _ in parts)
        if self.size + size > TOTAL_BYTES:
            parts = [part for part in parts if part[0] == "text/plain"]
            notes = [
                *notes,
                f"its rich forms are left out: at most {TOTAL_BYTES:,} bytes are kept in all",
            ]
            size = sum(len(data) for _, data, _ in parts)
        self.size += size
        head = dumps(
            {
                "role": role,
                "parts": [[mime, len(data), cut] for mime, data, cut in parts],
                "notes": notes[:10],
            }
        ).encode()
        append(b"".join([len(head).to_bytes(4, "big"), head, *(data for _, data, _ in parts)]))


def append(record: bytes) -> None:
    """Write a record at the end of the file, or nothing of it where there is no room."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(FILE, flags, 0o600)
    except OSError:
        return
    try:
        before = os.fstat(fd).st_size
        view = memoryview(record)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            os.ftruncate(fd, before)
    except OSError:
        pass  # the program has put something else there
    finally:
        os.close(fd)


class _Muted:
    """A stream that takes nothing from this thread, and all from the program's others."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, _thread.get_ident()

    def write(self, text: str) -> int:
        if _thread.get_ident() == self._thread:
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def quietly(work: Callable[[], None]) -> str:
    """Do what the program did not ask for: without a word, in bounded time, whatever it raises.

    Returns:
        What went wrong, or an empty string.
    """
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Muted(sys.stdout), _Muted(sys.stderr)
    try:
        with_limit(work)
    except _TooLong:
        return "it is left out: showing it took too long"
    except BaseException as error:
        return f"it is left out: showing it raised {type(error).__name__}"
    finally:
        sys.stdout, sys.stderr = kept
    return ""


def with_limit(work: Callable[[], None]) -> None:
    """Do it within the limits where this is the main thread, which alone can be interrupted."""

    def late(_: int, __: FrameType | None) -> NoReturn:
        raise _TooLong

    limits = (
        (signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
        (signal.SIGALRM, signal.ITIMER_REAL, WALL_SECONDS),
    )
    try:
        before = [signal.signal(number, late) for number, _, _ in limits]
    except ValueError:
        work()
        return
    timers = [signal.setitimer(timer, seconds, 0.1) for _, timer, seconds in limits]
    try:
        work()
    finally:
        for _, timer, _ in limits:
            signal.setitimer(timer, 0)
        for (number, timer, _), handler, old in zip(limits, before, timers):  # noqa: B905  see boot
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            if old[0]:
                signal.setitimer(timer, *old)


VALUES = Values()
