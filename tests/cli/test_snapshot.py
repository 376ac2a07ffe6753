"""``pghaven snapshot …`` and ``restore --from-snapshot``, as people call them, on real file systems."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pghaven.backup.frozen import find_places, find_volumes
from pghaven.snapshot.find import get_driver
from tests.cli.site import NAME, Site
from tests.support.cluster import TestCluster, adopt
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import copy_tree, own
from tests.support.snapshotting import KINDS, Ground, run, snapshotting


@pytest.fixture
def ground(request: pytest.FixtureRequest, server_path: Path) -> Iterator[Ground]:
    """Btrfs, where a test does not say otherwise."""
    kind = getattr(request, "param", "btrfs")
    with snapshotting(kind, server_path / "ground") as made:
        made.root.chmod(0o777)
        yield made


@pytest.fixture
def shop(ground: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Site:
    """A protected server on one volume, with a tablespace on another, and a table in each."""
    home, space = Path(ground.make_volume("pg").root), Path(ground.make_volume("space").root)
    for path in (home, space):
        own(path)
    copy_tree(make_cluster(start=False).data_directory, home / "main")
    cluster = make_cluster.adopt(home / "main")
    cluster.start()
    site = Site(cluster, pghaven_command, server_path)
    site.set_up()
    cluster.sql(f"CREATE TABLESPACE space LOCATION '{space}'")
    cluster.sql("CREATE TABLE far (id int) TABLESPACE space; CREATE TABLE near (id int)")
    cluster.sql("INSERT INTO far SELECT generate_series(1, 1000); INSERT INTO near SELECT generate_series(1, 500)")
    return site


def test_a_kept_snapshot_is_drilled(shop: Site) -> None:
    """What it proves is of the snapshot: how fast the repository is, it does not tell."""
    place = shop.place / "drills"
    place.mkdir()
    own(place)
    shop.ok("backup")
    label = shop.json("snapshot", "create")["label"]
    shop.json("mark")
    shop.cluster.sql("INSERT INTO near SELECT generate_series(1, 7)")
    shop.archive_all()
    words = ("--from-snapshot", label, "--directory", str(place), "--at", "latest", "--skip", "collations")
    (result,) = shop.json("drill", NAME, *words)["drills"]
    assert (result["passed"], result["source"], result["backup"]) == (True, "snapshot", label)
    verdicts = {one["name"]: one["verdict"] for one in result["checks"]}
    assert {verdicts[name] for name in ("plan", "files", "marker", "point", "pages", "rows", "indexes")} == {"OK"}
    assert list(place.iterdir()) == []
    (repository,) = shop.json("status")["clusters"][0]["repositories"]
    assert repository["last_drill"]["source"] == "snapshot"
    assert repository["recovery_time"]["measured_seconds"] is None
    assert shop.error("drill", NAME, "--from-snapshot", "x", "--backup", "y", status=2)["code"] == "usage"


COUNT = "SELECT (SELECT count(*) FROM near) || ' ' || (SELECT count(*) FROM far)"


@contextlib.contextmanager
def ended(site: Site, directory: Path) -> Iterator[None]:
    """Ends the server in a directory, and leaves the files."""
    try:
        yield
    finally:
        made = adopt(directory, site.cluster.programs)
        if made.is_running():
            made.stop()
        shutil.rmtree(made.directory)


def ask(body: dict[str, Any], query: str) -> str:
    with psycopg.connect(
        body["recovery"]["conninfo"], user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return str(row[0])


def list_names(cluster: TestCluster) -> list[str]:
    volumes = find_volumes(find_places(str(cluster.data_directory)))
    return [found.name for volume in volumes for found in get_driver(volume.kind).list(volume)]


@pytest.mark.parametrize("ground", KINDS, indirect=True)
def test_a_clone_is_a_server_of_its_own_in_a_moment(shop: Site, ground: Ground) -> None:
    assert "is kept" in shop.ok("snapshot", "create")
    (label,) = [one["label"] for one in shop.json("snapshot", "list")["snapshots"]]
    shop.cluster.sql("DROP TABLE near")
    clone = ground.root / "clone"
    with ended(shop, clone / "main"):
        body = shop.json("snapshot", "clone", label[:18], "--target-dir", str(clone))
        assert ask(body, COUNT) == "500 1000"
        assert ask(body, "SHOW archive_mode") == "off"
        port = int(ask(body, "SHOW port"))
        assert port > 5432
        with ended(shop, ground.root / "another" / "main"):
            text = shop.ok("snapshot", "clone", label, "--target-dir", str(ground.root / "another"))
            assert re.search("to fetch: +the WAL\n +to write: +nothing: .* are shared with the snapshot\n", text), text
            assert "(0 ms for the files" in text and "needs" not in text
            assert f"cloned to {ground.root / 'another' / 'main'} in " in text
            other = re.search("port=([0-9]+)", text)
            assert other is not None and int(other[1]) > port, "the first one listens too, at a socket only"
        shop.ok("snapshot", "remove", label, "--clone", str(ground.root / "another"))
        assert ask(body, "WITH gone AS (DELETE FROM far RETURNING 1) SELECT count(*) FROM gone") == "1000"
        assert (
            "a server is running on"
            in shop.error("snapshot", "remove", label, "--clone", str(clone), status=12)["message"]
        )
    assert shop.cluster.value("SELECT count(*) FROM far") == 1000
    shop.ok("snapshot", "remove", label, "--clone", str(clone))
    assert not clone.exists()
    shop.ok("snapshot", "remove", label)
    assert list_names(shop.cluster) == []
    assert shop.json("snapshot", "list")["snapshots"] == []


@pytest.mark.parametrize("ground", KINDS, indirect=True)
def test_a_snapshot_leads_to_any_moment_since(shop: Site, ground: Ground) -> None:
    label = shop.json("snapshot", "create")["label"]
    cluster = shop.cluster
    cluster.sql("INSERT INTO near SELECT generate_series(1, 100)")
    moment = cluster.pass_moment()
    cluster.sql("DROP TABLE near")
    shop.archive_all()
    target = ground.root / "restored"
    moved = f"{ground.root}/space={ground.root}/moved"
    options = ("--from-snapshot", label, "--target-dir", str(target), "--tablespace-mapping", moved)
    plan = shop.ok("restore", NAME, *options, "--target-time", moment.isoformat(), "--dry-run")
    assert label in plan
    with ended(shop, target):
        body = shop.json("restore", NAME, *options, "--target-time", moment.isoformat(), "--start", "--port", "5441")
        assert ask(body, COUNT) == "600 1000"
        assert ask(body, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'") == (
            f"{ground.root}/moved"
        )


def test_over_what_an_interrupted_restore_left_nothing_is_put_and_it_is_begun_anew(shop: Site, ground: Ground) -> None:
    """That is some files, a plan, and no pg_control, so nobody starts it by mistake."""
    label = shop.json("snapshot", "create")["label"]
    target = ground.root / "restored"
    options = ("--from-snapshot", label, "--target-dir", str(target))
    options += ("--tablespace-mapping", f"{ground.root}/space={ground.root}/moved")
    shop.ok("restore", NAME, *options)
    (target / "global" / "pg_control").unlink()
    error = shop.error("restore", NAME, *options, status=12)
    assert "what an interrupted restore left" in error["message"]
    assert f"rm -r {target}" in error["hint"] and "--delta" not in error["hint"]
    shutil.rmtree(target)
    shutil.rmtree(ground.root / "moved")
    with ended(shop, target):
        assert ask(shop.json("restore", NAME, *options, "--start", "--port", "5443"), COUNT) == "500 1000"


def test_a_clone_goes_on_to_the_end_of_the_archive(shop: Site, ground: Ground) -> None:
    label = shop.json("snapshot", "create")["label"]
    shop.cluster.sql("INSERT INTO far SELECT generate_series(1, 77)")
    shop.archive_all()
    clone = ground.root / "clone"
    with ended(shop, clone / "main"):
        body = shop.json("snapshot", "clone", label, "--target-dir", str(clone), "--latest", "--port", "5442")
        assert ask(body, COUNT) == "500 1077"


def test_what_is_not_good_any_more_is_shown_and_goes(shop: Site, ground: Ground) -> None:
    first, second = (shop.json("snapshot", "create")["label"] for _ in range(2))
    volume = find_volumes(find_places(str(shop.cluster.data_directory)))[-1]
    get_driver(ground.kind).remove(volume, f"pghaven-{NAME}-{first}")
    get_driver(ground.kind).create(volume, f"pghaven-{NAME}-19990101T000000Z-0000")
    get_driver(ground.kind).create(volume, "weekly")
    found = {one["label"]: one["state"] for one in shop.json("snapshot", "list")["snapshots"]}
    assert found == {first: "vanished", second: "good", "19990101T000000Z-0000": "unrecorded"}
    text = shop.ok("snapshot", "list")
    assert "does not have it any more" in text
    assert first in shop.ok("list") and second in shop.ok("list")
    shop.ok("verify")
    error = shop.error("snapshot", "clone", first, "--target-dir", str(ground.root / "x"), status=12)
    assert "vanished" in error["message"]
    assert not (ground.root / "x").exists()
    ended_with = shop.run("snapshot", "create", "--keep", "1")
    assert f"snapshot {first} was removed" in ended_with.err
    assert f"snapshot {second} was removed" in ended_with.err
    states = [one["state"] for one in shop.json("snapshot", "list")["snapshots"]]
    assert sorted(states) == ["good", "unrecorded"]
    shop.ok("snapshot", "remove", "19990101T000000Z-0000")
    assert {name.partition("-")[0] for name in list_names(shop.cluster)} == {"pghaven", "weekly"}


def test_only_a_clone_of_that_snapshot_is_removed_as_one(shop: Site, ground: Ground) -> None:
    """Also with the server stopped, which is when somebody at work might give the wrong directory."""
    label = shop.json("snapshot", "create")["label"]
    other = Path(ground.make_volume("other").root)
    (other / "file").touch()
    shop.cluster.stop()
    home = shop.cluster.data_directory
    for place in (other, home.parent, ground.root / "space"):
        error = shop.error("snapshot", "remove", label, "--clone", str(place), status=12)
        assert "is not a clone of a snapshot of" in error["message"] and "nothing was removed" in error["message"]
        assert f"btrfs subvolume delete {place}" in error["hint"]
    assert (other / "file").exists() and (home / "PG_VERSION").exists() and (ground.root / "space").exists()


def test_a_data_directory_mounted_by_itself_holds_its_snapshots_and_no_backup_does(
    ground: Ground, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    volume = Path(ground.make_volume("pg").root)
    home = server_path / "mounted"
    home.mkdir()
    device = run("findmnt", "--noheadings", "--nofsroot", "--output", "SOURCE", str(ground.root)).strip()
    run("mount", "-o", f"subvol={volume.name}", device, str(home))
    try:
        run("cp", "-a", f"{make_cluster(start=False).data_directory}/.", str(home))
        cluster = make_cluster.adopt(home)
        cluster.start()
        site = Site(cluster, pghaven_command, server_path)
        site.set_up()
        cluster.sql("CREATE TABLE near AS SELECT generate_series(1, 500) AS id")
        before = site.json("backup")
        labels = [site.json("snapshot", "create")["label"] for _ in range(2)]
        after = site.json("backup", "--full")
        assert abs(after["file_count"] - before["file_count"]) < 10, "each snapshot has as many files again"
        cluster.stop()
        ended_with = site.run("restore", NAME, "--delta", "--target-dir", str(home))
        assert ended_with.status == 0, ended_with
        assert ".pghaven-snapshots" not in ended_with.out + ended_with.err
        assert [one["state"] for one in site.json("snapshot", "list")["snapshots"]] == ["good", "good"]
        target = server_path / "restored"
        site.ok("restore", NAME, "--from-snapshot", labels[0], "--target-dir", str(target))
        clone = ground.root / "clone"
        site.ok("snapshot", "clone", labels[1], "--target-dir", str(clone), "--no-start")
        assert not (target / ".pghaven-snapshots").exists() and not (clone / ".pghaven-snapshots").exists()
        site.ok("snapshot", "remove", labels[1], "--clone", str(clone))
        for path in home.iterdir():
            if path.name != ".pghaven-snapshots":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        site.ok("restore", NAME, "--from-snapshot", labels[0], "--target-dir", str(home))
        assert (home / "PG_VERSION").exists()
    finally:
        if (home / "postmaster.pid").exists():
            cluster.stop()
        run("umount", str(home))


def test_a_clone_takes_nothing_from_its_original(shop: Site, ground: Ground) -> None:
    """Not its process number's file, nor what is sent to its subscriptions; and it waits for no standby of its."""
    pid_file = shop.place / "external.pid"
    shop.cluster.append_conf(external_pid_file=str(pid_file), synchronous_standby_names="one")
    shop.cluster.restart()
    original = pid_file.read_text()
    label = shop.json("snapshot", "create")["label"]
    clone = ground.root / "clone"
    with ended(shop, clone / "main"):
        body = shop.json("snapshot", "clone", label, "--target-dir", str(clone))
        assert ask(body, "SHOW max_logical_replication_workers") == "0"
        assert ask(body, "WITH gone AS (DELETE FROM near RETURNING 1) SELECT count(*) FROM gone") == "500"
        assert pid_file.read_text() == original
    assert pid_file.read_text() == original
    shop.cluster.append_conf(synchronous_standby_names="")


def test_a_copy_on_the_same_btrfs_takes_no_room(shop: Site, ground: Ground) -> None:
    """Whichever subvolume it goes to."""
    shop.cluster.sql("INSERT INTO near SELECT generate_series(1, 2000000)")
    label = shop.json("snapshot", "create")["label"]
    room = shutil.disk_usage(ground.root).free
    with (ground.root / "filling").open("wb") as file:
        file.write(os.urandom(room - (48 << 20)))
    os.sync()
    target = ground.root / "restored"
    moved = f"{ground.root}/space={ground.root}/moved"
    shop.ok("restore", NAME, "--from-snapshot", label, "--target-dir", str(target), "--tablespace-mapping", moved)
    assert (target / "PG_VERSION").exists()


def test_a_snapshot_whose_wal_is_gone_is_stale(shop: Site) -> None:
    label = shop.json("snapshot", "create")["label"]
    assert [one["state"] for one in shop.json("snapshot", "list")["snapshots"]] == ["good"]
    segments = sorted(shop.repository.rglob("0000000100000000000000*"))
    assert segments
    away = {found: found.read_bytes() for found in segments}
    for found in segments:
        found.unlink()
    assert [(one["label"], one["state"]) for one in shop.json("snapshot", "list")["snapshots"]] == [(label, "stale")]
    shop.ok("snapshot", "create")  # the WAL has not expired, and may be filled in: nothing is removed
    for found, content in away.items():
        found.write_bytes(content)
    assert [one["state"] for one in shop.json("snapshot", "list")["snapshots"]] == ["good", "good"]


def test_the_place_of_a_clone_must_be_free_and_on_the_same_file_system(shop: Site, ground: Ground) -> None:
    label = shop.json("snapshot", "create")["label"]
    there = ground.root / "there"
    there.mkdir()
    (there / "file").touch()
    assert "not empty" in shop.error("snapshot", "clone", label, "--target-dir", str(there), status=12)["message"]
    assert (there / "file").exists()
    (there / "file").unlink()
    assert (
        "is there already" in shop.error("snapshot", "clone", label, "--target-dir", str(there), status=12)["message"]
    )
    assert sorted(path.name for path in ground.root.glob("there*")) == ["there"]
    error = shop.error("snapshot", "clone", label, "--target-dir", str(shop.place / "far"), status=12)
    assert "another file system" in error["message"]
    assert "several" not in shop.error("snapshot", "remove", "2099", status=10)["message"]


def test_the_configuration_says_which_snapshots_stay(shop: Site) -> None:
    """After each new one, and when backups expire; what one rule keeps, the other does not take away."""
    section = "PGHAVEN_CLUSTER__MAIN__SNAPSHOT__"
    first, second = (shop.json("snapshot", "create")["label"] for _ in range(2))
    shop.json("snapshot", "create", environment={f"{section}KEEP": "1", f"{section}KEEP_WITHIN": "1h"})
    assert len(list_names(shop.cluster)) == 2 * 3
    ended_with = shop.run("expire", "--dry-run", environment={f"{section}KEEP": "2"})
    assert f"snapshot {first} would be removed: the newest 2 are kept" in ended_with.err
    assert len(list_names(shop.cluster)) == 2 * 3
    shop.run("expire", environment={f"{section}KEEP": "2"})
    assert second == shop.json("snapshot", "list")["snapshots"][0]["label"], "also where all are of one second"
    assert len(list_names(shop.cluster)) == 2 * 2
    shop.run("snapshot", "create", environment={f"{section}KEEP": "1"})
    assert len(list_names(shop.cluster)) == 2


def test_over_a_cluster_no_snapshot_is_put_and_what_to_do_is_said(shop: Site) -> None:
    label = shop.json("snapshot", "create")["label"]
    home = shop.cluster.data_directory
    options = ("--from-snapshot", label, "--target-dir", str(home))
    assert "a server is running" in shop.error("restore", NAME, *options, status=12)["message"]
    shop.cluster.stop()
    error = shop.error("restore", NAME, *options, status=12)
    assert "holds a cluster" in error["message"] and f"mv {home} {home}.old" in error["hint"]
    assert f"mv {home}" in shop.error("restore", NAME, *options, "--delta", status=2)["hint"]
    home.rename(f"{home}.old")
    moved = ("--tablespace-mapping", f"{home.parent.parent}/space={home.parent.parent}/space2")
    shop.ok("restore", NAME, *options, *moved)
    assert (home / "PG_VERSION").exists()
