"""``pghaven drill``: what is proven by it, what it finds, and that nothing of it is left."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pghaven.errors import CheckFailed
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.page import checksums
from pghaven.server.postmaster import list_server_processes
from tests.cli.site import NAME, Site
from tests.support.cluster import adopt
from tests.support.places import own
from tests.support.waiting import wait_until

FAILED = CheckFailed.exit_status
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
    assert set(result["seconds"]) == {"plan", "fetch", "compare", "replay", "first_query", "questions", "total"}
    assert Lsn.parse(result["reached"]["lsn"]) >= Lsn.parse(result["promised_lsn"])
    assert (site.repository / result["evidence"]).exists()
    assert_known(site, result)


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
    content[PAGE - 8] ^= 0x80
    if with_checksum:
        found = checksums(np.frombuffer(bytes(content[:PAGE]), np.uint8), np.zeros(1, np.uint32))
        content[CHECKSUM_AT] = int(found[0]).to_bytes(2, "little")
    path.write_bytes(content)


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
        wait_until(lambda: list(drills.glob("*/data/postmaster.pid")), "the drill's server", 60.0)
        (data,) = drills.glob("*/data")
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not list_server_processes(str(data)), "the end of its server")
    result = drill(site, drills, "--backup", "nosuch", status=FAILED)
    assert "nosuch" in failures(result)["plan"]
    assert not data.exists()
