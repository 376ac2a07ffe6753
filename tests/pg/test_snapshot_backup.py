"""Backups that are read from snapshots of the file systems that a server lies on."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pghaven.backup.frozen import find_places, find_volumes
from pghaven.errors import Cancelled, Refused
from pghaven.events import Event, Progress, Step
from pghaven.repository.entry import Intent
from pghaven.repository.kept import name_snapshot
from pghaven.repository.layout import make_label
from pghaven.runtime.whoami import read_own_identity
from pghaven.snapshot.find import get_driver
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import copy_tree, own
from tests.support.protected import Protected, dump_hash
from tests.support.snapshotting import KINDS, Ground, snapshotting


@pytest.fixture(params=KINDS)
def ground(request: pytest.FixtureRequest, server_path: Path) -> Iterator[Ground]:
    with snapshotting(request.param, server_path / "ground") as made:
        yield made


@pytest.fixture
def btrfs(server_path: Path) -> Iterator[Ground]:
    with snapshotting("btrfs", server_path / "ground") as made:
        yield made


def protect_on(ground: Ground, make_cluster: ClusterFactory, command: PghavenCommand, place: Path) -> Protected:
    """A server whose data directory lies below a volume, and one tablespace on another."""
    home, space = Path(ground.make_volume("pg").root), Path(ground.make_volume("space").root)
    for path in (home, space):
        own(path)
    copy_tree(make_cluster(start=False).data_directory, home / "main")
    cluster = make_cluster.adopt(home / "main")
    cluster.start()
    site = Protected(cluster, command, place)
    cluster.sql(f"CREATE TABLESPACE space LOCATION '{space}'")
    cluster.sql("CREATE TABLE far (id int PRIMARY KEY, note text) TABLESPACE space")
    cluster.sql("CREATE TABLE near (id bigserial PRIMARY KEY, note text)")
    cluster.sql("INSERT INTO far SELECT i, repeat(md5(i::text), 9) FROM generate_series(1, 5000) i")
    return site


def moved(ground: Ground, place: Path) -> dict[str, str]:
    """Where a copy's tablespace goes."""
    return {str(ground.root / "space"): str(place / "moved")}


def list_snapshots(cluster: TestCluster) -> list[str]:
    volumes = find_volumes(find_places(str(cluster.data_directory)))
    return [found.name for volume in volumes for found in get_driver(volume.kind).list(volume)]


def test_what_is_read_from_snapshots_comes_back_while_the_server_went_on(
    ground: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = protect_on(ground, make_cluster, pghaven_command, server_path)
    cluster, is_over = site.cluster, threading.Event()

    def write() -> None:
        with cluster.connect() as connection:
            while not is_over.is_set():
                connection.execute("INSERT INTO near (note) SELECT md5(random()::text) FROM generate_series(1, 50)")
                connection.execute("UPDATE far SET note = md5(random()::text) WHERE id = 1 + random() * 4999")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        first = site.backup(from_snapshot=True)
        second = site.backup(from_snapshot=True)
    finally:
        is_over.set()
        writer.join()
    assert (first.facts.method, second.facts.method) == ("snapshot", "snapshot")
    assert second.facts.parent == first.facts.label
    assert second.kept_count > 0
    assert first.snapshot_seconds is not None
    assert list_snapshots(cluster) == []
    site.settle()
    expected = dump_hash(cluster)
    plan = site.plan(tablespace_mapping=moved(ground, server_path))
    restored = make_cluster.adopt(Path(plan.request.target_dir))
    site.recover(plan, restored)
    assert plan.backup.label == second.facts.label
    assert dump_hash(restored) == expected


def test_the_server_is_told_to_stop_before_anything_is_read(
    btrfs: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = protect_on(btrfs, make_cluster, pghaven_command, server_path)
    seen: list[str] = []
    site.tell = lambda event: seen.append(_name(event))  # type: ignore[method-assign]
    site.backup(from_snapshot=True)
    assert seen.index("snapshot") < seen.index("stop") < seen.index("read")


def _name(event: Event) -> str:
    if isinstance(event, Step):
        return {"took a": "snapshot", "stoppi": "stop"}.get(event.text[:6], "")
    return "read" if isinstance(event, Progress) else ""


def test_what_reads_a_snapshot_gives_way_and_what_reads_the_files_does_not(
    btrfs: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = protect_on(btrfs, make_cluster, pghaven_command, server_path)
    seen: set[int] = set()
    site.tell = lambda event: seen.update(_list_worker_niceness() if isinstance(event, Progress) else ())  # type: ignore[method-assign]
    site.backup()
    assert seen == {os.getpriority(os.PRIO_PROCESS, 0)}
    site.backup(from_snapshot=True)
    assert 19 in seen


def _list_worker_niceness() -> list[int]:
    """Of this process's own workers."""
    command = ("ps", "-ww", "-o", "pid=,ni=,args=", "--ppid", str(os.getpid()))
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [int(row.split()[1]) for row in rows if "pghaven.runtime.worker" in row]


def test_a_backup_that_fails_leaves_no_snapshot(
    btrfs: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = protect_on(btrfs, make_cluster, pghaven_command, server_path)
    seen: list[list[str]] = []

    def give_up(event: Event) -> None:
        if isinstance(event, Progress):
            seen.append(list_snapshots(site.cluster))
            raise Cancelled("somebody has pressed a key")

    site.tell = give_up  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        site.backup(from_snapshot=True)
    assert [len(names) for names in seen] == [2]
    assert list_snapshots(site.cluster) == []


def test_what_a_killed_backup_left_goes_with_the_next_one_and_nothing_else(
    btrfs: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = protect_on(btrfs, make_cluster, pghaven_command, server_path)
    now, me = datetime.now(UTC), read_own_identity()
    dead, unknown = make_label(now), make_label(now)
    site.catalog.announce(
        dead,
        Intent(
            who=replace(me, start="0"),
            started_at=now,
            system_identifier=site.facts.system_identifier,
            timeline=1,
            start_lsn="0/1",
            parent=None,
        ),
    )
    names = [name_snapshot(site.name, dead), name_snapshot(site.name, unknown), "weekly"]
    volume = find_volumes(find_places(str(site.cluster.data_directory)))[-1]
    for name in names:
        get_driver("btrfs").create(volume, name)
    site.backup(from_snapshot=True)
    assert set(list_snapshots(site.cluster)) == set(names[1:])


def test_a_server_elsewhere_is_told_why_before_anything_begins(
    pg_cluster: TestCluster, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = Protected(pg_cluster, pghaven_command, server_path)
    with pytest.raises(Refused, match="no snapshot can be taken of") as raised:
        site.backup(from_snapshot=True)
    assert raised.value.hint is not None
    assert "--method" in raised.value.hint
    assert site.catalog.list_entries() == ()


def test_a_tablespace_on_another_file_system_is_named(
    btrfs: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = protect_on(btrfs, make_cluster, pghaven_command, server_path)
    place = server_path / "elsewhere"
    place.mkdir()
    own(place)
    site.cluster.sql(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    with pytest.raises(Refused, match=str(place)):
        site.backup(from_snapshot=True)


def test_links_of_administrators_are_followed_from_where_they_lie(
    btrfs: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = protect_on(btrfs, make_cluster, pghaven_command, server_path)
    home = site.cluster.data_directory
    (home.parent / "beside.conf").write_text("# beside\n")
    os.symlink("../beside.conf", home / "beside.conf")
    own(home.parent / "beside.conf")
    site.backup(from_snapshot=True)
    restored = site.restore(tablespace_mapping=moved(btrfs, server_path))
    assert (restored / "beside.conf").read_text() == "# beside\n"
