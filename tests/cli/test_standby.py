"""Standbys as people build, promote, rejoin and look at them, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import NAME
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.places import end_servers_below
from tests.support.standbys import StandbySite


@pytest.fixture
def site(pg_cluster: TestCluster, pghaven_command: PghavenCommand, server_path: Path) -> Iterator[StandbySite]:
    made = StandbySite(pg_cluster, pghaven_command, server_path)
    made.protect()
    yield made
    end_servers_below(server_path)
    end_servers_below(pg_cluster.directory)


@pytest.mark.ends
def test_a_standby_from_the_repository_streams_and_reads_nothing_of_the_primary(
    pg_version: int, site: StandbySite
) -> None:
    one = site.create("one", "--slot", "one")
    site.cluster.sql("INSERT INTO t VALUES (2)")
    one.wait_rows(1, 2)
    assert site.cluster.value("SELECT active FROM pg_replication_slots WHERE slot_name = 'one'")
    assert site.cluster.value("SELECT application_name FROM pg_stat_replication") == "one"
    assert "BASE_BACKUP" not in site.cluster.log()
    shown = site.standby("status", NAME, "--data", str(one.data_directory))
    assert (shown["verdict"], shown["source"], shown["slot"], shown["lag_bytes"]) == ("ok", "streaming", "one", 0)
    assert shown["repositories"][0]["standing"] == "on"


@pytest.mark.ends
def test_a_cluster_whose_primary_died_is_back_with_two_commands(pg_version: int, site: StandbySite) -> None:
    one = site.create("one", "--slot", "one")
    site.cluster.sql("INSERT INTO t VALUES (2)")
    one.wait_rows(1, 2)
    site.cluster.crash()
    shown = site.standby("promote", NAME, "--data", str(one.data_directory))
    assert shown["promoted"]["timeline"] == 2
    assert shown["promoted"]["archived"] == ["main"]
    one.value("INSERT INTO t VALUES (3)")

    shown = site.standby("rejoin", NAME, "--upstream", one.conninfo, "--slot", "old", "--start")
    assert shown["rejoined"]["way"] == "rewind"
    old = site.follow_the_first()
    one.value("INSERT INTO t VALUES (4)")
    old.wait_rows(1, 2, 3, 4)
    # Its own configuration is still its own.
    assert old.value("SHOW unix_socket_directories") == str(site.sockets)


def test_a_standby_from_the_primary_streams(pg_version: int, site: StandbySite) -> None:
    one = site.create("one", "--from", "primary")
    site.cluster.sql("INSERT INTO t VALUES (2)")
    one.wait_rows(1, 2)
    assert "BASE_BACKUP" in site.cluster.log()
