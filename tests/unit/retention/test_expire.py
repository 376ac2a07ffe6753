"""Expiring backups of a real repository in memory, on a clock of the tests' own."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from pghaven.cli.expire_text import render_body, render_text
from pghaven.clock import ManualClock
from pghaven.errors import NotFound, Refused
from pghaven.events import ignore
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.audits import LOOKED_BACK, Audit, keep_audit, load_audit
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.compact import CompactionRules
from pghaven.repository.entry import BackupState
from pghaven.repository.evidence import BackupProof, render_proofs, store_evidence
from pghaven.repository.horizon import raise_horizon
from pghaven.repository.incidents import Incident, IncidentKind, list_incidents, record_incident
from pghaven.repository.oldevidence import KEPT_FOR
from pghaven.repository.removal import Removal
from pghaven.repository.repository import Repository
from pghaven.retention import lonewal
from pghaven.retention.byhand import (
    find_next_expiry,
    hold_backup,
    release_backup,
    remove_backup,
    undo_expiry,
)
from pghaven.retention.expire import ExpireResult, run_expire
from pghaven.retention.policy import RetentionPolicy, Rule
from pghaven.store.api import Store
from pghaven.store.memory import MemoryStore
from pghaven.units import render_time_utc
from tests.support.descent import Descent
from tests.support.interleave import Scene, play
from tests.support.reading import assert_whole
from tests.support.synthetic import (
    CLUSTER,
    SEGMENT_SIZE,
    START,
    SYSTEM_IDENTIFIER,
    BackupOrder,
    SourceTree,
    archive_wal,
    make_intent,
    make_pages,
    make_repository,
    make_segment,
    make_source,
    open_archive,
    take_backup,
)

GRACE = timedelta(hours=5)
TWO = RetentionPolicy(count=2, grace=GRACE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    return make_source(tmp_path_factory.mktemp("source"), tablespaces=False)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def catalog(store: MemoryStore, clock: ManualClock) -> BackupCatalog:
    return BackupCatalog(make_repository(store, clock=clock), CLUSTER)


def order(number: int) -> BackupOrder:
    return BackupOrder(number=number, workers=1)


def take(catalog: BackupCatalog, clock: ManualClock, source: SourceTree, *numbers: int) -> list[str]:
    """Backups at hours after START, with the clock set to then, and WAL from each to the next; their labels."""
    for number in numbers:
        clock.advance((order(number).started_at + timedelta(minutes=30) - clock.now()).total_seconds())
        take_backup(catalog.repository, source, order(number))
    archive = open_archive(catalog.repository)
    for number in range(min(numbers), max(numbers) + 8):
        segment = SegmentName(timeline=Timeline(1), number=number, segment_size=SEGMENT_SIZE)
        if not archive.exists(str(segment)):
            archive.put(str(segment), make_segment(number), {})
    return [order(number).label for number in numbers]


def expire(catalog: BackupCatalog, policy: RetentionPolicy = TWO) -> ExpireResult:
    """A dry run and a run, which must say the same; a second run at once finds nothing more to do."""
    before = snapshot(catalog)
    shown = run_expire(catalog, policy, ignore, dry_run=True)
    assert snapshot(catalog) == before
    assert not shown.is_done
    done = run_expire(catalog, policy, ignore)
    assert done.is_done
    assert as_told(done) == as_told(shown)
    again = run_expire(catalog, policy, ignore)
    assert again.retired == ()
    assert again.collected is None or (again.collected.packs, again.collected.labels) == ((), ())
    assert not [one for one in again.wal if one.removal is not None and one.removal.files]
    return done


def as_told(result: ExpireResult) -> tuple[str, object]:
    """All that the command line tells of a result, but whether it was done."""
    body = render_body("main", result)
    return render_text("main", replace(result, is_done=True)), {**body, "is_done": True}


def snapshot(catalog: BackupCatalog) -> set[str]:
    """The names of all objects but the records of collectors' turns."""
    return {info.name for info in catalog.repository.store.list("") if "/collections/" not in info.name}


def states(catalog: BackupCatalog) -> dict[str, BackupState]:
    return {entry.label: entry.state for entry in catalog.list_entries()}


def held_wal(catalog: BackupCatalog) -> list[int]:
    return [one.name.number for one in open_archive(catalog.repository).list_segments(Timeline(1))]


# -- the two steps -------------------------------------------------------------------------------------------------


def test_what_the_policy_drops_is_retired_with_its_reason_and_a_time_to_think(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    old, *rest = take(catalog, clock, source, 1, 2, 3)
    result = expire(catalog)
    assert result.retired == (old,)
    assert states(catalog) == {old: BackupState.RETIRED, **dict.fromkeys(rest, BackupState.COMMITTED)}
    retirement = catalog.read_entry(old).retirement
    assert retirement is not None
    assert retirement.reason == "not among the 2 newest"
    assert retirement.not_before == result.undo_until == clock.now() + GRACE


def test_nothing_goes_before_its_time_and_then_everything_that_only_it_needed(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    old, *rest = take(catalog, clock, source, 1, 5, 9)
    expire(catalog)
    clock.advance(GRACE.total_seconds() - 1)
    before = snapshot(catalog)
    result = expire(catalog)
    assert snapshot(catalog) == before
    assert result.collected is not None
    clock.advance(1)
    result = expire(catalog)
    assert [one.label for one in result.collected.labels] == [old] if result.collected else False
    assert assert_whole(catalog, dict.fromkeys(rest, source)) == rest
    assert not {name for name in snapshot(catalog) if old in name}
    assert held_wal(catalog) == list(range(5 + 2, 17))


def test_wal_waits_as_long_as_a_backup_can_be_brought_back_to_use_it(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    take(catalog, clock, source, 1, 5, 9)
    expire(catalog)
    assert held_wal(catalog) == list(range(3, 17))


def test_a_held_backup_keeps_the_wal_it_needs_and_no_more(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    old, *rest = take(catalog, clock, source, 1, 5, 9, 13)
    hold_backup(catalog, old, "for the auditors")
    expire(catalog)
    clock.advance(GRACE.total_seconds())
    result = expire(catalog)
    assert result.plan.verdicts[0].reasons[0].text.endswith(": for the auditors")
    assert assert_whole(catalog, dict.fromkeys([old, *rest], source)) == [old, *rest[1:]]
    assert held_wal(catalog) == [3, 4, *range(11, 21)]


def test_what_a_writer_that_died_has_left_goes_too(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    take(catalog, clock, source, 1)
    catalog.announce(order(2).label, make_intent(order(2)))
    take(catalog, clock, source, 3, 4)
    result = expire(catalog)
    assert order(2).label not in states(catalog)
    assert result.collected is not None
    assert [one.label for one in result.collected.labels] == [order(2).label]


# -- by hand -------------------------------------------------------------------------------------------------------


def test_an_expired_backup_can_be_brought_back_and_is_expired_again(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    old, *_ = take(catalog, clock, source, 1, 2, 3)
    expire(catalog)
    assert undo_expiry(catalog, old[:15]) == old
    assert states(catalog)[old] is BackupState.COMMITTED
    assert find_next_expiry(catalog, TWO, old) == "not among the 2 newest"
    assert find_next_expiry(catalog, RetentionPolicy(count=3), old) is None
    assert expire(catalog).retired == (old,)


def test_a_hold_brings_an_expired_backup_back_for_good(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    old, *_ = take(catalog, clock, source, 1, 2, 3)
    expire(catalog)
    entry = hold_backup(catalog, old, "wanted after all")
    assert entry.state is BackupState.COMMITTED
    clock.advance(GRACE.total_seconds())
    assert expire(catalog).retired == ()
    assert release_backup(catalog, old) == old
    assert expire(catalog).retired == (old,)


def test_what_is_removed_can_be_neither_held_nor_brought_back(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    old, *_ = take(catalog, clock, source, 1, 2, 3)
    expire(catalog)
    clock.advance(GRACE.total_seconds())
    expire(catalog)
    for act in (lambda: undo_expiry(catalog, old), lambda: hold_backup(catalog, old, "late")):
        with pytest.raises(NotFound, match=f'there is no backup "{old}"'):
            act()


def test_only_what_is_expired_can_be_brought_back(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    (label,) = take(catalog, clock, source, 1)
    with pytest.raises(NotFound, match=f'there is no backup "{label}"'):
        undo_expiry(catalog, label)
    with pytest.raises(Refused, match="is not held"):
        release_backup(catalog, label)


def test_a_hold_at_any_moment_of_an_expiry_is_kept_or_told_that_it_is_late(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    due, old, *_ = take(catalog, clock, source, 1, 2, 3, 4)
    run_expire(catalog, RetentionPolicy(count=3, grace=GRACE), ignore)
    clock.advance(GRACE.total_seconds())
    template = catalog.repository

    def open_at(store: Store) -> BackupCatalog:
        return BackupCatalog(Repository(store, template.descriptor, clock=clock), CLUSTER)

    for label in (due, old):

        def make_scene(label: str = label) -> Scene:
            store = MemoryStore(clock)
            for info in template.store.list(""):
                store.create(info.name, [template.store.read(info.name)])
            return store, [
                lambda stepped: hold_backup(open_at(stepped), label, "wanted"),
                lambda stepped: run_expire(open_at(stepped), TWO, ignore),
            ]

        kept = set()
        for lead in range(80):
            store, actors = make_scene()
            hold, expiry = play(store, actors, choose_after(lead))
            assert expiry.error is None
            assert hold.error is None or isinstance(hold.error, Refused | NotFound)
            there = open_at(store)
            kept.add(hold.error is None)
            if hold.error is None:
                assert there.read_entry(label).state is BackupState.COMMITTED
                assert label in assert_whole(there, dict.fromkeys(states(there), source))
            else:
                assert label not in states(there)
        assert kept == ({True, False} if label == due else {True})


def choose_after(lead: int) -> Callable[[list[int]], int]:
    """The second actor makes so many calls before the first one begins; then chance decides."""
    chance = random.Random(lead)
    calls = iter(range(lead))
    return lambda waiting: waiting[-1] if next(calls, None) is not None else chance.choice(waiting)


# -- when nothing may be done --------------------------------------------------------------------------------------


def test_packs_that_are_mostly_dead_are_written_anew(
    catalog: BackupCatalog, clock: ManualClock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same by a dry run and a run; later nothing of it is left to do, and the old packs go with the grace."""
    big = {f"base/5/3000{number}": make_pages(120, number) for number in range(6)}
    source = make_source(tmp_path_factory.mktemp("big"), tablespaces=False)
    for name, content in big.items():
        (source.data_directory / name).write_bytes(content)
    source = replace(source, files={**source.files, **big})
    take_backup(catalog.repository, source, replace(order(1), one_by_one=False))
    child = Descent(
        order=order(2), parent=order(1).label, changed={name: make_pages(3, 99) for name in sorted(big)[:5]}
    )
    child.take(catalog)
    archive_wal(catalog.repository, order(2))
    after = child.expected(source)
    clock.advance(3 * 3600)
    one, rules = RetentionPolicy(count=1, grace=GRACE), CompactionRules(freed_bytes_min=0)
    run_expire(catalog, one, ignore, compaction=rules)
    clock.advance(GRACE.total_seconds() + 60)
    first = {info.name for info in catalog.repository.store.list(layout.packs_prefix(CLUSTER, order(1).label))}
    assert first

    shown = run_expire(catalog, one, ignore, dry_run=True, compaction=rules)
    done = run_expire(catalog, one, ignore, compaction=rules)
    assert as_told(done) == as_told(shown)
    assert done.compaction is not None
    assert done.compaction.result is not None
    assert done.compaction.plan.packs
    assert assert_whole(catalog, {order(2).label: after}) == [order(2).label]
    assert first <= snapshot(catalog), "a restore may be reading them"
    again = run_expire(catalog, one, ignore, compaction=rules)
    assert again.compaction is not None
    assert again.compaction.plan.packs == ()

    clock.advance(GRACE.total_seconds() + 60)
    run_expire(catalog, one, ignore, compaction=rules)
    assert not first & snapshot(catalog)
    assert assert_whole(catalog, {order(2).label: after}) == [order(2).label]


def test_without_a_policy_nothing_is_done_at_all(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    take(catalog, clock, source, 1, 2, 3)
    expire(catalog)
    clock.advance(GRACE.total_seconds())
    before = snapshot(catalog)
    result = expire(catalog, RetentionPolicy(grace=GRACE))
    assert snapshot(catalog) == before
    assert result.plan.refusal is not None
    assert result.plan.refusal.rule is Rule.NO_POLICY


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_wrong_clock_ends_it_before_anything_is_done(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree, dry_run: bool
) -> None:
    take(catalog, clock, source, 1, 2, 30)
    clock.advance(-timedelta(hours=26).total_seconds())
    before = snapshot(catalog)
    with pytest.raises(Refused, match=r"nothing was expired: backup .* was taken at .*, but the clock here says"):
        run_expire(catalog, TWO, ignore, dry_run=dry_run)
    assert snapshot(catalog) == before


def test_a_cluster_that_is_not_registered_is_not_found(catalog: BackupCatalog) -> None:
    with pytest.raises(NotFound, match='cluster "other" is not registered'):
        run_expire(BackupCatalog(catalog.repository, "other"), TWO, ignore)


def test_a_damaged_manifest_stops_removal_and_lets_its_backup_expire(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    old, *rest = take(catalog, clock, source, 1, 2, 3)
    name = layout.backup_object_name(CLUSTER, old, "manifest")
    whole = catalog.repository.store.read(name)
    catalog.repository.store.delete(name)
    catalog.repository.store.create(name, [whole[:-40] + bytes(40)])
    result = expire(catalog)
    assert result.retired == (old,)
    assert result.collected is None
    assert result.wal == ()
    assert result.obstacle is not None
    assert name in result.obstacle.message
    clock.advance(GRACE.total_seconds())
    result = expire(catalog)
    assert result.obstacle is None
    assert list(states(catalog)) == rest


# -- any history ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_a_dry_run_shows_what_a_run_does_and_what_is_left_is_whole(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree, seed: int
) -> None:
    chance = random.Random(seed)
    policy = RetentionPolicy(
        window=timedelta(hours=chance.randint(4, 20)) if chance.random() < 0.7 else None,
        count=chance.randint(1, 4) if chance.random() < 0.5 else None,
        daily=chance.randint(1, 3) if chance.random() < 0.5 else None,
        monthly=1,
        grace=timedelta(hours=chance.randint(1, 9)),
    )
    number = 0
    for _ in range(10):
        number += chance.randint(1, 9)
        if chance.random() < 0.2:
            catalog.announce(order(number).label, make_intent(order(number)))
            number += 1
        take(catalog, clock, source, number)
        known = [entry for entry in catalog.list_entries() if entry.state in (BackupState.COMMITTED,)]
        chosen = chance.choice(known)
        if chosen.hold is not None:
            Removal(catalog).release(chosen.label)
        elif chance.random() < 0.3:
            Removal(catalog).hold(chosen.label, "by chance")
        retired = [one.label for one in catalog.list_entries() if one.state is BackupState.RETIRED]
        if retired and chance.random() < 0.3:
            Removal(catalog).undo(chance.choice(retired))
        expire(catalog, policy)
        there = assert_whole(catalog, dict.fromkeys(states(catalog), source))
        assert order(number).label in there
        wal = held_wal(catalog)
        for entry in catalog.list_entries():
            if entry.state in (BackupState.COMMITTED, BackupState.RETIRED):
                found = next(one for one in range(1, number + 1) if order(one).label == entry.label)
                assert {found + 2, found + 3} <= set(wal)


def test_a_dry_run_tells_which_backup_lacks_its_wal_and_keeps_another_for_it(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    oldest, middle, *_ = take(catalog, clock, source, 1, 2, 3, 4)
    assert set(run_expire(catalog, TWO, ignore, dry_run=True).retired) == {oldest, middle}
    lost = str(SegmentName.containing(Timeline(1), order(4).stop_lsn, SEGMENT_SIZE))
    catalog.repository.store.delete(layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, lost))
    result = run_expire(catalog, TWO, ignore, dry_run=True)
    assert result.retired == (oldest,)
    assert f"WAL segment {lost}, which it needs, is missing" in render_text("main", result)


# -- by name -------------------------------------------------------------------------------------------------------


def test_the_last_backup_of_a_lineage_can_be_removed_by_its_name_and_only_so(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    (only,) = take(catalog, clock, source, 1)
    assert expire(catalog).retired == ()
    before = snapshot(catalog)
    shown = remove_backup(catalog, TWO, only[:-1], reason="moved away", dry_run=True)
    assert snapshot(catalog) == before
    assert (shown.label, shown.is_done) == (only, False)
    assert shown.kept_for == ("number 1 of the 2 newest",)
    assert [text.partition(":")[0] for text in shown.lost] == [f"it is the last backup of system {SYSTEM_IDENTIFIER}"]

    done = remove_backup(catalog, TWO, only, reason="moved away")
    assert replace(done, is_done=False) == shown
    assert states(catalog) == {only: BackupState.RETIRED}
    assert catalog.read_entry(only).reason == "by hand: moved away"
    undo_expiry(catalog, only)
    assert states(catalog) == {only: BackupState.COMMITTED}

    remove_backup(catalog, TWO, only, reason="moved away")
    clock.advance(GRACE.total_seconds())
    expire(catalog)
    assert states(catalog) == {}
    assert not list(catalog.repository.store.list(layout.packs_prefix(CLUSTER)))


def test_the_wal_of_the_last_backup_goes_with_it_in_its_time(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lonewal, "TAIL_BYTES", 3 * SEGMENT_SIZE)
    (only,) = take(catalog, clock, source, 1)
    wal = held_wal(catalog)
    remove_backup(catalog, TWO, only, reason="moved away")
    (kept,) = expire(catalog).wal
    assert kept.plan.reason == "the last backup of this lineage can still be brought back"
    assert held_wal(catalog) == wal
    clock.advance(GRACE.total_seconds())
    result = expire(catalog)
    assert "from " + str(Lsn((wal[-1] - 2) * SEGMENT_SIZE)) in render_text("main", result)
    assert "there is no backup of this lineage; what came in within the 5-hour grace and the last" in render_text(
        "main", result
    )
    assert held_wal(catalog) == wal[-3:]


def test_what_was_removed_by_name_goes_without_any_policy_and_nothing_else_does(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    old, new = take(catalog, clock, source, 1, 2)
    nothing = RetentionPolicy(grace=GRACE)
    wal = held_wal(catalog)
    lost = remove_backup(catalog, nothing, old, reason="too large").lost
    assert len(lost) == 1
    assert re.search(f'no moment from .* until .*, the end of backup "{new}", can be restored any more', lost[0])
    assert expire(catalog, nothing).retired == ()
    assert states(catalog) == {old: BackupState.RETIRED, new: BackupState.COMMITTED}
    clock.advance(GRACE.total_seconds())
    result = expire(catalog, nothing)
    assert [one.label for one in result.collected.labels] == [old] if result.collected else False
    assert states(catalog) == {new: BackupState.COMMITTED}
    assert held_wal(catalog) == wal


def test_what_is_held_is_not_removed_by_name(catalog: BackupCatalog, clock: ManualClock, source: SourceTree) -> None:
    old, _ = take(catalog, clock, source, 1, 2)
    hold_backup(catalog, old, "for the auditors")
    for dry_run in (True, False):
        with pytest.raises(Refused, match=r"is held since .*: for the auditors"):
            remove_backup(catalog, TWO, old, reason="too large", dry_run=dry_run)
    assert states(catalog)[old] is BackupState.COMMITTED


def test_a_newer_backup_removed_by_name_is_told_to_be_reached_from_an_older_one(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    _, new = take(catalog, clock, source, 1, 2)
    (lost,) = remove_backup(catalog, TWO, new, reason="too large").lost
    assert lost.endswith("must be replayed from an older backup, if that has all its WAL")


# -- results of verifications --------------------------------------------------------------------------------------


def test_old_results_of_verifications_go_and_what_they_say_stays_known(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    (label,) = take(catalog, clock, source, 1)
    entry = catalog.read_entry(label)
    names = []
    for is_whole in (True, False, True):
        proof = BackupProof(label=label, manifest_hash=entry.manifest_hash, is_whole=is_whole)
        body = {
            "scope": "full",
            "only": None,
            "began_at": render_time_utc(clock.now()),
            "backups": render_proofs([proof]),
            "archive_ends": [],
            "damage_count": 0 if is_whole else 1,
        }
        names.append(store_evidence(catalog.repository, CLUSTER, body))
    assert expire(catalog).evidence == ()
    clock.advance(KEPT_FOR.total_seconds() + 10)
    assert expire(catalog).evidence == (names[0],)
    assert set(names) & snapshot(catalog) == set(names[1:])


# -- incidents and audits of the WAL -------------------------------------------------------------------------------


def test_incidents_that_are_over_go_and_lost_wal_stays_while_its_gap_does(
    catalog: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    take(catalog, clock, source, 1)
    repository = catalog.repository
    lost = "0000000100000000000000F0"
    for kind, subject in ((IncidentKind.TWO_WRITERS, lost), (IncidentKind.LOST_WAL, lost)):
        incident = Incident(kind=kind, subject=subject, seen_at=clock.now())
        assert record_incident(repository, CLUSTER, SYSTEM_IDENTIFIER, incident)
    audits = []
    for segments in range(LOOKED_BACK + 2):
        now = clock.now()
        audit = Audit(began_at=now, written_at=now, next_segment=None, segments=segments, read_bytes=0, flaws=())
        audits.append(keep_audit(repository, CLUSTER, SYSTEM_IDENTIFIER, audit))
        clock.advance(3600)
    assert expire(catalog).incidents == ()
    clock.advance(KEPT_FOR.total_seconds())
    gone = expire(catalog).incidents
    assert set(gone) == {*audits[:2], *(name for name in gone if "two-writers" in name)}
    assert len(gone) == 3
    assert not set(gone) & snapshot(catalog)
    (left,) = list_incidents(repository, CLUSTER, SYSTEM_IDENTIFIER)
    assert left.kind is IncidentKind.LOST_WAL
    newest = load_audit(repository, CLUSTER, SYSTEM_IDENTIFIER)
    assert newest is not None
    assert newest.segments == LOOKED_BACK + 1
    raise_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(1 << 40)})
    assert len(expire(catalog).incidents) == 1
