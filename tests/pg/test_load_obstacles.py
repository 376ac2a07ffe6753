"""What stands in the way of a dump or a load is said before anything is begun: versions, and what a server lacks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pghaven.dump.facts import DatabaseFacts
from pghaven.dump.load import LoadResult, LoadSettings, OpenDump, open_dump, run_load
from pghaven.dump.programs import Calling, find_dump_programs
from pghaven.errors import NotFound, Refused
from pghaven.repository.entry import Purpose
from pghaven.server.identity import find_owner
from pghaven.server.programs import Programs
from tests.pg.test_dump import Dumped
from tests.support.binaries import find_binaries
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Dumped:
    return Dumped(make_cluster(), pghaven_command, server_path)


def load(site: Dumped, dump: OpenDump, database: DatabaseFacts, **more: object) -> LoadResult:
    """Into a database of the server that was dumped."""
    owner = find_owner(str(site.cluster.data_directory)) if os.geteuid() == 0 else None
    settings = LoadSettings(
        conninfo=site.cluster.conninfo,
        os_user=owner.name if owner is not None else None,
        target="target",
        create=False,
        jobs=1,
        processes=0,
        scratch=str(site.place),
    )
    calling = Calling.of(find_dump_programs(dump.program_major), site.cluster.conninfo, owner)
    return run_load(dump, database, calling, replace(settings, **more), site.tell)  # type: ignore[arg-type]


def find_other(major: int) -> Programs:
    found = find_binaries(major)
    if not isinstance(found, Programs):
        pytest.skip(f"no PostgreSQL {major}: {found.reason}")
    return found


def test_all_that_a_server_lacks_is_told_at_once_and_nothing_is_loaded(site: Dumped) -> None:
    """Of a dump from a server that had an extension, a role, a tablespace and an encoding that this one has not."""
    cluster = site.cluster
    cluster.sql("CREATE TABLE shop AS SELECT generate_series(1, 10) AS i")
    dump = open_dump(site.catalog, site.dump("postgres").label)
    there = dump.choose("postgres")
    lacking = replace(
        there,
        encoding="EUC_JP",
        extensions=(*there.extensions, ("postgis", "3.4.0")),
        roles=(*there.roles, "keeper"),
        tablespaces=("fast",),
    )
    cluster.sql("CREATE DATABASE target ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    with pytest.raises(Refused) as raised:
        load(site, dump, lacking)
    told = f"{raised.value.message}\n{raised.value.detail}"
    for words in (
        'role "keeper" is missing',
        'tablespace "fast" is missing',
        'extension "postgis" (version 3.4.0 in the dump) is not installed on the server',
        'database "target" has encoding LATIN1, the dump EUC_JP',
    ):
        assert words in told
    assert raised.value.hint is not None and "--globals makes what is missing" in raised.value.hint
    assert int(cluster.value(tables, dbname="target")) == 0
    cluster.sql("CREATE DATABASE wide")
    load(site, dump, there, target="wide")
    assert int(cluster.value(tables, dbname="wide")) == 1, "what lacks nothing is loaded"


def test_an_older_pg_dump_is_refused_before_anything_is_begun(site: Dumped, pg_version: int) -> None:
    older = find_other(pg_version - 1)
    site.pg_bin = str(older.bin_dir)
    with pytest.raises(NotFound) as raised:
        site.dump()
    assert raised.value.message == f"there is no pg_dump of PostgreSQL {pg_version} or newer on this host"
    assert raised.value.detail is not None and f"has version {pg_version - 1}." in raised.value.detail
    assert site.catalog.list_entries(Purpose.DUMP) == ()


def test_a_newer_pg_dump_says_so_and_its_dump_goes_into_no_older_server(site: Dumped, pg_version: int) -> None:
    newer = find_other(pg_version + 1)
    site.cluster.sql("CREATE TABLE shop AS SELECT generate_series(1, 10) AS i")
    site.cluster.sql("CREATE DATABASE target")
    site.pg_bin = str(newer.bin_dir)
    dump = open_dump(site.catalog, site.dump("postgres").label)
    (told,) = [one for one in site.notices if one.code == "dump_version"]
    assert told.text.startswith(f"pg_dump {newer.version} dumps a server {pg_version}.")
    assert dump.program_major == pg_version + 1
    with pytest.raises(Refused, match=f"and the server is of the older version {pg_version}"):
        load(site, dump, dump.choose("postgres"))


def test_bytes_of_no_known_encoding_go_into_no_database_that_has_one(site: Dumped) -> None:
    """The server does not check rows that are sent as SQL_ASCII: they would be there, and whoever reads them fails."""
    cluster = site.cluster
    for name, encoding in (("raw", "SQL_ASCII"), ("target", "UTF8")):
        cluster.sql(f"CREATE DATABASE {name} ENCODING {encoding} LOCALE 'C' TEMPLATE template0")
    cluster.sql("CREATE TABLE words AS SELECT convert_from('\\xe9', 'SQL_ASCII') AS word", dbname="raw")
    dump = open_dump(site.catalog, site.dump("raw").label)
    with pytest.raises(Refused, match="has encoding UTF8, and the dump SQL_ASCII") as raised:
        load(site, dump, dump.choose("raw"))
    assert raised.value.hint is not None and "--option=--encoding=NAME" in raised.value.hint
    load(site, dump, dump.choose("raw"), target="same", create=True)
    assert cluster.value("SELECT word::bytea FROM words", dbname="same") == b"\xe9"

    known = open_dump(site.catalog, site.dump("raw", options=("--encoding=LATIN1",)).label)
    load(site, known, known.choose("raw"))
    assert cluster.value("SELECT word FROM words", dbname="target") == "\u00e9"
