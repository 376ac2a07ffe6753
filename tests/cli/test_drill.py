"""``pghaven drill``: what is proven by it, what it finds, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pghaven.errors import EXIT_WARNINGS, CheckFailed
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.page import checksums
from pghaven.runtime.whoami import read_own_identity
from pghaven.server.postmaster import list_server_processes
from tests.cli.site import NAME, Site
from tests.support.agent import running_agent
from tests.support.cluster import adopt
from tests.support.moving import list_files
from tests.support.places import copy_tree, own
from tests.support.planting import forge_file, forge_segment
from tests.support.waiting import wait_until

FAILED = CheckFailed.exit_status
WARNINGS = EXIT_WARNINGS
PAGE = 8192
CHECKSUM_AT = slice(8, 10)


@pytest.fixture
def drills(site: Site) -> Iterator[Path]:
    """Where drills restore to; empty before and after."""
    place = site.place / "drills"
    place.mkdir()
    own(place)
    yield place
    assert list(place.iterdir()) == []


def drill(site: Site, drills: Path, *words: str, status: int = 0) -> dict[str, Any]:
    (result,) = site.json("drill", NAME, "--directory", str(drills), *words, status=status)["drills"]
    assert isinstance(result, dict)
    return result


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    """The verdict on each question; the last where there are several."""
    return {one["name"]: one["verdict"] for one in result["checks"]}


def failures(result: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in result["checks"]:
        if one["verdict"] == "FAILED":
            found[one["name"]] = f"{found.get(one['name'], '')}{one['text']}\n"
    return found


def test_a_cluster_that_comes_back_passes_every_question(pg_version: int, site: Site, drills: Path) -> None:
    """Whatever its configuration would have loaded or started is of no effect."""
    check = '{name = "sum", database = "postgres", sql = "SELECT sum(i) FROM t", expect = "500500"}'
    site.write_config(f"[cluster.{NAME}.drill]\nchecks = [{check}]\n")
    site.set_up()
    space = site.place / "space"
    space.mkdir()
    own(space)
    site.cluster.sql(f"CREATE TABLESPACE space LOCATION '{space}'")
    site.cluster.sql("CREATE TABLE t (i int PRIMARY KEY, s text) TABLESPACE space; CREATE INDEX ON t (s)")
    site.cluster.sql("CREATE DATABASE hostile")
    site.cluster.sql("ALTER DATABASE hostile SET session_preload_libraries = 'no_such_library'")
    site.cluster.append_conf(shared_preload_libraries="no_such_library_either", listen_addresses="*", port="1")
    site.ok("backup")
    site.cluster.sql("INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 1000) i")
    mark = site.json("mark", "--database", "postgres")
    site.cluster.sql("UPDATE t SET s = 'changed' WHERE i = 1")
    site.archive_all()
    result = drill(site, drills, "--at", "latest")
    assert {one["name"]: one["verdict"] for one in result["checks"]} == dict.fromkeys(
        (
            *("plan", "files", "marker", "point", "pages", "rows"),
            *("extensions", "collations", "indexes", "own check sum"),
        ),
        "OK",
    )
    assert (mark["tables"], mark["rows"]) == (1, 1000)
    assert result["passed"] is True
    assert result["rows"] > 1000
    assert set(result["seconds"]) == {"plan", "fetch", "compare", "replay", "first_query", "stop", "questions", "total"}
    assert Lsn.parse(result["reached"]["lsn"]) >= Lsn.parse(result["promised_lsn"])
    assert (site.repository / result["evidence"]).exists()
    assert_known(site, result)


def test_the_copy_is_kept_apart_whatever_was_set_up_at_the_source(pg_version: int, site: Site, drills: Path) -> None:
    """Seen from inside: its own checks tell what the drill's server is like. The source has what would disturb it: a
    background worker, a subscription, event triggers, and settings of databases and roles."""
    questions = {
        "no network": "SELECT inet_server_addr() IS NULL AND current_setting('listen_addresses') = ''",
        "nothing archived": "SELECT current_setting('archive_mode') = 'off'",
        "nobody followed": "SELECT current_setting('primary_conninfo') = ''",
        "nobody served": "SELECT current_setting('max_wal_senders') = '0'",
        "no libraries": "SELECT current_setting('shared_preload_libraries') = ''",
        "no workers": "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%' "
        "OR backend_type = 'archiver'",
        "the subscription is back": "SELECT subenabled FROM pg_subscription",
        "damage shows": "SELECT string_agg(current_setting(s), ',') = 'off,off' FROM "
        "unnest('{zero_damaged_pages, ignore_checksum_failure}'::text[]) s",
        "kept small": "SELECT current_setting('temp_file_limit') = '1GB'",
        "as itself": "SELECT current_user = session_user AND current_setting('statement_timeout') = '1d'",
    }
    checks = ", ".join(f'{{name = "{name}", database = "shop", sql = "{sql}"}}' for name, sql in questions.items())
    site.write_config(f"[cluster.{NAME}.drill]\nchecks = [{checks}]\n")
    site.set_up()
    site.cluster.sql("CREATE DATABASE shop")
    site.cluster.append_conf(
        shared_preload_libraries="pg_prewarm", zero_damaged_pages="on", shared_buffers="16MB", statement_timeout="1min"
    )
    site.cluster.restart()
    wait_until(lambda: "autoprewarm leader" in " ".join(list_titles(site.cluster.data_directory)), "the worker")
    site.cluster.sql("CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)", dbname="shop")
    site.cluster.sql("CREATE SUBSCRIPTION s CONNECTION 'host=/x' PUBLICATION p WITH (connect = false)", dbname="shop")
    site.cluster.sql("ALTER SUBSCRIPTION s ENABLE", dbname="shop")
    site.cluster.sql(
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
        "CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION forbid()",
        dbname="shop",
    )
    site.ok("backup")
    site.cluster.append_conf(max_connections="300", max_worker_processes="30", max_wal_senders="40")
    site.cluster.restart()  # raised after the backup: a standby with less stands still here
    mark = site.json("mark")
    hostile = ["statement_timeout = '1ms'", "role = 'pg_monitor'", "search_path = 'evil, pg_catalog'"]
    if pg_version >= 17:
        hostile.append("transaction_timeout = '1ms'")
    for setting in hostile:
        site.cluster.sql(f"ALTER ROLE ALL IN DATABASE shop SET {setting}")
    site.archive_all()
    result = drill(site, drills, "--at", "latest", "--skip", "collations")
    found = verdicts(result)
    assert {name: found[f"own check {name}"] for name in questions} == dict.fromkeys(questions, "OK"), result["checks"]
    assert (found["marker"], found["indexes"], mark["tables"]) == ("OK", "OK", 1)


def list_titles(data_directory: Path) -> list[str]:
    """What the server's processes call themselves."""
    paths = [Path(f"/proc/{pid}/cmdline") for pid in list_server_processes(str(data_directory))]
    return [path.read_text().strip("\0") for path in paths if path.exists()]


def assert_known(site: Site, result: dict[str, Any]) -> None:
    """``list`` and ``status`` tell of a drill that passed."""
    (listed,) = site.json("list")["clusters"][0]["backups"]
    assert (listed["label"], listed["drilled"]["passed"]) == (result["backup"], True)
    assert "passed 20" in site.ok("list")
    (repository,) = site.json("status")["clusters"][0]["repositories"]
    assert repository["last_drill"]["evidence"] == result["evidence"]
    assert repository["recovery_time"]["measured_seconds"] == pytest.approx(result["seconds"]["first_query"], abs=0.01)
    assert repository["recovery_time"]["estimated_seconds"] > 0
    assert "now, by what was measured" in site.ok("status")
    mapping = f"{site.place / 'space'}={site.place / 'elsewhere'}"
    words = ("--target-dir", str(site.target), "--tablespace-mapping", mapping, "--dry-run")
    plan = site.json("restore", NAME, *words)["plan"]
    assert plan["rates_measured_at"] == repository["last_drill"]["at"]
    assert "'main.recovery_time'=" in site.run("check", "--nagios").out
    (answer,) = site.json("status", "--at", str(site.cluster.value("SELECT clock_timestamp()")), status=3)["answers"]
    assert answer["is_reachable"] is False, "it is not archived yet"


def table_page(site: Site, table: str) -> Path:
    """The file of a small table, whose page the server keeps in memory, and has written."""
    site.cluster.sql(f"SELECT count(*) FROM {table}")
    site.cluster.sql("CHECKPOINT")
    return Path(site.cluster.data_directory) / str(site.cluster.value(f"SELECT pg_relation_filepath('{table}')"))


def alter(path: Path, *, with_checksum: bool) -> None:
    """Change a row of the first page behind the server's back: the first row's value is followed by four bytes that
    mean nothing."""
    content = bytearray(path.read_bytes())
    alter_page(content, with_checksum=with_checksum)
    path.write_bytes(content)


def alter_page(content: bytearray, *, with_checksum: bool = False) -> None:
    content[PAGE - 8] ^= 0x80
    if with_checksum:
        found = checksums(np.frombuffer(bytes(content[:PAGE]), np.uint8), np.zeros(1, np.uint32))
        content[CHECKSUM_AT] = int(found[0]).to_bytes(2, "little")


@pytest.mark.ends
def test_what_is_whole_and_wrong_is_found(pg_version: int, site: Site, drills: Path) -> None:
    """A page that was altered and fits its checksum, one that does not, and a row that an index has forgotten."""
    check = '{name = "few", database = "postgres", sql = "SELECT count(*) < 2 FROM forgotten"}'
    site.write_config(f"[cluster.{NAME}.drill]\nchecks = [{check}]\n")
    site.set_up()
    for name in ("altered", "broken", "forgotten"):
        site.cluster.sql(f"CREATE TABLE {name} (i int PRIMARY KEY); INSERT INTO {name} SELECT generate_series(1, 100)")
    set_ready = "UPDATE pg_index SET indisready = {} WHERE indexrelid = 'forgotten_pkey'::regclass"
    site.cluster.sql(
        f"SET allow_system_table_mods = on; {set_ready.format('false')}; INSERT INTO forgotten VALUES (101)"
    )
    site.cluster.sql(f"SET allow_system_table_mods = on; {set_ready.format('true')}")
    altered, broken = (table_page(site, name) for name in ("altered", "broken"))
    alter(altered, with_checksum=True)
    alter(broken, with_checksum=False)
    assert site.run("backup").status == 3, "of the broken page the backup warns; it cannot know of the others"
    site.json("mark")
    site.archive_all()
    found = failures(drill(site, drills, "--at", "latest", status=FAILED))
    assert set(found) == {"marker", "pages", "rows", "indexes", "own check few"}
    assert "table postgres.public.altered has as many rows as at the source (100), but not the same" in found["marker"]
    assert "table postgres.public.broken could not be read: invalid page" in found["marker"]
    assert broken.name in found["pages"]
    assert "altered" not in found["pages"], "its checksum is right"
    assert "postgres: public.broken: invalid page in block 0" in found["rows"]
    assert 'lacks matching index tuple within index "forgotten_pkey"' in found["indexes"]
    assert found["own check few"] == 'gave "f", expected was "t"\n'


def test_what_was_forged_in_the_repository_with_all_its_hashes_is_found(
    pg_version: int, site: Site, drills: Path
) -> None:
    """A page that is not the server's: with the checksum that it had, and with one that fits."""
    site.set_up()
    for name in ("broken", "forged"):
        site.cluster.sql(f"CREATE TABLE {name} (i int PRIMARY KEY); INSERT INTO {name} SELECT generate_series(1, 100)")
    # Read and written before the backup: else a later hint would bring the whole page into the WAL, and heal it.
    files = [table_page(site, name) for name in ("broken", "forged")]
    paths = [str(path.relative_to(site.cluster.data_directory)) for path in files]
    label = site.json("backup")["label"]
    site.json("mark")
    site.archive_all()
    quick = ("--at", "latest", "--skip", "indexes", "--skip", "collations")
    assert drill(site, drills, *quick)["passed"] is True
    forge_file(site.repository, NAME, label, paths[0], alter_page)
    forge_file(site.repository, NAME, label, paths[1], lambda content: alter_page(content, with_checksum=True))
    result = drill(site, drills, *quick, status=FAILED)
    found = failures(result)
    assert verdicts(result)["files"] == "OK", "every hash is right"
    assert set(found) == {"marker", "pages", "rows"}
    assert "table postgres.public.broken could not be read: invalid page in block 0" in found["marker"]
    assert "table postgres.public.forged has as many rows as at the source (100), but not the same" in found["marker"]
    assert f"{Path(paths[0]).name}" in found["pages"]
    assert "checksum verification failed" in found["pages"]
    assert Path(paths[1]).name not in found["pages"], "its checksum is right"
    assert "postgres: public.broken: invalid page in block 0" in found["rows"]


def test_what_this_host_lacks_is_found(pg_version: int, site: Site, drills: Path) -> None:
    """An extension's version that is not installed here, and text that was sorted by another version of the library."""
    site.set_up()
    site.cluster.sql("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = 'postgres'")
    quick = [word for name in ("pages", "rows", "indexes") for word in ("--skip", name)]
    site.ok("backup")
    site.archive_all()
    result = drill(site, drills, "--at", "latest", *quick, status=WARNINGS)
    found = {one["name"]: one for one in result["checks"]}
    assert (result["passed"], found["collations"]["verdict"], found["extensions"]["verdict"]) == (True, "WARNING", "OK")
    assert "database postgres (database postgres): 0.1 at the source, " in found["collations"]["text"]
    site.cluster.sql("UPDATE pg_extension SET extversion = '99.0' WHERE extname = 'plpgsql'")
    site.archive_all()
    result = drill(site, drills, "--at", "latest", *quick, status=FAILED)
    assert failures(result) == {"extensions": "not installed on this host: plpgsql 99.0 (database postgres)\n"}


def test_a_cluster_that_comes_up_short_fails(pg_version: int, site: Site, drills: Path) -> None:
    """WAL in the archive that ends in the midst of a segment, though its hash is right."""
    site.set_up()
    site.cluster.sql("CREATE TABLE t (i int)")
    site.ok("backup")
    site.cluster.sql("INSERT INTO t SELECT generate_series(1, 200000)")
    last = site.find_segment(site.archive_all())
    site.cluster.sql("INSERT INTO t SELECT generate_series(1, 1000)")
    site.archive_all()
    middle = [one for one in sorted(last.parent.iterdir()) if one.name < last.name and "." not in one.name][-2]
    quick = [word for name in ("pages", "rows", "indexes", "collations") for word in ("--skip", name)]
    forge_segment(site.repository, NAME, middle, cut_short)
    result = drill(site, drills, "--at", "latest", *quick, status=FAILED)
    found = failures(result)
    assert set(found) == {"recovery"}, result["checks"]
    assert "recovery ended before configured recovery target was reached" in found["recovery"]
    assert result["reached"] is None


def cut_short(content: bytearray) -> None:
    """From some page on a segment holds nothing more."""
    at = len(content) // 4
    content[at:] = bytes(len(content) - at)


def test_a_standby_of_the_backup_follows_and_is_promoted(pg_version: int, site: Site, drills: Path) -> None:
    site.set_up()
    site.cluster.sql("CREATE TABLE t (i int)")
    site.ok("backup")
    site.json("mark")
    site.cluster.sql("INSERT INTO t SELECT generate_series(1, 10)")
    site.archive_all()
    result = drill(site, drills, "--standby", "--skip", "collations")
    found = {one["name"]: one["text"] for one in result["checks"]}
    assert "and was promoted to timeline 2" in found["standby"]
    assert {"marker", "point", "pages", "rows", "indexes"} <= set(found)
    assert (result["as_standby"], result["policy"], result["reached"]["timeline"]) == (True, "latest", 2)
    assert Lsn.parse(result["reached"]["lsn"]) >= Lsn.parse(result["promised_lsn"])
    error = site.error("drill", NAME, "--standby", "--at", "backup", status=2)
    assert error["message"] == "--standby follows the archive to its end"


def test_a_repository_in_an_older_state_is_told_of(site: Site, drills: Path) -> None:
    site.set_up()
    site.ok("backup")
    earlier = site.place / "earlier"
    copy_tree(site.repository, earlier)
    site.ok("expire")
    site.ok("backup")
    site.ok("expire")
    shutil.rmtree(site.repository)
    earlier.rename(site.repository)
    quick = [word for name in ("pages", "rows", "indexes", "collations") for word in ("--skip", name)]
    shown = site.json("drill", NAME, "--directory", str(drills), "--at", "backup", *quick, status=3)
    assert [one["code"] for one in shown["notices"]] == ["older_state"]
    assert shown["drills"][0]["passed"] is True


def list_markers(site: Site) -> list[Path]:
    return list_files(site.repository / "clusters" / NAME / "markers")


def test_the_agent_marks_and_drills_by_the_configuration(site: Site, drills: Path) -> None:
    """And a backup writes a marker; neither does so without consent."""
    skipped = '["pages", "rows", "indexes", "collations"]'
    drill_options = f'directory = "{drills}"\nskip = {skipped}\ntarget = "latest"\n'
    site.write_config(f"[cluster.{NAME}.drill]\n{drill_options}")
    site.set_up()
    site.cluster.sql("CREATE TABLE t (i int)")
    assert site.json("backup")["marker_lsn"] is None
    assert list_markers(site) == []
    site.write_config(f'[cluster.{NAME}.drill]\n{drill_options}markers = true\nmarker_every = "1h"\nevery = "7d"\n')
    assert site.json("backup")["marker_lsn"] is not None
    assert len(list_markers(site)) == 1
    with running_agent(site.config, Path(site.cluster.data_directory)) as agent:
        wait_until(lambda: "a drill from" in agent.log.read_text(), "the drill")
        text = agent.log.read_text()
    assert re.search(r"drill of main: a drill from \S+ passed, in ", text), text
    (result,) = list_files(site.repository, "*-drill")
    assert len(list_markers(site)) == 1, "the one of the backup is not an hour old"
    for path in list_markers(site):
        path.unlink()
    with running_agent(site.config, Path(site.cluster.data_directory)) as agent:
        wait_until(
            lambda: text.count("a marker was written") < agent.log.read_text().count("a marker was written"), "it"
        )
    assert list_files(site.repository, "*-drill") == [result], "the last drill is not a week old"


@pytest.mark.ends
def test_wal_that_is_missing_fails_a_drill(pg_version: int, site: Site, drills: Path) -> None:
    """In the midst of the archive, and at its end, where nothing but the marker tells of it."""
    site.set_up()
    site.ok("backup")
    first = site.find_segment(site.archive_all())
    site.json("mark")
    last = site.find_segment(site.archive_all())
    held = {one: one.read_bytes() for one in sorted(last.parent.iterdir()) if first.name <= one.name <= last.name}
    assert len(held) == 3
    first.unlink()
    quick = [word for name in ("pages", "rows", "indexes", "collations") for word in ("--skip", name)]
    found = failures(drill(site, drills, "--at", "latest", *quick, status=FAILED))
    assert f"WAL segment {first.name} is missing" in found["plan"]
    first.write_bytes(held[first])
    for one in list(held)[1:]:
        one.unlink()
    result = drill(site, drills, "--at", "latest", *quick, status=FAILED)
    assert "WAL is missing at the end" in failures(result)["plan"]
    (cluster,) = site.json("status", status=3)["clusters"]
    assert any("failed: plan: the archive ends at" in one["text"] for one in cluster["problems"]), cluster["problems"]
    assert verdicts(result)["rows"] == "skipped"
    assert verdicts(result)["point"] == "OK"


def test_a_backup_of_another_server_in_place_of_the_right_one_fails(site: Site, drills: Path) -> None:
    """A clone has the cluster's identity, and a history of its own."""
    site.set_up()
    site.cluster.sql("CREATE TABLE t (i int)")
    site.ok("backup")
    site.cluster.stop()
    data = site.place / "clone"
    shutil.copytree(site.cluster.data_directory, data, symlinks=True)
    for path in (data, *data.rglob("*")):
        own(path)
    site.cluster.start()
    site.cluster.sql("INSERT INTO t VALUES (1)")
    site.json("mark")
    for number in range(4):
        site.cluster.sql(f"INSERT INTO t VALUES ({number})")
        site.archive_all()
    clone = adopt(data, site.cluster.programs)
    try:
        clone.start({"archive_command": "true", "unix_socket_directories": str(clone.socket_directory)})
        clone.sql("INSERT INTO t VALUES (0), (0)")
        original = site.config.read_text()
        site.config.write_text(
            original.replace(site.cluster.conninfo, clone.conninfo).replace(str(site.cluster.data_directory), str(data))
        )
        label = site.json("backup", "--full")["label"]
        site.config.write_text(original)
    finally:
        clone.stop_and_remove()
    result = drill(site, drills, "--at", "latest", "--backup", label, status=FAILED)
    assert result["backup"] == label
    assert "checkpoint" in failures(result)["recovery"]


def test_a_killed_drill_leaves_nothing_behind_the_next(site: Site, drills: Path) -> None:
    site.set_up()
    site.ok("backup")
    words = ("--config", str(site.config), "drill", NAME, "--directory", str(drills))
    with site.start_words(*words) as process:
        wait_until(lambda: list(drills.glob("*/data/postmaster.pid")), "the drill's server")
        (data,) = drills.glob("*/data")
        (sockets,) = drills.glob("*/s")
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        (server, *_) = list_server_processes(str(data))
        assert os.getpriority(os.PRIO_PROCESS, server) > os.getpriority(os.PRIO_PROCESS, 0)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not list_server_processes(str(data)), "the end of its server")
    result = drill(site, drills, "--backup", "nosuch", status=FAILED)
    assert "nosuch" in failures(result)["plan"]
    assert not data.exists()


def test_what_a_killed_drill_left_the_agent_removes(site: Site, drills: Path) -> None:
    """Also where it makes no drills; and never what a drill is at."""
    site.write_config(f'[cluster.{NAME}.drill]\ndirectory = "{drills}"\n')
    site.set_up()
    site.ok("backup")
    words = ("--config", str(site.config), "drill", NAME)
    with site.start_words(*words) as killed:
        wait_until(lambda: list(drills.glob("*/data/postmaster.pid")), "the drill's server")
        (left,) = drills.iterdir()
        killed.send_signal(signal.SIGKILL)
    wait_until(lambda: not list_server_processes(str(left / "data")), "the end of its server")
    kept = drills / "pghaven-scratch-kept"
    kept.mkdir()
    (kept / "process.json").write_text(json.dumps(asdict(read_own_identity())))
    with running_agent(site.config, Path(site.cluster.data_directory)):
        wait_until(lambda: not left.exists(), "it to be removed")
    assert list(drills.iterdir()) == [kept]
    shutil.rmtree(kept)


def test_locks_that_a_copy_brings_along_hold_no_drill_up(pg_version: int, site: Site, drills: Path) -> None:
    """Transactions that are prepared keep them over a recovery, and nobody is there who would finish them."""
    site.cluster.append_conf(max_prepared_transactions="5")
    site.set_up()
    site.cluster.sql("CREATE TABLE free (i int); INSERT INTO free VALUES (1)")
    site.cluster.sql("CREATE TABLE held (i int PRIMARY KEY); CREATE TABLE out_of_line (s text)")
    site.ok("backup")
    site.cluster.sql("BEGIN; LOCK TABLE held; PREPARE TRANSACTION 'it''s one'")
    toast = site.cluster.value("SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'out_of_line'")
    site.cluster.sql(f"BEGIN; REINDEX TABLE {toast}; PREPARE TRANSACTION 'two'")
    mark = site.json("mark", "--database", "postgres")
    passed_over = {one["table"]: one["reason"] for one in mark["passed_over"]}
    assert passed_over == dict.fromkeys(
        ("postgres.public.held", "postgres.public.out_of_line"), "somebody had locked it"
    )
    result = drill(site, drills, "--at", "latest")
    assert set(verdicts(result).values()) == {"OK"}, result["checks"]
    (prepared,) = (one["text"] for one in result["checks"] if one["name"] == "prepared")
    assert prepared.startswith("2 transactions would wait for COMMIT PREPARED"), prepared
    assert '"it\'s one" in database postgres' in prepared


def test_names_that_are_no_utf8_can_be_read(pg_version: int, site: Site, drills: Path) -> None:
    """Where a database has no encoding a name may be any bytes."""
    site.set_up()
    site.cluster.sql("CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    make = r"""DO $$ BEGIN EXECUTE format('CREATE TABLE %I (i int PRIMARY KEY)',
        convert_from('\x74ff'::bytea, 'SQL_ASCII')); EXECUTE format('INSERT INTO %I VALUES (1)',
        convert_from('\x74ff'::bytea, 'SQL_ASCII')); END $$"""
    site.cluster.sql(make, dbname="bytes")
    site.ok("backup")
    mark = site.json("mark", "--database", "bytes")
    assert (mark["tables"], mark["rows"]) == (1, 1), mark
    result = drill(site, drills, "--at", "latest")
    assert set(verdicts(result).values()) == {"OK"}, result["checks"]
