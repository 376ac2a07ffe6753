"""Every prefix of a backup's writes is a valid repository (INV-1, INV-5).

A process that dies leaves a prefix of its writes. Each one is replayed: it opens, lists nothing that is not whole,
restores completely what it lists, and the same backup run again completes.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pghaven.errors import NotFound, PghavenError
from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupState
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.store.api import Store
from pghaven.store.memory import MemoryStore
from pghaven.store.recording import Mutation, RecordingStore
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import PROJECT, make_directory, remove_directory
from tests.support.protected import Protected, dump_hash
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    BackupOrder,
    SourceTree,
    assert_restored,
    list_committed,
    make_repository,
    make_source,
    open_archive,
    read_tree,
    remove_target,
    reopen,
    restore,
    take_backup,
)

FIRST, SECOND = BackupOrder(number=1), BackupOrder(number=2, workers=3)


@pytest.fixture
def place() -> Iterator[Path]:
    path = make_directory()
    yield path
    remove_directory(path)


def record(place: Path, ring: Keyring) -> tuple[RecordingStore, dict[str, SourceTree]]:
    """Two backups of a source that changed in between, from an empty store on."""
    store = RecordingStore(MemoryStore())
    repository = make_repository(store, keyring=ring)
    sources = {}
    for order in (FIRST, SECOND):
        (place / order.label).mkdir()
        sources[order.label] = make_source(place / order.label, salt=order.number)
        take_backup(repository, sources[order.label], order)
    return store, sources


def assert_valid(store: Store, ring: Keyring, sources: dict[str, SourceTree], place: Path) -> list[str]:
    """Opens clean, lists committed backups only, and each restores completely; gives their labels."""
    try:
        repository = reopen(store, keyring=ring)
    except NotFound:
        assert not list(store.list(""))
        return []
    repository.list_lineages(CLUSTER)
    entries = BackupCatalog(repository, CLUSTER).list_entries()
    decided = {
        info.name.split("/")[3] for info in store.list(f"clusters/{CLUSTER}/backups/") if "decision" in info.name
    }
    assert {entry.label for entry in entries if entry.state is not BackupState.UNDECIDED} == decided
    for label in (labels := [entry.label for entry in list_committed(repository)]):
        restore(repository, label, place / "target")
        assert_restored(sources[label], place / "target")
        remove_target(place / "target")
    archive = open_archive(repository)
    for timeline in archive.list_timelines():
        for segment in archive.list_segments(timeline):
            assert archive.get(str(segment.name))
    return labels


def replay(mutations: Iterable[Mutation]) -> MemoryStore:
    store = MemoryStore()
    for mutation in mutations:
        assert mutation.operation == "create", "nothing is ever removed by a backup"
        store.create(mutation.name, [mutation.content])
    return store


@pytest.mark.parametrize("ring", [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")])
def test_every_prefix_is_valid_and_the_backup_can_be_run_again(place: Path, ring: Keyring) -> None:
    recorded, sources = record(place, ring)
    count = len(recorded.mutations)
    seen: list[list[str]] = []
    for length in range(count + 1):
        store = recorded.replay(length)
        labels = assert_valid(store, ring, sources, place)
        seen.append(labels)

        again = replace(FIRST, number=20)
        take_backup(make_repository(store, keyring=ring), sources[FIRST.label], again)
        later = assert_valid(store, ring, {**sources, again.label: sources[FIRST.label]}, place)
        assert later == [*labels, again.label]
        states = {entry.state for entry in BackupCatalog(reopen(store, keyring=ring), CLUSTER).list_entries()}
        assert BackupState.UNDECIDED not in states
    assert count > 15
    assert seen[-1] == [FIRST.label, SECOND.label]
    assert seen == sorted(seen, key=len), "a backup that was there is there from then on"


def test_the_order_is_intent_packs_manifest_decision(place: Path) -> None:
    recorded, sources = record(place, OPEN_KEYRING)
    names = [mutation.name for mutation in recorded.mutations]
    for label in sources:
        parts = [name.rpartition("/")[2] for name in names if f"/backups/{label}/" in name]
        assert parts == ["intent", "manifest", "decision"]
    catalog = BackupCatalog(reopen(recorded), CLUSTER)
    for entry in catalog.list_committed():
        manifest_at = names.index(f"clusters/{CLUSTER}/backups/{entry.label}/manifest")
        for pack in catalog.load_manifest(entry).packs:
            assert names.index(catalog.pack_place.name(pack.label, pack.id)) < manifest_at


@pytest.mark.parametrize("early", ["manifest", "decision"])
def test_a_write_that_comes_too_early_would_be_noticed(place: Path, early: str) -> None:
    """The planted bug: without it nobody knows whether the tests above can find any."""
    recorded, sources = record(place, OPEN_KEYRING)
    mutations = list(recorded.mutations)
    first_pack = next(number for number, mutation in enumerate(mutations) if "/packs/" in mutation.name)
    decision = next(number for number, mutation in enumerate(mutations) if mutation.name.endswith(f"/{early}"))
    moved = mutations.pop(decision)
    if early == "manifest":  # alone it is harmless: the decision has to come early with it
        mutations.insert(first_pack, mutations.pop(decision))
    mutations.insert(first_pack, moved)
    with pytest.raises((AssertionError, PghavenError)):
        for length in range(len(mutations) + 1):
            assert_valid(replay(mutations[:length]), OPEN_KEYRING, sources, place)


def test_a_write_that_is_lost_would_be_noticed(place: Path) -> None:
    recorded, sources = record(place, OPEN_KEYRING)
    for number, mutation in enumerate(recorded.mutations):
        if any(word in mutation.name for word in ("intent", "decision", "/wal/")):
            continue  # an intent is not needed any more, without its decision a backup is not listed, WAL is listed
        with pytest.raises((AssertionError, PghavenError)):
            left = [*recorded.mutations[:number], *recorded.mutations[number + 1 :]]
            labels = assert_valid(replay(left), OPEN_KEYRING, sources, place)
            assert labels == [FIRST.label, SECOND.label]


# -- with a server ------------------------------------------------------------------------------------------------


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    protected = Protected(make_cluster(), pghaven_command, server_path)
    protected.cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 20000) i")
    protected.cluster.sql("CREATE TABLE u AS SELECT i FROM generate_series(1, 3000) i")
    return protected


def record_session(site: Protected) -> Sequence[Mutation]:
    """A real backup in a process of its own, which is gone afterwards; what it wrote, in order."""
    result = site.place / "mutations"
    settings = {
        "url": site.url,
        "cluster": site.name,
        "data_directory": str(site.cluster.data_directory),
        "conninfo": site.cluster.conninfo,
        "result": str(result),
    }
    subprocess.run(
        [sys.executable, "-m", "tests.fault.recorded_session", json.dumps(settings)],
        cwd=PROJECT,
        check=True,
        timeout=120,
    )
    mutations: Sequence[Mutation] = pickle.loads(result.read_bytes())
    return mutations


def restored_files(site: Protected, target: Path) -> dict[str, bytes]:
    files, _ = read_tree(target)
    # They name the target, and how far the archive went by then.
    return {name: content for name, content in files.items() if name not in (RESTORE_PLAN_FILE, "postgresql.auto.conf")}


def test_every_prefix_of_a_real_backup_is_valid_and_it_can_be_run_again(
    site: Protected, make_cluster: ClusterFactory
) -> None:
    mutations = record_session(site)
    site.settle()
    ours = [mutation.name for mutation in mutations]
    assert ours[0].endswith("/intent")
    assert [name.rpartition("/")[2] for name in ours[-2:]] == ["manifest", "decision"]
    assert all("/packs/" in name or "/alive/" in name for name in ours[1:-2])
    (label,) = [entry.label for entry in site.catalog.list_committed()]

    whole = site.restore(backup_label=label)
    restored = make_cluster.adopt(whole)
    before = restored_files(site, whole)
    restored.start()
    restored.wait_for("SELECT NOT pg_is_in_recovery()")
    assert dump_hash(restored) == dump_hash(site.cluster)
    restored.stop()

    # What the archiver stores comes by its own way, and its order is not the session's.
    store = site.repository.store
    for length in range(len(mutations) + 1):
        for info in list(store.list(f"clusters/{site.name}/")):
            if "/backups/" in info.name or "/packs/" in info.name:
                store.delete(info.name)
        for mutation in mutations[:length]:
            store.create(mutation.name, [mutation.content])
        listed = [entry.label for entry in site.catalog.list_committed()]
        assert listed == ([label] if length == len(mutations) else [])
        if listed:
            target = site.restore(backup_label=label)
            assert restored_files(site, target) == before
        result = site.backup(processes=0)
        site.settle()
        again = [entry.label for entry in site.catalog.list_committed()]
        assert again == [*listed, result.facts.label]
        assert BackupState.UNDECIDED not in {entry.state for entry in site.catalog.list_entries()}
        for one in again:
            site.catalog.load_manifest(site.catalog.find_entry(one))
            site.restore(backup_label=one)
