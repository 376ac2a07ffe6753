"""Connecting: identity, sessions, reasons."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pghaven.errors import NotFound, ServerUnsuitable, UsageError
from pghaven.server.connection import connect
from pghaven.server.identity import OsUser
from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user's identity")


@pytest.fixture
def peer_cluster(make_cluster: ClusterFactory, plain_user: OsUser) -> TestCluster:
    """A server that knows local clients by their operating-system user only."""
    cluster = make_cluster()
    if plain_user.name != "postgres":
        cluster.sql(f'CREATE ROLE "{plain_user.name}" SUPERUSER LOGIN')
    (cluster.data_directory / "pg_hba.conf").write_text("local all all peer\n")
    cluster.reload_without_asking()
    return cluster


def without_user(cluster: TestCluster) -> str:
    return f"host={cluster.socket_directory} dbname=postgres"


@pytest.mark.root
@needs_root
def test_root_connects_as_the_owner_by_peer_authentication(peer_cluster: TestCluster, plain_user: OsUser) -> None:
    with connect(without_user(peer_cluster), os_user=plain_user.name) as connection:
        assert os.geteuid() == 0
        assert connection.info.user == plain_user.name
        row = connection.execute("SELECT current_user").fetchone()
    assert row == (plain_user.name,)


@pytest.mark.root
@needs_root
def test_root_is_itself_again_after_a_refusal(peer_cluster: TestCluster, plain_user: OsUser) -> None:
    with pytest.raises(ServerUnsuitable, match="Peer authentication failed") as caught:
        connect(f"{without_user(peer_cluster)} user=other", os_user=plain_user.name)
    assert os.geteuid() == 0
    assert os.getegid() == 0
    assert "operating-system user" in (caught.value.hint or "")


def test_the_owner_itself_needs_no_identity(pg_version: int, pg_cluster: TestCluster, plain_user: OsUser) -> None:
    with connect(pg_cluster.conninfo, os_user=plain_user.name) as connection:
        assert connection.info.server_version // 10000 == pg_version


@pytest.mark.root
@needs_root
def test_unknown_operating_system_user_is_named(pg_cluster: TestCluster) -> None:
    with pytest.raises(NotFound, match='"nosuchuser"'):
        connect(pg_cluster.conninfo, os_user="nosuchuser")


def test_session_does_not_depend_on_settings_of_the_role(pg_cluster: TestCluster) -> None:
    pg_cluster.sql("CREATE ROLE limited LOGIN")
    for setting in (
        "statement_timeout = '9s'",
        "idle_session_timeout = '9s'",
        "search_path = evil, pg_catalog",
        "datestyle = 'German'",
        "default_transaction_read_only = on",
    ):
        pg_cluster.sql(f"ALTER ROLE limited SET {setting}")
    with connect(f"{pg_cluster.conninfo} user=limited") as connection:
        shown = [
            connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("statement_timeout", "idle_session_timeout", "search_path", "transaction_read_only")
        ]
        assert shown == [("0",), ("0",), ("pg_catalog",), ("off",)]
        assert connection.execute("SELECT current_setting('application_name')").fetchone() == ("pghaven",)


def test_application_name_of_the_connection_string_wins(pg_cluster: TestCluster) -> None:
    with connect(f"{pg_cluster.conninfo} application_name=mine") as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("mine",)


def test_other_database_takes_the_place_of_the_configured_one(pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo, dbname="template1") as connection:
        assert connection.info.dbname == "template1"
    with pytest.raises(ServerUnsuitable, match=r'could not connect to database "nosuch": .*"nosuch" does not exist'):
        connect(pg_cluster.conninfo, dbname="nosuch")


def test_absent_server_gives_libpqs_reason_and_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ServerUnsuitable, match="No such file or directory") as caught:
        connect(f"host={tmp_path} dbname=postgres")
    assert "\n" not in caught.value.message
    assert "Check that the server runs" in (caught.value.hint or "")


@pytest.mark.parametrize("conninfo", ["host", "nosuchoption=1", "postgresql://[::1"])
def test_malformed_connection_string_is_wrong_usage(conninfo: str) -> None:
    with pytest.raises(UsageError, match="the connection string is not valid"):
        connect(conninfo)


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=/x password=my SECRET",
        'host=/x password="my SECRET"',
        "host=/x password='SECRET",
        "postgresql://u:SE%zzCRET@/db",
        "postgresql:///db?SECRET",
        "postgresql://u:SECRET@[::1/db",
    ],
)
def test_what_libpq_could_not_make_out_is_not_repeated_as_it_may_be_a_password(conninfo: str) -> None:
    with pytest.raises(UsageError, match="the connection string is not valid: ") as caught:
        connect(conninfo)
    assert "CRET" not in caught.value.message
    assert caught.value.__context__ is None, "a trace would show libpq's own words"


def test_an_option_that_libpq_does_not_know_is_named() -> None:
    with pytest.raises(UsageError, match='"pasword"'):
        connect("host=/x pasword=a")
