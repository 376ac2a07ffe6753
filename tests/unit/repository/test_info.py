"""What lies in a repository, what it costs, and why each pack is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pghaven.clock import ManualClock
from pghaven.repository.bill import GB, Prices, estimate_month, estimate_restore, list_demands
from pghaven.repository.census import NO_CLUSTER, Census, Count, kind_of, take_census
from pghaven.repository.pack import PackRef
from pghaven.repository.packuse import PackUse, explain_packs
from pghaven.repository.removal import Removal
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, SourceTree, make_repository
from tests.unit.repository.test_compact import FIRST, SECOND, THIRD, Site, make_site, source

__all__ = ["source"]

PRICES = Prices(currency="USD", storage_gb_month=0.02, put_1000=0.005, get_1000=0.0004, egress_gb=0.1)
NO_PRICES = Prices(currency="USD", storage_gb_month=None, put_1000=None, get_1000=None, egress_gb=None)


@pytest.fixture
def site(source: SourceTree) -> Site:
    """Three backups, each with its parent's packs; the first is retired, and goes."""
    return make_site(MemoryStore(), source, OPEN_KEYRING)


def uses_of(site: Site) -> dict[str, list[PackUse]]:
    found: dict[str, list[PackUse]] = {}
    for use in explain_packs(site.catalog):
        found.setdefault(use.label, []).append(use)
    return found


# -- what lies there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("pghaven.json", (NO_CLUSTER, "repository")),
        ("rescue/0002/rescue.py", (NO_CLUSTER, "repository")),
        ("clusters/main/packs/l/00", ("main", "packs")),
        ("clusters/main/backups/l/manifest", ("main", "manifests")),
        ("clusters/main/backups/l/generations/00000001-c/manifest", ("main", "manifests")),
        ("clusters/main/backups/l/decision", ("main", "records")),
        ("clusters/main/wal/1/00000001/00000000/x", ("main", "wal")),
        ("clusters/main/evidence/x", ("main", "evidence")),
        ("clusters/main/something/new", ("main", "records")),
    ],
)
def test_a_name_tells_what_it_is(name: str, found: tuple[str, str]) -> None:
    assert kind_of(name) == found


def test_every_object_and_byte_is_counted_once(site: Site) -> None:
    repository = site.catalog.repository
    census = take_census(repository)
    listed = list(repository.store.list(""))
    assert (census.objects, census.bytes) == (len(listed), sum(info.size_bytes for info in listed))
    assert {one.kind for one in census.counts if one.cluster == CLUSTER} >= {"packs", "manifests", "records", "wal"}
    packs = [one for one in census.counts if one.kind == "packs"]
    assert sum(one.objects for one in packs) == len(site.packs())


# -- what it costs --------------------------------------------------------------------------------------------------


def make_census(**changes: object) -> Census:
    counts = (Count(cluster="main", kind="packs", objects=10, bytes=500 * GB),)
    return replace(Census(counts=counts, recent_objects=3000, recent_days=15), **changes)  # type: ignore[arg-type]


def test_a_month_is_storage_and_writing_as_lately() -> None:
    storage, writing = estimate_month(make_census(), PRICES)
    assert (storage.quantity, storage.amount) == (500, pytest.approx(10))
    assert (writing.quantity, writing.amount) == (pytest.approx(6), pytest.approx(0.03))
    assert {storage.per, writing.per} == {"month"}


def test_what_has_no_price_is_not_counted() -> None:
    assert estimate_month(make_census(), NO_PRICES) == ()
    assert estimate_restore([], NO_PRICES, "x") == ()
    (only,) = estimate_month(make_census(), replace(NO_PRICES, put_1000=1.0))
    assert only.unit == "1,000 PUT"


def test_a_restore_reads_each_pack_in_ranges_and_its_index() -> None:
    packs = [
        PackRef(label="l", id=bytes(32), size_bytes=size, tail_bytes=200, plain_length=size)
        for size in (1, 17 << 20, (17 << 20) + 1)
    ]
    requests, egress = estimate_restore(packs, PRICES, "backup l of main")
    assert requests.quantity * 1000 == pytest.approx(2 + 2 + 3)
    assert egress.quantity * GB == sum(pack.size_bytes for pack in packs)
    assert requests.per == egress.per == "backup l of main"


def test_what_operations_ask_for_is_counted_from_what_lies_there(site: Site) -> None:
    census = take_census(site.catalog.repository)
    (entry,) = site.catalog.list_committed()[-1:]
    packs = tuple(site.catalog.load_pack_table(entry, next(site.catalog.iter_manifests(entry))))
    wrote, restores, wal, verifies = list_demands(census, [(CLUSTER, entry.label, packs)])
    store = site.catalog.repository.store
    own = [name for info in store.list("") if f"/{entry.label}/" in (name := info.name)]
    assert wrote.put == len(own) > 3, "packs, and intent, manifest, decision"
    assert restores.get == 2 * len(packs), "small packs: an index and a range each"
    assert (wal.put, wal.get) == (1, 1)
    assert verifies.get == census.objects + len(site.packs())
    assert list_demands(census, []) == ()


def test_what_was_written_lately_is_told_by_the_store_s_times() -> None:
    """A repository of two days is taken for these, an old one for its last thirty."""
    clock = ManualClock()
    store = MemoryStore(clock)
    repository = make_repository(store, clock=clock)
    clock.advance(2 * 86400)
    store.create("clusters/main/wal/1/other/a", [b"x"])
    young = take_census(repository)
    assert (young.recent_objects, young.recent_days) == (young.objects, 2)
    clock.advance(40 * 86400)
    store.create("clusters/main/wal/1/other/b", [b"x"])
    old = take_census(repository)
    assert (old.recent_objects, old.recent_days) == (1, 30)


# -- why it is kept -------------------------------------------------------------------------------------------------


def test_each_pack_is_told_with_its_backups_and_how_much_of_it_they_use(site: Site) -> None:
    uses = uses_of(site)
    assert sorted(use for packs in uses.values() for use in [f"{one.label}/{one.id}" for one in packs]) == sorted(
        name.partition("/packs/")[2] for name in site.packs()
    )
    for use in uses[FIRST.label]:
        assert {SECOND.label, THIRD.label} & set(use.backups) or use.backups == (FIRST.label,)
        assert use.plain_bytes is not None
        assert use.live_bytes is not None
        assert 0 < use.live_bytes <= use.plain_bytes
    assert any(SECOND.label in use.reason and THIRD.label in use.reason for use in uses[SECOND.label])
    assert any(use.backups == (THIRD.label,) for use in uses[THIRD.label])


def test_less_is_in_use_when_a_backup_goes(site: Site) -> None:
    def in_use() -> int:
        return sum(use.live_bytes or 0 for use in uses_of(site)[FIRST.label])

    before = in_use()
    site.clock.advance(timedelta(days=9).total_seconds())
    site.collect()
    assert in_use() < before, "seven of ten files were only the first one's"


def test_a_hold_and_a_grace_period_are_reasons(site: Site) -> None:
    own = [use for use in uses_of(site)[FIRST.label] if use.backups == (FIRST.label,)]
    assert all("can be brought back until" in use.reason for use in own)
    Removal(site.catalog).hold(SECOND.label, "for the auditors")
    assert any("is held: for the auditors" in use.reason for use in uses_of(site)[SECOND.label])


def test_after_a_compaction_old_packs_are_kept_for_who_reads_them(site: Site) -> None:
    site.clock.advance(timedelta(days=9).total_seconds())
    site.collect()
    written = site.compact()
    uses = uses_of(site)
    old = {pack.id.hex() for pack in written.superseded}
    superseded = [use for packs in uses.values() for use in packs if use.id in old]
    assert superseded
    assert all(use.live_bytes is None and "was written anew" in use.reason for use in superseded)
    assert all(use.backups for use in uses[written.label])


def test_what_nothing_needs_is_told(site: Site) -> None:
    store = site.catalog.repository.store
    name = f"clusters/{CLUSTER}/packs/nobody/{'0' * 64}"
    store.create(name, [b"x"])
    (use,) = uses_of(site)["nobody"]
    assert (use.backups, use.live_bytes, use.size_bytes) == ((), None, 1)
    assert use.reason.startswith("nothing needs it")
