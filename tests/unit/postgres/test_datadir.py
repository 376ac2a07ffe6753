"""What belongs in a backup, and where page checksums are."""

from __future__ import annotations

import pytest

from pghaven.postgres.datadir import (
    find_unlogged,
    has_page_checksums,
    is_contents_excluded,
    is_excluded_file,
    is_relation_directory,
    is_unlogged_content,
)
from pghaven.postgres.relfile import parse_relfile


@pytest.mark.parametrize(
    "path",
    [
        "postmaster.pid",
        "postmaster.opts",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "global/pg_internal.init",
        "base/5/pg_internal.init.1234",
        "base/pgsql_tmp",
        "base/pgsql_tmp/pgsql_tmp1234.0",
        "pg_tblspc/16385/PG_17_202406281/pgsql_tmp",
        "recovery.signal",
        "standby.signal",
        "promote",
        "pghaven.restore.json",
        ".s.PGSQL.5432.lock",
    ],
)
def test_files_of_the_moment_stay_out(path: str) -> None:
    assert is_excluded_file(path)


@pytest.mark.parametrize(
    "path",
    [
        "PG_VERSION",
        "postgresql.conf",
        "postgresql.auto.conf",
        "pg_hba.conf",
        "current_logfiles",
        "backup_label.old",
        "global/pg_control",
        "global/pg_filenode.map",
        "base/5/16384",
        "pg_xact/0000",
        "pg_stat/pgstat.stat",
        "mine/promote",
        "mine/recovery.signal",
    ],
)
def test_everything_else_is_kept(path: str) -> None:
    assert not is_excluded_file(path)


@pytest.mark.parametrize("path", ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots"])
def test_directories_the_server_fills_itself_are_kept_empty(path: str) -> None:
    assert is_contents_excluded(path)
    assert not is_contents_excluded(f"mine/{path}")


@pytest.mark.parametrize(
    "path", ["pg_xact", "pg_multixact", "pg_logical", "pg_twophase", "pg_commit_ts", "base", "log"]
)
def test_directories_recovery_needs_are_kept_whole(path: str) -> None:
    assert not is_contents_excluded(path)


@pytest.mark.parametrize(
    "path",
    [
        "base/5/16384",
        "base/5/16384.12",
        "base/5/16384_fsm",
        "base/5/16384_vm",
        "base/5/16384_init",
        "global/1262",
        "pg_tblspc/16385/PG_17_202406281/5/16384.1",
    ],
)
def test_relation_files_have_page_checksums(path: str) -> None:
    assert has_page_checksums(path)


@pytest.mark.parametrize(
    "path",
    [
        "global/pg_control",
        "global/pg_filenode.map",
        "global/pg_internal.init",
        "base/5/PG_VERSION",
        "base/5/pg_filenode.map",
        "base/5/t3_16384",
        "base/5/16384.bak",
        "base/16384",
        "base/5/mine/16384",
        "mine/base/5/16384",
        "pg_xact/0000",
        "pg_multixact/offsets/1234",
        "pg_tblspc/16385/16384",
        "pg_tblspc/16385/PG_17_202406281/16384",
        "pg_tblspc/16385/mine/5/16384",
        "16384",
        "",
    ],
)
def test_nothing_else_has_page_checksums(path: str) -> None:
    assert not has_page_checksums(path)


def test_relation_directories_are_those_of_databases_and_global() -> None:
    assert is_relation_directory("global")
    assert is_relation_directory("base/1")
    assert not is_relation_directory("base")
    assert not is_relation_directory("base/1\n")


def test_unlogged_relations_keep_only_their_init_fork() -> None:
    names = ["16384", "16384_init", "16384_fsm", "16384.1", "16385", "16385_vm", "16386_init", "PG_VERSION"]
    unlogged = find_unlogged(names)
    assert unlogged == {16384, 16386}
    kept = [name for name in names if (file := parse_relfile(name)) is None or not is_unlogged_content(file, unlogged)]
    assert kept == ["16384_init", "16385", "16385_vm", "16386_init", "PG_VERSION"]
