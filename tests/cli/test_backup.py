"""``pghaven backup``: what it tells, and what it refuses."""

from __future__ import annotations

import signal

from pghaven.errors import Cancelled, Locked, NotPermitted, Refused, ServerUnsuitable, StoreUnreachable
from pghaven.server.privileges import render_least_privilege_sql
from tests.cli.site import NAME, Site
from tests.support.cluster import Kind
from tests.support.fixtures import ClusterFactory
from tests.support.waiting import PATIENCE_SECONDS, wait_until


def test_a_backup_tells_what_the_list_tells(protected: Site) -> None:
    made = protected.json("backup", NAME, "--full")
    (listed,) = [one for one in protected.json("list")["clusters"][0]["backups"] if one["label"] == made["label"]]
    for name in ("timeline", "start_lsn", "stop_lsn", "total_bytes", "stored_bytes", "system_identifier"):
        assert listed[name] == made[name], name
    assert made["bad_pages"] == []
    assert made["data_checksums"] is True
    assert made["first_segment"] <= made["last_segment"]


def test_people_are_told_how_to_restore_it(protected: Site) -> None:
    text = protected.ok("backup")
    assert "restore with:    pghaven restore main --target-dir DIR" in text
    assert "page checksums:  verified" in text


def test_of_two_at_once_the_second_is_told_who_runs(site: Site) -> None:
    site.set_up()
    site.cluster.sql("ALTER SYSTEM SET archive_command = 'sleep 1; false'")
    site.cluster.reload()
    config = str(site.config)
    with site.start_words("--config", config, "backup", "--json") as first:
        wait_until(lambda: "running" in _states(site), "the first backup")
        error = site.error("backup", status=Locked.exit_status)
        assert f"process {_running_process(site)} on host" in error["message"]
        assert "running on" in site.ok("list")
        assert "running backup:" in site.run("status").out
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE_SECONDS) == Cancelled.exit_status
    assert _states(site) == ["given up"]


def _states(site: Site) -> list[str]:
    return [one["state"] for one in site.json("list")["clusters"][0]["backups"]]


def _running_process(site: Site) -> int:
    backups = site.json("list")["clusters"][0]["backups"]
    (process,) = [one["process"] for one in backups if one["state"] == "running"]
    return int(process)


def test_a_backup_whose_wal_does_not_arrive_was_not_made(site: Site) -> None:
    site.write_config(backup_archive_timeout="300ms")
    site.set_up()
    site.cluster.sql("ALTER SYSTEM SET archive_command = 'exit 3'")
    site.cluster.reload()
    error = site.error("backup", status=17)
    assert "did not reach the archive within 0.3 s" in error["message"]
    assert _states(site) == ["given up"]


def test_without_archiving_there_is_no_backup(site: Site) -> None:
    site.write_config()
    site.ok("init", NAME)
    error = site.error("backup", status=ServerUnsuitable.exit_status)
    assert (error["message"], error["hint"]) == (
        "archive_mode is off: a backup needs the WAL written while it is taken",
        "Run: pghaven init main --apply",
    )


def test_a_cluster_nobody_has_registered_is_told(site: Site, make_cluster: ClusterFactory) -> None:
    site.write_config()
    error = site.error("backup", status=StoreUnreachable.exit_status)
    assert error["hint"].endswith("If there is no repository yet: pghaven init main")
    site.ok("init", NAME)
    other = make_cluster(kind=Kind(variant=1))
    site.write_config(data_directory=str(other.data_directory), conninfo=other.conninfo)
    error = site.error("backup", status=Refused.exit_status)
    assert f'is not known under the name "{NAME}"' in error["message"]


def test_a_role_with_the_least_privileges_suffices(protected: Site) -> None:
    protected.cluster.sql(render_least_privilege_sql("frugal"))
    conninfo = protected.cluster.conninfo.replace("user=postgres", "user=frugal")
    environment = {"PGHAVEN_CLUSTER__MAIN__CONNINFO": conninfo}
    assert protected.json("backup", environment=environment)["bad_pages"] == []
    (status,) = protected.json("status", environment=environment)["clusters"]
    assert status["server"]["waiting"] == 0


def test_a_role_that_may_not_is_told_the_grant(protected: Site) -> None:
    protected.cluster.sql("CREATE ROLE looker LOGIN; GRANT pg_monitor TO looker")
    conninfo = protected.cluster.conninfo.replace("user=postgres", "user=looker")
    environment = {"PGHAVEN_CLUSTER__MAIN__CONNINFO": conninfo}
    error = protected.error("backup", status=NotPermitted.exit_status, environment=environment)
    grant = 'GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO "looker"'
    assert error["hint"] == f"As a superuser, run: {grant}"


def test_a_data_directory_of_another_cluster_is_refused(protected: Site, make_cluster: ClusterFactory) -> None:
    other = make_cluster(kind=Kind(variant=1), start=False)
    environment = {"PGHAVEN_CLUSTER__MAIN__DATA_DIRECTORY": str(other.data_directory)}
    error = protected.error("backup", status=Refused.exit_status, environment=environment)
    assert "is the data directory of another cluster" in error["message"]


def test_a_repository_that_the_cluster_does_not_have_is_told(protected: Site) -> None:
    error = protected.error("backup", "--repository", "offsite", status=10)
    assert error["hint"] == 'There are: "main".'


def test_with_two_clusters_one_must_be_named(protected: Site) -> None:
    before = protected.config.read_text()
    protected.config.write_text(before + '\n[cluster.other]\ndata_directory = "/nowhere"\n')
    error = protected.error("backup", status=2)
    protected.config.write_text(before)
    assert error["hint"] == 'There are: "main", "other".'


def test_a_server_that_is_down_is_told(site: Site) -> None:
    site.set_up()
    site.cluster.stop()
    error = site.error("backup", status=ServerUnsuitable.exit_status)
    assert error["message"].startswith("could not connect")
