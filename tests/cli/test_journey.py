"""From nothing to a restored server, as the first chapter of the guide goes."""

from __future__ import annotations

import re

from tests.cli.site import NAME, Site


def test_from_init_to_a_restored_server(pg_version: int, site: Site) -> None:
    cluster = site.cluster
    made = ("--data-directory", str(cluster.data_directory), "--conninfo", cluster.conninfo, "--repository", site.url)
    assert "archive_mode" in site.ok("init", NAME, *made)
    assert "Restart the server with: " in site.ok("init", NAME, "--apply")
    cluster.restart()
    assert "All is well." in site.ok("init", NAME)

    checks = site.check(status=3)
    assert {name for name, (verdict, _) in checks.items() if verdict != "OK"} == {"backup"}, checks
    assert f"PostgreSQL {pg_version}." in checks["server"][1]

    cluster.sql("CREATE TABLE t AS SELECT 1 AS i")
    label = re.match(r"backup (\S+) of main is complete\n", site.ok("backup"))
    assert label is not None
    cluster.sql("INSERT INTO t VALUES (2)")
    moment = cluster.value("SELECT clock_timestamp()")
    cluster.sql("INSERT INTO t VALUES (3)")
    site.archive_all()

    assert label[1] in site.ok("list")
    assert "all is well" in site.ok("status")
    site.check(status=0)

    cluster.stop()
    pg_bin = {"PGHAVEN_CLUSTER__MAIN__PG_BIN": str(cluster.bin_dir)}
    with site.started("--target-time", str(moment), **pg_bin) as shown:
        assert shown["recovery"]["state"] == "open"
        assert shown["plan"]["backup"] == label[1]
        assert site.ask_restored("SELECT sum(i) FROM t") == 3
        assert site.ask_restored("SHOW archive_mode") == "off"
