"""Dumps of real servers: what is stored of them, what comes out again, and what ends badly."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from blake3 import blake3

from pghaven.dump.contents import END_OF_DATA, Compared, ContentsSettings, Difference, open_contents
from pghaven.dump.extract import extract_files
from pghaven.dump.load import OpenDump, open_dump
from pghaven.dump.obstacles import tell_extensions
from pghaven.dump.programs import Calling, find_dump_programs
from pghaven.dump.proving import iter_jobs
from pghaven.dump.session import DumpResult, DumpSettings, run_dump
from pghaven.dump.snapshot import open_snapshot
from pghaven.dump.spool import Spool
from pghaven.dump.streams import SLOT_BYTES, Means
from pghaven.dump.worker import RangeJob
from pghaven.errors import Refused, ServerUnsuitable
from pghaven.events import ignore
from pghaven.proof.verify import VerifySettings, run_verify
from pghaven.repository.entry import BackupState, Purpose
from pghaven.repository.manifest import HASH_BYTES
from pghaven.runtime.sharedslots import SharedSlots
from pghaven.server.connection import connect
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.protected import Protected


class Dumped(Protected):
    pg_bin: str | None = None

    def settings(self, *databases: str, options: tuple[str, ...] = ()) -> DumpSettings:
        return DumpSettings(
            cluster=self.name,
            conninfo=self.cluster.conninfo,
            data_directory=str(self.cluster.data_directory),
            databases=databases,
            options=options,
            jobs=2,
            processes=2,
            level=3,
            spool=str(self.place),
            pg_bin=self.pg_bin or str(self.cluster.bin_dir),
        )

    def dump(self, *databases: str, options: tuple[str, ...] = ()) -> DumpResult:
        return run_dump(self.repository, self.settings(*databases, options=options), self.tell)

    def assert_whole(self, label: str) -> OpenDump:
        """What is in the repository is what pg_dump wrote, by the hashes that were taken meanwhile."""
        dump = open_dump(self.catalog, label)
        for database in dump.facts.databases:
            target = self.place / f"out-{label}-{database.oid}"
            wanted = [(path, str(target / Path(path).name)) for path in dump.list_files(database.directory)]
            extract_files(dump.catalog, dump.manifest, wanted, processes=2, listener=ignore)
            for table in database.tables:
                content = (target / table.file).read_bytes()
                assert blake3(content).hexdigest(16) == table.hash, table.name
                name = ".".join('"{}"'.format(part.replace('"', '""')) for part in (table.schema, table.name))
                count = self.cluster.value(f"SELECT count(*) FROM {name}", dbname=database.name)
                assert table.rows == int(count), table.name
        return dump


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Dumped:
    return Dumped(make_cluster(), pghaven_command, server_path)


def test_a_later_dump_stores_the_rows_that_changed(site: Dumped) -> None:
    """Also when rows before them went, and tables came that shift every number of pg_dump's."""
    cluster = site.cluster
    cluster.sql(
        "CREATE TABLE big AS SELECT i AS id, md5(i::text) AS one, md5((i * 7)::text) AS two "
        "FROM generate_series(1, 300000) i"
    )
    for number in range(20):
        cluster.sql(f"CREATE TABLE small{number} AS SELECT i, random() FROM generate_series(1, 50) i")
    first = site.dump()
    site.assert_whole(first.label)
    assert first.parent is None
    cluster.sql("CREATE TABLE aa AS SELECT i FROM generate_series(1, 10) i")
    cluster.sql("UPDATE big SET one = md5(random()::text) WHERE random() < 0.01")
    second = site.dump()
    assert second.parent == first.label
    assert second.stored_bytes < first.stored_bytes * 0.05
    site.assert_whole(second.label)
    cluster.sql("DELETE FROM big WHERE id < 30000")
    cluster.sql("VACUUM big")
    cluster.sql("INSERT INTO big SELECT i, 'new', md5(i::text) FROM generate_series(1, 1000) i")
    third = site.dump()
    assert third.stored_bytes < first.stored_bytes * 0.05
    site.assert_whole(third.label)
    result = run_verify(site.repository, VerifySettings(cluster=site.name, processes=0), ignore)
    assert not result.findings or all(one.gravity.name == "INFO" for one in result.findings), result.findings


def test_a_large_table_passes_through_no_file(site: Dumped) -> None:
    cluster = site.cluster
    cluster.sql(
        "CREATE TABLE big AS SELECT i AS id, md5(i::text) AS one FROM generate_series(1, 400000) i; ANALYZE big"
    )
    cluster.sql("CREATE TABLE small AS SELECT 1 AS id")
    calling = Calling.of(find_dump_programs(cluster.version, str(cluster.bin_dir)), cluster.conninfo, None)
    slots = SharedSlots(3, SLOT_BYTES)
    content, numbers = bytearray(), count()
    with open_snapshot(cluster.conninfo, "postgres", None) as snapshot:
        path = site.place / "spool"
        spool = Spool(
            calling,
            str(path),
            number_file=lambda _: next(numbers),
            settle=lambda _: False,
            make_range=lambda file, offset, length, is_last: RangeJob(file.number, (), offset, length, is_last),
            bytes_max=1 << 30,
            streams=Means(slots=slots, sizes=snapshot.sizes, jobs=2),
        )
        options = ["--format=directory", "--compress=0", "--no-sync", "--jobs=2", f"--snapshot={snapshot.identifier}"]
        for job in spool.run([*options, f"--file={path}", "-d", cluster.conninfo], "dump", lambda: None):
            if isinstance(job, RangeJob) and job.slot is not None:
                assert job.offset == len(content)
                content += slots.view(job.slot)[: job.length]
                slots.give_back(job.slot)
    (streamed,) = (one for one in spool.files.values() if one.rows == 400_000)
    assert content.count(b"\n") == 400_000 + END_OF_DATA.count(b"\n")
    assert blake3(content).digest(HASH_BYTES) == streamed.hash
    assert streamed.is_whole
    assert [one.rows for one in spool.files.values() if one.is_table_data and one is not streamed] == [1]
    assert sorted(slots.take() or 0 for _ in range(3)) == [0, 1, 2], "a slot was not given back"


def test_loaded_rows_are_compared_whatever_their_order(site: Dumped) -> None:
    cluster = site.cluster
    cluster.sql(
        "CREATE TABLE stock AS SELECT i % 700 AS i, repeat('x', i % 900) AS body FROM generate_series(1, 9000) i"
    )
    dump = open_dump(site.catalog, site.dump("postgres").label)
    (database,) = dump.facts.databases
    settings = ContentsSettings(
        conninfo=cluster.conninfo,
        encoding=database.encoding,
        session=database.settings,
        place=dump.catalog.pack_place,
        packs=dump.manifest.packs,
    )
    worker = open_contents(settings)
    (job,) = iter_jobs(dump, database)
    assert worker(job).difference is None
    cluster.sql("UPDATE stock SET i = i WHERE i % 2 = 0")
    assert worker(job) == Compared(rows=9000)
    cluster.sql("UPDATE stock SET i = 701 WHERE ctid = (SELECT min(ctid) FROM stock)")
    different = worker(job).difference
    assert different == Difference(name="public.stock", text="9,000 rows as dumped, but their checksum differs")
    cluster.sql("DELETE FROM stock WHERE i = 701")
    different = worker(job).difference
    assert different is not None and different.text == "9,000 rows were dumped, 8,999 are loaded"
    worker.close()


def test_an_extension_of_another_version_is_told(site: Dumped) -> None:
    with connect(site.cluster.conninfo) as connection:
        database = open_dump(site.catalog, site.dump("postgres").label).choose("postgres")
        tell_extensions(connection, database, site.tell)
        assert "extension_version" not in site.notice_codes()
        tell_extensions(connection, replace(database, extensions=(("plpgsql", "99.0"),)), site.tell)
    assert site.notices[-1].text == 'extension "plpgsql" was dumped in version 99.0, and the server has 1.0'


def test_a_dump_stands_alone_when_the_others_are_gone(site: Dumped) -> None:
    site.cluster.sql("CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i")
    site.dump()
    site.cluster.sql("UPDATE big SET md5 = 'x' WHERE i % 100 = 0")
    second = site.dump()
    for entry in site.catalog.list_committed(Purpose.DUMP)[:-1]:
        for path in (site.repository_directory / "clusters" / site.name / "backups" / entry.label).rglob("*"):
            if path.is_file():
                path.unlink()
    site.assert_whole(second.label)


def test_a_dump_is_not_built_on_one_that_lacks_a_pack(site: Dumped) -> None:
    """It would refer to what is not there, and be listed as whole."""
    site.cluster.sql("CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i")
    older = site.dump()
    site.cluster.sql("CREATE TABLE more AS SELECT i, md5((i * 3)::text) FROM generate_series(1, 50000) i")
    newer = site.dump()
    assert newer.parent == older.label
    for path in (site.repository_directory / "clusters" / site.name / "packs" / newer.label).iterdir():
        path.unlink()
    last = site.dump()
    assert last.parent == older.label
    assert "damaged_dump" in site.notice_codes()
    site.assert_whole(last.label)


def test_all_databases_with_odd_names_large_objects_and_bytes(site: Dumped, pg_version: int) -> None:
    cluster = site.cluster
    name = """odd "name' of=a\\ database"""
    with_quotes = name.replace('"', '""')
    cluster.sql(f'CREATE DATABASE "{with_quotes}"')
    cluster.sql(
        "CREATE TABLE blobs AS SELECT 1 AS id, decode(repeat('0a5c', 3000000), 'hex') AS body; "
        "SELECT lo_from_bytea(0, decode(repeat('00ff', 100000), 'hex')); CREATE TABLE empty (i int)",
        dbname=name,
    )
    cluster.sql("CREATE DATABASE half_dropped")
    cluster.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half_dropped'")
    result = site.dump()
    assert {one.name for one in result.facts.databases} == {"postgres", name}
    again = site.dump()
    assert again.stored_bytes < result.stored_bytes
    site.assert_whole(again.label)


def test_names_that_are_no_text_are_refused_before_anything_is_begun(site: Dumped) -> None:
    """Where a database has no encoding a name may be any bytes; what is UTF-8 is dumped."""
    cluster = site.cluster
    for name, table in (("bytes", "74ff"), ("text", "74c3a9")):
        cluster.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        table_name = f"convert_from('\\x{table}'::bytea, 'SQL_ASCII')"
        cluster.sql(f"DO $$ BEGIN EXECUTE format('CREATE TABLE %I (i int)', {table_name}); END $$", dbname=name)
    with pytest.raises(Refused) as raised:
        site.dump()
    assert r'table "public.t\xff" of database "bytes"' in raised.value.message
    assert site.catalog.list_entries(Purpose.DUMP) == ()
    (table,) = open_dump(site.catalog, site.dump("text").label).facts.databases[0].tables
    assert table.name == "t\u00e9"


def test_what_ends_badly_is_never_listed(site: Dumped) -> None:
    """Rows that the role may not see, a table it may not read: pg_dump says which, and there is no dump."""
    cluster = site.cluster
    cluster.sql("CREATE TABLE secret (i int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
    cluster.sql("CREATE ROLE reader LOGIN; GRANT pg_monitor TO reader; GRANT SELECT ON secret TO reader")
    site.dump()
    listed = [entry.label for entry in site.catalog.list_committed(Purpose.DUMP)]
    good = cluster.conninfo
    settings = DumpSettings(
        cluster=site.name,
        conninfo=f"{good} user=reader",
        data_directory="",
        databases=("postgres",),
        options=(),
        jobs=1,
        processes=1,
        level=1,
        spool=str(site.place),
        pg_bin=str(cluster.bin_dir),
    )
    with pytest.raises(ServerUnsuitable, match="could not dump"):
        run_dump(site.repository, settings, site.tell)
    assert [entry.label for entry in site.catalog.list_committed(Purpose.DUMP)] == listed
    states = [entry.state for entry in site.catalog.list_entries(Purpose.DUMP)]
    assert states == [BackupState.COMMITTED, BackupState.ABANDONED]
    assert site.catalog.list_entries() == ()
    assert not list(site.place.glob("pghaven-dump-*"))


def replace_dumpall(site: Dumped, script: str) -> None:
    """Have pg_dumpall be a script; ``$REAL`` is what it was."""
    programs = site.place / "programs"
    programs.mkdir()
    for program in ("pg_dump", "pg_restore"):
        (programs / program).write_text(f'#!/bin/sh\nexec "{site.cluster.bin_dir}/{program}" "$@"\n')
    (programs / "pg_dumpall").write_text(f'#!/bin/sh\nREAL="{site.cluster.bin_dir}/pg_dumpall"\n{script}\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    site.pg_bin = str(programs)


def test_roles_that_cannot_be_dumped_end_the_dump(site: Dumped) -> None:
    """Though its databases are being dumped already."""
    replace_dumpall(site, "echo 'pg_dumpall: error: no such luck' >&2; exit 1")
    with pytest.raises(ServerUnsuitable, match="could not dump roles and tablespaces: no such luck"):
        site.dump()
    assert [entry.state for entry in site.catalog.list_entries(Purpose.DUMP)] == [BackupState.ABANDONED]
    assert not list(site.place.glob("pghaven-dump-*"))


def test_more_roles_than_a_pipe_holds_are_dumped(site: Dumped) -> None:
    replace_dumpall(site, '"$REAL" "$@"; head -c 3000000 /dev/zero | tr "\\\\0" -')
    dump = site.assert_whole(site.dump().label)
    assert dump.read_globals().endswith(b"-" * 3_000_000)
