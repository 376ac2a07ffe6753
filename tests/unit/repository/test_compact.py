"""Packs that are mostly dead are written anew, and no backup can be told from what it was. Races: tests/fault."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Cancelled, Damaged, Locked, NotFound, Refused
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectResult, CollectRules
from pghaven.repository.compact import FREE_SHARE, CompactionResult, CompactionRules, Compactor
from pghaven.repository.container import CELL_BYTES, FRAME_BYTES
from pghaven.repository.entry import BackupState, Purpose, render_generation
from pghaven.repository.kit import rescue
from pghaven.repository.pack import load_pack_index
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.repository.unreadable import give_up, mend
from pghaven.store.api import Buffers
from pghaven.store.memory import MemoryStore
from pghaven.store.recording import RecordingStore
from tests.support.descent import Descent
from tests.support.reading import assert_whole, read_files
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    START,
    BackupOrder,
    SourceTree,
    archive_wal,
    assert_restored,
    dead_process,
    make_intent,
    make_pages,
    make_repository,
    make_source,
    restore,
    take_backup,
)

RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]
GRACE = timedelta(days=7)
FIRST, SECOND, THIRD, FOURTH = (BackupOrder(number=number, workers=1) for number in (1, 2, 3, 4))
BIG = {f"base/5/{30000 + number}": make_pages(60, 100 + number) for number in range(10)}


def label(number: int) -> str:
    return f"20260302T{number:02d}0000Z-c0de"


def changed(*numbers: int, salt: int) -> dict[str, bytes]:
    return {f"base/5/{30000 + number}": make_pages(60, salt + number) for number in numbers}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    """Ten files of 480 KiB, so that a frame never ends where a file does, and the usual small ones."""
    made = make_source(tmp_path_factory.mktemp("source"))
    for name, content in BIG.items():
        (made.data_directory / name).write_bytes(content)
    return replace(made, files={**made.files, **BIG})


@dataclass
class Site:
    """A backup, one that changed seven of ten files of it, and one that changed one more. The first is retired."""

    catalog: BackupCatalog
    clock: ManualClock
    sources: dict[str, SourceTree]

    def compactor(self, **rules: object) -> Compactor:
        return Compactor(self.catalog, replace(CompactionRules(level=1, freed_bytes_min=0), **rules))  # type: ignore[arg-type]

    def compact(self, number: int = 1, **rules: object) -> CompactionResult:
        compactor = self.compactor(**rules)
        return compactor.run(compactor.plan(), label(number), dead_process())

    def collect(self) -> CollectResult:
        rules = CollectRules(grace=GRACE, is_dead=lambda entry, now: False)
        return BackupCollector(self.catalog, rules).run()

    def retire(self, order: BackupOrder) -> None:
        Removal(self.catalog).retire(order.label, RetireOrder(reason="old", not_before=self.clock.now()))

    def labels(self) -> list[str]:
        return assert_whole(self.catalog, self.sources)

    def packs(self) -> set[str]:
        return {info.name for info in self.catalog.repository.store.list(f"clusters/{CLUSTER}/packs/")}

    def parts(self, label: str) -> set[str]:
        return set(self.catalog.read_entry(label).parts)


def make_site(store: MemoryStore, source: SourceTree, ring: Keyring) -> Site:
    clock = ManualClock(START + timedelta(days=1))
    repository = make_repository(store, keyring=ring, clock=clock)
    catalog = BackupCatalog(repository, CLUSTER)
    take_backup(repository, source, replace(FIRST, one_by_one=False))
    second = Descent(order=SECOND, parent=FIRST.label, changed=changed(*range(7), salt=300))
    third = Descent(order=THIRD, parent=SECOND.label, changed=changed(6, 7, salt=400))
    sources = {FIRST.label: source, SECOND.label: second.expected(source)}
    sources[THIRD.label] = third.expected(sources[SECOND.label])
    for descent in (second, third):
        archive_wal(repository, descent.order)
        descent.take(catalog)
    site = Site(catalog, clock, sources)
    site.retire(FIRST)
    return site


@pytest.fixture(params=RINGS)
def site(request: pytest.FixtureRequest, source: SourceTree) -> Site:
    made = make_site(MemoryStore(), source, request.param)
    made.collect()
    return made


@pytest.fixture
def open_site(source: SourceTree) -> Site:
    made = make_site(MemoryStore(), source, OPEN_KEYRING)
    made.collect()
    return made


# -- what is chosen -----------------------------------------------------------------------------------------------


def test_what_frees_too_little_is_left_alone(open_site: Site) -> None:
    """Each manifest of it would be written anew too."""
    gain = open_site.compactor().plan().freed_bytes
    assert gain > 0
    assert open_site.compactor(freed_bytes_min=gain).plan().packs
    assert open_site.compactor(freed_bytes_min=gain + 1).plan().packs == ()


def test_nothing_is_mostly_dead_while_its_backup_is_there(source: SourceTree) -> None:
    site = make_site(MemoryStore(), source, OPEN_KEYRING)
    assert site.compactor().plan().packs == ()
    assert site.compactor().plan().backups == ()


def test_what_no_live_map_uses_is_dead(open_site: Site) -> None:
    plan = open_site.compactor().plan()
    (sparse,) = plan.packs
    assert sparse.pack.label == FIRST.label
    three_files = 3 * 60 * 8192
    assert three_files < sparse.live_bytes < three_files + 40 * CELL_BYTES
    assert plan.live_bytes == sparse.live_bytes
    assert 0 < plan.freed_bytes < sparse.pack.size_bytes
    assert plan.backups == (SECOND.label, THIRD.label)


def test_the_share_decides_and_so_does_how_much_may_be_written(open_site: Site) -> None:
    share = open_site.compactor().plan().live_bytes / (10 * 60 * 8192)
    assert open_site.compactor(live_share_max=share - 0.1).plan().packs == ()
    assert open_site.compactor(live_bytes_max=3 * 60 * 8192).plan().packs == ()


class _Narrow(RecordingStore):
    """A store with so much room."""

    room = 0

    def free_bytes(self) -> int | None:
        return self.room


@pytest.mark.parametrize(("share", "is_planned"), [(FREE_SHARE, True), (FREE_SHARE - 1, False)])
def test_it_leaves_room_for_others(open_site: Site, share: int, is_planned: bool) -> None:
    """What it frees is free when the grace is over; a store that is full till then takes no WAL."""
    store = _Narrow(open_site.catalog.repository.store)
    store.room = open_site.compactor().plan().live_bytes * share
    repository = open_site.catalog.repository
    narrow = Repository(store, repository.descriptor, clock=open_site.clock, keyring=repository.keyring)
    assert bool(replace(open_site, catalog=BackupCatalog(narrow, CLUSTER)).compactor().plan().packs) is is_planned


def test_what_can_still_be_brought_back_is_in_use(source: SourceTree) -> None:
    site = make_site(MemoryStore(), source, OPEN_KEYRING)
    assert site.catalog.read_entry(FIRST.label).state is BackupState.RETIRED
    assert site.compactor().plan().packs == ()


def test_what_shares_its_cells_with_what_is_in_use_is_in_use(tmp_path: Path) -> None:
    """Cells move whole: a pack of small files would be found mostly dead again as soon as it was written anew."""
    source = make_source(tmp_path, tablespaces=False)
    small = {f"pg_xact/{number:04d}": number.to_bytes(2, "big") * 250 for number in range(1, 800)}
    for name, content in small.items():
        (source.data_directory / name).write_bytes(content)
    clock = ManualClock(START + timedelta(days=1))
    catalog = BackupCatalog(make_repository(MemoryStore(), clock=clock), CLUSTER)
    site = Site(catalog, clock, {FIRST.label: replace(source, files={**source.files, **small})})
    take_backup(catalog.repository, source, replace(FIRST, one_by_one=False))
    most = {name: content for number, (name, content) in enumerate(small.items()) if number % 8}
    descent = Descent(order=SECOND, parent=FIRST.label, changed={name: content[::-1] for name, content in most.items()})
    site.sources[SECOND.label] = descent.expected(site.sources[FIRST.label])
    descent.take(catalog)
    site.retire(FIRST)
    site.collect()
    assert site.labels() == [SECOND.label]
    assert site.compactor().plan().packs == ()


# -- what becomes of it -------------------------------------------------------------------------------------------


def test_every_backup_holds_the_same_bytes_and_needs_none_of_the_old_packs(site: Site) -> None:
    before = {
        order.label: site.catalog.load_manifest(site.catalog.find_entry(order.label)) for order in (SECOND, THIRD)
    }
    result = site.compact()
    assert result.backups == (SECOND.label, THIRD.label)
    assert [pack.label for pack in result.superseded] == [FIRST.label]
    assert {pack.label for pack in result.written} == {label(1)}
    assert 0 < result.written_bytes < sum(pack.size_bytes for pack in result.superseded)
    assert site.labels() == [SECOND.label, THIRD.label]
    for name, old in before.items():
        new = site.catalog.load_manifest(site.catalog.find_entry(name))
        assert FIRST.label not in {pack.label for pack in new.packs}
        assert (new.facts, new.control, new.relations) == (old.facts, old.control, old.relations)
        assert read_files(site.catalog, old) == site.sources[name].files, "who reads the old map is not disturbed"


def test_it_restores(site: Site, tmp_path: Path) -> None:
    site.compact()
    for name in (SECOND.label, THIRD.label):
        restore(site.catalog.repository, name, tmp_path / name)
        assert_restored(site.sources[name], tmp_path / name)


def test_the_rescue_kit_follows(open_site: Site, tmp_path: Path) -> None:
    open_site.compact()
    for info in open_site.catalog.repository.store.list(""):
        path = tmp_path / "repository" / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(open_site.catalog.repository.store.read(info.name))
    for name in (SECOND.label, THIRD.label):
        rescue.Backup(rescue.Repository(tmp_path / "repository"), CLUSTER, name).extract(tmp_path / name)
        for file, content in open_site.sources[name].files.items():
            assert (tmp_path / name / file).read_bytes() == content


def test_pages_stay_cells(open_site: Site) -> None:
    """Else a restore over an existing directory could not tell that it has them."""
    open_site.compact()
    catalog = open_site.catalog
    manifest = catalog.load_manifest(catalog.find_entry(THIRD.label))
    starts = {
        number: load_pack_index(catalog.pack_place, pack).plain_offsets
        for number, pack in enumerate(manifest.packs)
        if pack.label == label(1)
    }
    assert any(len(offsets) > 2 for offsets in starts.values()), "one frame would prove little"
    assert all(length <= FRAME_BYTES for o in starts.values() for length in (b - a for a, b in itertools.pairwise(o)))
    block_map, run, seen = manifest.block_map, 0, 0
    for number, count in enumerate(block_map.runs_of_file.tolist()):
        if manifest.files.path(number).decode("utf-8", "replace") in BIG:
            for at in range(run, run + count):
                pack, offset, length = (int(c[at]) for c in (block_map.pack, block_map.offset, block_map.length))
                if pack in starts:
                    frame_start = max(start for start in starts[pack] if start <= offset)
                    assert ((offset - frame_start) % CELL_BYTES, length % CELL_BYTES) == (0, 0)
                    seen += length
        run += count
    assert seen == 2 * 60 * 8192


def test_what_was_compacted_is_not_worth_it_again(site: Site) -> None:
    site.compact()
    assert site.compactor().plan().packs == ()


def test_it_writes_no_larger_packs_than_it_is_told(open_site: Site) -> None:
    result = open_site.compact(pack_bytes=1)
    assert len(result.written) > 1
    assert open_site.labels() == [SECOND.label, THIRD.label]


# -- what goes, and when ------------------------------------------------------------------------------------------


def test_what_was_superseded_stays_for_the_grace_period(site: Site) -> None:
    before = site.packs()
    result = site.compact()
    assert site.collect().packs == ()
    site.clock.advance(GRACE.total_seconds() - 1)
    assert (site.collect().packs, before - site.packs()) == ((), set())

    site.clock.advance(1)
    collected = site.collect()
    assert [(pack.label, pack.id) for pack in collected.packs] == [(pack.label, pack.id) for pack in result.superseded]
    assert {name.rpartition("/")[2] for name in collected.manifests} == {"manifest"}
    assert site.labels() == [SECOND.label, THIRD.label]
    assert "manifest" not in site.parts(SECOND.label)
    assert site.catalog.read_entry(label(1)).state is BackupState.COMMITTED


def test_generation_follows_generation_and_a_compaction_goes_with_its_last(site: Site) -> None:
    site.compact()
    changes = changed(0, 1, 2, 3, 4, 5, 8, 9, salt=500)
    descent = Descent(order=FOURTH, parent=THIRD.label, changed=changes)
    site.sources[FOURTH.label] = descent.expected(site.sources[THIRD.label])
    descent.take(site.catalog)
    site.retire(SECOND)
    site.retire(THIRD)
    site.clock.advance(GRACE.total_seconds())
    site.collect()
    assert site.labels() == [FOURTH.label]
    assert site.catalog.read_entry(label(1)).state is BackupState.GONE, "no map of it is left, though its packs are"

    result = site.compact(2)
    assert result.backups == (FOURTH.label,)
    site.compact(3, live_share_max=1.1)
    assert {part for part in site.parts(FOURTH.label) if "manifest" in part} == {
        "manifest",
        render_generation(2, label(2)),
        render_generation(3, label(3)),
    }
    assert site.labels() == [FOURTH.label]
    site.clock.advance(GRACE.total_seconds())
    collected = site.collect()
    assert label(2) in {one.label for one in collected.labels}
    assert {part for part in site.parts(FOURTH.label) if "manifest" in part} == {render_generation(3, label(3))}
    assert {name.split("/")[3] for name in site.packs()} == {label(3)}
    assert site.labels() == [FOURTH.label]


def test_a_backup_that_builds_on_a_superseded_map_keeps_it(site: Site) -> None:
    """It has read the map before the compaction, and decides when its packs would be due to go."""
    order = FOURTH
    descent = Descent(order=order, parent=THIRD.label, changed=changed(0, salt=700))
    site.sources[order.label] = descent.expected(site.sources[THIRD.label])
    site.catalog.announce(order.label, replace(make_intent(order), parent=THIRD.label, sources=(THIRD.label,)))
    manifest = descent.render(site.catalog, site.catalog.read_entry(THIRD.label))
    site.compact()
    site.clock.advance(2 * GRACE.total_seconds())
    site.collect()
    site.catalog.commit(order.label, manifest, {})
    assert site.labels() == [SECOND.label, THIRD.label, FOURTH.label]
    site.collect()
    assert site.labels() == [SECOND.label, THIRD.label, FOURTH.label]


class _Interrupting(RecordingStore):
    """Somebody takes the compaction for dead when it stores its first pack."""

    on_pack: Callable[[], object]

    def create(self, name: str, content: Buffers) -> None:
        super().create(name, content)
        if "/packs/" in name:
            self.on_pack()


def test_a_compaction_that_was_given_up_leaves_nothing(site: Site) -> None:
    repository = site.catalog.repository
    before = {info.name for info in repository.store.list("") if "/collections/" not in info.name}
    plan = site.compactor().plan()
    store = _Interrupting(repository.store)
    store.on_pack = lambda: site.catalog.abandon(label(1), "it seemed dead")
    interrupted = Repository(store, repository.descriptor, clock=site.clock, keyring=repository.keyring)
    with pytest.raises(Cancelled, match="it seemed dead"):
        Compactor(BackupCatalog(interrupted, CLUSTER), CompactionRules(freed_bytes_min=0)).run(
            plan, label(1), dead_process()
        )
    assert render_generation(2, label(1)) in site.parts(SECOND.label)
    assert site.labels() == [SECOND.label, THIRD.label]
    site.collect()
    assert {info.name for info in repository.store.list("") if "/collections/" not in info.name} == before
    assert site.labels() == [SECOND.label, THIRD.label]


def test_what_a_compaction_at_work_has_written_stays(site: Site) -> None:
    site.catalog.announce(label(1), replace(make_intent(FIRST), purpose=Purpose.COMPACTION, sources=(SECOND.label,)))
    manifest = site.catalog.load_manifest(site.catalog.find_entry(SECOND.label))
    site.catalog.store_manifest(SECOND.label, render_generation(2, label(1)), manifest)
    site.retire(THIRD)
    assert site.collect().manifests == ()
    assert render_generation(2, label(1)) in site.parts(SECOND.label)
    site.catalog.abandon(label(1), "interrupted")
    assert len(site.collect().manifests) == 1
    assert site.labels() == [SECOND.label]


def test_a_compaction_whose_writer_comes_late_does_not_count(site: Site) -> None:
    """It stood still for days before its decision, and everything of it was removed."""
    site.compact()
    store = site.catalog.repository.store
    kept = {info.name: store.read(info.name) for info in store.list("") if label(1) in info.name}
    decision = site.catalog.repository.read_document(f"clusters/{CLUSTER}/backups/{label(1)}/decision")
    for name in kept:
        store.delete(name)
    assert site.labels() == [SECOND.label, THIRD.label]
    for name, content in kept.items():
        if "/generations/" in name:
            store.create(name, [content])
    with pytest.raises(Cancelled):
        site.catalog.decide(label(1), decision)
    assert site.labels() == [SECOND.label, THIRD.label]
    site.clock.advance(2 * GRACE.total_seconds())
    site.collect()
    assert site.labels() == [SECOND.label, THIRD.label]
    assert not [info.name for info in store.list("") if label(1) in info.name]


# -- what is in the way -------------------------------------------------------------------------------------------


def test_of_two_the_second_is_told_to_wait(open_site: Site) -> None:
    compactor = open_site.compactor(is_dead=lambda entry, now: False)
    plan = compactor.plan()
    open_site.catalog.announce(label(1), replace(make_intent(FIRST), purpose=Purpose.COMPACTION))
    with pytest.raises(Locked, match=r"a compaction of .* is running"):
        compactor.run(plan, label(2), dead_process())
    assert open_site.parts(label(2)) == set()


def test_a_pack_that_is_damaged_is_told_and_left_as_it_is(open_site: Site) -> None:
    store = open_site.catalog.repository.store
    (name,) = [name for name in open_site.packs() if f"/{FIRST.label}/" in name]
    content = bytearray(store.read(name))
    manifest = open_site.catalog.load_manifest(open_site.catalog.find_entry(THIRD.label))
    pack = next(pack for pack in manifest.packs if pack.label == FIRST.label)
    index = load_pack_index(open_site.catalog.pack_place, pack)
    content[index.stored_offsets[4] + 20] ^= 1
    store.delete(name)
    store.create(name, [content])
    result = open_site.compact()
    assert (result.superseded, result.backups) == ((), ())
    assert len(result.damaged) == 1
    assert name in result.damaged[0]
    after = open_site.catalog.load_manifest(open_site.catalog.find_entry(THIRD.label))
    assert after.packs == manifest.packs
    open_site.clock.advance(2 * GRACE.total_seconds())
    open_site.collect()
    assert name in open_site.packs()
    assert not [one for one in open_site.packs() if label(1) in one]


@pytest.mark.parametrize("part", ["intent", "decision", "manifest"])
def test_if_what_a_backup_uses_is_not_known_nothing_is_planned(open_site: Site, part: str) -> None:
    store = open_site.catalog.repository.store
    name = f"clusters/{CLUSTER}/backups/{SECOND.label}/{part}"
    store.delete(name)
    store.create(name, [b"rotten"])
    with pytest.raises(Damaged, match=name):
        open_site.compactor().plan()


def test_sources_that_went_meanwhile_are_left_out(site: Site) -> None:
    compactor = site.compactor()
    plan = compactor.plan()
    site.retire(SECOND)
    Removal(site.catalog).condemn(SECOND.label, "old")
    result = compactor.run(plan, label(1), dead_process())
    assert result.backups == (THIRD.label,)
    site.collect()
    assert site.labels() == [THIRD.label]


def test_a_long_compaction_gives_signs_of_life(open_site: Site) -> None:
    compactor = open_site.compactor()
    plan = compactor.plan()

    class Ticking(ManualClock):
        def monotonic(self) -> float:
            self.advance(31)
            return super().monotonic()

    repository = open_site.catalog.repository
    slow = Repository(repository.store, repository.descriptor, clock=Ticking(open_site.clock.now()))
    Compactor(BackupCatalog(slow, CLUSTER), CompactionRules(freed_bytes_min=0)).run(plan, label(1), dead_process())
    assert len([part for part in open_site.parts(label(1)) if part.startswith("alive/")]) >= 2


# -- what becomes of it when its decision cannot be read ----------------------------------------------------------


def spoil_decision(site: Site, number: int = 1) -> str:
    store = site.catalog.repository.store
    name = f"clusters/{CLUSTER}/backups/{label(number)}/decision"
    data = bytearray(store.read(name))
    data[5] ^= 1
    store.delete(name)
    store.create(name, [bytes(data)])
    return name


def test_a_decision_that_cannot_be_read_is_made_once_more_and_nothing_is_lost(site: Site) -> None:
    site.compact()
    site.clock.advance(2 * GRACE.total_seconds())
    site.collect()  # the old maps and their packs are no more
    name = spoil_decision(site)
    told = f"pghaven expire {CLUSTER} --mend {label(1)}"
    with pytest.raises(Damaged, match=name) as stopped:
        site.collect()
    assert told in str(stopped.value.hint)
    with pytest.raises(Damaged, match=name) as unread:
        site.labels()
    assert told in str(unread.value.hint)
    with pytest.raises(Refused, match="is a compaction"):
        give_up(site.catalog, label(1))

    assert mend(site.catalog, label(1)) == (SECOND.label, THIRD.label)
    assert site.labels() == [SECOND.label, THIRD.label]
    packs = site.packs()
    site.collect()
    assert site.packs() == packs
    assert site.labels() == [SECOND.label, THIRD.label]
    with pytest.raises(Refused, match="can be read: it is commit"):
        mend(site.catalog, label(1))


def test_the_rescue_kit_reads_what_was_mended(open_site: Site, tmp_path: Path) -> None:
    open_site.compact()
    spoil_decision(open_site)
    mend(open_site.catalog, label(1))
    store = open_site.catalog.repository.store
    for info in store.list(""):
        path = tmp_path / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(info.name))
    reader = rescue.Repository(tmp_path)
    name, proof = reader.find_manifest(CLUSTER, THIRD.label, "")
    assert name.endswith(f"-{label(1)}/manifest")
    assert len(proof) == 64


def test_nothing_is_mended_of_which_a_part_is_missing(open_site: Site) -> None:
    result = open_site.compact()
    spoil_decision(open_site)
    pack = result.written[0]
    open_site.catalog.repository.store.delete(layout.pack_name(CLUSTER, pack.label, pack.id))
    with pytest.raises(Damaged, match=r"nothing was mended: .* is not there as it was"):
        mend(open_site.catalog, label(1))
    with pytest.raises(NotFound, match="there is no compaction"):
        mend(open_site.catalog, SECOND.label)
