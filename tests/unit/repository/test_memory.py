"""What a host remembers of a repository, on stores in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectRules
from pghaven.repository.horizon import raise_horizon
from pghaven.repository.keyset import KeySet
from pghaven.repository.layout import backups_prefix
from pghaven.repository.memory import HostMemory, Seen, SeenCluster, check_key_set
from pghaven.repository.older import find_older, refuse_older, remember
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.turns import take_turn
from pghaven.runtime.whoami import read_own_identity
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, START, SYSTEM_IDENTIFIER, BackupOrder, make_repository, make_source
from tests.support.synthetic import take_backup as take

ID = "7" * 32


@pytest.fixture
def memory(tmp_path: Path) -> HostMemory:
    return HostMemory(directory=str(tmp_path), like=str(tmp_path))


@pytest.fixture
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """With two backups."""
    clock = ManualClock(START)
    made = make_repository(MemoryStore(clock), clock=clock)
    source = make_source(tmp_path_factory.mktemp("source"), tablespaces=False)
    for number in (1, 2):
        take(made, source, BackupOrder(number=number, workers=1))
    return made


def collect(repository: Repository) -> None:
    BackupCollector(BackupCatalog(repository, CLUSTER), CollectRules(grace=timedelta(0))).run()


def roll_back(repository: Repository, names: set[str]) -> None:
    """As if nothing but these objects had ever been there."""
    for info in tuple(repository.store.list("")):
        if info.name not in names:
            repository.store.delete(info.name)


def names_in(repository: Repository) -> set[str]:
    return {info.name for info in repository.store.list("")}


def test_whatever_was_not_seen_is_not_older(memory: HostMemory, repository: Repository) -> None:
    assert find_older(memory, repository, CLUSTER) == ()
    assert remember(memory, repository, CLUSTER) is None
    assert find_older(memory, repository, CLUSTER) == ()


def test_a_lost_collection_and_a_lost_horizon_are_told(memory: HostMemory, repository: Repository) -> None:
    before = names_in(repository)
    collect(repository)
    raise_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(0x5000000)})
    remember(memory, repository, CLUSTER)
    assert find_older(memory, repository, CLUSTER) == ()
    roll_back(repository, before)
    assert find_older(memory, repository, CLUSTER) == (
        "its collections count to 0, and had come to 1",
        "it does not know that WAL of timeline 1 before 0/5000000 has been removed",
    )
    with pytest.raises(Refused, match=r"nothing was expired: .* is in an older state"):
        refuse_older(memory, repository, CLUSTER, "nothing was expired")


def test_a_backup_that_is_missing_although_nobody_collected_is_told(memory: HostMemory, repository: Repository) -> None:
    newest = BackupCatalog(repository, CLUSTER).list_committed()[-1].label
    remember(memory, repository, CLUSTER)
    roll_back(repository, {name for name in names_in(repository) if f"/{newest}/" not in name})
    assert find_older(memory, repository, CLUSTER) == (
        f'backup "{newest}" is not there, and nothing was collected since it was',
    )


class OfTheSameSecond(BackupOrder):
    """Taken in the second of the second one, after it; its label comes before that one's."""

    @property
    def label(self) -> str:
        return BackupOrder(number=2).label[:-4] + "0000"


def test_of_two_backups_of_one_second_the_one_that_ended_last_is_remembered(
    memory: HostMemory, repository: Repository, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = names_in(repository)
    later = OfTheSameSecond(number=3, workers=1)
    take(repository, make_source(tmp_path_factory.mktemp("later"), tablespaces=False), later)
    remember(memory, repository, CLUSTER)
    roll_back(repository, before)
    (told,) = find_older(memory, repository, CLUSTER)
    assert later.label in told


def test_a_backup_that_a_later_collection_removed_is_missed_by_nobody(
    memory: HostMemory, repository: Repository
) -> None:
    catalog = BackupCatalog(repository, CLUSTER)
    remember(memory, repository, CLUSTER)
    for entry in catalog.list_committed():
        Removal(catalog).retire(entry.label, RetireOrder(reason="old", not_before=START))
    collect(repository)
    assert catalog.list_entries() == ()
    assert find_older(memory, repository, CLUSTER) == ()


def test_while_a_collection_is_at_work_no_backup_is_remembered(memory: HostMemory, repository: Repository) -> None:
    """It may have judged before, and remove afterwards, what is complete now."""
    take_turn(repository, CLUSTER, read_own_identity())
    remember(memory, repository, CLUSTER)
    (seen,) = memory.load(repository.id).clusters.values()
    assert (seen.turn, seen.backup) == (1, None)


def make_set(number: int, word: str = "") -> KeySet:
    return KeySet(number=number, written_at="", slots=(), body={"number": number, "word": word})


def test_a_key_set_is_pinned_by_its_number_and_its_hash(memory: HostMemory) -> None:
    for number in (1, 3):
        check_key_set(memory, ID, make_set(number), "memory:")
        check_key_set(memory, ID, make_set(number), "memory:")
    with pytest.raises(Refused, match="are set 1, but this host has seen set 3"):
        check_key_set(memory, ID, make_set(1), "memory:")
    with pytest.raises(Refused, match="are not the set 3 that this host has seen"):
        check_key_set(memory, ID, make_set(3, "another"), "memory:")
    check_key_set(memory, ID, make_set(4), "memory:")


def test_what_cannot_be_kept_is_told_and_what_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("in the way")
    memory = HostMemory(directory=str(tmp_path))
    assert "cannot be kept" in str(memory.keep(ID, lambda _: Seen(key_set=1)))
    assert memory.load(ID) == Seen()
    (tmp_path / "seen").unlink()
    assert memory.keep(ID, lambda _: Seen(key_set=1)) is None
    (tmp_path / "seen" / f"{ID}.json").write_text("{")
    assert memory.load(ID) == Seen()


class Interrupted(MemoryStore):
    """The first who lists backups is late: ``meanwhile`` is done by the time it has its answer."""

    meanwhile: Callable[[], object] | None = None

    def list_children(self, prefix: str) -> tuple[str, ...]:
        found = super().list_children(prefix)
        if prefix == backups_prefix(CLUSTER) and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return found


def test_what_another_process_saw_meanwhile_stays_seen(
    memory: HostMemory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither is another number lost nor does one go down, whoever writes last."""

    store = Interrupted(ManualClock(START))
    made = make_repository(store, clock=ManualClock(START))
    source = make_source(tmp_path_factory.mktemp("source"), tablespaces=False)
    take(made, source, BackupOrder(number=1, workers=1))

    def go_on() -> None:
        take(made, source, BackupOrder(number=2, workers=1))
        collect(made)
        raise_horizon(made, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(0x3000000)})
        assert remember(memory, made, CLUSTER) is None
        check_key_set(memory, made.id, make_set(4), "memory:")

    store.meanwhile = go_on
    assert remember(memory, made, CLUSTER) is None
    seen = memory.load(made.id)
    others = seen.clusters[CLUSTER]
    assert seen.key_set == 4
    newest = BackupCatalog(made, CLUSTER).list_committed()[-1].label
    assert (others.turn, others.backup_turn, others.backup) == (1, 1, newest)
    assert others.horizons == {str(SYSTEM_IDENTIFIER): {"1": str(Lsn(0x3000000))}}


def test_of_many_at_once_nobody_overwrites_what_another_one_keeps(memory: HostMemory) -> None:
    names = [f"cluster{number}" for number in range(4)]

    def count(name: str) -> None:
        for turn in range(1, 11):

            def see(seen: Seen, turn: int = turn) -> Seen:
                return replace(seen, clusters={**seen.clusters, name: SeenCluster(turn=turn)})

            assert memory.keep(ID, see) is None

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(count, names))
    assert {name: one.turn for name, one in memory.load(ID).clusters.items()} == dict.fromkeys(names, 10)
