"""Probing real servers of every version."""

from __future__ import annotations

import re

import pytest

from pghaven.errors import NotPermitted
from pghaven.server.connection import connect
from pghaven.server.probe import ServerFacts, probe_server, read_archiver
from tests.support.cluster import Kind, TestCluster
from tests.support.fixtures import ClusterFactory
from tests.support.places import make_directory, remove_directory


def probe(cluster: TestCluster) -> ServerFacts:
    with connect(cluster.conninfo) as connection:
        return probe_server(connection)


def read_control(cluster: TestCluster) -> dict[str, str]:
    lines = cluster.run("pg_controldata", "-D", str(cluster.data_directory)).stdout.splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_facts_are_those_of_the_control_file(pg_version: int, pg_cluster: TestCluster) -> None:
    facts = probe(pg_cluster)
    control = read_control(pg_cluster)
    assert facts.major.major == pg_version
    assert facts.version == pg_cluster.programs.version
    assert facts.system_identifier == int(control["Database system identifier"])
    assert facts.block_size == int(control["Database block size"])
    assert facts.segment_size == int(control["Blocks per segment of large relation"]) * facts.block_size
    assert facts.wal_segment_size == int(control["Bytes per WAL segment"]) == 1 << 20
    assert facts.data_checksums
    assert (facts.in_recovery, facts.timeline, facts.role, facts.is_superuser) == (False, 1, "postgres", True)
    assert facts.data_directory == str(pg_cluster.data_directory)
    assert facts.settings["fsync"] == "off"
    assert facts.settings["archive_command"] == "(disabled)"
    assert facts.pending_restart == ()
    assert facts.started < facts.probed


def test_databases_and_tablespaces_are_listed(pg_version: int, pg_cluster: TestCluster) -> None:
    path = make_directory()
    try:
        pg_cluster.sql(f"CREATE TABLESPACE far LOCATION '{path}'")
        pg_cluster.sql("CREATE DATABASE closed ALLOW_CONNECTIONS false TABLESPACE far")
        facts = probe(pg_cluster)
        assert [(space.name, space.path) for space in facts.tablespaces] == [("far", str(path))]
        databases = {database.name: database for database in facts.databases}
        assert set(databases) == {"postgres", "template0", "template1", "closed"}
        assert {name for name, database in databases.items() if database.is_connectable} == {"postgres", "template1"}
        assert databases["closed"].tablespace_oid == facts.tablespaces[0].oid
        assert databases["postgres"].encoding == "UTF8"
    finally:
        pg_cluster.crash()
        remove_directory(path)


def test_config_files_elsewhere_are_told_from_those_inside(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(start=False)
    outside = cluster.directory / "etc"
    outside.mkdir()
    (cluster.data_directory / "pg_hba.conf").rename(outside / "hba.conf")
    (outside / "more.conf").write_text("work_mem = '5MB'\n")
    cluster.append_conf(f"include '{outside}/more.conf'", hba_file=str(outside / "hba.conf"))
    cluster.start()
    found = {(file.role, file.path, file.is_outside) for file in probe(cluster).config_files}
    assert found == {
        ("config", f"{cluster.data_directory}/postgresql.conf", False),
        ("hba", f"{outside}/hba.conf", True),
        ("ident", f"{cluster.data_directory}/pg_ident.conf", False),
        ("include", f"{outside}/more.conf", True),
    }


def test_missing_checksums_and_other_segment_sizes_are_seen(pg_version: int, make_cluster: ClusterFactory) -> None:
    facts = probe(make_cluster(kind=Kind(checksums=False, wal_segment_size_mib=2)))
    assert not facts.data_checksums
    assert facts.wal_segment_size == 2 << 20


def test_standby_follows_and_has_a_new_timeline_at_once_when_promoted(
    pg_version: int, make_cluster: ClusterFactory
) -> None:
    primary = make_cluster()
    standby = make_cluster.standby_of(primary)
    facts = probe(standby)
    assert facts.in_recovery
    assert facts.timeline == 1
    assert facts.system_identifier == probe(primary).system_identifier
    target = primary.value("SELECT pg_current_wal_lsn()")
    standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", target)
    assert probe(standby).lsn >= facts.lsn
    standby.sql("SELECT pg_promote()")
    assert probe(standby).timeline == 2


def test_archiver_is_failing_until_it_succeeds(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(start=False)
    door = cluster.directory / "open"
    cluster.append_conf(archive_mode="on", archive_command=f"test -e '{door}'")
    cluster.start()
    with connect(cluster.conninfo) as connection:
        assert not read_archiver(connection).is_failing
        segment = cluster.switch_wal()
        cluster.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver")
        assert read_archiver(connection).is_failing
        assert read_archiver(connection).last_failed_name == segment
    door.touch()
    cluster.wait_archived(cluster.switch_wal())
    facts = probe(cluster)
    assert not facts.archiver.is_failing
    assert facts.archiver.archived_count == 2
    assert facts.settings["archive_command"] == f"test -e '{door}'"


def test_role_without_monitoring_is_told_the_grant_it_needs(pg_version: int, pg_cluster: TestCluster) -> None:
    pg_cluster.sql("CREATE ROLE poor LOGIN")
    with connect(f"{pg_cluster.conninfo} user=poor") as connection:
        with pytest.raises(NotPermitted) as caught:
            probe_server(connection)
        hint = caught.value.hint or ""
        statement = re.search("GRANT .*", hint)
        assert statement is not None
        pg_cluster.sql(statement[0])
        assert probe_server(connection).role == "poor"
