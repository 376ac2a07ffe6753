"""From nothing to a restored server, as the first chapter of the guide goes."""

from __future__ import annotations

from tests.cli.site import NAME, Site
from tests.cli.site import site as site  # noqa: PLC0414  a fixture
import time

def test_from_init_to_a_restored_server(pg_version: int, site: Site) -> None:
    site.write_config(pg_bin=str(site.cluster.bin_dir))
    print(site.run("init", NAME).out)
    site.set_up()
    site.ok("backup")
    site.cluster.sql("CREATE TABLE t AS SELECT 1 i")
    moment = site.cluster.value("SELECT clock_timestamp()")
    site.cluster.sql("INSERT INTO t VALUES (2)")
    site.archive_all()
    def show(*w):
        t = time.monotonic(); e = site.run(*w); print(w, e.status, time.monotonic()-t); print(e.out); print(e.err)
    show("status")
    show("restore", NAME, "--target-dir", str(site.target), "--target-time", str(moment), "--dry-run")
    show("restore", NAME, "--target-dir", str(site.target), "--target-time", str(moment))
    show("restore", NAME, "--target-dir", str(site.target)+"2", "--target-time", str(moment), "--start")
    show("restore", NAME, "--target-dir", str(site.target)+"3", "--target-time", "-1h")
    show("restore", NAME, "--target-dir", str(site.target)+"3", "--target-time", "2030-01-01 00:00")
    show("restore", NAME, "--target-dir", str(site.target)+"4", "--immediate", "--target-action", "pause", "--start")
    assert 0
