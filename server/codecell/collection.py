"""Takes in what a run has changed, and puts what is stored among the files of a request.

Every frame is hostile: paths are judged as those of a request are, nothing comes twice or beyond
what was asked for, sizes must be those that were announced, and type and SHA-256 are those of the
bytes that really came.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from codecell.errors import ProtocolError, RequestError, ResourceNotFound, StoreFull
from codecell.files import DEPTH, PATH_BYTES, SNIFFED, mime_type, path_error
from codecell.frames import Frame, Kind, decode_json
from codecell.model import Change, ChangedFile, FileReport, Omitted, Request, Why
from codecell.settings import FileSettings
from codecell.store import Store, Writer

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

_MOST = 2**62
_TARGET_CHARS = 500


class Collection:
    """The files of one run, as they come; give every frame to `take`."""

    def __init__(self, store: Store, caller: str, run_id: str, limits: FileSettings) -> None:
        self._begin: Callable[[str], Writer] = lambda path: store.writer(
            caller, run_id, f"files/{path}"
        )
        self._limits = limits
        self._left = int(limits.out_size)
        self._entries = 0
        self._paths: set[str] = set()
        self._changed: list[ChangedFile] = []
        self._omitted: list[Omitted] = []
        self._open: _Coming | None = None

    @property
    def limits(self) -> dict[str, int]:
        """What the agent is asked for."""
        limits = self._limits
        return {
            "count": limits.out_count,
            "file": int(limits.out_file),
            "size": int(limits.out_size),
        }

    def report(self) -> FileReport:
        """Return what has come so far."""
        return FileReport(changed=tuple(self._changed), omitted=tuple(self._omitted))

    def give_up(self, changes: int) -> None:
        """Nothing more will come; say so of what has not."""
        if self._open is not None:
            self._omit(self._open, Why.UNREADABLE)
        missing = changes - self._entries
        if missing > 0:
            self._omitted.append(Omitted(reason=Why.UNREADABLE, count=missing))

    def take(self, frame: Frame) -> bool:
        """Take the next frame; true for the last one.

        Raises:
            ProtocolError: the agent breaks the rules; nothing more is taken.
        """
        match frame.kind:
            case Kind.ENTRY:
                self._entry(decode_json(frame))
            case Kind.CONTENT:
                self._content(frame.payload)
            case Kind.SEALED:
                self._sealed(decode_json(frame))
            case _:
                self._end(decode_json(frame))
                return True
        return False

    def _entry(self, value: dict[str, Any]) -> None:
        if self._open is not None:
            raise ProtocolError("a cell began a file within a file")
        if self._entries >= self._limits.out_count:
            raise ProtocolError("a cell sent more files than it was asked for")
        self._entries += 1
        path = _text(value, "path", 5 * 4096)
        try:
            change = Change(value["change"])
            why = Why(value["reason"]) if "reason" in value else None
        except (KeyError, ValueError) as error:
            raise ProtocolError("a cell sent a malformed file entry") from error
        if why is not Why.NAME:  # those are shown escaped, and two may look alike
            if path in self._paths:
                raise ProtocolError("a cell sent a file twice")
            self._paths.add(path)
        if why is None and change is Change.DELETED:
            self._delete(path)
            return
        coming = _Coming(path, change, _number(value, "size"), _number(value, "mode", 0o7777))
        if why is None and (why := _unwanted(path)) is None:
            self._expect(coming)
            return
        target = _text(value, "target", 5 * 4096)[:_TARGET_CHARS] if "target" in value else None
        self._omit(coming, why, target=target, begun=False)

    def _delete(self, path: str) -> None:
        if _unwanted(path) is None:
            self._changed.append(ChangedFile(path=path, change=Change.DELETED))
        else:
            self._omitted.append(Omitted(path=path, change=Change.DELETED, reason=Why.PATH))

    def _expect(self, coming: "_Coming") -> None:
        if coming.size is None or coming.mode is None:
            raise ProtocolError("a cell sent a file entry without size or mode")
        if coming.size > min(self._left, int(self._limits.out_file)):
            raise ProtocolError("a cell sent a larger file than it was asked for")
        coming.writer = self._begin(coming.path)
        self._open = coming

    def _content(self, data: bytes) -> None:
        coming = self._open
        if coming is None or coming.size is None:
            raise ProtocolError("a cell sent content of no file")
        coming.received += len(data)
        if coming.received > coming.size:
            raise ProtocolError("a cell sent more of a file than it announced")
        self._left -= len(data)
        if len(coming.head) < SNIFFED:
            coming.head += data[: SNIFFED - len(coming.head)]
        if coming.writer is not None:
            try:
                coming.writer.write(data)
            except StoreFull as error:
                log.warning("a file was not stored", error=str(error))
                coming.writer.discard()
                coming.writer = None

    def _sealed(self, value: dict[str, Any]) -> None:
        coming = self._open
        if coming is None or type(value.get("whole")) is not bool:
            raise ProtocolError("a cell ended a file that it had not begun")
        if coming.writer is None:
            self._omit(coming, Why.NO_ROOM)
        elif not value["whole"]:
            self._omit(coming, Why.CHANGED)
        elif coming.received != coming.size:
            raise ProtocolError("a cell sent less of a file than it announced")
        else:
            self._keep(coming, coming.writer)

    def _keep(self, coming: "_Coming", writer: Writer) -> None:
        try:
            item = writer.keep(mime_type(coming.path, bytes(coming.head)))
        except StoreFull as error:
            log.warning("a file was not stored", error=str(error))
            self._omit(coming, Why.NO_ROOM)
            return
        self._open = None
        self._changed.append(
            ChangedFile(
                path=coming.path,
                change=coming.change,
                size=item.size,
                mode=coming.mode,
                mime=item.mime,
                sha256=item.sha256,
                uri=item.uri,
            )
        )

    def _omit(
        self, coming: "_Coming", why: Why, *, target: str | None = None, begun: bool = True
    ) -> None:
        if coming.writer is not None:
            coming.writer.discard()
        if begun:
            self._open = None
        self._omitted.append(
            Omitted(
                path=coming.path,
                change=coming.change,
                reason=why,
                size=coming.size,
                target=target,
            )
        )

    def _end(self, value: dict[str, Any]) -> None:
        if self._open is not None or type(value.get("whole")) is not bool:
            raise ProtocolError("a cell ended its files too early")
        more = _number(value, "more", 2**31)
        if more:
            self._omitted.append(Omitted(reason=Why.TOO_MANY, count=more))
        if not value["whole"]:
            self._omitted.append(Omitted(reason=Why.NOT_SEARCHED))


def fetched(request: Request, store: Store, limits: FileSettings) -> Request:
    """Put stored results in the place of their addresses.

    Raises:
        RequestError: one is not there for this caller, or they are too large.
    """
    left = most = int(limits.in_size)
    files = []
    for index, file in enumerate(request.files):
        content = file.content
        if file.uri is not None:
            try:
                item = store.find(file.uri, request.caller)
                left -= item.size
                if left < 0:
                    raise RequestError(f"files[{index}].uri: files are larger than {most:,} bytes")
                content = store.read(item)
            except ResourceNotFound as error:
                raise RequestError(f"files[{index}].uri {error}") from error
        files.append(replace(file, content=content, uri=None))
    return replace(request, files=tuple(files))


class _Coming:
    """A file on its way."""

    def __init__(self, path: str, change: Change, size: int | None, mode: int | None) -> None:
        self.path, self.change, self.size, self.mode = path, change, size, mode
        self.received = 0
        self.head = bytearray()
        self.writer: Writer | None = None


def _unwanted(path: str) -> Why | None:
    """Say why a program's own path is none that can be given back."""
    if path_error(path) is None:
        return None
    deep = path.count("/") >= DEPTH or len(path.encode("utf-8", "replace")) > PATH_BYTES
    return Why.TOO_DEEP if deep else Why.PATH


def _text(value: dict[str, Any], key: str, most: int) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not 0 < len(text) <= most:
        raise ProtocolError(f"a cell sent a file entry with a malformed {key}")
    return text.encode("utf-8", "backslashreplace").decode()


def _number(value: dict[str, Any], key: str, most: int = _MOST) -> int | None:
    number = value.get(key)
    if number is None:
        return None
    if type(number) is not int or not 0 <= number <= most:
        raise ProtocolError(f"a cell sent a file entry with a malformed {key}")
    return number
