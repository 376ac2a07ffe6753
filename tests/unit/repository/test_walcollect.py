"""Which WAL goes, which stays, and how backups that begin at that moment learn of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Damaged, NotFound, Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import Purpose
from pghaven.repository.horizon import Horizon, raise_horizon, read_horizon
from pghaven.repository.partials import Piece, put_piece
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.walcollect import WalCollector, WalNeed, WalRemoval
from pghaven.repository.walstore import WalArchive
from pghaven.store.api import ObjectInfo, Store
from pghaven.store.memory import MemoryStore
from pghaven.store.recording import RecordingStore
from tests.support.interleave import Actor, Scene, two_switches
from tests.support.synthetic import (
    CLUSTER,
    SEGMENT_SIZE,
    START,
    SYSTEM_IDENTIFIER,
    BackupOrder,
    make_intent,
    make_repository,
    make_source,
    open_archive,
    take_backup,
)

OLD, NEW = BackupOrder(number=10), BackupOrder(number=100)
ONE, TWO = Timeline(1), Timeline(2)


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore(MemoryStore())


@pytest.fixture
def catalog(store: RecordingStore) -> BackupCatalog:
    return BackupCatalog(make_repository(store), CLUSTER)


@pytest.fixture
def archive(catalog: BackupCatalog) -> WalArchive:
    return open_archive(catalog.repository)


def name(number: int, timeline: int = 1) -> str:
    return str(SegmentName(timeline=Timeline(timeline), number=number, segment_size=SEGMENT_SIZE))


def fill(archive: WalArchive, *numbers: int, timeline: int = 1) -> None:
    for number in numbers:
        archive.put(name(number, timeline), b"x", {})


def lsn(segment: int, offset: int = 0) -> Lsn:
    return Lsn(segment * SEGMENT_SIZE + offset)


def need(segment: int, *spans: tuple[Lsn, Lsn]) -> WalNeed:
    return WalNeed(system_identifier=SYSTEM_IDENTIFIER, horizon=lsn(segment, 100), spans=spans)


def announce(catalog: BackupCatalog, order: BackupOrder, timeline: int = 1) -> None:
    catalog.announce(order.label, replace(make_intent(order), timeline=timeline))


def add_backup(catalog: BackupCatalog, order: BackupOrder, timeline: int = 1) -> None:
    """As far as WAL is concerned: announced and decided."""
    announce(catalog, order, timeline)
    summary = {"start_lsn": str(order.start_lsn), "stop_lsn": str(order.stop_lsn), "timeline": timeline}
    catalog.decide(order.label, {"decision": "commit", "manifest": "", "manifest_bytes": 0, "summary": summary})


def remove(catalog: BackupCatalog, wanted: WalNeed) -> WalRemoval:
    """Preview and run, which must agree; a second run finds nothing more to do."""
    before = WalCollector(catalog).preview(wanted)
    result = WalCollector(catalog).run(wanted)
    assert replace(result, is_done=False) == before
    assert WalCollector(catalog).run(wanted).files == ()
    return result


def held(archive: WalArchive, timeline: Timeline = ONE) -> list[int]:
    return [segment.name.number for segment in archive.list_segments(timeline)]


# -- what goes ----------------------------------------------------------------------------------------------------


def test_wal_before_the_horizon_goes_and_the_segment_it_lies_in_stays(
    catalog: BackupCatalog, archive: WalArchive
) -> None:
    add_backup(catalog, NEW)
    fill(archive, *range(5), 102, 103)
    result = remove(catalog, need(3))
    assert held(archive) == [3, 4, 102, 103]
    assert result.files == tuple(map(name, range(3)))
    assert result.freed_bytes > 0


def test_a_horizon_at_the_beginning_of_a_segment_spares_that_segment_alone(
    catalog: BackupCatalog, archive: WalArchive
) -> None:
    add_backup(catalog, NEW)
    fill(archive, *range(5))
    remove(catalog, replace(need(0), horizon=lsn(3)))
    assert held(archive) == [3, 4]


def test_what_lies_in_a_span_stays_with_both_its_ends(catalog: BackupCatalog, archive: WalArchive) -> None:
    add_backup(catalog, NEW)
    fill(archive, *range(20))
    remove(catalog, need(15, (lsn(4, 5), lsn(6)), (lsn(9), lsn(9, 1))))
    assert held(archive) == [4, 5, 6, 9, *range(15, 20)]


def test_every_backup_s_own_span_stays_whatever_the_policy_knew(catalog: BackupCatalog, archive: WalArchive) -> None:
    add_backup(catalog, OLD)
    add_backup(catalog, NEW)
    fill(archive, *range(120))
    Removal(catalog).retire(OLD.label, RetireOrder(reason="old", not_before=START))
    remove(catalog, need(110))
    assert held(archive) == [12, 13, 102, 103, *range(110, 120)]
    assert Removal(catalog).condemn(OLD.label, "old")
    remove(catalog, need(110))
    assert held(archive) == [102, 103, *range(110, 120)]


def test_a_backup_under_way_keeps_everything_from_its_start_on(catalog: BackupCatalog, archive: WalArchive) -> None:
    add_backup(catalog, NEW)
    announce(catalog, OLD)
    fill(archive, *range(20))
    result = remove(catalog, need(18))
    assert held(archive) == list(range(12, 20))
    assert result.horizon == OLD.start_lsn


def test_a_compaction_needs_no_wal(catalog: BackupCatalog, archive: WalArchive) -> None:
    add_backup(catalog, NEW)
    catalog.announce(OLD.label, replace(make_intent(OLD), purpose=Purpose.COMPACTION, start_lsn="0/0"))
    fill(archive, *range(5))
    remove(catalog, need(4))
    assert held(archive) == [4]


def test_partial_and_backup_files_go_with_their_segment_and_histories_stay(
    catalog: BackupCatalog, archive: WalArchive, store: RecordingStore
) -> None:
    add_backup(catalog, OLD)
    add_backup(catalog, NEW, timeline=2)
    fill(archive, 2, 12, 13)
    kept = [
        "00000002.history",
        f"{name(12)}.00000028.backup",
        f"{name(30)}.partial",
        "strange",
        f"{name(2)}.renamed",
    ]
    for one in (*kept, f"{name(2)}.00000028.backup", f"{name(3)}.partial"):
        archive.put(one, b"x", {})
    archive.put_quarantine(name(2), b"a rival's", {})
    result = remove(catalog, need(20))
    assert set(result.files) == {name(2), f"{name(2)}.00000028.backup", f"{name(3)}.partial"}
    assert held(archive) == [12, 13]
    assert all(archive.exists(one) for one in kept)
    assert len(archive.list_quarantine()) == 1


def test_all_timelines_with_a_backup_or_before_it_are_judged_and_later_ones_are_not(
    catalog: BackupCatalog, archive: WalArchive
) -> None:
    add_backup(catalog, OLD)
    add_backup(catalog, NEW, timeline=2)
    for timeline in (1, 2, 3):
        fill(archive, 1, 2, 50, 60, timeline=timeline)
    remove(catalog, need(55))
    assert [held(archive, Timeline(timeline)) for timeline in (1, 2, 3)] == [[60], [60], [1, 2, 50, 60]]
    positions = read_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER).positions
    assert positions == {ONE: lsn(55, 100), TWO: lsn(55, 100)}


def test_without_any_backup_no_wal_goes(catalog: BackupCatalog, archive: WalArchive) -> None:
    fill(archive, *range(5))
    assert remove(catalog, need(4)).files == ()
    assert read_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER) == Horizon()


def test_another_lineage_s_wal_and_backups_are_another_matter(catalog: BackupCatalog, archive: WalArchive) -> None:
    add_backup(catalog, NEW)
    other = replace(make_intent(OLD), system_identifier=7)
    catalog.announce(OLD.label, other)
    theirs = WalArchive(catalog.repository, CLUSTER, 7, SEGMENT_SIZE)
    fill(theirs, *range(5))
    fill(archive, *range(5))
    remove(catalog, need(3))
    assert held(theirs) == list(range(5))
    assert held(archive) == [3, 4]
    with pytest.raises(NotFound):
        WalCollector(BackupCatalog(catalog.repository, "other")).preview(need(3))
    with pytest.raises(Refused):
        WalCollector(catalog).run(replace(need(3), system_identifier=8))


def test_wal_past_four_gigabytes_is_found_in_its_own_folder(catalog: BackupCatalog, archive: WalArchive) -> None:
    add_backup(catalog, NEW)
    fill(archive, 1, 4095, 4096, 5000, 9000)
    remove(catalog, need(4999))
    assert held(archive) == [5000, 9000]


def test_wal_goes_oldest_first_and_after_the_horizon_is_told(
    catalog: BackupCatalog, archive: WalArchive, store: RecordingStore
) -> None:
    add_backup(catalog, NEW)
    fill(archive, *range(12))
    before = len(store.mutations)
    WalCollector(catalog).run(need(10))
    done = [(one.operation, one.name.rpartition("/")[2]) for one in store.mutations[before:]]
    assert done == [("create", "00000001"), *(("delete", name(number)) for number in range(10))]


def test_if_a_decision_cannot_be_read_no_wal_goes(
    catalog: BackupCatalog, archive: WalArchive, store: RecordingStore
) -> None:
    add_backup(catalog, OLD)
    add_backup(catalog, NEW)
    fill(archive, *range(5))
    damaged = f"clusters/{CLUSTER}/backups/{OLD.label}/decision"
    store.delete(damaged)
    store.create(damaged, [b"rotten"])
    with pytest.raises(Damaged, match=f"no WAL was removed: .*{OLD.label}"):
        WalCollector(catalog).run(need(4))
    assert held(archive) == list(range(5))


def test_without_its_intent_a_backup_keeps_its_own_span(
    catalog: BackupCatalog, archive: WalArchive, store: RecordingStore
) -> None:
    add_backup(catalog, OLD)
    add_backup(catalog, NEW)
    fill(archive, *range(12))
    WalCollector(catalog).run(need(4))
    before = held(archive)
    damaged = f"clusters/{CLUSTER}/backups/{OLD.label}/intent"
    store.delete(damaged)
    store.create(damaged, [b"rotten"])
    assert not WalCollector(catalog).run(need(4)).files
    assert held(archive) == before


# -- the horizon --------------------------------------------------------------------------------------------------


def documents(catalog: BackupCatalog) -> list[str]:
    prefix = f"clusters/{CLUSTER}/horizons/{SYSTEM_IDENTIFIER}/"
    return [info.name.removeprefix(prefix) for info in catalog.repository.store.list(prefix)]


def told(catalog: BackupCatalog, **positions: int) -> Horizon:
    wanted = {Timeline(int(timeline[1:])): Lsn(position) for timeline, position in positions.items()}
    return raise_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER, wanted)


def test_a_horizon_never_goes_down_on_any_timeline(catalog: BackupCatalog) -> None:
    told(catalog, t1=50)
    told(catalog, t1=30, t2=10)
    horizon = told(catalog, t1=60)
    assert horizon == read_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER)
    assert horizon.positions == {ONE: 60, TWO: 10}
    assert documents(catalog) == ["00000003"]


def test_what_was_told_is_not_told_again(catalog: BackupCatalog) -> None:
    told(catalog, t1=50, t2=50)
    assert told(catalog, t1=50).number == told(catalog, t2=40).number == 1
    assert documents(catalog) == ["00000001"]


def test_a_backup_sees_whether_it_begins_before_the_horizon(catalog: BackupCatalog) -> None:
    horizon = told(catalog, t1=50)
    assert [horizon.is_past(ONE, Lsn(lsn)) for lsn in (49, 50)] == [True, False]
    assert not horizon.is_past(TWO, Lsn(1))
    assert not Horizon().is_past(ONE, Lsn(0))


def test_what_a_dead_collector_left_is_in_force_and_is_tidied_up(catalog: BackupCatalog) -> None:
    told(catalog, t1=50)
    body = {"positions": {"1": "0/60"}, "written_at": "2026-03-01T00:00:00.000000Z"}
    catalog.repository.create_document(f"clusters/{CLUSTER}/horizons/{SYSTEM_IDENTIFIER}/00000002", body)
    assert read_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER).positions == {ONE: 0x60}
    told(catalog, t1=0x70)
    assert documents(catalog) == ["00000003"]


@pytest.mark.parametrize("body", [{}, {"positions": []}, {"positions": {"x": "0/1"}}, {"positions": {"1": 5}}])
def test_a_damaged_horizon_is_named(catalog: BackupCatalog, body: dict[str, object]) -> None:
    catalog.repository.create_document(f"clusters/{CLUSTER}/horizons/{SYSTEM_IDENTIFIER}/00000001", body)
    with pytest.raises(Damaged, match=r"horizons/.*/00000001"):
        read_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER)


def test_a_horizon_whose_number_was_used_and_removed_meanwhile_is_told_all_the_same(
    catalog: BackupCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody stands still just before it is told."""
    create = catalog.repository.create_document

    def stand_still(name: str, body: dict[str, object]) -> None:
        monkeypatch.undo()
        told(catalog, t1=10)
        told(catalog, t1=20)
        create(name, body)

    monkeypatch.setattr(catalog.repository, "create_document", stand_still)
    assert told(catalog, t1=50).positions == {ONE: 50}
    assert read_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER).positions == {ONE: 50}
    assert documents(catalog) == ["00000003"]


# -- without any backup -------------------------------------------------------------------------------------------

ALONE = WalNeed(system_identifier=SYSTEM_IDENTIFIER, horizon=lsn(50), is_alone=True)


def test_without_a_backup_wal_of_every_timeline_goes(catalog: BackupCatalog, archive: WalArchive) -> None:
    fill(archive, 12, 49, 50)
    fill(archive, 49, 50, timeline=2)
    piece = Piece(
        segment=SegmentName(timeline=TWO, number=48, segment_size=SEGMENT_SIZE), receiver="0" * 8, begin=0, end=1
    )
    put_piece(archive, piece, b"x", {})
    assert remove(catalog, ALONE).files == (name(12), name(49), name(49, 2), piece.label)
    assert held(archive), held(archive, TWO) == ([50], [50])
    assert read_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER).positions == {ONE: lsn(50), TWO: lsn(50)}


@pytest.mark.parametrize("is_whole", [True, False])
def test_where_a_backup_is_found_nobody_has_judged_what_it_needs(
    catalog: BackupCatalog, archive: WalArchive, *, is_whole: bool
) -> None:
    (add_backup if is_whole else announce)(catalog, NEW)
    fill(archive, 12, 13)
    assert remove(catalog, ALONE).files == ()
    assert held(archive) == [12, 13]


# -- at once ------------------------------------------------------------------------------------------------------


def test_two_collectors_horizons_hold_what_each_of_them_said() -> None:
    repository = make_repository(MemoryStore())

    def scene() -> Scene:
        store = MemoryStore()

        def tell(timeline: int, position: int) -> Actor:
            def act(stepped: Store) -> None:
                mine = Repository(stepped, repository.descriptor, clock=ManualClock(START))
                raise_horizon(mine, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(timeline): Lsn(position)})

            return act

        return store, [tell(1, 50), tell(2, 60)]

    count = 0
    for store, outcomes in two_switches(scene):
        assert [outcome.error for outcome in outcomes] == [None, None]
        horizon = read_horizon(
            Repository(store, repository.descriptor, clock=ManualClock(START)), CLUSTER, SYSTEM_IDENTIFIER
        )
        assert horizon.positions == {ONE: 50, TWO: 60}
        count += 1
    assert count > 20


def play_a_backup_against_a_collector(*, is_careless: bool, is_first: bool = False) -> Iterator[bool]:
    """For every order: whether the backup went on. Then its WAL must be there."""
    repository = make_repository(MemoryStore())

    def open_catalog(store: Store) -> BackupCatalog:
        return BackupCatalog(Repository(store, repository.descriptor, clock=ManualClock(START)), CLUSTER)

    def make_scene() -> Scene:
        store = MemoryStore()
        for info in repository.store.list(""):
            store.create(info.name, [repository.store.read(info.name)])
        catalog = open_catalog(store)
        if not is_first:
            add_backup(catalog, NEW)
        fill(open_archive(catalog.repository), 12, 13)
        wanted = ALONE if is_first else need(50)
        return store, [backup, lambda stepped: WalCollector(open_catalog(stepped)).run(wanted)]

    def backup(store: Store) -> bool:
        catalog = open_catalog(store)
        if not is_careless:
            announce(catalog, OLD)
        archive = open_archive(catalog.repository)
        horizon = read_horizon(catalog.repository, CLUSTER, SYSTEM_IDENTIFIER)
        if is_careless:
            announce(catalog, OLD)
        if horizon.is_past(ONE, OLD.start_lsn) or not archive.exists(name(12)):
            return False
        summary = {"start_lsn": str(OLD.start_lsn), "stop_lsn": str(OLD.stop_lsn)}
        catalog.decide(OLD.label, {"decision": "commit", "manifest": "", "summary": summary})
        return True

    for store, outcomes in two_switches(make_scene):
        assert [outcome.error for outcome in outcomes] == [None, None]
        if outcomes[0].value:
            assert held(open_archive(open_catalog(store).repository)) == [12, 13]
        yield outcomes[0].value


def test_a_backup_that_goes_on_has_its_wal_in_every_order() -> None:
    assert set(play_a_backup_against_a_collector(is_careless=False)) == {True, False}


def test_the_first_backup_of_all_has_its_wal_in_every_order() -> None:
    assert set(play_a_backup_against_a_collector(is_careless=False, is_first=True)) == {True, False}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_backup_that_looks_before_it_is_announced_would_lose_its_wal(*, is_first: bool) -> None:
    with pytest.raises(AssertionError):
        list(play_a_backup_against_a_collector(is_careless=True, is_first=is_first))


# -- a store that does not list all it has --------------------------------------------------------------------------


class ShortListingStore(MemoryStore):
    """Lists nothing below what is ``hidden``, however often it is asked; by its name everything is found."""

    hidden = ""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if not self.hidden or not info.name.startswith(self.hidden))


def test_no_wal_goes_where_a_listing_leaves_out_the_backup_that_needs_it(tmp_path: Path) -> None:
    store = ShortListingStore()
    catalog = BackupCatalog(make_repository(store), CLUSTER)
    source = make_source(tmp_path, tablespaces=False)
    for order in (OLD, NEW):
        take_backup(catalog.repository, source, order)
    archive = open_archive(catalog.repository)
    fill(archive, *(number for number in range(5, 100) if not archive.exists(name(number))))
    before = [one.name for one in archive.list_segments(ONE)]
    store.hidden = f"clusters/{CLUSTER}/backups/{OLD.label}/"
    assert [entry.label for entry in catalog.list_labels()] == [NEW.label]

    collector = WalCollector(catalog)
    for act in (collector.preview, collector.run):
        with pytest.raises(Damaged, match=f"no WAL was removed: .*{OLD.label}/intent.* left it out of its listing"):
            act(need(90))
    assert [one.name for one in archive.list_segments(ONE)] == before

    store.hidden = ""
    assert collector.run(need(90)).files
    first = Lsn.parse(catalog.read_entry(OLD.label).summary["start_lsn"]) // SEGMENT_SIZE
    assert first < 90
    assert archive.exists(name(first))
