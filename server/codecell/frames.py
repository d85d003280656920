"""The framed protocol between the server and the agent in a cell; pure, no I/O.

Every byte from a cell is hostile: the decoder bounds each frame and knows each type, and whatever
breaks the rules is a `ProtocolError` that ends the cell. incell/channel.py is the other side.
"""

import hashlib
import json
import shlex
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from codecell.errors import ProtocolError
from codecell.model import File

MAGIC = 0xCC
VERSION = 1
HEADER = struct.Struct(">BBII")
MAX_PAYLOAD = 64 * 1024
_FILE = struct.Struct(">IH32s")  # mode, length of the path, SHA-256 of the content


class Kind(IntEnum):
    """Frame types; the server's below 64, the agent's above."""

    CONFIG = 1
    RUN = 2
    JOB = 3
    STDIN = 4
    GO = 5
    CANCEL = 6
    FILE = 10
    DATA = 11
    COLLECT = 12
    REMOVE = 20
    HELLO = 65
    READY = 66
    STDOUT = 67
    STDERR = 68
    EXIT = 69
    FAULT = 70
    CODE = 71
    ENTRY = 80
    CONTENT = 81
    SEALED = 82
    COLLECTED = 83
    VALUES = 100


_FROM_AGENT = {kind.value: kind for kind in Kind if kind > 64}


class Frame(NamedTuple):
    """One frame from an agent."""

    kind: Kind
    run: int
    payload: bytes


def encode(kind: Kind, run: int, payload: bytes = b"") -> bytes:
    """Return one frame; the payload must fit."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes in one {kind.name} frame")
    return HEADER.pack(MAGIC, kind, run, len(payload)) + payload


def encode_json(kind: Kind, run: int, value: Any) -> bytes:
    """Return one frame that carries JSON."""
    return encode(kind, run, json.dumps(value, separators=(",", ":")).encode())


def encode_bulk(kind: Kind, run: int, data: bytes) -> Iterator[bytes]:
    """Yield the frames that carry `data`, however large."""
    for start in range(0, len(data), MAX_PAYLOAD):
        yield encode(kind, run, data[start : start + MAX_PAYLOAD])


def encode_file(run: int, file: File) -> Iterator[bytes]:
    """Yield the frames that have the agent write a file into /sandbox."""
    path = file.path.encode()
    head = _FILE.pack(file.mode, len(path), hashlib.sha256(file.content).digest()) + path
    first = MAX_PAYLOAD - len(head)
    yield encode(Kind.FILE, run, head + file.content[:first])
    if len(file.content) > first:
        view = memoryview(file.content)[first:]
        for start in range(0, len(view), MAX_PAYLOAD):
            yield encode(Kind.DATA, run, bytes(view[start : start + MAX_PAYLOAD]))


def encode_job(*, mode: str, argv: Sequence[str], env: dict[str, str]) -> bytes:
    """Return a job as the waiting process reads it."""
    head = {"mode": mode, "argv": list(argv), "env": env}
    return json.dumps(head, ensure_ascii=True, separators=(",", ":")).encode()


def encode_shell_job(*, argv: Sequence[str], env: dict[str, str]) -> bytes:
    """Return the same as words for a waiting shell to source."""
    quote = shlex.quote
    lines = [
        *(f"builtin export {name}={quote(value)}" for name, value in env.items()),
        f"builtin set -- {' '.join(map(quote, argv))}",
    ]
    return "\n".join(lines).encode() + b"\n"


def encode_kernel_job(*, argv: Sequence[str], env: dict[str, str], code: bytes) -> bytes:
    """Return a step of a session as its interpreter reads it: a job, and below it the code."""
    return encode_job(mode="kernel", argv=argv, env=env) + b"\n" + code


def encode_shell_step(*, argv: Sequence[str], env: dict[str, str], code: bytes) -> bytes:
    """Return the same for a shell: words to evaluate, NUL, then the code."""
    lines = [f"builtin export {name}={shlex.quote(value)}" for name, value in env.items()]
    if argv:
        lines.append(f"builtin set -- {' '.join(map(shlex.quote, argv))}")
    lines.append("builtin export -n PS1 PS2")
    return "\n".join(lines).encode() + b"\0" + code


class Decoder:
    """Cut a stream from a cell into frames.

    Holds at most one incomplete frame (64 KiB and a header) however the bytes arrive.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def held(self) -> int:
        """Tell how many bytes of an incomplete frame are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes.

        Raises:
            ProtocolError: the bytes are not the protocol; nothing after them can be trusted.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            magic, number, run, length = HEADER.unpack_from(buffer, start)
            kind = _FROM_AGENT.get(number)
            if magic != MAGIC or kind is None or length > MAX_PAYLOAD:
                raise ProtocolError("a cell sent bytes that are not a frame")
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            yield Frame(kind, run, bytes(buffer[start + HEADER.size : end]))
            start = end
        del buffer[:start]


def decode_json(frame: Frame) -> dict[str, Any]:
    """Return the JSON object that a control frame carries.

    Raises:
        ProtocolError: it carries anything else.
    """
    try:
        value = json.loads(frame.payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a cell sent a {frame.kind.name} frame that is not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"a cell sent a {frame.kind.name} frame that is not an object")
    return value
