"""Listing a thousand backups takes a handful of requests, and tells what reading each of them would."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.cli.wal_list import find_traces
from pghaven.clock import ManualClock
from pghaven.config.values import ClusterConfig
from pghaven.errors import NotPermitted
from pghaven.events import ignore
from pghaven.proof.catalog import list_backups
from pghaven.proof.states import RepositoryState
from pghaven.proof.status import StatusSettings, gather_status
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.liveness import clear_signs
from pghaven.repository.outline import (
    OUTLINE_BYTES_MAX,
    UNTOLD_MAX,
    load_outlines,
    open_outlined,
    refresh_outlines,
)
from pghaven.repository.place import RepositoryPlace
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.store.api import Store
from pghaven.store.memory import MemoryStore
from pghaven.store.metered import METERS, MeteredStore, Requests
from pghaven.store.open import create_root
from pghaven.store.settings import StoreSettings
from tests.support.synthetic import CLUSTER, SYSTEM_IDENTIFIER, BackupOrder, make_intent, make_repository

SUMMARY = {
    "system_identifier": str(SYSTEM_IDENTIFIER),
    "timeline": 1,
    "start_lsn": "0/3000028",
    "stop_lsn": "0/3000100",
    "started_at": "2026-03-01T13:00:00.000000Z",
    "stopped_at": "2026-03-01T13:00:05.000000Z",
    "server_version_num": 170011,
    "total_bytes": 1 << 30,
    "stored_bytes": 1 << 20,
    "changes": "lsn",
    "host": "db1",
    "bad_pages": 0,
    "from_standby": False,
    "parent": None,
}


class Site:
    """A repository of backups that are no more than what a listing reads of them."""

    def __init__(self, store: Store | None = None) -> None:
        self.clock = ManualClock()
        self.store = MeteredStore(store or MemoryStore(self.clock))
        self.repository: Repository = make_repository(self.store, clock=self.clock)
        self.catalog = BackupCatalog(self.repository, CLUSTER)
        self.count = 0

    def take(self, count: int, *, refresh: bool = True) -> None:
        for _ in range(count):
            self.count += 1
            self.clock.advance(60)
            label = f"20260301T130000Z-{self.count:04x}"
            self.catalog.announce(label, make_intent(BackupOrder(number=1)))
            self.store.create(f"clusters/{CLUSTER}/backups/{label}/manifest", [b"x"])
            body = {"decision": "commit", "manifest": "00" * 32, "manifest_bytes": 1, "summary": SUMMARY}
            self.catalog.decide(label, body)
            if refresh:
                refresh_outlines(self.repository, CLUSTER)

    def label(self, number: int) -> str:
        return f"20260301T130000Z-{number:04x}"

    def list_counted(self) -> tuple[int, Requests]:
        before = self.store.requests
        found = list_backups(open_outlined(self.repository, CLUSTER))
        after = self.store.requests
        kinds = ("put", "get", "head", "list", "delete")
        return len(found), Requests(**{kind: getattr(after, kind) - getattr(before, kind) for kind in kinds})

    def assert_same_as_without(self) -> None:
        assert list_backups(open_outlined(self.repository, CLUSTER)) == list_backups(self.catalog)


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_thousand_backups_take_a_handful_of_requests(site: Site) -> None:
    site.take(1000, refresh=False)
    refresh_outlines(site.repository, CLUSTER)
    site.take(UNTOLD_MAX)
    count, asked = site.list_counted()
    assert count == 1000 + UNTOLD_MAX
    assert (asked.put, asked.delete, asked.head) == (0, 0, 0)
    assert asked.list <= 4 + 3, "three objects of each backup, a thousand a page; outlines, evidence, kept snapshots"
    assert asked.get <= UNTOLD_MAX + 4
    site.assert_same_as_without()


def test_status_of_many_backups_takes_a_handful_of_requests(tmp_path: Path) -> None:
    place = StoreSettings(url=f"file://{tmp_path}/repository")
    site = Site(create_root(place))
    site.take(100, refresh=False)
    refresh_outlines(site.repository, CLUSTER)
    settings = StatusSettings(
        cluster=CLUSTER,
        data_directory="/nonexistent",
        conninfo="host=/nonexistent",
        repositories=(RepositoryPlace(name="main", store=place),),
    )
    (state,) = gather_status(settings, ignore, clock=site.clock).repositories
    assert isinstance(state, RepositoryState)
    assert len(state.backups) == 100
    asked = METERS.stores[-1].requests
    assert (asked.put, asked.delete) == (0, 0)
    assert asked.get <= 16
    assert asked.list + asked.head <= 32


def test_a_gap_in_wal_is_explained_with_a_handful_of_requests(site: Site) -> None:
    site.take(100, refresh=False)
    refresh_outlines(site.repository, CLUSTER)
    before = site.store.requests
    (lineage,) = site.repository.list_lineages(CLUSTER)
    traces = find_traces(
        ClusterConfig(name=CLUSTER, data_directory="/nonexistent"), "main", {"main": site.repository}, lineage, ()
    )
    assert len(traces.entries) == 100
    assert site.store.requests.total - before.total <= 16


def test_outlines_stay_few_and_the_rest_unread_is_bounded(site: Site) -> None:
    for _ in range(80):
        site.take(1)
        _, asked = site.list_counted()
        assert asked.get <= UNTOLD_MAX + 8
    outlines = load_outlines(site.repository, CLUSTER)
    assert 1 <= len(outlines) <= 7, "each is more than twice as large as those that came after it"
    names = [name for outline in outlines for name in outline.documents]
    assert len(names) == len(set(names)), "nothing is told twice"
    assert all(outline.size_bytes <= OUTLINE_BYTES_MAX for outline in outlines)
    site.assert_same_as_without()


def test_what_happens_to_a_backup_later_is_seen(site: Site) -> None:
    site.take(10)
    removal = Removal(site.catalog)
    removal.retire(site.label(1), RetireOrder(reason="old", not_before=site.clock.now() + timedelta(days=1)))
    removal.hold(site.label(2), "for the auditors")
    site.assert_same_as_without()
    refresh_outlines(site.repository, CLUSTER)
    removal.release(site.label(2))
    site.assert_same_as_without()


def test_a_backup_that_is_gone_is_not_listed_and_leaves_the_outlines(site: Site) -> None:
    site.take(8)
    for info in list(site.store.list(f"clusters/{CLUSTER}/backups/{site.label(1)}/")):
        site.store.delete(info.name)
    assert site.list_counted()[0] == 7
    site.assert_same_as_without()
    site.take(8)
    told = {name for outline in load_outlines(site.repository, CLUSTER) for name in outline.documents}
    assert not [name for name in told if site.label(1) in name]


def test_what_is_not_decided_is_not_told(site: Site) -> None:
    site.take(3)
    label = site.label(999)
    site.catalog.announce(label, make_intent(BackupOrder(number=1)))
    site.take(3)
    told = {name for outline in load_outlines(site.repository, CLUSTER) for name in outline.documents}
    assert told
    assert not [name for name in told if label in name]
    site.assert_same_as_without()


@pytest.mark.parametrize("damage", ["gone", "changed", "foreign"])
def test_an_outline_that_is_damaged_costs_requests_and_nothing_else(site: Site, damage: str) -> None:
    site.take(4)
    (outline,) = load_outlines(site.repository, CLUSTER)
    data = bytearray(site.store.read(outline.name))
    site.store.delete(outline.name)
    if damage == "changed":
        data[len(data) // 2] ^= 1
        site.store.create(outline.name, [data])
    if damage == "foreign":
        site.repository.create_document(outline.name, {"documents": dict.fromkeys(outline.documents, 1)})
    assert site.list_counted()[0] == 4
    site.assert_same_as_without()


def test_a_forged_copy_is_passed_over_by_its_own_hash(site: Site) -> None:
    site.take(4)
    (outline,) = load_outlines(site.repository, CLUSTER)
    name = next(name for name in outline.documents if name.endswith("decision"))
    forged = {**{one: data.decode() for one, data in outline.documents.items()}}
    forged[name] = forged[name].replace("commit", "abandon")
    site.store.delete(outline.name)
    site.repository.create_document(outline.name, {"documents": forged})
    site.assert_same_as_without()
    assert site.list_counted()[1].get == 2, "the outline, and the document itself"


def test_one_look_writes_nothing(site: Site) -> None:
    store = open_outlined(site.repository, CLUSTER).repository.store
    with pytest.raises(NotPermitted):
        store.create("a", [b""])
    with pytest.raises(NotPermitted):
        store.delete("a")


def test_signs_of_life_go_when_there_is_a_decision(site: Site) -> None:
    site.take(1)
    for number in (1, 2, 3):
        site.catalog.sign_of_life(site.label(1), number)
    clear_signs(site.store, CLUSTER, site.label(1), 3)
    assert set(site.catalog.read_entry(site.label(1)).parts) == {"intent", "decision", "manifest"}
