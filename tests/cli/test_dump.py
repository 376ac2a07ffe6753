"""``pghaven dump`` and ``pghaven load``, as people call them."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from pghaven.server.connection import connect
from tests.cli.site import NAME, Site
from tests.support.places import own, run_as_plain
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
    packs = site.json("repo", "info", "--packs")["repositories"][0]["packs"][NAME]
    assert f"dump {label}" in {one["reason"] for one in packs}

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

    site.ok("dump", "export", label, "--sql", str(site.place / "sql"))
    for path in (site.place / "sql", *(site.place / "sql").iterdir()):
        own(path)
    cluster.sql("CREATE DATABASE stated")
    script = str(site.place / "sql" / "postgres.sql")
    cluster.run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", f"{cluster.conninfo} dbname=stated", "-f", script)
    assert cluster.value("SELECT count(*) FROM shop", dbname="stated") == 1000


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
    found = site.check("--deep", "--create-amcheck", status=3)
    assert found['database "postgres"'][0] == "OK"
    assert cluster.value("SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'") == 1
    assert "for --deep" in site.error("check", "--create-amcheck", status=2)["message"]
    assert "cannot be passed" in site.error("dump", "--option=--file=x", status=2)["message"]


_ALL_KINDS = """
    CREATE ROLE keeper PASSWORD 'x'; CREATE EXTENSION hstore; SET timezone = 'Asia/Tokyo';
    CREATE TABLE kinds (id int, gone int, at timestamptz, span interval, price float8, body bytea, doubled int
        GENERATED ALWAYS AS (id * 2) STORED, "odd ""name" text, pairs hstore) TABLESPACE away;
    ALTER TABLE kinds OWNER TO keeper; ALTER TABLE kinds DROP COLUMN gone;
    INSERT INTO kinds (id, at, span, price, body, "odd ""name", pairs)
        SELECT i, now(), '1 mon -3 days'::interval * i, 1e17 / (i + 7), decode(md5(i::text), 'hex'),
        E'a\\nb\\\\' || chr(233) || repeat('x', i % 3000), hstore('k', i::text) FROM generate_series(1, 3000) i;
    CREATE TABLE empty (i int); CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
    CREATE TABLE parts (i int) PARTITION BY HASH (i); CREATE MATERIALIZED VIEW seen AS SELECT 1 AS one;
    CREATE TABLE part0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE part1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO parts SELECT generate_series(1, 1000);
    CREATE SEQUENCE numbers START 7; SELECT lo_from_bytea(0, '\\x0a'::bytea)
"""


def test_a_dump_is_proven_in_a_server_of_its_own(site: Site, pg_version: int) -> None:
    """As root and as the server's user; what differs is told with another exit status; nothing of the server stays."""
    cluster = site.cluster
    site.write_config(dump_spool=str(site.place))
    site.set_up()
    away = site.place / "away"
    away.mkdir()
    own(away)
    cluster.sql(["ALTER SYSTEM SET timezone = 'America/New_York'", "SELECT pg_reload_conf()"][0])
    cluster.sql("SELECT pg_reload_conf()")
    cluster.sql(f"CREATE TABLESPACE away LOCATION '{away}'")
    cluster.sql("CREATE DATABASE shop LOCALE 'C' TEMPLATE template0 ENCODING LATIN1")
    cluster.sql(_ALL_KINDS, dbname="shop")
    cluster.sql("ALTER DATABASE shop SET datestyle = 'German'")  # what is compared must not be written so
    site.ok("dump")
    before = set(site.place.iterdir())
    text = site.ok("load", "--verify")
    assert 'database "shop": 5 tables, 4,001 rows, 1 large objects: all as they were dumped' in text
    assert 'database "postgres"' in text and "is loaded the same" in text
    site.ok("dump", NAME, "shop", environment={"PGCLIENTENCODING": "UTF8"})
    assert "all as they were dumped" in site.ok("load", "--verify"), "the encoding of the dump is not the database's"
    words = ("--config", str(site.config), "--json", "load", "--verify", "--database", "shop")
    as_user = run_as_plain([*site.command.words, *words, "--option=--section=pre-data"])
    assert as_user.returncode == 17, as_user.stderr
    body = json.loads(as_user.stdout)
    (shop,) = body["databases"]
    different = {one["name"]: one["text"] for one in shop["differences"]}
    assert body["result"] == "different"
    assert different["public.kinds"] == "3,000 rows were dumped, 0 are loaded"
    assert any(name.startswith("large object") for name in different)
    assert "public.empty" not in different
    assert set(site.place.iterdir()) == before
    (repository,) = site.json("status", status=3)["clusters"][0]["repositories"]
    proof = repository["last_dump_proof"]
    assert (proof["passed"], proof["source"], proof["failures"]) == (True, "dump", []), (
        "options of one's own prove nothing"
    )
    assert repository["last_drill"] is None, "it says nothing of backups"
    assert re.search("dumps proven: +passed .* ago, from dump", site.run("status").out)
    assert "cannot be combined" in site.error("load", "--verify", "--create", status=2)["message"]


_KEEPS_OUT = """
    CREATE FUNCTION keep_out() RETURNS event_trigger LANGUAGE plpgsql AS
        $$ BEGIN IF current_database() <> 'shop' THEN RAISE 'nobody may be here'; END IF; END $$;
    CREATE EVENT TRIGGER keep_out ON login EXECUTE FUNCTION keep_out();
"""


def test_a_proof_is_let_in_and_removes_all_it_loaded(site: Site, pg_version: int) -> None:
    """Whoever may log in where the dump was taken, and although a server keeps a database that has a subscription."""
    cluster = site.cluster
    site.write_config(dump_spool=str(site.place))
    site.set_up()
    cluster.sql("CREATE DATABASE shop")
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10) AS i", dbname="shop")
    cluster.sql("CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)", dbname="shop")
    if pg_version >= 17:
        cluster.sql(_KEEPS_OUT, dbname="shop")
    site.ok("dump", NAME, "shop")
    assert 'database "shop": 1 tables, 10 rows: all as they were dumped' in site.ok("load", "--verify")


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
    ended = site.run("status")
    assert re.search(rf"newest dump: +{labels[-1]}, .* old, of postgres; 3 in all", ended.out), ended
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
