"""What every repository must see its cluster through, wherever it lies: from the first backup to a restored server."""

from __future__ import annotations

from tests.cli.site import Site
from tests.cli.test_expire import ONE_AT_ONCE


def live_through(site: Site) -> None:
    """After ``init --apply``: backups, WAL, every look at them, expiry, and a server that is restored from the rest."""
    cluster = site.cluster
    cluster.restart()
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS i")
    first = site.json("backup")["label"]
    cluster.sql("UPDATE t SET i = i + 1 WHERE i % 1000 = 0")
    second = site.json("backup")["label"]
    cluster.sql("INSERT INTO t VALUES (-1)")
    site.archive_all()
    site.check(status=0)
    assert first in site.ok("list")
    assert "all is well" in site.ok("status")
    site.ok("verify")

    for _ in range(2):  # so short a grace may be over before the run that expires it collects, or not until the next
        site.ok("expire", environment=ONE_AT_ONCE)
    assert first not in site.ok("list")
    total = cluster.value("SELECT sum(i) FROM t")
    cluster.stop()
    with site.started(PGHAVEN_CLUSTER__MAIN__PG_BIN=str(cluster.bin_dir)) as shown:
        assert shown["plan"]["backup"] == second
        assert site.ask_restored("SELECT sum(i) FROM t") == total
