"""What stands in the way of a dump or a load is said before anything is begun: versions, and what a server lacks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pghaven.dump.archive import ArchiveEntry, parse_contents
from pghaven.dump.facts import DatabaseFacts
from pghaven.dump.load import LoadResult, LoadSettings, OpenDump, open_dump, run_load
from pghaven.dump.programs import Calling, find_dump_programs
from pghaven.dump.properties import find_properties, give_properties
from pghaven.dump.small import read_small_file
from pghaven.errors import NotFound, Refused
from pghaven.repository.entry import Purpose
from pghaven.server.connection import connect
from pghaven.server.identity import find_owner
from pghaven.server.programs import Programs
from tests.pg.test_dump import Dumped
from tests.support.binaries import find_binaries
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import own


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


def make_tablespace(site: Dumped) -> None:
    place = site.place / "away"
    place.mkdir()
    own(place)
    site.cluster.sql(f"CREATE TABLESPACE away LOCATION '{place}'")


def forget(site: Dumped, *roles: str) -> None:
    """The server is as if it had never had the database that was dumped."""
    site.cluster.sql("DROP DATABASE source")
    for name in roles:
        site.cluster.sql(f'DROP ROLE "{name}"')
    site.cluster.sql("DROP TABLESPACE away")


def list_obstacles(site: Dumped, dump: OpenDump, **more: object) -> set[str]:
    """All that is told of a load that would be refused; nothing of one that would not."""
    try:
        load(site, dump, dump.choose("source"), dry_run=True, **more)
    except Refused as refused:
        return {refused.message.partition("cannot be loaded: ")[2], *(refused.detail or "").splitlines()} - {""}
    return set()


def test_all_that_a_server_lacks_is_told_at_once_and_nothing_is_loaded(site: Dumped) -> None:
    """Of a dump from a server that had an extension, a role, a tablespace and an encoding that this one has not."""
    cluster = site.cluster
    make_tablespace(site)
    cluster.sql("CREATE DATABASE source ENCODING EUC_JP LOCALE 'C' TEMPLATE template0")
    for statement in (
        "CREATE ROLE keeper; CREATE TABLE shop AS SELECT generate_series(1, 10) AS i",
        "ALTER TABLE shop OWNER TO keeper; CREATE TABLE far (i int) TABLESPACE away",
        # No server of the tests has this one, nor had.
        "CREATE EXTENSION hstore; UPDATE pg_extension SET extname = 'postgis' WHERE extname = 'hstore'",
    ):
        cluster.sql(statement, dbname="source")
    dump = open_dump(site.catalog, site.dump("source").label)
    there = dump.choose("source")
    forget(site, "keeper")
    cluster.sql("CREATE DATABASE target ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    with pytest.raises(Refused) as raised:
        load(site, dump, there)
    told = f"{raised.value.message}\n{raised.value.detail}"
    version = dict(there.extensions)["postgis"]
    for words in (
        'role "keeper" is missing',
        'tablespace "away" is missing',
        f'extension "postgis" (version {version} in the dump) is not installed on the server',
        'database "target" has encoding LATIN1, the dump EUC_JP',
    ):
        assert words in told
    assert raised.value.hint is not None and "--globals makes what is missing" in raised.value.hint
    assert int(cluster.value(tables, dbname="target")) == 0
    cluster.sql("CREATE DATABASE wide")
    options = ("--no-owner", "--no-tablespaces")
    load(site, dump, there, target="wide", tables=("shop", "far"), options=options)
    assert int(cluster.value(tables, dbname="wide")) == 2, "what lacks nothing is loaded"


_OTHERS = """
    CREATE ROLE keeper; CREATE ROLE reader; CREATE ROLE "odd TO ""one"; CREATE ROLE other; CREATE ROLE bystander;
    CREATE SCHEMA books; CREATE TABLE plain (i int); INSERT INTO plain SELECT generate_series(1, 10);
    CREATE TABLE orders (i int); ALTER TABLE orders OWNER TO keeper; GRANT SELECT (i) ON orders TO reader;
    CREATE POLICY "TO other" ON orders TO "odd TO ""one", reader USING (i IN (SELECT p.i FROM plain AS p));
    CREATE TABLE far (i int) TABLESPACE away; CREATE TABLE near (i int); CREATE INDEX afar ON near (i) TABLESPACE away;
    ALTER DEFAULT PRIVILEGES FOR ROLE other IN SCHEMA books GRANT SELECT ON TABLES TO bystander, public;
    CREATE EXTENSION hstore; CREATE TABLE pairs AS SELECT 'a=>1'::hstore AS pair
"""


def test_of_a_part_only_what_that_needs_must_be_there(site: Dumped) -> None:
    """Owners, whoever something is granted to, roles of policies and default privileges, tablespaces, extensions."""
    cluster = site.cluster
    make_tablespace(site)
    cluster.sql("CREATE DATABASE source")
    for statement in _OTHERS.split(";\n"):
        cluster.sql(statement, dbname="source")
    dump = open_dump(site.catalog, site.dump("source").label)
    odd = 'odd TO "one'
    forget(site, "keeper", "reader", odd.replace('"', '""'), "other", "bystander")
    cluster.sql("CREATE DATABASE target")
    everyone = {f'role "{name}" is missing' for name in ("keeper", "reader", odd, "other", "bystander")}
    away = 'tablespace "away" is missing'

    def lacks(**more: object) -> set[str]:
        return list_obstacles(site, dump, **more)

    assert lacks() == everyone | {away}
    assert lacks(tables=("plain",)) == set()
    assert lacks(tables=("orders", "plain")) == {f'role "{name}" is missing' for name in ("keeper", "reader", odd)}
    without = ("--no-owner", "--no-acl")
    assert lacks(tables=("orders", "plain"), options=without) == {
        f'role "{name}" is missing' for name in ("reader", odd)
    }
    assert lacks(schemas=("books",)) == {'role "other" is missing', 'role "bystander" is missing'}
    assert lacks(tables=("far",)) == lacks(tables=("near",)) == {away}
    assert lacks(tables=("far", "near"), options=("--no-tablespaces",)) == set()
    assert lacks(part="data") == set()
    assert lacks(make_globals=True) == set()

    done = load(site, dump, dump.choose("source"), tables=("plain", "pairs"))
    assert done.tables == 2
    assert cluster.value("SELECT count(*) FROM plain", dbname="target") == 10
    assert cluster.value("SELECT pair -> 'a' FROM pairs", dbname="target") == "1", "its extension came with it"


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


def test_the_encoding_that_counts_is_that_in_which_the_dump_is_written(site: Dumped) -> None:
    """Not that of the database: pg_dump had the server convert, and a name is read in that encoding too."""
    cluster = site.cluster
    cluster.sql("CREATE DATABASE source")
    cluster.sql("CREATE ROLE \"k\u00e9\"; CREATE TABLE words AS SELECT '\u00e9' AS word", dbname="source")
    cluster.sql('ALTER TABLE words OWNER TO "k\u00e9"', dbname="source")
    whole = open_dump(site.catalog, site.dump("source").label)
    narrow = open_dump(site.catalog, site.dump("source", options=("--encoding=latin-1",)).label)
    raw = open_dump(site.catalog, site.dump("source", options=("--encoding=SQL_ASCII",)).label)
    for name, encoding in (("target", "LATIN1"), ("kanji", "EUC_JP"), ("wide", "UTF8")):
        cluster.sql(f"CREATE DATABASE {name} ENCODING {encoding} LOCALE 'C' TEMPLATE template0")
    assert list_obstacles(site, whole) == {'database "target" has encoding LATIN1, the dump UTF8'}
    assert list_obstacles(site, narrow, target="kanji") == {'database "kanji" has encoding EUC_JP, the dump LATIN1'}
    (told,) = list_obstacles(site, raw)
    assert told.startswith('database "target" has encoding LATIN1, and the dump SQL_ASCII: bytes that')
    assert list_obstacles(site, raw, target="wide") == set(), "the bytes are those of a database like this one"
    for target in ("target", "wide"):
        load(site, narrow, narrow.choose("source"), target=target, options=("--no-owner",))
        assert cluster.value("SELECT word FROM words", dbname=target) == "\u00e9"
        cluster.sql("DROP TABLE words", dbname=target)
    cluster.sql("DROP DATABASE source")
    cluster.sql('DROP ROLE "k\u00e9"')
    assert list_obstacles(site, narrow, target="wide") == {'role "k\u00e9" is missing'}


_PROPERTIES = """
    CREATE ROLE keeper; CREATE ROLE reader; CREATE DATABASE "a DATABASE source" OWNER keeper;
    ALTER DATABASE "a DATABASE source" SET work_mem = '77MB'; ALTER DATABASE "a DATABASE source" CONNECTION LIMIT 7;
    ALTER DATABASE "a DATABASE source" SET application_name = 'of DATABASE source';
    ALTER ROLE reader IN DATABASE "a DATABASE source" SET work_mem = '55MB';
    REVOKE CONNECT ON DATABASE "a DATABASE source" FROM public; GRANT CONNECT ON DATABASE "a DATABASE source" TO reader;
    COMMENT ON DATABASE "a DATABASE source" IS 'a ''DATABASE source'
"""
_OF_DATABASE = """
    SELECT pg_get_userbyid(datdba) || datconnlimit::text || shobj_description(d.oid, 'pg_database') ||
        (SELECT string_agg(granted::text, ' ' ORDER BY granted::text) FROM unnest(datacl) AS granted) ||
        (SELECT string_agg(setrole::regrole::text || setconfig::text, ' ' ORDER BY setrole)
         FROM pg_db_role_setting WHERE setdatabase = d.oid)
    FROM pg_database d WHERE datname = '{}'
"""


_SETTINGS_OF = """
    SELECT setconfig::text FROM pg_db_role_setting
    WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = '{}')
"""


def read_entries(dump: OpenDump) -> tuple[ArchiveEntry, ...]:
    (database,) = dump.facts.databases
    return parse_contents(read_small_file(dump.catalog, dump.manifest, f"{database.directory}/toc.dat")).entries


def test_a_database_that_is_made_is_like_the_one_that_was_dumped(site: Dumped) -> None:
    """Its owner, grants, settings, limit and comment too, under another name."""
    cluster = site.cluster
    for statement in _PROPERTIES.split(";"):
        cluster.sql(statement)
    dump = open_dump(site.catalog, site.dump("a DATABASE source").label)
    before = cluster.value(_OF_DATABASE.format("a DATABASE source"))
    assert all(words in before for words in ("77MB", "55MB", "keeper", "reader=c", "of DATABASE source"))
    (database,) = dump.facts.databases
    load(site, dump, database, create=True)
    assert cluster.value(_OF_DATABASE.format("target")) == before
    load(site, dump, database, create=True, target="plain", options=("--no-owner", "--no-acl"))
    grants = "SELECT datacl IS NULL AND datdba = 10 FROM pg_database WHERE datname = 'plain'"
    assert cluster.value(grants) is True
    assert not [one for one in site.notices if one.code == "database_property"]

    settings = "ALTER DATABASE other SET work_mem TO 'much';\nALTER DATABASE other SET work_mem TO '5MB';\n"
    entry = find_properties(read_entries(dump), ("--no-owner", "--no-acl", "--no-comments"))[-1]
    with connect(cluster.conninfo) as connection:
        give_properties(connection, (replace(entry, definition=settings),), "plain", site.tell)
    (told,) = [one for one in site.notices if one.code == "database_property"]
    assert told.hint == "It was: ALTER DATABASE \"plain\" SET work_mem TO 'much';"
    assert "work_mem=5MB" in cluster.value(_SETTINGS_OF.format("plain"))

    for name in ("a DATABASE source", "target", "plain"):
        cluster.sql(f'DROP DATABASE "{name}"')
    cluster.sql("DROP ROLE reader; DROP ROLE keeper")
    with pytest.raises(Refused, match='role "keeper" is missing') as raised:
        load(site, dump, database, create=True)
    assert raised.value.detail == 'role "reader" is missing', "one that only settings and grants of the database name"
