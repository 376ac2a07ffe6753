"""A backup follows the roles of a cluster's servers, which are asked anew at each run."""

from __future__ import annotations

from tests.cli.site import Site
from tests.support.fixtures import ClusterFactory


def test_a_backup_is_left_to_a_standby_for_as_long_as_there_is_one(site: Site, make_cluster: ClusterFactory) -> None:
    site.set_up()
    standby = make_cluster.standby_of(site.cluster)
    site.write_config(backup_from="standby", wal_nodes=[standby.conninfo])
    found = site.json("backup")
    assert found["schema"] == "pghaven/backup-left/1"
    assert str(standby.socket_directory) in found["left_to"]
    assert not list((site.repository / "clusters").rglob("manifest"))
    standby.stop()
    assert site.json("backup")["from_standby"] is False
    # Roles change: a server that is promoted is no standby any more, and the backup is this one's again.
    standby.start({"archive_mode": "off"})
    assert "left_to" in site.json("backup")
    standby.sql("SELECT pg_promote()")
    standby.wait_for("SELECT NOT pg_is_in_recovery()")
    assert site.json("backup")["from_standby"] is False
