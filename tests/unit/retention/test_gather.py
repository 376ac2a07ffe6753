"""What retention gets to know of a repository."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, HistoryEntry, Timeline
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupState
from pghaven.repository.evidence import BackupProof, Scope, render_proofs, store_evidence
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.retention.facts import KnownBackup
from pghaven.retention.gather import gather_lineages
from pghaven.store.memory import MemoryStore
from pghaven.units import render_time, render_time_utc
from tests.support.synthetic import (
    CLUSTER,
    SEGMENT_SIZE,
    START,
    SYSTEM_IDENTIFIER,
    BackupOrder,
    archive_wal,
    make_intent,
    make_lineage,
    make_repository,
    open_archive,
)

ORDER = BackupOrder(number=1)
HASH = "ab" * 32


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def catalog(clock: ManualClock) -> BackupCatalog:
    return BackupCatalog(make_repository(MemoryStore(clock), clock=clock), CLUSTER)


def add_backup(catalog: BackupCatalog, order: BackupOrder = ORDER, **summary: object) -> None:
    """As far as retention is concerned: announced and decided."""
    catalog.announce(order.label, make_intent(order))
    said = {
        "timeline": 1,
        "start_lsn": str(order.start_lsn),
        "stop_lsn": str(order.stop_lsn),
        "started_at": render_time_utc(order.started_at),
        "stopped_at": render_time_utc(order.started_at + timedelta(minutes=5)),
        "from_standby": False,
        "bad_pages": 0,
        **summary,
    }
    catalog.decide(order.label, {"decision": "commit", "manifest": HASH, "manifest_bytes": 0, "summary": said})


def gather_only(catalog: BackupCatalog) -> KnownBackup:
    (lineage,) = gather_lineages(catalog)
    (known,) = lineage.backups
    return known


def test_a_backup_is_known_by_what_its_decision_says(catalog: BackupCatalog) -> None:
    add_backup(catalog, timeline=12, from_standby=True, bad_pages=3)
    assert gather_only(catalog) == KnownBackup(
        label=ORDER.label,
        state=BackupState.COMMITTED,
        timeline=Timeline(12),
        start_lsn=ORDER.start_lsn,
        stop_lsn=ORDER.stop_lsn,
        started_at=ORDER.started_at,
        stopped_at=ORDER.started_at + timedelta(minutes=5),
        from_standby=True,
        bad_pages=3,
        missing_wal="0000000C0000000000000003",
    )


def test_one_that_is_not_decided_is_known_by_its_intent(catalog: BackupCatalog) -> None:
    catalog.announce(ORDER.label, make_intent(ORDER))
    known = gather_only(catalog)
    assert (known.state, known.start_lsn, known.stop_lsn) == (BackupState.UNDECIDED, ORDER.start_lsn, None)


def test_what_was_given_up_is_no_concern_of_retention(catalog: BackupCatalog) -> None:
    catalog.announce(ORDER.label, make_intent(ORDER))
    catalog.abandon(ORDER.label, "tired")
    (lineage,) = gather_lineages(catalog)
    assert lineage.backups == ()


def test_holds_and_retirements_are_told_in_words(catalog: BackupCatalog, clock: ManualClock) -> None:
    add_backup(catalog)
    removal = Removal(catalog)
    removal.hold(ORDER.label, "before the migration")
    assert gather_only(catalog).held == f"since {render_time(START)}: before the migration"
    removal.release(ORDER.label)
    removal.retire(ORDER.label, RetireOrder(reason="too old", not_before=START + timedelta(days=1)))
    known = gather_only(catalog)
    assert (known.state, known.held) == (BackupState.RETIRED, None)
    assert (
        known.retired == f"{render_time(START)} (too old), to be removed after {render_time(START + timedelta(days=1))}"
    )


@pytest.mark.parametrize(
    ("is_whole", "manifest", "verified"), [(True, HASH, True), (False, HASH, False), (True, "0", None)]
)
def test_what_the_last_verification_found_counts_for_the_manifest_it_read(
    catalog: BackupCatalog, is_whole: bool, manifest: str, verified: bool | None
) -> None:
    add_backup(catalog)
    proofs = render_proofs([BackupProof(label=ORDER.label, manifest_hash=manifest, is_whole=is_whole)])
    body = {
        "scope": Scope.FULL,
        "only": None,
        "began_at": render_time_utc(START),
        "backups": proofs,
        "archive_ends": [],
        "damage_count": 0,
    }
    store_evidence(catalog.repository, CLUSTER, body)
    assert gather_only(catalog).verified is verified


def test_a_decision_that_does_not_say_what_it_must_is_damage(catalog: BackupCatalog) -> None:
    add_backup(catalog, stop_lsn="nowhere")
    with pytest.raises(Damaged, match=f'what the decision of backup "{ORDER.label}" says of it is damaged'):
        gather_lineages(catalog)


def test_a_backup_whose_records_cannot_be_read_is_left_out(catalog: BackupCatalog) -> None:
    add_backup(catalog)
    name = layout.backup_object_name(CLUSTER, ORDER.label, "decision")
    catalog.repository.store.delete(name)
    catalog.repository.store.create(name, [b"torn"])
    (lineage,) = gather_lineages(catalog)
    assert lineage.backups == ()


def test_lineages_come_in_the_order_they_were_registered(catalog: BackupCatalog) -> None:
    later = replace(make_lineage(5), registered_at=render_time_utc(START + timedelta(days=3)))
    catalog.repository.register_lineage(CLUSTER, later, new_lineage=True)
    add_backup(catalog)
    first, second = gather_lineages(catalog)
    assert [one.system_identifier for one in (first, second)] == [SYSTEM_IDENTIFIER, 5]
    assert [len(one.backups) for one in (first, second)] == [1, 0]


def test_a_timeline_is_known_by_its_history_and_when_it_was_used_last(
    catalog: BackupCatalog, clock: ManualClock
) -> None:
    archive = open_archive(catalog.repository)

    def put(number: int, timeline: int) -> None:
        archive.put(str(SegmentName(timeline=Timeline(timeline), number=number, segment_size=SEGMENT_SIZE)), b"wal", {})

    put(1, 1)
    clock.advance(60)
    put(5000, 1)
    clock.advance(60)
    archive.put("0000000A.history", f"1\t{Lsn(SEGMENT_SIZE)}\tno reason\n".encode(), {})
    clock.advance(60)
    put(2, 11)
    (lineage,) = gather_lineages(catalog)
    one, ten, eleven = lineage.timelines
    assert (one.history, one.last_sign) == (History.root(Timeline(1)), START + timedelta(seconds=60))
    entry = HistoryEntry(timeline=Timeline(1), switch_lsn=Lsn(SEGMENT_SIZE), reason="no reason")
    assert (ten.history, ten.last_sign) == (
        History(timeline=Timeline(10), entries=(entry,)),
        START + timedelta(seconds=120),
    )
    assert (eleven.timeline, eleven.history, eleven.last_sign) == (11, None, START + timedelta(seconds=180))


def test_a_backup_lacks_the_first_segment_of_its_own_wal_that_is_not_there(catalog: BackupCatalog) -> None:
    add_backup(catalog)
    archive_wal(catalog.repository, ORDER)
    assert gather_only(catalog).missing_wal is None
    first, last = (
        str(SegmentName.containing(Timeline(1), lsn, SEGMENT_SIZE)) for lsn in (ORDER.start_lsn, ORDER.stop_lsn)
    )
    lose(catalog, last)
    assert gather_only(catalog).missing_wal == last
    lose(catalog, first)
    assert gather_only(catalog).missing_wal == first


def test_the_end_of_a_backup_s_wal_may_be_in_the_first_file_of_a_later_timeline(catalog: BackupCatalog) -> None:
    add_backup(catalog)
    archive_wal(catalog.repository, ORDER)
    lose(catalog, str(SegmentName.containing(Timeline(1), ORDER.stop_lsn, SEGMENT_SIZE)))
    archive = open_archive(catalog.repository)
    archive.put("00000002.history", f"1\t{Lsn(ORDER.stop_lsn + 64)}\tno reason\n".encode(), {})
    archive.put(str(SegmentName.containing(Timeline(2), ORDER.stop_lsn, SEGMENT_SIZE)), b"a copy", {})
    assert gather_only(catalog).missing_wal is None


def lose(catalog: BackupCatalog, segment: str) -> None:
    catalog.repository.store.delete(layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, segment))
