"""Which names are PostgreSQL's own."""

from __future__ import annotations

import pytest

from pghaven.postgres.ownfiles import is_own_directory, is_own_file, is_tablespace_link, is_wal_file

VERSION = "PG_17_202406281"


@pytest.mark.parametrize(
    "path",
    [
        "PG_VERSION",
        "postmaster.pid",
        "backup_label.old",
        "standby.signal",
        "pghaven.restore.json",
        "base/5/16384",
        "base/5/16384_fsm.2",
        "base/5/t3_16700_vm",
        "base/5/pg_filenode.map",
        "base/5/pg_internal.init",
        "base/5/pg_internal.init.4711",
        "base/pgsql_tmp/pgsql_tmp4711.0",
        "base/pgsql_tmp/pgsql_tmp4711.3.fileset/i1of32.p0.0",
        "global/1262",
        "global/pg_control",
        "pg_commit_ts/0000",
        "pg_logical/snapshots/0-15D3E80.snap",
        "pg_logical/mappings/map-5-4e2-0_15D3E80-2f0-2f1",
        "pg_multixact/offsets/00FF",
        "pg_multixact/members/10000",
        "pg_notify/0000",
        "pg_replslot/standby_1/state",
        "pg_replslot/sub/xid-745-lsn-0-1000000.spill",
        "pg_stat/pgstat.stat",
        "pg_stat_tmp/db_0.stat",
        "pg_twophase/000002F0",
        "pg_twophase/00000000000002F0",
        "pg_wal/000000010000000000000001",
        "pg_wal/000000010000000000000001.partial",
        "pg_wal/0000000A.history",
        "pg_wal/000000010000000000000001.00000028.backup",
        "pg_wal/archive_status/000000010000000000000001.done",
        "pg_wal/summaries/0000000100000000010000280000000001000350.summary",
        "pg_wal/pghaven/behind-main.json",
        "pg_wal/pghaven/marks/000000010000000000000003",
        "pg_wal/xlogtemp.4711",
        "pg_xact/0000",
        f"pg_tblspc/16400/{VERSION}/5/16384.1",
        f"pg_tblspc/16400/{VERSION}/pgsql_tmp/pgsql_tmp4711.0",
    ],
)
def test_what_the_server_writes_is_its_own(path: str) -> None:
    assert is_own_file(path, VERSION)


@pytest.mark.parametrize(
    "path",
    [
        "thesis.txt",
        "postgresql.conf.bak",
        "server.key",
        "log/postgresql-2026-11-23.log",
        "base/16384",
        "base/5/16384.bak",
        "base/5/16384.0",
        "base/x/16384",
        "base/5/deep/16384",
        "base/5/16384\n",
        "global/notes",
        "pg_xact/readme",
        "pg_xact/0000.gz",
        "pg_stat/deep/pgstat.stat",
        "pg_wal/000000010000000000000001.gz",
        "pg_wal/00000001000000000000000a",
        "pg_wal/archive_status/mine.txt",
        "pg_replslot/state",
        "pg_tblspc/16400/PG_14_202107181/5/16384",
        "pg_tblspc/16400/16384",
        f"pg_tblspc/x/{VERSION}/5/16384",
    ],
)
def test_what_anybody_else_may_have_put_there_is_not(path: str) -> None:
    assert not is_own_file(path, VERSION)


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("base", True),
        ("base/16999", True),
        ("base/pgsql_tmp/pgsql_tmp4711.3.fileset", True),
        ("pg_replslot/sub", True),
        ("pg_multixact/members", True),
        ("pghaven.config", True),
        ("pg_wal/pghaven", True),
        ("pg_wal/pghaven/marks", True),
        ("pg_wal/pghaven/marks/deep", False),
        (f"pg_tblspc/16400/{VERSION}", True),
        (f"pg_tblspc/16400/{VERSION}/5", True),
        ("pg_tblspc/16400/PG_14_202107181", False),
        ("pg_tblspc/16400", False),
        ("base/mine", False),
        ("base/5/deep", False),
        ("log", False),
        ("pg_xact/deep", False),
    ],
)
def test_directories_are_its_own_by_their_place(path: str, own: bool) -> None:
    assert is_own_directory(path, VERSION) is own


def test_wal_and_links_are_told_apart_from_the_rest() -> None:
    assert is_wal_file("pg_wal/000000010000000000000001.partial")
    assert not is_wal_file("pg_wal/archive_status/000000010000000000000001")
    assert is_tablespace_link("pg_tblspc/16400")
    assert not is_tablespace_link("pg_tblspc/16400/5")
