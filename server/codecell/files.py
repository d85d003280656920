"""What a path may be and what a content is: pure decisions about files on their way in and out."""

import mimetypes
from collections.abc import Sequence
from pathlib import PurePosixPath

from codecell.errors import RequestError
from codecell.model import File, Input
from codecell.settings import FileSettings

NAME_BYTES = 255  # what Linux takes for one component
PATH_BYTES = 1024
DEPTH = 16
SNIFFED = 512  # first bytes that tell what a content is
UNKNOWN = "application/octet-stream"
_SHOWN = 60
_SCRIPT = b"#!"

# The built-in table alone: what this machine's own says would differ from one server to the next.
_TYPES = mimetypes.MimeTypes(filenames=())
for _extension, _type in {
    ".md": "text/markdown",
    ".jsonl": "application/jsonl",
    ".parquet": "application/vnd.apache.parquet",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".sqlite": "application/vnd.sqlite3",
    ".ts": "text/plain",  # a program, and no video
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}.items():
    _TYPES.add_type(_type, _extension)


def path_error(path: str) -> str | None:
    """Say what is wrong with a path that is to be relative to /sandbox, or None."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "has a lone surrogate: send valid Unicode text"
    if not path:
        return "is empty: send a path relative to /sandbox, such as data/in.csv"
    if path.startswith("/"):
        return "is absolute: send a path relative to /sandbox, such as data/in.csv"
    if "\0" in path:
        return "contains a NUL character, which no file name can hold"
    if size > PATH_BYTES:
        return f"is {size:,} bytes long; at most {PATH_BYTES:,} are accepted"
    parts = path.split("/")
    if ".." in parts:
        return "contains '..': files stay inside /sandbox"
    if "" in parts or "." in parts:
        return "has an empty or '.' component: write each directory once, as in a/b.txt"
    if any(len(part.encode()) > NAME_BYTES for part in parts):
        return f"has a name of more than {NAME_BYTES} bytes"
    if len(parts) > DEPTH:
        return f"is more than {DEPTH} levels deep"
    return None


def check(
    files: Sequence[Input], limits: FileSettings, *, room: int, main: str | None = None
) -> tuple[File, ...]:
    """Return a request's files as they are to be written.

    Args:
        files: as they were sent.
        limits: how many and how much.
        room: bytes that fit into /sandbox.
        main: the path that the request's `code` is written to, if there is code.

    Raises:
        RequestError: naming the field and what to send instead.
    """
    if len(files) > limits.in_count:
        raise RequestError(
            f"files has {len(files)} entries; at most {limits.in_count} are accepted"
        )
    taken = {main: "code"} if main else {}
    for index, file in enumerate(files):
        if (wrong := path_error(file.path)) is not None:
            raise RequestError(f"files[{index}].path {shown(file.path)} {wrong}")
        if file.path in taken:
            other = taken[file.path]
            advice = "; rename it, or send it as code" if other == "code" else ""
            raise RequestError(
                f"files[{index}].path {shown(file.path)} is the path of {other} too{advice}"
            )
        taken[file.path] = f"files[{index}]"
    _check_directories(taken)
    size = sum(len(file.content) for file in files)
    most = min(int(limits.in_size), room)
    if size > most:
        raise RequestError(f"files are {size:,} bytes together; at most {most:,} are accepted")
    return tuple(
        File(
            path=file.path,
            content=file.content,
            mode=0o755 if file.content.startswith(_SCRIPT) else 0o644,
        )
        for file in files
    )


def _check_directories(taken: dict[str, str]) -> None:
    """Refuse a path that goes through another file."""
    for path, who in taken.items():
        for parent in PurePosixPath(path).parents:
            if (other := taken.get(str(parent))) is not None:
                raise RequestError(
                    f"{who}.path {shown(path)} needs a directory where {other} is a file"
                )


def shown(path: str) -> str:
    """Quote a path for a message, short and printable."""
    return ascii(path if len(path) <= _SHOWN else path[:_SHOWN] + "...")


def sources(files: Sequence[File], extensions: Sequence[str]) -> tuple[str, ...]:
    """Return the paths of those that a compiler is given, in the order of the extensions."""
    return tuple(
        file.path
        for extension in extensions
        for file in files
        if PurePosixPath(file.path).suffix == extension
    )


def image_type(head: bytes) -> str | None:
    """Return the type of an image that every client can show, judged by its first bytes alone."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def mime_type(path: str, head: bytes) -> str:
    """Return the type of a file by its name and first SNIFFED bytes; an image by these alone."""
    if (image := image_type(head)) is not None:
        return image
    guess, encoding = _TYPES.guess_type(path, strict=True)
    if encoding is not None:
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2"}.get(encoding, UNKNOWN)
    if guess in {"image/png", "image/jpeg", "image/gif", "image/webp"}:
        return UNKNOWN  # it says so, and is none
    if guess is not None:
        return guess
    return "text/plain" if is_text(head) else UNKNOWN


def is_text(head: bytes) -> bool:
    """Tell whether first bytes are those of a UTF-8 text; a character may be cut at their end."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.end < len(head) or error.reason != "unexpected end of data":
            return False
        text = head[: error.start].decode()
    return "\0" not in text
