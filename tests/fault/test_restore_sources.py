"""A restore takes its backup from the best repository, and goes on from another one when that fails on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pghaven.errors import Damaged, PghavenError, Refused, StoreUnreachable, TargetFailed
from pghaven.events import Event, Notice, ignore
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.repository.place import RepositoryPlace
from pghaven.repository.repository import Repository
from pghaven.restore.execute import RestoreResult
from pghaven.restore.request import RestoreRequest
from pghaven.restore.sources import SourcedPlan, Sources, run_sourced
from pghaven.store.api import ObjectInfo, Store
from pghaven.store.memory import MemoryStore
from pghaven.store.settings import StoreSettings
from pghaven.transfer.request import CopyRequest
from pghaven.transfer.session import run_copy
from tests.support.beside import StoreBelow
from tests.support.places import make_directory, remove_directory
from tests.support.synthetic import (
    CLUSTER,
    BackupOrder,
    SourceTree,
    assert_restored,
    dead_process,
    make_repository,
    make_settings,
    make_source,
    remove_target,
    reopen,
    take_backup,
)

FIRST, SECOND = BackupOrder(number=1), BackupOrder(number=2)
NEAR, FAR = "near", "far"


class DyingStore(StoreBelow):
    """Answers ``left`` reads and no more."""

    def __init__(self, inner: Store, left: int) -> None:
        super().__init__(inner, "")
        self.left = left

    def _live(self) -> None:
        if self.left <= 0:
            raise StoreUnreachable("the line is dead")
        self.left -= 1

    def read(self, name: str) -> bytes:
        self._live()
        return super().read(name)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        self._live()
        return super().read_range(name, offset, length)

    def find(self, name: str) -> ObjectInfo | None:
        self._live()
        return super().find(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._live()
        return super().list(prefix)

    def list_children(self, prefix: str) -> tuple[str, ...]:
        self._live()
        return super().list_children(prefix)


@dataclass
class Ground:
    """Two backups in two repositories: made in the near one, copied to the far one."""

    place: Path
    trees: dict[str, SourceTree]
    objects: dict[str, dict[str, bytes]]
    notices: list[Notice] = field(default_factory=list)

    def fill(self) -> dict[str, Store]:
        stores: dict[str, Store] = {}
        for name, objects in self.objects.items():
            stores[name] = MemoryStore()
            for one, content in objects.items():
                stores[name].create(one, [content])
        self.notices.clear()
        return stores

    def sources(self, stores: dict[str, Store]) -> Sources:
        places = [RepositoryPlace(name=name, store=StoreSettings(url=f"file:///{name}")) for name in stores]

        def open_one(place: RepositoryPlace) -> Repository:
            return reopen(stores[place.name])

        return Sources(places, open_one)

    @property
    def target(self) -> Path:
        return self.place / "target"

    def request(self, label: str | None = None) -> RestoreRequest:
        space = next(iter(self.trees.values())).tablespaces[0]
        return RestoreRequest(
            cluster=CLUSTER,
            target_dir=str(self.target),
            target=RecoveryTarget(kind=TargetKind.IMMEDIATE),
            backup_label=label,
            tablespace_mapping={one.tablespaces[0].path: f"{self.target}-space" for one in (self.trees[label],)}
            if label
            else {space.path: f"{self.target}-space"},
        )

    def tell(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event)

    def run(self, sources: Sources, sourced: SourcedPlan) -> tuple[SourcedPlan, RestoreResult]:
        return run_sourced(sources, sourced, lambda one: make_settings(one.repository), self.tell)


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    place = make_directory()
    near, far = MemoryStore(), MemoryStore()
    repository = make_repository(near)
    trees = {}
    (place / "source").mkdir()
    tree = make_source(place / "source", salt=1, big=True)
    for order in (FIRST, SECOND):
        take_backup(repository, tree, order)
        trees[order.label] = tree
    run_copy(repository, make_repository(far), CopyRequest(cluster=CLUSTER, processes=0, who=dead_process()), ignore)
    objects = {
        name: {info.name: store.read(info.name) for info in store.list("")}
        for name, store in ((NEAR, near), (FAR, far))
    }
    yield Ground(place, trees, objects)
    remove_directory(place)


@pytest.fixture(autouse=True)
def clean(ground: Ground) -> Iterator[None]:
    yield
    remove_target(ground.target)


def drop(store: Store, part: str) -> int:
    names = [info.name for info in store.list("") if part in info.name]
    for name in names:
        store.delete(name)
    return len(names)


def flip(store: Store, part: str) -> str:
    name = next(info.name for info in store.list("") if part in info.name)
    data = bytearray(store.read(name))
    data[40] ^= 1  # of its first frame
    store.delete(name)
    store.create(name, [bytes(data)])
    return name


# -- which one ----------------------------------------------------------------------------------------------------


def test_the_first_of_those_that_lead_there_is_taken_and_the_others_are_told_of(ground: Ground) -> None:
    sourced = ground.sources(ground.fill()).plan(ground.request(SECOND.label))
    assert (sourced.name, sourced.plan.backup.label) == (NEAR, SECOND.label)
    near, far = sourced.verdicts
    assert (near.is_chosen, far.is_chosen) == (True, False)
    assert f"as {SECOND.label}-" in far.reason
    backwards = dict(reversed(ground.fill().items()))
    assert ground.sources(backwards).plan(ground.request(SECOND.label)).name == FAR


def test_one_with_a_later_backup_is_taken_before_a_nearer_one(ground: Ground) -> None:
    stores = ground.fill()
    assert drop(stores[NEAR], f"/backups/{SECOND.label}/")
    sourced = ground.sources(stores).plan(ground.request())
    assert (sourced.name, sourced.plan.backup.original) == (FAR, SECOND.label)
    assert "needs more WAL" in sourced.verdicts[0].reason


def test_one_that_is_gone_or_has_no_such_backup_is_passed_over_with_the_reason(ground: Ground) -> None:
    stores = ground.fill()
    stores[NEAR] = DyingStore(stores[NEAR], 0)
    sourced = ground.sources(stores).plan(ground.request(FIRST.label))
    assert (sourced.name, sourced.verdicts[0].reason) == (FAR, "the line is dead")
    stores = ground.fill()
    drop(stores[NEAR], f"/backups/{FIRST.label}/")
    sourced = ground.sources(stores).plan(ground.request(FIRST.label))
    assert sourced.name == FAR
    assert FIRST.label in sourced.verdicts[0].reason


def test_wal_is_taken_from_wherever_it_is(ground: Ground) -> None:
    stores = ground.fill()
    assert drop(stores[NEAR], "/wal/")
    sourced = ground.sources(stores).plan(ground.request(FIRST.label))
    assert sourced.name == NEAR
    drop(stores[FAR], "/wal/")
    with pytest.raises(Refused):
        ground.sources(stores).plan(ground.request(FIRST.label))


def test_when_none_can_be_used_the_error_says_what_each_lacks(ground: Ground) -> None:
    stores = ground.fill()
    stores[NEAR] = DyingStore(stores[NEAR], 0)
    drop(stores[FAR], "/backups/")
    with pytest.raises(StoreUnreachable) as caught:
        ground.sources(stores).plan(ground.request(FIRST.label))
    assert f'Repository "{FAR}": ' in str(caught.value.detail)


# -- and on from another ------------------------------------------------------------------------------------------


def test_a_repository_that_dies_at_any_read_is_gone_on_from_with_the_other(ground: Ground) -> None:
    proven = []
    for number in range(1, 500):
        stores = ground.fill()
        dying = DyingStore(stores[NEAR], 1_000_000)
        stores[NEAR] = dying
        sources = ground.sources(stores)
        sourced = sources.plan(ground.request(SECOND.label))
        assert sourced.name == NEAR
        dying.left = number - 1
        done, result = ground.run(sources, sourced)
        assert_restored(ground.trees[SECOND.label], ground.target)
        remove_target(ground.target)
        if done.name == NEAR:
            assert number > 4
            break
        assert done.plan.backup.original == SECOND.label
        assert [one.code for one in ground.notices if one.level == "warning"] == ["other_repository"]
        assert "the line is dead" in next(one.text for one in ground.notices if one.code == "other_repository")
        proven.append(result.proven_bytes)
    assert proven[-1] > proven[0]  # what was in place is not fetched again


@pytest.mark.parametrize("part", [f"/packs/{SECOND.label}/", f"/backups/{SECOND.label}/manifest"])
def test_what_is_damaged_in_one_is_taken_from_the_other(ground: Ground, part: str) -> None:
    stores = ground.fill()
    name = flip(stores[NEAR], part)
    sources = ground.sources(stores)
    sourced = sources.plan(ground.request(SECOND.label))
    done, _ = ground.run(sources, sourced)
    assert done.name == FAR
    assert_restored(ground.trees[SECOND.label], ground.target)
    told = [*(one.text for one in ground.notices), *(one.reason for one in done.verdicts)]
    assert any(name in text for text in told)


def test_what_is_damaged_in_both_is_an_error_and_nothing_that_starts(ground: Ground) -> None:
    stores = ground.fill()
    for store in stores.values():
        for name in [info.name for info in store.list("") if f"/packs/{SECOND.label}" in info.name]:
            flip(store, name)
    sources = ground.sources(stores)
    with pytest.raises(Damaged):
        ground.run(sources, sources.plan(ground.request(SECOND.label)))
    assert not (ground.target / "global" / "pg_control").exists()


def test_a_restore_that_broke_off_is_finished_from_the_other_by_the_same_command(ground: Ground) -> None:
    stores = ground.fill()
    dying = DyingStore(stores[NEAR], 1_000_000)
    only = ground.sources({NEAR: dying})
    sourced = only.plan(ground.request(SECOND.label))
    dying.left = 3
    with pytest.raises(StoreUnreachable):
        ground.run(only, sourced)
    sources = ground.sources({NEAR: dying, FAR: stores[FAR]})
    again = sources.plan(ground.request(SECOND.label))
    assert (again.name, again.plan.resumes) == (FAR, True)
    ground.run(sources, again)
    assert_restored(ground.trees[SECOND.label], ground.target)


@pytest.mark.parametrize("error", [TargetFailed("disk full"), Refused("no")])
def test_what_is_not_the_repositorys_fault_is_no_reason_to_try_another(ground: Ground, error: PghavenError) -> None:
    sources = ground.sources(ground.fill())
    sourced = sources.plan(ground.request(SECOND.label))
    with pytest.raises(type(error)):
        sources.plan_again(sourced, error, ignore)
