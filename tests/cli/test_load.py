"""Parts of dumps loaded, exported as one file, roles and tablespaces alone, and what stands in a load's way."""

from __future__ import annotations

import json

import pytest

from tests.cli.site import NAME, Site
from tests.support.places import own

_TWO_SCHEMAS = """
    CREATE ROLE keeper; CREATE SCHEMA one; CREATE SCHEMA two;
    CREATE TABLE one.a (id int PRIMARY KEY, body text); CREATE TABLE one.b (id int); CREATE TABLE two.c (id int);
    ALTER TABLE one.a OWNER TO keeper;
    INSERT INTO one.a SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 5000) i;
    INSERT INTO one.b SELECT generate_series(1, 20); INSERT INTO two.c SELECT generate_series(1, 30);
    SELECT lo_from_bytea(4711, decode(repeat('00ff', 100000), 'hex')); SELECT lo_from_bytea(4712, '')
"""
_COUNT = "SELECT (SELECT count(*) FROM one.a) || ' ' || (SELECT count(*) FROM one.b)"
_TABLES = "SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '') FROM pg_stat_user_tables"


@pytest.fixture
def shop(site: Site) -> Site:
    site.write_config(dump_spool=str(site.place))
    site.set_up()
    site.cluster.sql("CREATE DATABASE shop")
    for statement in _TWO_SCHEMAS.split(";"):
        site.cluster.sql(statement, dbname="shop")
    site.ok("dump", NAME, "shop")
    return site


def make_empty(site: Site, name: str) -> str:
    site.cluster.sql(f"CREATE DATABASE {name}")
    return name


def test_parts_of_a_dump_are_loaded_alone(shop: Site) -> None:
    """A schema, a table of a schema, definitions without data, and data without definitions."""
    ask = shop.cluster.value
    into = make_empty(shop, "by_schema")
    shop.cluster.sql("CREATE SCHEMA two", dbname=into)
    shop.ok("load", "--into", into, "--schema", "two")
    assert (ask(_TABLES, dbname=into), ask("SELECT count(*) FROM two.c", dbname=into)) == ("c", 30)

    into = make_empty(shop, "by_table")
    shop.cluster.sql("CREATE SCHEMA one", dbname=into)
    shop.ok("load", "--into", into, "--schema", "one", "--table", "b")
    assert (ask(_TABLES, dbname=into), ask("SELECT count(*) FROM one.b", dbname=into)) == ("b", 20)

    shop.ok("load", "--into", "bare", "--create", "--schema-only", "--jobs", "3")
    assert (ask(_TABLES, dbname="bare"), ask(_COUNT, dbname="bare")) == ("a b c", "0 0")
    shop.ok("load", "--into", "bare", "--data-only", "--option=--no-owner")
    assert ask(_COUNT, dbname="bare") == "5000 20"
    assert ask("SELECT length(lo_get(4711))", dbname="bare") == 200000
    error = shop.error("load", "--into", "bare", "--data-only", "--table", "a", status=15)
    assert 'table "a"' in error["message"] and "duplicate key" in error["message"]
    assert "contradict" in shop.error("load", "--data-only", "--schema-only", status=2)["message"]


_AS_IT_WAS = """
    CREATE TABLE one.d (id serial PRIMARY KEY, a int REFERENCES one.a, number int GENERATED ALWAYS AS IDENTITY,
        body text DEFAULT 'none' CHECK (body <> ''), "a b" int UNIQUE);
    CREATE INDEX upper_body ON one.d (upper(body)); COMMENT ON INDEX one.upper_body IS 'for looking up';
    CREATE FUNCTION two.tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER told BEFORE INSERT ON one.d FOR EACH ROW EXECUTE FUNCTION two.tell();
    CREATE STATISTICS one.both ON a, body FROM one.d; ALTER TABLE one.d ENABLE ROW LEVEL SECURITY;
    CREATE POLICY all_of_it ON one.d USING (true); GRANT SELECT ON one.d TO keeper; GRANT USAGE ON SCHEMA one TO keeper;
    CREATE TABLE one."d e" (id int PRIMARY KEY, of_d int REFERENCES one.d);
    INSERT INTO one.d (a, body) SELECT i, 'body ' || i FROM generate_series(1, 500) i
"""


def test_a_table_comes_back_as_it_was(shop: Site) -> None:
    """With its indexes, keys, sequences, defaults and triggers, and not with those of a table of a like name; elsewhere
    too, in a schema that is made for it, without what refers to tables and functions that are not there."""
    cluster = shop.cluster

    def describe(database: str) -> str:
        conninfo = f"{cluster.conninfo} dbname={database}"
        said = cluster.run("pg_dump", "--schema-only", "--restrict-key=x", "--table=one.d", "-d", conninfo)
        return "\n".join(sorted(said.stdout.splitlines()))

    cluster.sql(_AS_IT_WAS, dbname="shop")
    shop.ok("dump", NAME, "shop")
    before = describe("shop")
    assert before.count("CREATE INDEX") == before.count("CREATE TRIGGER") == before.count("CREATE POLICY") == 1
    cluster.sql('DROP TABLE one."d e", one.d', dbname="shop")
    shop.ok("load", "--table", "d")
    assert describe("shop") == before
    assert cluster.value("SELECT count(*) FROM pg_statistic_ext", dbname="shop") == 1
    assert cluster.value("SELECT count(*) FROM one.d", dbname="shop") == 500
    following = "SELECT nextval('one.d_id_seq') || ' ' || nextval('one.d_number_seq')"
    assert cluster.value(following, dbname="shop") == "501 501"

    ended = shop.run("load", "--table", "d", "--into", "new", "--create")
    assert ended.status == 3, ended
    assert "FK CONSTRAINT one.d d_a_fkey is left out: TABLE one.a is not there" in ended.err
    assert "TRIGGER one.d told is left out: FUNCTION two.tell() is not there" in ended.err
    assert ended.err.count("is left out") == 2
    assert describe("new").count("CREATE INDEX") == 1
    assert cluster.value("SELECT has_schema_privilege('keeper', 'one', 'USAGE')", dbname="new") is True
    shop.ok("load", "--table", "a", "--table", "d e", "--into", "new")
    assert cluster.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'", dbname="new") == 1

    shop.ok("load", "--schema", "two", "--into", "other", "--create")
    assert cluster.value("SELECT count(*) FROM two.c", dbname="other") == 30


def test_a_partition_comes_back_without_its_parent(shop: Site) -> None:
    """Attached it would get its parent's indexes beside its own, so that is left to whoever knows."""
    cluster = shop.cluster
    cluster.sql("CREATE TABLE one.parts (i int PRIMARY KEY) PARTITION BY RANGE (i)", dbname="shop")
    cluster.sql("CREATE TABLE one.part PARTITION OF one.parts FOR VALUES FROM (0) TO (9)", dbname="shop")
    cluster.sql("INSERT INTO one.parts VALUES (3)", dbname="shop")
    shop.ok("dump", NAME, "shop")
    cluster.sql("DROP TABLE one.part", dbname="shop")
    ended = shop.run("load", "--table", "part")
    assert ended.status == 3, ended
    assert "TABLE ATTACH one.part is left out: TABLE one.parts is not loaded with it" in ended.err
    cluster.sql("ALTER TABLE one.parts ATTACH PARTITION one.part FOR VALUES FROM (0) TO (9)", dbname="shop")
    assert cluster.value("SELECT count(*) FROM one.parts", dbname="shop") == 1
    cluster.sql("DROP TABLE one.parts", dbname="shop")
    assert "left out" not in shop.run("load", "--table", "part", "--table", "parts").err
    assert cluster.value("SELECT count(*) FROM one.parts", dbname="shop") == 1


def test_the_object_that_failed_is_named(shop: Site) -> None:
    """Also where PostgreSQL itself says nothing of it."""
    into = make_empty(shop, "unready")
    shop.cluster.sql("CREATE SCHEMA one; CREATE SCHEMA two; CREATE TYPE one.b AS (one int)", dbname=into)
    error = shop.error("load", "--into", into, "--table", "b", status=15)
    assert "(TABLE b postgres)" in error["message"], error
    assert error["detail"].startswith("pg_restore: error: ") and "Command was: CREATE TABLE one.b" in error["detail"]


def test_a_role_with_a_password_is_not_said_to_differ(shop: Site) -> None:
    shop.cluster.sql("ALTER ROLE keeper PASSWORD 'x' VALID UNTIL '2040-01-01'")
    shop.ok("dump", NAME, "shop")
    assert "differs" not in shop.run("load", "--into", "copy", "--create").err


def test_what_fails_before_anything_is_loaded_leaves_nothing(shop: Site) -> None:
    """A database of another encoding; and one that cannot be made, which is found before a role is made for it."""
    cluster = shop.cluster
    cluster.sql("CREATE DATABASE narrow ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    error = shop.error("load", "--into", "narrow", status=12)
    assert 'database "narrow" has encoding LATIN1, the dump UTF8' in error["message"]
    cluster.sql("ALTER TABLE one.a OWNER TO postgres", dbname="shop")
    cluster.sql("DROP ROLE keeper")
    cluster.sql("CREATE ROLE maker LOGIN CREATEROLE")
    target = f"{cluster.conninfo} user=maker"
    ended = shop.run("load", "--into", "again", "--create", "--globals", "--target", target)
    assert ended.status not in (0, 1), ended
    assert "CREATEDB" in ended.err
    assert cluster.value("SELECT count(*) FROM pg_database WHERE datname = 'again'") == 0
    assert cluster.value("SELECT count(*) FROM pg_roles WHERE rolname = 'keeper'") == 0


def test_a_dump_becomes_one_file_for_plain_pg_restore(shop: Site) -> None:
    """With large objects, one of them empty; loaded in parallel, which needs to find each table's data by its place."""
    shop.cluster.sql("CREATE TABLE one.d AS SELECT repeat('x', 200000) AS long", dbname="shop")
    label = shop.json("dump", NAME, "shop", "postgres", "--format", "custom")["dumps"][0]["label"]
    place = shop.place / "files"
    text = shop.ok("dump", "export", label, str(place))
    assert text.splitlines()[1:] == [f"  {place}/shop.dump", f"  {place}/postgres.dump"]
    for path in (place, *place.iterdir()):
        own(path)
    assert sorted(path.name for path in place.iterdir()) == ["globals.sql", "postgres.dump", "shop.dump"]
    for number, options in enumerate((["-j", "3"], ["-j", "1", "--no-owner"])):
        into = make_empty(shop, f"plain{number}")
        conninfo = f"{shop.cluster.conninfo} dbname={into}"
        shop.cluster.run("pg_restore", "--exit-on-error", *options, "-d", conninfo, str(place / "shop.dump"))
        assert shop.cluster.value(_COUNT, dbname=into) == "5000 20"
        assert shop.cluster.value("SELECT length(long) FROM one.d", dbname=into) == 200000
        for objects in ("SELECT md5(lo_get(4711))", "SELECT md5(lo_get(4712))"):
            assert shop.cluster.value(objects, dbname=into) == shop.cluster.value(objects, dbname="shop")
    shop.ok("dump", "export", label, str(shop.place / "more"), "--format", "directory", "--database", "shop")
    assert (shop.place / "more" / "shop" / "toc.dat").exists()
    shop.ok("load", label, "--database", "shop", "--into", "loaded", "--create")
    assert shop.cluster.value(_COUNT, dbname="loaded") == "5000 20"
    assert "contradict" in shop.error("dump", "export", label, "x", "--sql", "--format=custom", status=2)["message"]


def test_the_usual_options_of_pg_dump_pass_through(shop: Site) -> None:
    """And a dump that lacks something takes the place of none that has it."""
    (whole,) = [one["label"] for one in shop.json("list")["clusters"][0]["dumps"]]
    options = ("--option=--no-owner", "--option=--no-acl", "--option=--exclude-table=two.c")
    label = shop.json("dump", NAME, "shop", *options)["dumps"][0]["label"]
    for name, number in ((whole, 1), (label, 0)):
        place = shop.place / f"sql-{name}"
        shop.ok("dump", "export", name, str(place), "--sql")
        text = (place / "shop.sql").read_text()
        assert text.count("CREATE TABLE one.a ") == 1
        assert (text.count("CREATE TABLE two.c "), text.count("OWNER TO keeper")) == (number, number)
    shop.ok("dump", NAME, "shop", "--option=--table=one.b")
    assert "as they were dumped" in shop.ok("load", "--verify"), "also where the dump has a table and not its schema"
    stated = shop.run("--json", "dump", NAME, "shop", "--option=--inserts")
    assert [one["rows"] for one in json.loads(stated.out)["dumps"][0]["databases"]] == [None], "lines are no rows"
    assert [one["rows"] for one in shop.json("list")["clusters"][0]["dumps"]] == [5050, 5020, 20, None]
    shop.ok("load", label, "--into", "bare", "--create")
    assert shop.cluster.value("SELECT tableowner FROM pg_tables WHERE tablename = 'a'", dbname="bare") == "postgres"
    shop.ok("expire", environment={"PGHAVEN_CLUSTER__MAIN__RETENTION__COUNT": "1"})
    assert {one["state"] for one in shop.json("list")["clusters"][0]["dumps"]} == {"complete"}


def test_roles_and_tablespaces_are_dumped_and_loaded_alone(shop: Site) -> None:
    """Such a dump takes the place of none with data: not as the newest, not in what is kept."""
    (before,) = [one["label"] for one in shop.json("list")["clusters"][0]["dumps"]]
    shop.cluster.sql("CREATE ROLE late PASSWORD 'hidden'")
    assert "roles and tablespaces alone" in shop.ok("dump", NAME, "--globals-only")
    shop.cluster.sql("DROP ROLE late; ALTER ROLE keeper CREATEDB")
    shown = shop.run("load", "--globals-only", "--dry-run")
    assert (shown.status, "would be made: CREATE ROLE late" in shown.err) == (0, True), shown
    assert "hidden" not in shown.err
    assert shop.json("load", "--into", "none", "--create", "--globals", "--dry-run")["dry_run"] is True
    assert shop.cluster.value("SELECT count(*) FROM pg_roles WHERE rolname = 'late'") == 0
    assert shop.cluster.value("SELECT count(*) FROM pg_database WHERE datname = 'none'") == 0
    ended = shop.run("load", "--globals-only")
    assert ended.status == 0, ended
    assert "differs, and is left as it is: ALTER ROLE keeper" in ended.err
    assert "hidden" not in ended.err
    assert shop.cluster.value("SELECT count(*) FROM pg_roles WHERE rolname = 'late'") == 1
    assert shop.cluster.value("SELECT rolcreatedb FROM pg_roles WHERE rolname = 'keeper'") is True
    assert shop.json("load", "--into", "again", "--create")["label"] == before
    assert shop.json("dump", NAME, "shop")["dumps"][0]["parent"] == before
    shop.ok("expire", environment={"PGHAVEN_CLUSTER__MAIN__RETENTION__COUNT": "1"})
    states = [one["state"] for one in shop.json("list")["clusters"][0]["dumps"]]
    assert states == ["retired", "complete", "complete"]
    alone = shop.json("list")["clusters"][0]["dumps"][1]["label"]
    assert "no databases" in shop.error("load", alone, status=10)["message"]
    assert "is named" in shop.error("dump", NAME, "shop", "--globals-only", status=2)["message"]
    assert "cannot be combined" in shop.error("load", "--globals-only", "--create", status=2)["message"]


def test_one_run_of_pg_dump_feeds_several_repositories(shop: Site) -> None:
    """The second one's copy is the same dump, complete when the first repository is gone."""
    away = shop.place / "away"
    shop.write_config(
        f"[repository.away]\nurl = {json.dumps(f'file://{away}')}",
        repositories=["main", "away"],
        dump_spool=str(shop.place),
    )
    shop.ok("init", NAME, "--apply", "--no-encryption")
    body = shop.json("dump", NAME, "shop")
    one, other = body["dumps"]
    assert [(found["repository"], found["label"]) for found in body["repositories"]] == [
        ("main", one["label"]),
        ("away", other["label"]),
    ]
    assert other["label"].startswith(one["label"])
    assert other["databases"] == one["databases"]
    shop.repository.rename(shop.place / "lost")
    ended = shop.run("--json", "dump", NAME, "shop")
    assert ended.status == 3, ended
    assert "main" in ended.err
    assert [found["repository"] for found in json.loads(ended.out)["dumps"]] == ["away"]
    shop.ok("load", other["label"], "--repository", "away", "--into", "copied", "--create")
    assert shop.cluster.value(_COUNT, dbname="copied") == "5000 20"


def test_a_dump_is_found_in_whichever_repository_has_it(shop: Site) -> None:
    """By its label, or as the newest, which the first repository has missed."""
    shop.write_config(
        f"[repository.away]\nurl = {json.dumps(f'file://{shop.place}/away')}",
        repositories=["main", "away"],
        dump_spool=str(shop.place),
    )
    shop.ok("init", NAME, "--apply", "--no-encryption")
    shop.ok("dump", NAME, "shop", "--repository", "main")
    both = shop.json("dump", NAME, "shop")["dumps"][0]["label"]
    label = shop.json("dump", NAME, "shop", "--repository", "away")["dumps"][0]["label"]
    load = ("load", "--dry-run", "--create", "--into", "copied")
    assert shop.json(*load, label)["label"] == label
    assert shop.json(*load)["label"] == label
    assert shop.json(*load, both)["label"] == both
    begun = shop.error(*load, label[:4], status=10)
    assert "more than one dump begins" in begun["message"], "what the first repository leaves open no other settles"
    assert shop.json("load", "--globals-only", "--dry-run", label)["label"] == label
    assert shop.json("load", "--verify", label)["label"] == label
    assert shop.json("dump", "export", label, str(shop.place / "files"))["label"] == label
    assert shop.json("hold", label)["label"] == label
    assert shop.json("release", label)["label"] == label
    missing = shop.error(*load, "19990101", status=10)
    assert f'{both}. In "away": ' in missing["hint"]
    assert label in missing["hint"]
    shop.repository.rename(shop.place / "lost")
    assert shop.json(*load, label, status=3)["label"] == label
    assert shop.json(*load, status=3)["label"] == label
    assert "mounted" in shop.error(*load, "--repository", "main", status=14)["hint"]
