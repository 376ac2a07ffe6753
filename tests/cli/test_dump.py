"""``pghaven dump`` and ``pghaven load``, as people call them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from pghaven.server.connection import connect
from tests.cli.site import NAME, Site
from tests.support.places import own
from tests.support.waiting import wait_until

COUNT_ONE = {"PGHAVEN_CLUSTER__MAIN__RETENTION__COUNT": "1"}


def test_from_a_dump_to_a_loaded_database(site: Site) -> None:
    """Whole, one table of it, and as files for plain pg_restore."""
    cluster = site.cluster
    site.write_config(dump_spool=str(site.place))
    site.set_up()
    cluster.sql(
        "CREATE ROLE keeper; CREATE TABLE shop (id int PRIMARY KEY, name text); ALTER TABLE shop OWNER TO keeper"
    )
    cluster.sql("INSERT INTO shop SELECT i, md5(i::text) FROM generate_series(1, 1000) i; CREATE TABLE other (i int)")
    assert "rows       1,000" in site.ok("dump", NAME, "postgres")
    (label,) = [one["label"] for one in site.json("list")["clusters"][0]["dumps"]]

    assert 'loaded into "copy": 2 tables' in site.ok("load", label[:18], "--into", "copy", "--create")
    query = "SELECT count(*) || ' ' || min(name) FROM shop"
    assert cluster.value(query, dbname="copy") == cluster.value(query)
    assert cluster.value("SELECT tableowner FROM pg_tables WHERE tablename = 'shop'", dbname="copy") == "keeper"

    cluster.sql("DROP TABLE shop")
    site.ok("load", label, "--table", "shop")
    assert cluster.value("SELECT count(*) FROM shop") == 1000
    error = site.error("load", label, "--table", "shop", status=15)
    assert "already exists" in error["message"] and "shop" in error["message"]

    text = site.ok("dump", "export", label, str(site.place / "files"))
    assert "globals.sql" in text
    assert "CREATE ROLE keeper;" in (site.place / "files" / "globals.sql").read_text()
    for path in (site.place / "files", *(site.place / "files").rglob("*")):
        own(path)  # as root we wrote them, and pg_restore runs as the server's user here
    cluster.sql("CREATE DATABASE plain")
    cluster.run("pg_restore", "-d", f"{cluster.conninfo} dbname=plain", str(site.place / "files" / "postgres"))
    assert cluster.value("SELECT count(*) FROM shop", dbname="plain") == 1000


def test_what_is_missing_is_told_before_anything_is_loaded(site: Site) -> None:
    cluster = site.cluster
    site.write_config(dump_spool=str(site.place))
    site.set_up()
    cluster.sql("CREATE ROLE keeper PASSWORD 'hidden'; CREATE TABLE shop (id int); ALTER TABLE shop OWNER TO keeper")
    site.ok("dump")
    cluster.sql("DROP TABLE shop")
    cluster.sql("DROP ROLE keeper")
    error = site.error("load", "--database", "postgres", "--into", "new", status=12)
    assert 'there is no database "new"' in error["message"]
    assert 'role "keeper" is missing' in error["detail"]
    ended = site.run("load", "--database", "postgres", "--into", "new", "--create", "--globals")
    assert ended.status == 0, ended
    assert "is made: CREATE ROLE keeper" in ended.err
    assert "hidden" not in ended.err and "SCRAM" not in ended.err
    assert cluster.value("SELECT tableowner FROM pg_tables WHERE tablename = 'shop'", dbname="new") == "keeper"
    error = site.error("load", "--table", "nothing", status=10)
    assert '"nothing"' in error["message"]
    assert site.error("dump", NAME, "absent", status=10)["message"] == 'there is no database "absent" on this server'
    assert "cannot be passed" in site.error("dump", "--option=--file=x", status=2)["message"]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_nothing_is_left_running_when_a_dump_is_killed(site: Site, *, is_stopped: bool) -> None:
    """pg_dump would hold its snapshot and its locks for ever, stopped or waiting for somebody."""
    cluster = site.cluster
    site.write_config(dump_spool=str(site.place))
    site.set_up()
    cluster.sql("CREATE TABLE shop AS SELECT generate_series(1, 1000) AS i")
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE%' AND wait_event_type = 'Lock'"
    with connect(cluster.conninfo) as blocker:
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE public.shop")
        with site.start_words("--config", str(site.config), "dump") as process:
            wait_until(lambda: cluster.value(running) == 1, "pg_dump to wait for the table")
            (group,) = {os.getpgid(pid) for pid in find_programs_of(process.pid, "pg_dump")}
            if is_stopped:
                os.killpg(group, signal.SIGSTOP)
            process.kill()
        wait_until(lambda: not is_group(group), "pg_dump to end")
        blocker.execute("ROLLBACK")
    site.ok("dump")


def find_programs_of(parent: int, name: str) -> list[int]:
    """The children of a process that run this program."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = stat.read_text()
            program, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            if program == name and int(rest[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def is_group(group: int) -> bool:
    """Whether any process of a group is left, dead ones that nobody waits for apart."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            rest = stat.read_text().rpartition(")")[2].split()
            if int(rest[2]) == group and rest[0] != "Z":
                return True
    return False


def test_dumps_expire_by_themselves_and_can_be_held(site: Site) -> None:
    site.write_config(dump_spool=str(site.place))
    site.set_up()
    for _ in range(3):
        site.ok("dump")
    site.ok("backup")
    labels = [one["label"] for one in site.json("list")["clusters"][0]["dumps"]]
    site.ok("hold", labels[0])
    shown = site.ok("expire", environment=COUNT_ONE)
    assert "held: by hand" in shown
    states = [one["state"] for one in site.json("list")["clusters"][0]["dumps"]]
    assert states == ["complete, held: by hand", "retired", "complete"]
    site.ok("expire", "--undo", labels[1])
    assert site.json("list")["clusters"][0]["dumps"][1]["state"] == "complete"
    shown = site.ok("expire", "--remove", labels[2], environment=COUNT_ONE)
    assert f"dump {labels[2]} of main is expired by hand\n  the policy keeps it: the newest\n  until " in shown
    assert site.json("expire", "--undo", labels[2])["undone"][0]["label"] == labels[2]
