"""Gaps are filled from the servers that still have the WAL; what nobody has is kept as lost."""

from __future__ import annotations

import json

from pghaven.errors import Refused
from tests.cli.site import NAME, Site
from tests.support.cluster import make_standby
from tests.support.moving import list_files

WARNINGS = 3
REFUSED = Refused.exit_status


def keep_everything(site: Site) -> None:
    site.cluster.append_conf(wal_keep_size="1GB")
    site.cluster.reload()


def test_a_gap_is_filled_from_pg_wal_and_lost_when_nobody_has_it(site: Site) -> None:
    site.set_up()
    keep_everything(site)
    site.ok("backup")
    site.cluster.sql("CREATE TABLE t (a int)")
    names = []
    for value in range(6):
        site.cluster.sql(f"INSERT INTO t VALUES ({value})")
        names.append(site.archive_all())
    content = (site.cluster.data_directory / "pg_wal" / names[1]).read_bytes()
    for name in names[1:3]:
        site.find_segment(name).unlink()
    assert site.json("wal", "list")["archives"][0]["gaps"][0]["can_be_filled"]

    (refilled,) = site.json("wal", "refill")["repositories"]
    assert set(refilled["from_servers"]) == set(names[1:3])
    assert site.json("wal", "list")["archives"][0]["gaps"] == []
    got = site.place / "got"
    site.ok("wal", "get", names[1], str(got))
    assert got.read_bytes() == content
    site.ok("wal", "refill")

    # A file that was recycled under the name, or was written by somebody else, is not taken.
    site.find_segment(names[1]).unlink()
    path = site.cluster.data_directory / "pg_wal" / names[1]
    path.write_bytes(content[:40] + bytes(len(content) - 40))
    (refilled,) = site.json("wal", "refill", status=WARNINGS)["repositories"]
    assert refilled["from_servers"] == {}
    assert refilled["lost"] == [{"first": names[1], "last": names[1]}]

    (gap,) = site.json("wal", "list")["archives"][0]["gaps"]
    assert gap["cause"] == "lost"
    position = site.cluster.value("SELECT pg_current_wal_lsn()::text")
    for target in (("--target-lsn", position), ("--target-time", "2100-01-01 00:00:00Z")):
        refused = site.error("restore", NAME, "--target-dir", str(site.target), "--dry-run", *target, status=REFUSED)
        assert f"lies in or behind a gap: WAL segment {names[1]} is missing" in refused["message"]
    found = site.json("status", status=WARNINGS)["clusters"][0]
    (problem,) = [one for one in found["problems"] if names[1] in one["text"]]
    assert problem["level"] == "critical"
    assert "lost: looked for" in problem["text"]
    assert problem["hint"] == "Take a new backup: pghaven backup main"
    # It is told once: a second look changes nothing in the repository.
    count = len(list_files(site.repository, "lost-wal-*"))
    site.json("wal", "refill", status=WARNINGS)
    assert len(list_files(site.repository, "lost-wal-*")) == count == 1
    site.ok("backup")
    after = site.json("status", status=WARNINGS)["clusters"][0]["problems"]
    assert [one["level"] for one in after if names[1] in one["text"]] == ["warning"]


def test_a_standby_has_what_the_primary_has_removed(site: Site) -> None:
    site.set_up()
    keep_everything(site)
    standby = make_standby(site.cluster)
    try:
        site.write_config(wal_nodes=[standby.conninfo])
        names = [site.archive_all() for _ in range(4)]
        position = site.cluster.value("SELECT pg_current_wal_lsn()::text")
        standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position)
        site.find_segment(names[1]).unlink()
        (site.cluster.data_directory / "pg_wal" / names[1]).unlink()
        (refilled,) = site.json("wal", "refill")["repositories"]
        assert list(refilled["from_servers"]) == [names[1]]
        # A server that cannot be asked leaves it open whether the WAL is lost.
        standby.stop()
        site.find_segment(names[1]).unlink()
        (refilled,) = site.json("wal", "refill", status=WARNINGS)["repositories"]
        assert refilled["lost"] == []
        assert "could not connect" in json.dumps(refilled["open"])
    finally:
        standby.stop_and_remove()
