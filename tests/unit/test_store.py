"""The store of results: owned, bounded, private, and gone in time."""

import fcntl
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.errors import ResourceNotFound, StoreFull
from codecell.settings import StoreSettings
from codecell.store import Store, canonical, uri_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store(settings(tmp_path), clock)


def settings(directory: Path, **values: object) -> StoreSettings:
    return StoreSettings.model_validate(
        {"ttl_s": 10, "size": 3000, "caller_size": 1000, "items": 5, "directory": directory}
        | values
    )


def put(store: Store, name: str = "files/a", data: bytes = b"x", caller: str = "me") -> str:
    return store.put(caller, "run", name, data, mime="text/plain").uri


def test_what_was_put_is_found_and_read_by_range(store: Store) -> None:
    uri = put(store, "files/dir/a b.txt", b"0123456789")
    item = store.find(uri, "me")
    assert uri == "codecell://runs/run/files/dir/a%20b.txt"
    assert (item.size, item.mime, item.name) == (10, "text/plain", "files/dir/a b.txt")
    assert item.sha256.startswith("84d89877f0d4041efb6bf91a16f0248f")
    assert store.read(item) == b"0123456789"
    assert store.read(item, 3, 4) == b"3456"
    assert store.read(item, 8, 100) == b"89"
    assert store.read(item, 100, 1) == b""


@pytest.mark.requirement("store:caller")
def test_another_callers_result_does_not_exist(store: Store) -> None:
    uri = put(store)
    with pytest.raises(ResourceNotFound, match="does not exist"):
        store.find(uri, "you")
    assert list(store.items("you")) == []
    assert [item.uri for item in store.items("me")] == [uri]


def test_nothing_is_on_disk_before_something_is_stored(tmp_path: Path, store: Store) -> None:
    with store.writer("me", "run", "files/a"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("store:private")
@pytest.mark.requirement("store:gone")
def test_the_spool_is_private_and_goes_with_the_store(tmp_path: Path, store: Store) -> None:
    put(store)
    (spool,) = tmp_path.iterdir()
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in spool.iterdir()} == {0o600}
    store.close()
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("store:gone")
def test_results_go_when_their_time_is_over(tmp_path: Path, store: Store, clock: Clock) -> None:
    uri = put(store)
    item = store.find(uri, "me")
    clock.now += 9.9
    assert store.find(uri, "me") is item
    clock.now += 0.1
    with pytest.raises(ResourceNotFound):
        store.find(uri, "me")
    with pytest.raises(ResourceNotFound):
        store.read(item)
    assert store.size == 0
    assert [path.name for path in next(tmp_path.iterdir()).iterdir()] == ["lock"]


@pytest.mark.requirement("store:bounds")
def test_a_callers_oldest_make_room_for_its_newest_alone(store: Store) -> None:
    other = put(store, caller="you", data=b"y" * 900)
    first, second = put(store, "files/1", b"x" * 500), put(store, "files/2", b"x" * 500)
    third = put(store, "files/3", b"x" * 400)
    assert [item.uri for item in store.items("me")] == [second, third]
    assert store.find(other, "you")
    with pytest.raises(ResourceNotFound):
        store.find(first, "me")


@pytest.mark.requirement("store:bounds")
def test_the_oldest_of_all_make_room_when_the_whole_is_full(tmp_path: Path) -> None:
    store = Store(settings(tmp_path, size=1000))
    old = put(store, caller="you", data=b"y" * 900)
    put(store, data=b"x" * 200)
    with pytest.raises(ResourceNotFound):
        store.find(old, "you")
    assert store.size == 200


@pytest.mark.requirement("store:bounds")
def test_what_is_larger_than_all_room_is_refused_and_costs_nothing(store: Store) -> None:
    with pytest.raises(StoreFull):
        put(store, data=b"x" * 1001)
    assert store.size == 0
    assert put(store, data=b"x" * 1000)


@pytest.mark.requirement("store:bounds")
def test_no_more_results_than_the_index_may_hold(store: Store) -> None:
    for number in range(9):
        put(store, f"files/{number}")
    assert [item.name for item in store.items("me")] == [f"files/{n}" for n in range(4, 9)]


def test_the_same_name_again_replaces(store: Store) -> None:
    put(store, data=b"old")
    item = store.find(put(store, data=b"newer"), "me")
    assert store.read(item) == b"newer"
    assert store.size == 5


def test_a_run_is_forgotten_as_a_whole(store: Store) -> None:
    put(store, "files/a")
    put(store, "stdout")
    store.forget("you", ["run"])
    store.forget("me", ["another", "ru"])
    assert len(list(store.items("me"))) == 2
    store.forget("me", ["another", "run"])
    assert list(store.items("me")) == []
    assert store.size == 0


def test_pages_follow_the_order_of_storing(store: Store) -> None:
    names = [f"files/{number}" for number in range(4)]
    for name in names:
        put(store, name)
    seen, after = [], 0
    while page := list(store.items("me", after))[:2]:
        seen += [item.name for item in page]
        after = page[-1].number
    assert seen == names


@pytest.mark.requirement("store:gone")
def test_a_killed_servers_spool_is_swept_and_a_living_ones_stays(tmp_path: Path) -> None:
    living = Store(settings(tmp_path))
    put(living)
    (kept,) = tmp_path.iterdir()
    dead = tmp_path / "codecell-spool-dead"
    dead.mkdir(mode=0o700)
    (dead / "lock").touch(0o600)
    (dead / "1").write_bytes(b"left")
    young = tmp_path / "codecell-spool-young"  # not locked yet
    young.mkdir(mode=0o700)
    trap = tmp_path / "codecell-spool-trap"
    trap.symlink_to(kept)
    assert Store(settings(tmp_path)).sweep() == 1
    assert sorted(tmp_path.iterdir()) == sorted([kept, young, trap])
    assert (kept / "1").exists()
    os.utime(young, (0, 0))
    fd = os.open(kept / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    put(Store(settings(tmp_path)))  # the first that is stored sweeps too
    assert not young.exists()


@given(st.from_regex("[a-z0-9]{1,16}", fullmatch=True), st.text(min_size=1))
def test_every_name_has_one_address_however_it_is_escaped(run_id: str, name: str) -> None:
    uri = uri_of(run_id, name)
    assert uri.isascii()
    assert "?" not in uri
    assert canonical(f"{uri}?offset=1") == uri
    assert (
        canonical(f"codecell://runs/{run_id}/{name.replace('%', '%25').replace('?', '%3F')}") == uri
    )
