"""Results that can be read later: files that runs made, and output too long to send at once.

Everything is addressed as `codecell://runs/RUN_ID/NAME` and belongs to one caller: for another
caller the same address does not exist. Contents lie in a private directory that is made when the
first result is stored, never sooner; the index alone is in memory. Results go when their time is
over, when their caller or the whole store needs the room (the oldest first), and all of them when
the server ends. A directory whose server was killed is removed by the next one that stores.

    with store.writer(caller, run_id, "files/plot.png") as writer:
        writer.write(data)                       # in pieces, as they come
        item = writer.keep(mime="image/png")     # without this, leaving discards it
    store.read(store.find(item.uri, caller), offset=0, length=1000)
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

from codecell.errors import ResourceNotFound, StoreFull
from codecell.settings import StoreSettings

SCHEME = "codecell://"
SPOOL_PREFIX = "codecell-spool-"
SETTLING_S = 60.0  # a directory without a lock may belong to a server that has just made it
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One stored result.

    Attributes:
        name: what follows the run in its address: `files/PATH`, `stdout` or `stderr`.
        number: its place in the order of storing; later ones are larger.
        expires: when it goes, on the store's clock.
    """

    uri: str
    caller: str
    run_id: str
    name: str
    size: int
    sha256: str
    mime: str
    number: int
    expires: float


def uri_of(run_id: str, name: str) -> str:
    """Return the address of a result."""
    return f"{SCHEME}runs/{quote(run_id, safe='')}/{quote(name, safe='/')}"


def canonical(uri: str) -> str:
    """Return an address without its query, however a client has escaped it."""
    path = uri.partition("?")[0]
    if not path.startswith(SCHEME):
        return path
    return SCHEME + quote(unquote(path[len(SCHEME) :], errors="replace"), safe="/")


class Store:
    """All stored results of one server.

    Its calls work on the page cache and are short: 64 KiB at a time in either direction is meant.
    """

    def __init__(
        self, settings: StoreSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._spool: _Spool | None = None
        self._items: dict[str, Item] = {}  # in the order of storing, which is that of expiring
        self._sizes: dict[str, int] = {}  # by caller, with what is being written
        self._number = 0

    @property
    def size(self) -> int:
        """Bytes held for everybody together, with what is being written."""
        return sum(self._sizes.values())

    def writer(self, caller: str, run_id: str, name: str) -> "Writer":
        """Begin to store a result; see `Writer`."""
        self.expire()
        self._number += 1
        return Writer(self, caller, run_id, name, self._number)

    def put(self, caller: str, run_id: str, name: str, data: bytes, *, mime: str) -> Item:
        """Store a result that is at hand as a whole.

        Raises:
            StoreFull: it is larger than one caller may have, or the disk is full.
        """
        with self.writer(caller, run_id, name) as writer:
            writer.write(data)
            return writer.keep(mime)

    def find(self, uri: str, caller: str) -> Item:
        """Return a caller's own result; a query in the address is left to the caller.

        Raises:
            ResourceNotFound: there is none, it has gone, or it is another caller's.
        """
        self.expire()
        item = self._items.get(canonical(uri))
        if item is None or item.caller != caller:
            raise ResourceNotFound(
                f"{uri[:200]!r} does not exist: results are kept for "
                f"{self._settings.ttl_s:g} s at most, for the caller whose run made them"
            )
        return item

    def read(self, item: Item, offset: int = 0, length: int | None = None) -> bytes:
        """Return a range of a result, to its end by default; short past the end.

        Raises:
            ResourceNotFound: it has gone since it was found.
        """
        most = item.size if length is None else length
        most = max(0, min(most, item.size - offset))
        if self._items.get(item.uri) is not item or self._spool is None:
            raise ResourceNotFound(f"{item.uri!r} is gone")
        return self._spool.read(item.number, offset, most)

    def items(self, caller: str, after: int = 0) -> Iterator[Item]:
        """Yield a caller's results in the order of storing, from the one after number `after`."""
        self.expire()
        for item in tuple(self._items.values()):
            if item.caller == caller and item.number > after:
                yield item

    def forget(self, caller: str, run_ids: Collection[str]) -> None:
        """Remove all results of some runs, as when their session has ended."""
        runs = frozenset(run_ids)
        for item in tuple(self._items.values()):
            if item.run_id in runs and item.caller == caller:
                self._remove(item)

    def expire(self) -> None:
        """Remove what has been kept for long enough."""
        now = self._clock()
        while self._items:
            oldest = next(iter(self._items.values()))
            if oldest.expires > now:
                return
            self._remove(oldest)

    def sweep(self) -> int:
        """Remove the directories that killed servers left; return how many."""
        return _sweep(self._directory)

    def close(self) -> None:
        """Remove everything. Idempotent."""
        self._items.clear()
        self._sizes.clear()
        if self._spool is not None:
            self._spool.remove()
            self._spool = None

    @property
    def _directory(self) -> Path:
        return self._settings.directory or Path(tempfile.gettempdir())

    # for Writer

    def _open(self, number: int) -> int:
        if self._spool is None:
            _sweep(self._directory)
            self._spool = _Spool(self._directory)
        return self._spool.create(number)

    def _take_room(self, caller: str, size: int) -> None:
        """Make room for so many bytes more of a caller's.

        Raises:
            StoreFull: what is left is being written just now.
        """
        while self._sizes.get(caller, 0) + size > self._settings.caller_size:
            self._evict(caller)
        while self.size + size > self._settings.size:
            self._evict(None)
        self._sizes[caller] = self._sizes.get(caller, 0) + size

    def _evict(self, caller: str | None) -> None:
        for item in self._items.values():
            if caller is None or item.caller == caller:
                self._remove(item)
                return
        raise StoreFull("the server has no room left for results")

    def _give_back(self, caller: str, size: int) -> None:
        left = self._sizes.get(caller, 0) - size
        if left > 0:
            self._sizes[caller] = left
        else:
            self._sizes.pop(caller, None)

    def _add(self, writer: "Writer", mime: str) -> Item:
        item = Item(
            uri=uri_of(writer.run_id, writer.name),
            caller=writer.caller,
            run_id=writer.run_id,
            name=writer.name,
            size=writer.size,
            sha256=writer.sha256,
            mime=mime,
            number=writer.number,
            expires=self._clock() + self._settings.ttl_s,
        )
        if (old := self._items.get(item.uri)) is not None:
            self._remove(old)
        while len(self._items) >= self._settings.items:
            self._evict(None)
        self._items[item.uri] = item
        return item

    def _remove(self, item: Item) -> None:
        del self._items[item.uri]
        self._give_back(item.caller, item.size)
        self._delete(item.number)

    def _delete(self, number: int) -> None:
        if self._spool is not None:
            self._spool.delete(number)


class Writer:
    """One result on its way into the store; leaving the block without `keep` discards it."""

    def __init__(self, store: Store, caller: str, run_id: str, name: str, number: int) -> None:
        self.caller, self.run_id, self.name, self.number = caller, run_id, name, number
        self.size = 0
        self._store = store
        self._hash = hashlib.sha256()
        self._fd = -1
        self._over = False

    def __enter__(self) -> Self:
        """Write in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Discard what was not kept."""
        self.discard()

    @property
    def sha256(self) -> str:
        """The hex digest of what was written so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            StoreFull: there is no room; nothing more can be written.
        """
        self._store._take_room(self.caller, len(data))
        self.size += len(data)
        self._hash.update(data)
        try:
            if self._fd < 0:
                self._fd = self._store._open(self.number)
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise StoreFull(f"the server can't store results: {error.strerror}") from error

    def keep(self, mime: str) -> Item:
        """Make it a result that can be found.

        Raises:
            StoreFull: the disk is full.
        """
        if self._fd < 0:
            self.write(b"")
        self._shut()
        self._over = True
        return self._store._add(self, mime)

    def discard(self) -> None:
        """Forget what was written, unless it was kept."""
        if self._over:
            return
        self._over = True
        self._store._give_back(self.caller, self.size)
        if self._fd >= 0:
            self._shut()
            self._store._delete(self.number)

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Spool:
    """The private directory: 0700, files 0600, and a lock that is held while its server lives."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):  # a sweeper may see the lock before it is held
            self._path = Path(tempfile.mkdtemp(prefix=SPOOL_PREFIX, dir=parent))
            self._lock = _lock(self._path / "lock", os.O_CREAT)
            if self._lock >= 0:
                return
        raise StoreFull(f"the server can't store results under {parent}")

    def _file(self, number: int) -> Path:
        return self._path / str(number)

    def create(self, number: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._file(number), flags, 0o600)

    def read(self, number: int, offset: int, length: int) -> bytes:
        try:
            fd = os.open(self._file(number), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ResourceNotFound("the result was removed from the server's disk") from error
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def delete(self, number: int) -> None:
        self._file(number).unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._lock)


def _lock(path: Path, flags: int = 0) -> int:
    """Return a descriptor that holds a lock, or -1 where another has it or there is none."""
    import fcntl  # not on Windows, where this module can be imported but not used

    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return -1
    return fd


def _sweep(parent: Path) -> int:
    swept = 0
    with suppress(OSError):
        for path in parent.glob(f"{SPOOL_PREFIX}*"):
            with suppress(OSError):
                swept += _sweep_one(path)
    return swept


def _sweep_one(path: Path) -> int:
    """Remove a directory of ours whose lock nobody holds."""
    info = path.lstat()
    if path.is_symlink() or not path.is_dir() or info.st_uid != os.getuid():
        return 0
    lock = path / "lock"
    if not lock.exists():
        if time.time() - info.st_mtime > SETTLING_S:
            shutil.rmtree(path, ignore_errors=True)
            return 1
        return 0
    fd = _lock(lock)
    if fd < 0:
        return 0
    shutil.rmtree(path, ignore_errors=True)
    os.close(fd)
    return 1
