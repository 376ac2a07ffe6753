"""``pghaven standby promote`` with a target: it stops where it was told, or says at once that it cannot.

The one idea: the target is looked for in the WAL before the standby is touched, so a refusal leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import NAME
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.standbys import Follower, StandbySite, standby_site

_LEFT = """SELECT count(*) FROM pg_file_settings
    WHERE name ~ '^recovery_target' AND name <> 'recovery_target_timeline' AND setting <> ''"""


@pytest.fixture
def site(pg_cluster: TestCluster, pghaven_command: PghavenCommand, server_path: Path) -> Iterator[StandbySite]:
    with standby_site(pg_cluster, pghaven_command, server_path) as made:
        yield made


def promote(site: StandbySite, one: Follower, *words: str) -> dict[str, object]:
    return site.standby("promote", NAME, "--data", str(one.data_directory), *words)


def write_a_mistake(site: StandbySite, one: Follower, *, archived: bool) -> str:
    """A row, and its loss right after the moment that is given; the standby has received it all."""
    site.cluster.sql("INSERT INTO t VALUES (2)")
    good = str(site.cluster.value("SELECT clock_timestamp()::text"))
    site.cluster.sql("DELETE FROM t")
    if archived:
        segment = site.cluster.value("SELECT pg_walfile_name(pg_switch_wal())")
        site.cluster.wait_for("SELECT last_archived_wal >= %s FROM pg_stat_archiver", segment)
    written = site.cluster.value("SELECT pg_current_wal_lsn()::text")
    one.wait_for("SELECT pg_last_wal_receive_lsn() >= %s::pg_lsn", written)
    return good


@pytest.mark.parametrize("archived", [True, False], ids=["archived", "received"])
def test_a_delayed_standby_stops_at_a_moment_wherever_its_wal_is(site: StandbySite, *, archived: bool) -> None:
    one = site.create("one", "--delay", "4h")
    good = write_a_mistake(site, one, archived=archived)
    site.cluster.crash()
    done = promote(site, one, "--target-time", good)
    assert done["stop_lsn"] is not None
    assert one.rows() == [1, 2]
    assert one.value(_LEFT) == 0  # whoever copies its files would stop there, too


def test_a_target_that_nothing_comes_after_is_refused_and_the_standby_goes_on(site: StandbySite) -> None:
    one = site.create("one", "--delay", "4h")
    write_a_mistake(site, one, archived=False)
    after = str(site.cluster.value("SELECT clock_timestamp()::text"))
    end = str(site.cluster.value("SELECT pg_current_wal_lsn() + 1000000"))
    started = one.value("SELECT pg_postmaster_start_time()")
    site.cluster.crash()
    for words, said in (
        (("--target-time", after), "no transaction ended after"),
        (("--target-lsn", end), "is not before the end of the WAL that there is"),
        (("--target-lsn", "0/1"), "is past"),
    ):
        refused = site.refuse("promote", NAME, "--data", str(one.data_directory), *words, status=12)
        assert said in refused["message"]
    assert one.value("SELECT pg_is_in_recovery()")
    assert one.value("SELECT pg_postmaster_start_time()") == started
    assert one.value("SHOW recovery_target_time") == ""
    promote(site, one)  # all of it, as the refusals say
    assert one.rows() == []
