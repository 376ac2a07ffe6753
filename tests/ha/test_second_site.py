"""A second site that is fed by the repository alone, and becomes a cluster of its own."""

from __future__ import annotations

import pytest

from tests.ha.engine import NAME, EngineFactory
from tests.support.moving import list_files
from tests.support.waiting import wait_until

SITE = "site"


@pytest.mark.slow
def test_a_second_site_follows_the_archive_alone_and_is_promoted(make_engine: EngineFactory) -> None:
    source = make_engine(nodes=1)
    (origin,) = source.names
    source.sql(origin, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    source.ok(origin, "backup", NAME)

    site = make_engine(nodes=2, start=False, name=SITE, beside=source, follow=NAME)
    first, second = site.names
    site.apply()
    site.start_etcd()
    site.start_node(first)
    site.start_node(second)
    site.wait_healthy(timeout_seconds=60.0)
    assert {str(one["role"]) for one in site.local.members()} == {"standby_leader", "replica"}
    assert site.json(first, "ha", "status", SITE, status=1)["leader"] in site.names

    source.sql(origin, "INSERT INTO t SELECT generate_series(1001, 3000)")
    source.sql(origin, "SELECT pg_switch_wal()")
    for name in site.names:
        wait_until(lambda name=name: site.value(name, "SELECT count(*) FROM t") == 3000, f"the rows on {name}")
        # Nothing leads from there to the source but the repository.
        assert site.value(name, "SELECT current_setting('primary_conninfo')").find(str(source.ports[origin][0])) < 0

    refused = site.run(first, "ha", "promote", SITE)
    assert (refused.status, "follow" in refused.err) == (12, True), refused
    site.configure(follow=None)
    promoted = site.json(first, "ha", "promote", SITE)["primary"]
    for name in site.names:
        site.ok(name, "ha", "apply", SITE, "--node", name)
    site.wait_healthy()
    site.sql(promoted, "INSERT INTO t VALUES (0)")
    site.register()
    site.ok(promoted, "backup", SITE)
    other = next(name for name in site.names if name != promoted)
    wait_until(lambda: site.value(other, "SELECT count(*) FROM t") == 3001, "the row on the other node")
    assert source.value(origin, "SELECT count(*) FROM t") == 3000
    assert {path.name[:8] for path in list_files(site.repository / "clusters" / NAME, "0000000*")} == {"00000001"}
