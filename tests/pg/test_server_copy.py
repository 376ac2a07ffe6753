"""Large tables that the server writes into our pipes itself: the same bytes as pg_dump's, and the same errors."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from pghaven.dump.programs import Calling, find_dump_programs
from pghaven.dump.servercopy import open_way
from pghaven.dump.session import run_dump
from pghaven.dump.snapshot import open_snapshot
from pghaven.errors import PghavenError, ServerUnsuitable
from pghaven.repository.entry import BackupState, Purpose
from pghaven.runtime.pace import Pace
from tests.pg.test_dump import Dumped
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.waiting import PATIENCE_SECONDS, wait_until

_ROWS = 90_000
_BY_SERVER = re.compile(r"statement: COPY (.*) TO '(/.*)'")


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Dumped:
    return Dumped(make_cluster(conf={"log_statement": "all"}), pghaven_command, server_path)


def list_copied(site: Dumped) -> list[str]:
    """The tables that the server wrote into a pipe, as the statements name them."""
    found = _BY_SERVER.findall(site.cluster.log())
    return [text.rpartition(" (")[0] for text, path in found if path.endswith(".dat")]


def make_large(site: Dumped, name: str, columns: str = "repeat(md5(i::text), 8) AS body", rows: int = _ROWS) -> None:
    """``columns`` beside a number of their own, 16 MB and more of rows, of which statistics are there, and no WAL to be
    archived."""
    site.cluster.sql(f"CREATE UNLOGGED TABLE {name} AS SELECT i AS id, {columns} FROM generate_series(1, {rows}) i")
    site.cluster.sql(f"ANALYZE {name}")


def list_processes() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_the_bytes_are_pg_dumps(site: Dumped) -> None:
    cluster = site.cluster
    make_large(site, "plain")
    make_large(
        site,
        '"Größe ""x"" (a) TO stdout"',
        "repeat(E'\\\\\\t\\n\\\\.\\n', i % 90) AS \"two words\", decode(md5(i::text), 'hex') AS bytes, "
        "random() AS real, repeat('ä', 80) AS text, NULL::int AS nothing, now() + i * interval '1 day' AS time",
    )
    cluster.sql("CREATE TABLE made (id int, body text, twice int GENERATED ALWAYS AS (id * 2) STORED, gone int)")
    cluster.sql("ALTER TABLE made DROP COLUMN gone")
    cluster.sql(f"INSERT INTO made SELECT i, repeat('made', 60) FROM generate_series(1, {_ROWS}) i")
    cluster.sql("ANALYZE made")
    cluster.sql("CREATE TABLE small AS SELECT i, md5(i::text) FROM generate_series(1, 1000) i")
    cluster.sql("CREATE TABLE empty (id int)")
    cluster.sql("ALTER ROLE postgres SET extra_float_digits = 0; ALTER ROLE postgres SET DateStyle = 'SQL, DMY'")
    before = list_processes()
    dumped = site.dump()
    assert sorted(list_copied(site)) == ['public."Größe ""x"" (a) TO stdout"', "public.made", "public.plain"]
    site.assert_whole(dumped.label)
    assert not list(site.place.glob("pghaven-dump-*"))
    assert list_processes() == before

    target = cluster.directory / "plain"
    cluster.run("pg_dump", "-Fd", "-j2", "-Z0", "--no-sync", "-f", str(target))
    theirs = sorted(blake3(path.read_bytes()).hexdigest(16) for path in target.glob("*.dat") if path.name != "toc.dat")
    (database,) = dumped.facts.databases
    assert sorted(table.hash for table in database.tables) == theirs


def test_the_same_dump_is_stored_once_whoever_copied(site: Dumped) -> None:
    make_large(site, "big")
    by_server = site.dump()
    by_pg_dump = site.dump(options=("--role=postgres",))
    assert list_copied(site) == ["public.big"]
    assert by_pg_dump.new_bytes < by_server.dumped_bytes * 0.01


@pytest.mark.parametrize("options", [("--inserts",), ("--quote-all-identifiers",), ("--encoding=LATIN1",)], ids=str)
def test_options_of_pg_dump_hold(site: Dumped, options: tuple[str, ...]) -> None:
    make_large(site, "big")
    dumped = site.dump(options=options)
    assert len(list_copied(site)) == (options != ("--inserts",))
    (table,) = dumped.facts.databases[0].tables
    assert options == ("--inserts",) or table.rows == _ROWS


def test_a_role_that_may_not_write_files_dumps_as_before(site: Dumped) -> None:
    make_large(site, "big")
    site.cluster.sql("CREATE ROLE reader LOGIN IN ROLE pg_read_all_data, pg_monitor")
    settings = replace(site.settings("postgres"), conninfo=f"{site.cluster.conninfo} user=reader")
    settings = replace(settings, conninfo=re.sub("user=postgres", "", settings.conninfo))
    dumped = run_dump(site.repository, settings, site.tell)
    assert dumped.facts.databases[0].tables[0].rows == _ROWS
    assert list_copied(site) == []
    assert "ERROR" not in site.cluster.log()


def test_where_most_is_small_nothing_is_put_between(site: Dumped) -> None:
    make_large(site, "big")
    for number in range(4):
        site.cluster.sql(f"CREATE TABLE small{number} AS SELECT * FROM big WHERE id < {_ROWS // 3}; ANALYZE")
    site.dump()
    assert list_copied(site) == []


def test_a_server_that_cannot_write_there_is_found_out(site: Dumped) -> None:
    make_large(site, "big")
    cluster = site.cluster
    calling = Calling.of(find_dump_programs(cluster.version, str(cluster.bin_dir)), cluster.conninfo, None)
    place = site.place / "spool"
    place.mkdir()
    with open_snapshot(cluster.conninfo, "postgres", None) as snapshot:
        place.chmod(0o700)
        os.chown(place, 0, 0)
        with open_way(calling, "postgres", snapshot.sizes, directory=str(place), options=()) as way:
            assert (way.relay is None) == (os.geteuid() == 0)
        assert not list(place.iterdir())


def test_a_row_that_cannot_be_read_is_told_of_with_its_table(site: Dumped) -> None:
    cluster = site.cluster
    make_large(site, "big", "repeat(md5(i::text), 8) AS body")
    cluster.sql("CREATE TABLE torn (id int, body text)")
    cluster.sql("ALTER TABLE torn ALTER body SET STORAGE EXTERNAL")
    cluster.sql("INSERT INTO torn SELECT i, repeat(md5(i::text), 2000) FROM generate_series(1, 600) i")
    cluster.sql("VACUUM ANALYZE torn")
    file = cluster.value("SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = 'torn'")
    cluster.stop()
    path = cluster.data_directory / file
    os.truncate(path, path.stat().st_size // 2 // 8192 * 8192)
    cluster.start()
    before = list_processes()
    with pytest.raises(ServerUnsuitable, match='"torn"') as caught:
        site.dump()
    assert "could not read block" in str(caught.value.detail)
    assert "public.torn" in list_copied(site)
    assert list_processes() == before
    assert not list(site.place.glob("pghaven-dump-*"))


def test_a_server_process_that_is_ended_in_the_middle_ends_the_dump(site: Dumped) -> None:
    make_large(site, "big")
    ended = threading.Event()

    def end_it() -> None:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY public.big%TO ''/%.dat%'"
        wait_until(lambda: bool(site.cluster.sql(query)), "the copy")
        ended.set()

    ender = threading.Thread(target=end_it)
    ender.start()
    try:
        with pytest.raises(PghavenError, match=r"big|terminat|closed"):
            run_dump(site.repository, replace(site.settings(), pace=Pace(4 << 20)), site.tell)
    finally:
        ender.join()
    assert ended.is_set()
    left = "SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE 'COPY public.big%' AND pid <> pg_backend_pid()"
    site.cluster.wait_for(left)
    assert not list(site.place.glob("pghaven-dump-*"))


def test_a_server_shuts_down_while_nobody_reads_what_it_writes(site: Dumped) -> None:
    make_large(site, "big", rows=4 * _ROWS)  # more than all slots and the pipe hold
    stopped = threading.Event()
    waiting = (
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'COPY public.big%TO ''/%.dat%' AND state = 'active'"
    )

    def stop_it() -> None:
        site.cluster.wait_for(waiting)
        wait_until(lambda: is_waiting_to_write(site), "a full pipe")
        site.cluster.instance.stop(timeout_seconds=PATIENCE_SECONDS / 10)
        stopped.set()

    stopper = threading.Thread(target=stop_it)
    stopper.start()
    try:
        with pytest.raises(PghavenError):
            run_dump(site.repository, replace(site.settings(), pace=Pace(1 << 16)), site.tell)
    finally:
        stopper.join()
    assert stopped.is_set()
    assert [one.state for one in site.catalog.list_entries(Purpose.DUMP)] == [BackupState.ABANDONED]
    assert not list(site.place.glob("pghaven-dump-*"))


def is_waiting_to_write(site: Dumped) -> bool:
    """Whether the server's process that copies has no room in the pipe."""
    ((pid,),) = site.cluster.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'COPY public.big%TO ''/%.dat%'")
    return "pipe_write" in Path(f"/proc/{pid}/wchan").read_text()
