"""Expiring in a directory on a file system that is full to the last byte, also while others go on filling it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import PghavenError, StoreFull
from pghaven.events import Event as Told
from pghaven.events import Notice
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupState
from pghaven.retention.byhand import remove_backup, undo_expiry
from pghaven.retention.expire import run_expire
from pghaven.retention.policy import RetentionPolicy
from pghaven.store.posix import PosixStore
from pghaven.store.reserve import PIECES, keep_reserve
from tests.fault.volumes import memory_volume, needs_root
from tests.support.reading import assert_whole
from tests.support.synthetic import CLUSTER, BackupOrder, SourceTree, make_repository, make_source, take_backup

pytestmark = [pytest.mark.root, needs_root]
ONE_AT_ONCE = RetentionPolicy(count=1, grace=timedelta(0))
LABELS = [BackupOrder(number=number).label for number in (1, 2, 3)]
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def source(tmp_path: Path) -> SourceTree:
    return make_source(tmp_path, tablespaces=False)


@pytest.fixture
def catalog(tmp_path: Path, source: SourceTree) -> Iterator[BackupCatalog]:
    """Of three backups in a file system of 48 MiB, with a reserve."""
    with memory_volume(tmp_path / "small", "size=48m") as root:
        store = PosixStore.open(f"file://{root}", str(root))
        clock = ManualClock(BackupOrder(number=4).started_at)
        made = BackupCatalog(make_repository(store, clock=clock), CLUSTER)
        for number in (1, 2, 3):
            take_backup(made.repository, source, BackupOrder(number=number, workers=1))
        keep_reserve(store, layout.RESERVE_PREFIX)
        assert len(store.list_children(layout.RESERVE_PREFIX)) == PIECES
        yield made


def fill(store: PosixStore) -> None:
    """No room for one more byte: the blocks are filled from the largest to the smallest."""
    number = 0
    for size in (1 << 20, 1 << 16, 1 << 12, 1):
        with suppress(StoreFull):
            while True:
                store.create(f"filling/{size}-{number}", [bytes(size)])
                number += 1


def unfill(store: PosixStore) -> None:
    for info in tuple(store.list("filling/")):
        store.delete(info.name)


def states(catalog: BackupCatalog) -> dict[str, BackupState]:
    return {entry.label: entry.state for entry in catalog.list_entries()}


def posix(catalog: BackupCatalog) -> PosixStore:
    store = catalog.repository.store
    assert isinstance(store, PosixStore)
    return store


def write_on(store: PosixStore, name: str, size: int, end: Event) -> None:
    """Another host: whatever comes free it takes."""
    number = 0
    while not end.is_set():
        with suppress(PghavenError):
            store.create(f"filling/{name}-{number}", [bytes(size)])
            number += 1


@contextmanager
def writers(store: PosixStore, *sizes: int) -> Iterator[None]:
    end = SPAWN.Event()
    with ExitStack() as stack:
        for number, size in enumerate(sizes):
            process = SPAWN.Process(target=write_on, args=(store, f"writer{number}", size, end))
            process.start()
            stack.callback(process.join)
        stack.callback(end.set)
        yield


def test_without_a_reserve_a_full_store_stays_full(catalog: BackupCatalog) -> None:
    store = posix(catalog)
    for child in store.list_children(layout.RESERVE_PREFIX):
        store.delete(layout.RESERVE_PREFIX + child)
    fill(store)
    with pytest.raises(StoreFull):
        run_expire(catalog, ONE_AT_ONCE, lambda _: None)
    assert states(catalog) == dict.fromkeys(LABELS, BackupState.COMMITTED)


@pytest.mark.parametrize("sizes", [(), (1 << 20, 1 << 14)], ids=["alone", "others go on filling it"])
def test_a_full_store_is_expired_with_the_reserve_which_is_made_anew(
    catalog: BackupCatalog, source: SourceTree, sizes: tuple[int, ...]
) -> None:
    store = posix(catalog)
    fill(store)
    with pytest.raises(StoreFull, match="no space left"):
        store.create("filling/one-more", [b"x"])
    told: list[Told] = []
    with writers(store, *sizes):
        result = run_expire(catalog, ONE_AT_ONCE, told.append)
    assert [one.code for one in told if isinstance(one, Notice) and one.level == "warning"] == ["store_full"]
    assert set(result.retired) == set(LABELS[:2])
    assert result.collected is not None
    assert {one.label for one in result.collected.labels} == set(LABELS[:2])
    assert states(catalog) == {LABELS[2]: BackupState.COMMITTED}
    assert len(store.list_children(layout.RESERVE_PREFIX)) < PIECES

    unfill(store)
    run_expire(catalog, ONE_AT_ONCE, told.append)
    assert len(store.list_children(layout.RESERVE_PREFIX)) == PIECES
    assert assert_whole(catalog, {LABELS[2]: source}) == [LABELS[2]]


def test_one_backup_is_expired_by_name_and_brought_back_on_a_full_store(catalog: BackupCatalog) -> None:
    fill(posix(catalog))
    remove_backup(catalog, RetentionPolicy(), LABELS[0], reason="the disk is full")
    assert states(catalog)[LABELS[0]] is BackupState.RETIRED
    undo_expiry(catalog, LABELS[0])
    assert states(catalog)[LABELS[0]] is BackupState.COMMITTED


def test_nothing_but_records_takes_from_the_reserve(catalog: BackupCatalog, source: SourceTree) -> None:
    store = posix(catalog)
    fill(store)
    with pytest.raises(StoreFull):
        take_backup(catalog.repository, source, BackupOrder(number=4, workers=1))
    assert len(store.list_children(layout.RESERVE_PREFIX)) == PIECES
