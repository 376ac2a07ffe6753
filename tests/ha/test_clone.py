"""A cluster is made of another one, as it was at a moment, and goes its own way."""

from __future__ import annotations

import pytest

from tests.ha.engine import NAME, Engine, EngineFactory
from tests.support.moving import list_files
from tests.support.waiting import wait_until

COPY = "copy"


def list_timelines(engine: Engine, cluster: str) -> set[str]:
    """Of which timelines the repository has WAL or a history, of a cluster."""
    return {path.name[:8] for path in list_files(engine.repository / "clusters" / cluster, "0000000*")}


@pytest.mark.slow
def test_a_copy_is_a_cluster_of_its_own_and_touches_its_source_nowhere(make_engine: EngineFactory) -> None:
    source = make_engine(nodes=1)
    (origin,) = source.names
    source.sql(origin, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    source.sql(
        origin,
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = 'taken')",
    )
    source.sql(origin, "ALTER SUBSCRIPTION s ENABLE")
    source.ok(origin, "backup", NAME)
    lsn = source.value(origin, "SELECT pg_current_wal_insert_lsn()")
    source.sql(origin, "INSERT INTO t SELECT generate_series(1001, 3000)")
    source.sql(origin, "SELECT pg_switch_wal()")
    wait_until(
        lambda: source.value(origin, "SELECT last_archived_wal FROM pg_stat_archiver") is not None, "archiving", 60.0
    )

    copy = make_engine(nodes=2, start=False, name=COPY, beside=source)
    first, second = copy.names
    copy.start_etcd()
    refused = copy.run(first, "ha", "clone", COPY, COPY, "--node", first)
    assert (refused.status, "copy of itself" in refused.err) == (12, True), refused
    words = ("ha", "clone", NAME, COPY, "--node", first, "--target-lsn", str(lsn))
    assert copy.json(first, *words, "--dry-run")["dry_run"] is True
    assert not copy.data_directory(first).exists()
    body = copy.json(first, *words)
    assert (body["timeline"], body["subscriptions"]) == (2, ["postgres.s"])

    copy.apply()
    copy.start_node(first)
    assert copy.wait_leader() == first
    copy.start_node(second)
    copy.wait_healthy()
    copy.register()
    copy.sql(first, "INSERT INTO t VALUES (0)")
    copy.ok(first, "backup", COPY)
    assert [copy.value(name, "SELECT count(*) FROM t") for name in copy.names] == [1001, 1001]
    assert copy.value(first, "SELECT subenabled FROM pg_subscription") is False
    assert source.value(origin, "SELECT count(*) FROM t") == 3000
    assert source.value(origin, "SELECT subenabled FROM pg_subscription") is True
    # What the copy archives is its own, and can be restored; its source's archive has nothing of it.
    timeline = copy.value(first, "SELECT timeline_id FROM pg_control_checkpoint()")
    assert max(list_timelines(copy, COPY)) == f"{timeline:08X}" > "00000001"
    assert list_timelines(source, NAME) == {"00000001"}
    restored = copy.place / "restored"
    copy.ok(first, "restore", COPY, "--target-dir", str(restored), "--port", "54999", "--start")

    again = copy.run(first, *words)
    assert again.status == 12, again
    assert "Patroni still runs" in again.err
    history = copy.data_directory(first) / "pg_wal" / "00000002.history"
    wrong = copy.run(first, "wal", "push", "--cluster", NAME, str(history), cwd=copy.data_directory(first))
    assert wrong.status != 0
    assert f'archives as "{COPY}"' in wrong.err
