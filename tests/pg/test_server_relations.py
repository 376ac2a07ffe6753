"""Names of relations against the files on disk."""

from __future__ import annotations

from collections.abc import Callable

from pghaven.events import Event, Notice
from pghaven.server.connection import Connection, connect
from pghaven.server.probe import probe_server
from pghaven.server.relations import SHARED_DATABASE_OID, RelationName, list_relations
from tests.support.cluster import Kind, TestCluster
from tests.support.fixtures import ClusterFactory


def opener(cluster: TestCluster) -> Callable[[str], Connection]:
    return lambda name: connect(cluster.conninfo, dbname=name)


def list_all(cluster: TestCluster) -> tuple[list[RelationName], list[Event]]:
    with connect(cluster.conninfo) as connection:
        databases = probe_server(connection).databases
    events: list[Event] = []
    return list(list_relations(opener(cluster), databases, events.append)), events


def test_every_name_has_its_file(pg_version: int, pg_cluster: TestCluster) -> None:
    pg_cluster.sql("CREATE TABLE public.big (id int PRIMARY KEY, body text)")
    pg_cluster.sql("CREATE UNLOGGED TABLE public.loose ()")
    pg_cluster.sql("CREATE VIEW public.nothing AS SELECT 1")
    found, _ = list_all(pg_cluster)
    assert len(found) > 300
    assert len({(one.database_oid, one.oid) for one in found}) == len(found)
    for one in found:
        place = "global" if one.database_oid == SHARED_DATABASE_OID else f"base/{one.database_oid}"
        assert (pg_cluster.data_directory / place / str(one.filenode)).exists(), one
    here = {one.name: one for one in found if one.database == "postgres"}
    big = here["big"]
    assert (big.schema, big.kind, big.tablespace_oid, big.table_oid) == ("public", "r", 1663, 0)
    assert (here["big_pkey"].kind, here["big_pkey"].table_oid) == ("i", big.oid)
    assert here[f"pg_toast_{big.oid}"].table_oid == big.oid
    assert "loose" in here
    assert "nothing" not in here


def test_shared_catalogues_are_listed_once(pg_cluster: TestCluster) -> None:
    found, _ = list_all(pg_cluster)
    shared = [one for one in found if one.name == "pg_database"]
    assert [(one.database_oid, one.database, one.tablespace_oid) for one in shared] == [(0, "", 1664)]
    assert len([one for one in found if one.name == "pg_class"]) == 2, "in postgres and in template1"


def test_databases_that_refuse_are_skipped_with_a_notice(pg_cluster: TestCluster) -> None:
    pg_cluster.sql("CREATE DATABASE gone")
    pg_cluster.sql("CREATE DATABASE closed ALLOW_CONNECTIONS false")
    with connect(pg_cluster.conninfo) as connection:
        databases = probe_server(connection).databases
    pg_cluster.sql("DROP DATABASE gone")
    events: list[Event] = []
    found = list(list_relations(opener(pg_cluster), databases, events.append))
    assert {one.database for one in found} == {"", "postgres", "template1"}
    notices = [event for event in events if isinstance(event, Notice)]
    assert {notice.code for notice in notices} == {"relations_skipped"}
    assert 'database "gone" does not exist' in "\n".join(notice.text for notice in notices)
    assert 'database "closed" are not recorded: it does not allow connections' in notices[0].text + notices[1].text
    assert "template0" not in notices[0].text + notices[1].text, "it never allows connections"


def test_names_of_no_known_encoding_are_shown_escaped(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(kind=Kind(encoding="SQL_ASCII"))
    with cluster.connect(client_encoding="SQL_ASCII") as connection:
        connection.execute(b'CREATE TABLE "caf\xe9" ()')
        connection.execute('CREATE TABLE "ländlich" ()'.encode())
    found, events = list_all(cluster)
    names = {one.name for one in found if one.schema == "public"}
    assert names == {"caf\\xe9", "ländlich"}
    assert events == []


def test_listing_can_be_given_up_halfway(pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo) as connection:
        databases = probe_server(connection).databases
    relations = list_relations(opener(pg_cluster), databases)
    next(relations)
    relations.close()  # type: ignore[attr-defined]
    pg_cluster.wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pghaven'")
