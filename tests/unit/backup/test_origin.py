"""Between choosing a parent and announcing it any time may pass, and the parent may be another one then."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.backup.origin import Origin, Tries
from pghaven.clock import ManualClock
from pghaven.events import Event, Notice
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectRules
from pghaven.repository.compact import CompactionRules, Compactor
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.store.memory import MemoryStore
from tests.support.reading import read_files
from tests.support.synthetic import (
    CLUSTER,
    START,
    BackupOrder,
    SourceTree,
    dead_process,
    make_repository,
    make_source,
    open_archive,
    take_backup,
)

PARENT = BackupOrder().label
GRACE = timedelta(days=7)
NO_TRIES = Tries(labels=(), known=None)


@pytest.fixture
def source(tmp_path: Path) -> SourceTree:
    return make_source(tmp_path, tablespaces=False)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START + timedelta(days=1))


@pytest.fixture
def catalog(source: SourceTree, clock: ManualClock) -> BackupCatalog:
    repository = make_repository(MemoryStore(), clock=clock)
    take_backup(repository, source, BackupOrder())
    return BackupCatalog(repository, CLUSTER)


def choose(catalog: BackupCatalog, events: list[Event]) -> Origin:
    """With a parent that was read before anything else happened."""
    origin = Origin(catalog, open_archive(catalog.repository), "auto", events.append)
    origin.parent = catalog.find_entry(PARENT)
    return origin


def test_a_parent_that_is_being_removed_is_given_up(catalog: BackupCatalog) -> None:
    events: list[Event] = []
    origin = choose(catalog, events)
    Removal(catalog).retire(PARENT, RetireOrder(reason="old", not_before=START))
    Removal(catalog).condemn(PARENT, "old")
    origin.confirm(NO_TRIES)
    assert origin.parent is None
    assert any(isinstance(event, Notice) and PARENT in event.text for event in events)


def test_a_parent_is_read_by_the_map_it_has_when_it_is_announced(
    catalog: BackupCatalog, source: SourceTree, clock: ManualClock
) -> None:
    """Its old one was superseded and collected while the backup waited for its checkpoint, or the host slept."""
    origin = choose(catalog, [])
    compactor = Compactor(catalog, CompactionRules(live_share_max=1.1, freed_bytes_min=0))
    compactor.run(compactor.plan(), "20260303T000000Z-c0de", dead_process())
    clock.advance(GRACE.total_seconds())
    assert BackupCollector(catalog, CollectRules(grace=GRACE)).run().packs
    origin.confirm(NO_TRIES)
    assert origin.parent is not None
    assert read_files(catalog, catalog.load_manifest(origin.parent)) == source.files
