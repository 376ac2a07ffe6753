"""Backups of real servers, and what comes back."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from pghaven.clock import SystemClock
from pghaven.errors import Locked, Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.page import checksums
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.postgres.timeline import Timeline
from pghaven.repository.entry import BackupState
from pghaven.restore.recover import run_recovery
from pghaven.server.postmaster import list_server_processes
from tests.support.cluster import Kind, TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.protected import Protected, dump_hash, settings_of
from tests.support.waiting import PATIENCE_SECONDS, wait_until

Protect = Callable[[TestCluster], Protected]


@pytest.fixture
def protect(pghaven_command: PghavenCommand, server_path: Path) -> Protect:
    return lambda cluster: Protected(cluster, pghaven_command, server_path)


@pytest.fixture
def adopt(make_cluster: ClusterFactory) -> Callable[[Path | str], TestCluster]:
    return lambda directory: make_cluster.adopt(Path(directory))


Adopt = Callable[[Path | str], TestCluster]


def fill(cluster: TestCluster, rows: int = 2000) -> None:
    cluster.sql(
        "CREATE TABLE ledger (id bigserial PRIMARY KEY, note text, at timestamptz DEFAULT clock_timestamp());"
        f"INSERT INTO ledger (note) SELECT md5(i::text) FROM generate_series(1, {rows}) i"
    )


def add(cluster: TestCluster, note: str) -> datetime:
    """One transaction; gives a moment after it and before the next one."""
    cluster.sql("INSERT INTO ledger (note) VALUES (%s)", note)
    moment = cluster.value("SELECT clock_timestamp()")
    assert isinstance(moment, datetime)
    return moment


def notes(cluster: TestCluster) -> list[str]:
    return [row[0] for row in cluster.sql("SELECT note FROM ledger WHERE length(note) < 32 ORDER BY id")]


def recovered(site: Protected, adopt: Adopt, target: RecoveryTarget, **request: object) -> TestCluster:
    plan = site.plan(target, **request)
    cluster = adopt(plan.request.target_dir)
    recovery = site.recover(plan, cluster)
    assert recovery.state == "open"
    assert recovery.reached_lsn >= plan.wal.end_lsn
    return cluster


def test_a_backup_and_its_wal_bring_everything_back(
    pg_version: int, make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    site = protect(make_cluster())
    source = site.cluster
    fill(source)
    source.sql("CREATE DATABASE other")
    source.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) i", dbname="other")
    result = site.backup()
    assert result.facts.bad_pages == ()
    assert result.facts.major == pg_version
    source.sql("CREATE INDEX ON ledger (note); DELETE FROM ledger WHERE id % 3 = 0")
    source.sql("VACUUM ledger")
    add(source, "after the backup")
    site.settle()

    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST))

    for database in ("postgres", "other"):
        assert dump_hash(restored, database) == dump_hash(source, database)
    restored.run("pg_amcheck", "--all", "--heapallindexed", "--install-missing")
    restored.stop()
    restored.run("pg_checksums", "--check", "-D", str(restored.data_directory))


@pytest.fixture
def journal(make_cluster: ClusterFactory, protect: Protect) -> Iterator[tuple[Protected, dict[str, object]]]:
    """A backup followed by four transactions a, b, c, d, each with its moment, position and number."""
    site = protect(make_cluster())
    fill(site.cluster)
    site.backup()
    marks: dict[str, object] = {}
    for note in "abcd":
        cluster = site.cluster
        with cluster.connect() as connection, connection.transaction():
            connection.execute("INSERT INTO ledger (note) VALUES (%s)", [note])
            marks[f"xid {note}"] = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()[0]  # type: ignore[index]
        marks[f"time {note}"] = cluster.value("SELECT clock_timestamp()")
        marks[f"lsn {note}"] = Lsn.parse(cluster.value("SELECT pg_current_wal_insert_lsn()::text"))
        cluster.sql(f"SELECT pg_create_restore_point('after {note}')")
    site.settle()
    yield site, marks


@pytest.mark.parametrize(
    ("kind", "mark", "inclusive", "expected"),
    [
        (TargetKind.TIME, "time b", True, "ab"),
        (TargetKind.LSN, "lsn b", False, "ab"),
        (TargetKind.XID, "xid c", True, "abc"),
        (TargetKind.XID, "xid c", False, "ab"),
        (TargetKind.NAME, "after c", True, "abc"),
        (TargetKind.IMMEDIATE, "", True, ""),
        (TargetKind.LATEST, "", True, "abcd"),
    ],
)
def test_each_kind_of_target_is_reached_exactly(
    journal: tuple[Protected, dict[str, object]],
    adopt: Adopt,
    kind: TargetKind,
    mark: str,
    inclusive: bool,
    expected: str,
) -> None:
    site, marks = journal
    value = {kind.value: mark if kind is TargetKind.NAME else marks.get(mark)} if mark else {}
    restored = recovered(site, adopt, RecoveryTarget(kind=kind, inclusive=inclusive, **value))  # type: ignore[arg-type]
    assert "".join(notes(restored)) == expected
    assert settings_of(restored, "archive_mode") == {"archive_mode": "off"}


def test_a_moment_after_the_last_commit_is_reached_when_the_archive_covers_it(
    journal: tuple[Protected, dict[str, object]], adopt: Adopt
) -> None:
    site, _ = journal
    moment = site.cluster.pass_moment()
    site.settle()
    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.TIME, time=moment))
    assert "".join(notes(restored)) == "abcd"


def test_targets_outside_the_archive_are_refused_before_anything_is_written(
    journal: tuple[Protected, dict[str, object]],
) -> None:
    site, marks = journal
    first = site.catalog.list_committed()[0].summary
    for target in (
        RecoveryTarget(kind=TargetKind.TIME, time=datetime.fromisoformat("2001-01-01T00:00:00+00:00")),
        RecoveryTarget(kind=TargetKind.TIME, time=datetime.fromisoformat("2099-01-01T00:00:00+00:00")),
        RecoveryTarget(kind=TargetKind.LSN, lsn=Lsn(Lsn.parse(first["stop_lsn"]) - 1)),
        RecoveryTarget(kind=TargetKind.LSN, lsn=Lsn.parse("F/0")),
        RecoveryTarget(kind=TargetKind.XID, xid=int(str(marks["xid d"])) + 1000),
        RecoveryTarget(kind=TargetKind.NAME, name="never created"),
        RecoveryTarget(kind=TargetKind.LATEST, timeline=Timeline(7)),
    ):
        with pytest.raises(Refused) as refusal:
            site.plan(target)
        assert refusal.value.hint
    assert not list(site.place.glob("target*"))


def test_recovery_can_pause_at_its_target_and_shut_down_there(
    journal: tuple[Protected, dict[str, object]], adopt: Adopt
) -> None:
    site, marks = journal
    for action, state in (("pause", "paused"), ("shutdown", "shut down")):
        plan = site.plan(RecoveryTarget(kind=TargetKind.TIME, time=marks["time b"], action=action))  # type: ignore[arg-type]
        cluster = adopt(plan.request.target_dir)
        recovery = site.recover(plan, cluster)
        assert recovery.state == state
        assert recovery.reached_lsn >= plan.wal.end_lsn
        assert (recovery.conninfo is not None) == (action == "pause")


class Interrupted(SystemClock):
    """Somebody presses Ctrl-C, once, when a server has been waited for this many times."""

    def __init__(self, waits: int) -> None:
        self._waits = waits

    def sleep(self, seconds: float) -> None:
        self._waits -= 1
        if self._waits == -1:
            raise KeyboardInterrupt
        super().sleep(seconds)


@pytest.fixture
def in_background() -> Iterator[None]:
    """As a shell runs what it does not wait for."""
    before = {ignored: signal.signal(ignored, signal.SIG_IGN) for ignored in (signal.SIGINT, signal.SIGQUIT)}
    yield
    for ignored, handler in before.items():
        signal.signal(ignored, handler)


@pytest.mark.usefixtures("in_background")
def test_a_server_that_has_just_begun_in_the_background_is_stopped_all_the_same(
    journal: tuple[Protected, dict[str, object]], adopt: Adopt
) -> None:
    """It ignores what asks it to stop until it has come so far as to listen."""
    site, _ = journal
    plan = site.plan()
    cluster = adopt(plan.request.target_dir)
    site.carry_out(plan)
    with pytest.raises(KeyboardInterrupt):
        run_recovery(plan, str(cluster.bin_dir), site.tell, clock=Interrupted(0))
    assert list_server_processes(plan.request.target_dir) == ()


def test_a_recovery_that_is_interrupted_leaves_no_server_and_can_be_gone_on_with(
    journal: tuple[Protected, dict[str, object]], adopt: Adopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = journal
    monkeypatch.setattr(tempfile, "tempdir", str(site.place))  # where its private socket will be
    plan = site.plan()
    cluster = adopt(plan.request.target_dir)
    site.carry_out(plan)
    before = set(site.place.iterdir())
    for waits in (0, 1, 10):
        with pytest.raises(KeyboardInterrupt):
            run_recovery(plan, str(cluster.bin_dir), site.tell, clock=Interrupted(waits))
        assert list_server_processes(plan.request.target_dir) == ()
        assert set(site.place.iterdir()) == before
    cluster.start()
    cluster.wait_for("SELECT NOT pg_is_in_recovery()")
    assert "".join(notes(cluster)) == "abcd"


def test_a_restored_cluster_goes_on_and_each_branch_stays_reachable(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    """Twelve times: restore to an earlier moment, go on there, archive. Timelines pass 9 and stay apart."""
    site = protect(make_cluster())
    fill(site.cluster, 10)
    site.backup()
    moment = add(site.cluster, "root")
    add(site.cluster, "undone")
    site.settle()
    for number in range(2, 13):
        source = site.cluster
        plan = site.plan(RecoveryTarget(kind=TargetKind.TIME, time=moment), archiving=True)
        source.stop()
        restored = adopt(plan.request.target_dir)
        site.recover(plan, restored)
        assert notes(restored)[-1] != "undone"
        site.cluster = restored
        moment = add(restored, f"branch {number}")
        add(restored, "undone")
        site.settle()
    timeline = site.cluster.value("SELECT timeline_id FROM pg_control_checkpoint()")
    assert timeline == 12
    latest = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST))
    assert notes(latest) == ["root", *(f"branch {number}" for number in range(2, 13)), "undone"]
    abandoned = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST, timeline=Timeline(1)))
    assert notes(abandoned) == ["root", "undone"]


def test_tablespaces_come_back_where_they_are_mapped_to(
    pg_version: int, make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    site = protect(make_cluster())
    source, place = site.cluster, site.place
    old, new = place / "old space", place / "new space"
    for path in (old, new):
        path.mkdir()
        os.chown(path, *owner_of(source.data_directory))
    source.sql(f"CREATE TABLESPACE side LOCATION '{old}'")
    source.sql("CREATE TABLE t TABLESPACE side AS SELECT i FROM generate_series(1, 10000) i")
    site.backup()
    source.sql("INSERT INTO t SELECT i FROM generate_series(1, 500) i")
    site.settle()
    with pytest.raises(Refused, match="not empty"):
        site.plan()
    with pytest.raises(Refused, match="overlap"):
        site.plan(tablespace_mapping={str(old): str(place / "target3" / "inside")}, target_dir=str(place / "target3"))

    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST), tablespace_mapping={str(old): str(new)})

    assert restored.value("SELECT count(*) FROM t") == 10500
    assert restored.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'side'") == str(new)


def owner_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


@pytest.mark.parametrize("size_mib", [16, 64])
def test_other_wal_segment_sizes_work(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt, size_mib: int
) -> None:
    site = protect(make_cluster(kind=Kind(wal_segment_size_mib=size_mib)))
    fill(site.cluster)
    site.backup()
    add(site.cluster, "later")
    site.settle()
    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST))
    assert notes(restored) == ["later"]


def test_relations_of_more_than_a_file_come_back_with_their_second_file(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    site = protect(make_cluster())
    source = site.cluster
    source.sql("CREATE TABLE big AS SELECT i FROM generate_series(1, 100) i")
    path = source.data_directory / source.value("SELECT pg_relation_filepath('big')")
    source.stop()
    page = bytearray(path.read_bytes()[:8192])
    second = path.with_name(path.name + ".1")
    import numpy as np

    page[8:10] = int(checksums(memoryview(page), np.array([131072], np.uint32))[0]).to_bytes(2, "little")
    os.truncate(path, 1 << 30)  # new pages: what a relation extension leaves
    second.write_bytes(page)
    os.chown(second, *owner_of(path))
    source.start()
    assert source.value("SELECT count(*) FROM big") == 200
    assert site.backup().facts.bad_pages == ()
    site.settle()

    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST))

    assert restored.value("SELECT count(*) FROM big") == 200
    assert restored.value("SELECT pg_relation_size('big')") == (1 << 30) + 8192


def test_unlogged_and_temporary_relations_are_left_out(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    site = protect(make_cluster())
    source = site.cluster
    source.sql("CREATE UNLOGGED TABLE scratch AS SELECT i FROM generate_series(1, 5000) i")
    source.sql("CHECKPOINT")
    path = source.value("SELECT pg_relation_filepath('scratch')")
    with source.connect() as session:
        session.execute("CREATE TEMP TABLE fleeting AS SELECT i FROM generate_series(1, 5000) i")
        label = site.backup().facts.label
    manifest = site.catalog.load_manifest(site.catalog.find_entry(label))
    stored = {os.fsdecode(manifest.files.path(number)) for number in range(len(manifest.files.names))}
    assert path not in stored
    assert f"{path}_init" in stored
    assert not [name for name in stored if "/t" in name and "_" in name.rpartition("/t")[2]]
    assert not [name for name in stored if name.startswith(("pg_wal/", "pg_replslot/", "postmaster."))]
    site.settle()
    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST))
    assert restored.value("SELECT count(*) FROM scratch") == 0


def test_files_that_vanish_shrink_and_grow_while_they_are_read_do_no_harm(
    pg_version: int, make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    site = protect(make_cluster(kind=Kind(wal_segment_size_mib=16)))  # much WAL: fewer segments to archive
    source = site.cluster
    fill(source, 50_000)
    stop = threading.Event()

    def disturb() -> None:
        with source.connect() as session:
            number = 0
            while not stop.is_set():
                number += 1
                session.execute(f"CREATE TABLE churn_{number} AS SELECT md5(i::text) FROM generate_series(1, 2000) i")
                session.execute("INSERT INTO ledger (note) SELECT md5(i::text) FROM generate_series(1, 500) i")
                session.execute("DELETE FROM ledger WHERE id > (SELECT max(id) - 800 FROM ledger)")
                session.execute("VACUUM ledger")
                if number > 3:
                    session.execute(f"DROP TABLE churn_{number - 3}")
                session.execute(f"TRUNCATE churn_{number}")
                if number % 5 == 0:
                    session.execute("CREATE DATABASE passing STRATEGY file_copy")
                    session.execute("DROP DATABASE passing")

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(2):
            assert site.backup().facts.bad_pages == ()
    finally:
        stop.set()
        thread.join()
    site.settle()

    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST))

    assert dump_hash(restored) == dump_hash(source)
    restored.run("pg_amcheck", "--all", "--heapallindexed", "--install-missing")


def test_configuration_outside_the_data_directory_is_kept_and_used(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    cluster = make_cluster(start=False)
    outside = cluster.directory / "etc"
    outside.mkdir()
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (cluster.data_directory / name).rename(outside / name)
    (outside / "extra.conf").write_text("work_mem = '5MB'\n")
    with open(outside / "postgresql.conf", "a") as file:
        file.write(
            f"data_directory = '{cluster.data_directory}'\nhba_file = '{outside}/pg_hba.conf'\n"
            f"ident_file = '{outside}/pg_ident.conf'\ninclude 'extra.conf'\nmaintenance_work_mem = '33MB'\n"
            f"external_pid_file = '{outside}/server.pid'\n"
        )
    for path in (outside, *outside.iterdir()):
        os.chown(path, *owner_of(cluster.data_directory))
    cluster.settings["config_file"] = str(outside / "postgresql.conf")
    cluster.settings["archive_mode"] = "on"
    cluster.start()
    site = protect_without_conf(protect, cluster)
    fill(cluster, 10)
    site.backup()
    site.settle()

    directory = site.restore()
    assert "configuration" in site.notice_codes()
    restored = adopt(directory)
    restored.start()
    restored.wait_for("SELECT NOT pg_is_in_recovery()")
    assert settings_of(restored, "maintenance_work_mem", "work_mem") == {
        "maintenance_work_mem": "33MB",
        "work_mem": "5MB",
    }
    assert restored.value("SHOW hba_file") == str(directory / "pg_hba.conf")
    assert restored.value("SHOW external_pid_file") == ""
    assert "maintenance_work_mem" in (directory / "pghaven.config" / "0-postgresql.conf").read_text()
    restored.stop()

    # What was restored in place has such files of its own, and so have its backups.
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (cluster.data_directory / name).write_bytes((directory / name).read_bytes())
    (cluster.data_directory / "postgresql.conf").write_text(
        (directory / "postgresql.conf").read_text().replace(str(directory), str(cluster.data_directory))
    )
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        os.chown(cluster.data_directory / name, *owner_of(cluster.data_directory))
    site.backup()
    site.settle()
    second = site.restore()
    again = adopt(second)
    again.start()
    again.wait_for("SELECT NOT pg_is_in_recovery()")
    assert again.value("SHOW data_directory") == str(second)
    assert settings_of(again, "maintenance_work_mem", "work_mem") == {
        "maintenance_work_mem": "33MB",
        "work_mem": "5MB",
    }


def test_a_data_directory_that_names_itself_is_not_started_from_its_copy(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    """postgresql.conf may say where the data is; in a copy that would be the original."""
    cluster = make_cluster(start=False)
    with open(cluster.data_directory / "postgresql.conf", "a") as file:
        file.write(f"data_directory = '{cluster.data_directory}'\n")
    cluster.start()
    site = protect(cluster)
    site.backup()
    site.settle()
    first = adopt(site.restore())
    first.start()
    first.wait_for("SELECT NOT pg_is_in_recovery()")
    assert first.value("SHOW data_directory") == str(first.data_directory)


def protect_without_conf(protect: Protect, cluster: TestCluster) -> Protected:
    """``Protected`` appends to postgresql.conf in the data directory; here that file lies elsewhere."""
    stand_in = cluster.data_directory / "postgresql.conf"
    site = protect(cluster)
    cluster.settings["archive_command"] = site.archive_command()
    stand_in.unlink()
    cluster.restart()
    return site


def test_links_and_odd_names_are_kept(make_cluster: ClusterFactory, protect: Protect) -> None:
    site = protect(make_cluster())
    data = os.fsencode(site.cluster.data_directory)
    odd = [b"caf\xe9", b"new\nline", b"-dash", b"x" * 255, b"..dots", b"sp ace"]
    os.mkdir(data + b"/odd")
    for name in odd:
        with open(data + b"/odd/" + name, "wb") as file:
            file.write(name)
    elsewhere = site.place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "server.log").write_text("words")
    os.symlink(elsewhere, data + b"/logs")
    os.symlink(b"/nowhere/at/all", data + b"/dangling")
    os.symlink(b".", data + b"/loop")
    site.backup()
    assert "skipped" in site.notice_codes()

    directory = os.fsencode(site.restore(RecoveryTarget(kind=TargetKind.IMMEDIATE)))

    assert sorted(os.listdir(directory + b"/odd")) == sorted(odd)
    for name in odd:
        with open(directory + b"/odd/" + name, "rb") as file:
            assert file.read() == name
    assert not os.path.islink(directory + b"/logs")
    assert Path(os.fsdecode(directory), "logs", "server.log").read_text() == "words"
    assert not os.path.lexists(directory + b"/dangling")


def test_a_backup_from_a_standby_restores(
    pg_version: int, make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    site = protect(make_cluster())
    primary = site.cluster
    fill(primary)
    standby = make_cluster.standby_of(primary)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            add(primary, "meanwhile")
            primary.wait_archived(primary.switch_wal())

    thread = threading.Thread(target=write)
    thread.start()
    try:
        result = site.backup(data_directory=str(standby.data_directory), conninfo=standby.conninfo)
    finally:
        stop.set()
        thread.join()
    assert result.facts.from_standby
    add(primary, "last")
    site.settle()
    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST))
    assert dump_hash(restored) == dump_hash(primary)


def test_a_restored_standby_follows_the_archive(make_cluster: ClusterFactory, protect: Protect, adopt: Adopt) -> None:
    site = protect(make_cluster())
    fill(site.cluster, 10)
    site.backup()
    add(site.cluster, "before")
    site.settle()
    plan = site.plan(standby=True)
    standby = adopt(plan.request.target_dir)
    assert site.recover(plan, standby).state == "standby"
    add(site.cluster, "after")
    site.settle()
    standby.wait_for("SELECT count(*) = 2 FROM ledger WHERE length(note) < 32")
    assert standby.value("SELECT pg_is_in_recovery()")


def test_damaged_pages_are_named_by_relation_file_and_block(make_cluster: ClusterFactory, protect: Protect) -> None:
    site = protect(make_cluster())
    source = site.cluster
    fill(source, 20_000)
    source.sql("CHECKPOINT")
    relative = source.value("SELECT pg_relation_filepath('ledger')")
    source.stop()
    with open(source.data_directory / relative, "r+b") as file:
        for block, offset in ((3, 5000), (7, 2)):  # contents of one page, the LSN of another
            file.seek(block * 8192 + offset)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 0x40]))
    source.start()
    bad = site.backup().facts.bad_pages
    assert [(page.path, page.block, page.relation) for page in bad] == [
        (relative, 3, "postgres.public.ledger"),
        (relative, 7, "postgres.public.ledger"),
    ]
    assert "bad_page" in site.notice_codes()


def test_the_second_of_two_backups_is_told_who_runs(make_cluster: ClusterFactory, protect: Protect) -> None:
    site = protect(make_cluster())
    seen: list[str] = []

    def intrude(event: object) -> None:
        if "stopping the backup" in str(event):
            with pytest.raises(Locked, match=f"process {os.getpid()} on host") as refusal:
                site.backup()
            seen.append(refusal.value.message)

    from pghaven.backup.session import BackupSettings, run_backup

    settings = BackupSettings(
        cluster="main",
        data_directory=str(site.cluster.data_directory),
        conninfo=site.cluster.conninfo,
        level=1,
        processes=1,
        archive_timeout_seconds=PATIENCE_SECONDS,
    )
    run_backup(site.repository, settings, intrude)
    assert len(seen) == 1
    states = [entry.state for entry in site.catalog.list_entries()]
    assert states == [BackupState.COMMITTED]


def test_a_gap_in_the_archive_ends_what_can_be_reached_and_is_named(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    site = protect(make_cluster())
    fill(site.cluster, 10)
    site.backup()
    add(site.cluster, "before")
    site.settle()
    moment = add(site.cluster, "lost")
    missing = site.cluster.switch_wal()
    site.cluster.wait_archived(missing)
    add(site.cluster, "beyond")
    site.settle()
    (lost,) = site.repository_directory.rglob(missing)
    lost.unlink()
    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.LATEST))
    assert notes(restored) == ["before"]
    assert "gap" in site.notice_codes()
    with pytest.raises(Refused, match=f"lies in or behind a gap: WAL segment {missing} is missing"):
        site.plan(RecoveryTarget(kind=TargetKind.TIME, time=moment))


def fail_to_recover(cluster: TestCluster) -> str:
    """Start a server that must end during recovery, though it may let readers in before; gives what it said."""
    cluster.start(wait=False)
    wait_until(lambda: cluster.instance.child_pid is None, "the end of the server")
    assert not list((cluster.data_directory / "pg_wal").glob("*.history")), "the server has opened"
    return cluster.log()


def test_a_server_started_by_hand_cannot_come_up_short(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    """The last segment of the plan is damaged after the restore: the server must refuse, not promote without it."""
    site = protect(make_cluster())
    fill(site.cluster, 10)
    site.backup()
    add(site.cluster, "precious")
    site.settle()
    for damage in ("flip", "remove"):
        plan = site.plan()
        site.carry_out(plan)
        (victim,) = site.repository_directory.rglob(str(plan.wal.last_segment))
        whole = victim.read_bytes()
        if damage == "flip":
            victim.chmod(0o640)
            victim.write_bytes(whole[:400] + bytes([whole[400] ^ 1]) + whole[401:])
        else:
            victim.unlink()
        restored = adopt(plan.request.target_dir)
        fail_to_recover(restored)
        victim.write_bytes(whole)
        os.chown(victim, *owner_of(site.repository_directory))


def test_restoring_over_something_else_is_refused(make_cluster: ClusterFactory, protect: Protect) -> None:
    site = protect(make_cluster())
    site.backup()
    with pytest.raises(Refused, match="a server is running"):
        site.plan(target_dir=str(site.cluster.data_directory))
    full = site.place / "full"
    full.mkdir()
    (full / "precious").write_text("x")
    with pytest.raises(Refused, match="not empty"):
        site.plan(target_dir=str(full))
    assert (full / "precious").read_text() == "x"


def test_a_copy_never_recovers_into_a_tablespace_of_its_source(
    pg_version: int, make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    """The tablespace is newer than the backup: replay would make it at the very place where the source's files lie."""
    site = protect(make_cluster())
    source = site.cluster
    site.backup()
    place = site.place / "new space"
    place.mkdir()
    os.chown(place, *owner_of(source.data_directory))
    source.sql(f"CREATE TABLESPACE side LOCATION '{place}'")
    source.sql("CREATE TABLE t TABLESPACE side AS SELECT i FROM generate_series(1, 1000) i")
    source.sql("CHECKPOINT")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert before
    site.settle()
    plan = site.plan()
    site.carry_out(plan)
    copy = adopt(plan.request.target_dir)
    assert "which is not empty" in fail_to_recover(copy)
    assert {path: path.read_bytes() for path in before} == before

    source.stop()
    place.rename(site.place / "moved away")
    place.mkdir()
    os.chown(place, *owner_of(source.data_directory))
    copy.start()
    copy.wait_for("SELECT NOT pg_is_in_recovery()")
    assert copy.value("SELECT count(*) FROM t") == 1000


def test_a_recovery_that_ends_behind_a_page_header_is_as_planned(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    """The commit that recovery must not replay is the first record of its segment."""
    site = protect(make_cluster())
    fill(site.cluster, 10)
    site.backup()
    with site.cluster.connect() as session, session.transaction():
        session.execute("INSERT INTO ledger (note) VALUES ('late')")
        (xid,) = session.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() or (0,)
        session.execute("SELECT pg_switch_wal()")
    site.settle()
    restored = recovered(site, adopt, RecoveryTarget(kind=TargetKind.XID, xid=xid, inclusive=False))
    assert notes(restored) == []


def test_a_tablespace_made_while_the_checkpoint_goes_on_is_backed_up(
    make_cluster: ClusterFactory, protect: Protect, adopt: Adopt
) -> None:
    site = protect(make_cluster())
    source = site.cluster
    place, mapped = site.place / "just made", site.place / "mapped"
    for path in (place, mapped):
        path.mkdir()
        os.chown(path, *owner_of(source.data_directory))
    (place / "lost+found").mkdir(mode=0o700)
    (place / "lost+found").rmdir()  # a server wants an empty directory; it comes back below

    def make(event: object) -> None:
        if "waiting for a checkpoint" in str(event):
            source.sql(f"CREATE TABLESPACE side LOCATION '{place}'")
            source.sql("CREATE TABLE t TABLESPACE side AS SELECT i FROM generate_series(1, 1000) i")
            (place / "lost+found").mkdir(mode=0o700)
            (place / "PG_9.6_201608131").mkdir()

    site.tell = make  # type: ignore[method-assign]
    label = site.backup().facts.label
    manifest = site.catalog.load_manifest(site.catalog.find_entry(label))
    assert [tablespace.name for tablespace in manifest.facts.tablespaces] == ["side"]
    assert not [path for path in manifest.files.directories if path.endswith((b"lost+found", b"PG_9.6_201608131"))]
    site.settle()
    restored = recovered(
        site, adopt, RecoveryTarget(kind=TargetKind.LATEST), tablespace_mapping={str(place): str(mapped)}
    )
    assert restored.value("SELECT count(*) FROM t") == 1000


def test_files_belong_to_the_server_s_user_whatever_lies_beside_them(
    make_cluster: ClusterFactory, protect: Protect
) -> None:
    site = protect(make_cluster())
    (site.cluster.data_directory / ".keep").write_text("")  # root's, when root runs the tests
    site.backup()
    directory = site.restore(RecoveryTarget(kind=TargetKind.IMMEDIATE))
    assert owner_of(directory / "PG_VERSION") == owner_of(site.cluster.data_directory)
