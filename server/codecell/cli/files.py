"""Files of the command-line: what `--file-in` sends, what `--save-files` writes.

What a program left is hostile: it is written below the directory that was named and nowhere else.
Every directory on the way is opened by its parent's descriptor and never through a link, and a file
takes the place of what had its name, so that nothing is written through a link either. No file
becomes executable.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from codecell.errors import ResourceNotFound
from codecell.files import path_error
from codecell.model import ChangedFile, Input, Outcome
from codecell.store import Store
from codecell.values import PICTURES, SUFFIX

CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def read(words: tuple[str, ...], most: int) -> tuple[Input, ...]:
    """Return the files that PATH or PATH=NAME name; a directory brings all that is in it.

    Raises:
        OSError: one can't be read.
        ValueError: they are more bytes than are accepted; said before they are read.
    """
    found = [pair for word in words for pair in _named(word)]
    if (size := sum(path.stat().st_size for path, _ in found)) > most:
        raise ValueError(f"--file-in: {size:,} bytes; at most {most:,} are accepted")
    return tuple(Input(path=name, content=path.read_bytes()) for path, name in found)


def _named(word: str) -> Iterator[tuple[Path, str]]:
    given, _, name = word.partition("=")
    if not Path(given).exists() and Path(word).exists():
        given, name = word, ""  # a file with = in its name
    path = Path(given)
    inside = not path.is_absolute() and ".." not in path.parts
    name = name or (path.as_posix() if inside else path.resolve().name)
    if not path.is_dir():
        yield path, name
        return
    prefix = "" if name == "." else f"{name}/"
    for entry in sorted(path.rglob("*")):
        if entry.is_file() and not entry.is_symlink():
            yield entry, prefix + PurePath(entry.relative_to(path)).as_posix()


def pictures(outcome: Outcome) -> Iterator[tuple[str, bytes]]:
    """Yield what was shown as a picture, named in its order: `values/display-1.png`."""
    shown = [(f"display-{n}", value) for n, value in enumerate(outcome.displays, 1)]
    if outcome.result is not None:
        shown.append(("result", outcome.result))
    for name, value in shown:
        for form in value.forms:
            if form.mime in PICTURES:
                yield f"values/{name}{SUFFIX[form.mime]}", form.data


def save(outcome: Outcome, store: Store, directory: str) -> list[str]:
    """Write what a run created, modified or showed as a picture below a directory.

    Returns:
        What went wrong, in words.

    Raises:
        OSError: the directory can't be made or opened.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    root = os.open(directory, _DIRECTORY)
    wrong = []
    try:
        for file in outcome.files.changed:
            if file.uri is None:
                continue
            try:
                _save(root, file, store, outcome.plan.caller)
            except (OSError, ResourceNotFound, ValueError) as error:
                words = error.strerror if isinstance(error, OSError) else error
                wrong.append(f"{file.path!r} is not saved: {words}")
        for path, data in pictures(outcome):
            try:
                _write(root, path, (data,))
            except OSError as error:
                wrong.append(f"{path!r} is not saved: {error.strerror}")
    finally:
        os.close(root)
    return wrong


def _save(root: int, file: ChangedFile, store: Store, caller: str) -> None:
    if (error := path_error(file.path)) is not None:
        raise ValueError(f"its path {error}")
    item = store.find(file.uri or "", caller)
    _write(root, file.path, (store.read(item, at, CHUNK) for at in range(0, item.size, CHUNK)))


def _write(root: int, path: str, chunks: Iterable[bytes]) -> None:
    *above, name = path.split("/")
    with _below(root, above) as parent:
        draft = f".{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(draft, flags, 0o666, dir_fd=parent)
        try:
            with os.fdopen(fd, "wb") as target:
                target.writelines(chunks)
            os.rename(draft, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=parent)
            raise


@contextmanager
def _below(root: int, above: list[str]) -> Iterator[int]:
    """Open a directory below, making what is missing; a link on the way is an error."""
    fd = os.dup(root)
    try:
        for part in above:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=fd)
            child = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = child
        yield fd
    finally:
        os.close(fd)
