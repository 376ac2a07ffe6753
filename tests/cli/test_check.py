"""``pghaven check``: each link is tried, and a broken one is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.errors import CheckFailed
from pghaven.server.privileges import render_least_privilege_sql
from tests.cli.site import NAME, Site
from tests.support.cluster import Kind
from tests.support.fixtures import ClusterFactory

FAILED = CheckFailed.exit_status
WARNINGS = 3
ALWAYS = {
    "configuration",
    "repository",
    "server",
    "privileges",
    "data directory",
    "lineage",
    "settings",
    "archive_command",
    "archiver",
    "backlog",
    "WAL round trip",
    "backup",
    "repository space",
}


@pytest.fixture
def away(protected: Site) -> Iterator[Path]:
    """The repository's directory, moved away for a test."""
    hidden = protected.repository.with_name("away")
    protected.repository.rename(hidden)
    yield hidden
    hidden.rename(protected.repository)


def as_role(site: Site, role: str) -> dict[str, str]:
    return {"PGHAVEN_CLUSTER__MAIN__CONNINFO": site.cluster.conninfo.replace("user=postgres", f"user={role}")}


def results(site: Site, *, status: int, environment: dict[str, str] | None = None) -> dict[str, dict[str, str]]:
    (checked,) = site.json("check", status=status, environment=environment)["clusters"]
    return {one["name"]: one for one in checked["checks"]}


def test_all_is_well_where_all_is_well(protected: Site) -> None:
    found = protected.check(status=0)
    assert set(found) >= ALWAYS
    assert {verdict for verdict, _ in found.values()} == {"OK"}


def test_a_segment_really_goes_all_the_way(protected: Site) -> None:
    trip = results(protected, status=0)["WAL round trip"]
    segment = trip["text"].split()[1]
    assert protected.find_segment(segment).stat().st_size > 0
    assert 0 < float(trip["seconds"]) < 60
    points = protected.json("wal", "list")
    assert points["archives"]


def test_a_role_with_the_least_privileges_suffices(protected: Site) -> None:
    protected.cluster.sql(render_least_privilege_sql("frugal"))
    found = results(protected, status=0, environment=as_role(protected, "frugal"))
    assert found["WAL round trip"]["verdict"] == "OK"
    assert found["server"]["text"].endswith("connected as role frugal")


def test_what_a_role_lacks_is_told_as_the_grant(protected: Site) -> None:
    protected.cluster.sql(render_least_privilege_sql("short"))
    protected.cluster.sql("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() FROM short")
    found = results(protected, status=WARNINGS, environment=as_role(protected, "short"))
    grant = 'GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO "short"'
    assert found["privileges"]["hint"] == f"As a superuser, run: {grant}"
    assert found["WAL round trip"]["verdict"] == "skipped"


def test_a_role_that_may_not_look_fails_the_privileges_and_skips_the_rest(protected: Site) -> None:
    protected.cluster.sql("CREATE ROLE blind LOGIN")
    found = results(protected, status=FAILED, environment=as_role(protected, "blind"))
    assert found["privileges"]["verdict"] == "FAILED"
    assert 'GRANT pg_monitor TO "blind"' in found["privileges"]["hint"]
    assert found["archiver"]["verdict"] == "skipped"
    assert set(found) >= ALWAYS


def test_a_repository_that_is_away_fails_and_the_server_is_still_checked(protected: Site, away: Path) -> None:
    found = results(protected, status=FAILED)
    assert found["repository"]["verdict"] == "FAILED"
    assert protected.url in found["repository"]["text"]
    assert found["server"]["verdict"] == "OK"
    assert found["program"]["verdict"] == "FAILED"
    assert found["WAL round trip"]["verdict"] == "skipped"


def test_a_cluster_that_is_not_configured_is_told(protected: Site) -> None:
    error = protected.error("check", "mian", status=10)
    assert (error["code"], error["hint"]) == ("not_found", 'Did you mean "main"?')


def test_a_file_of_an_old_recipe_is_recognised(protected: Site) -> None:
    left_over = protected.cluster.data_directory / "recovery.done"
    left_over.touch()
    found = results(protected, status=WARNINGS)
    left_over.unlink()
    assert found["old settings"]["verdict"] == "WARNING"
    assert "recovery.done" in found["old settings"]["text"]


def test_on_a_standby_what_can_be_proven_is(protected: Site, make_cluster: ClusterFactory) -> None:
    standby = make_cluster.standby_of(protected.cluster)
    environment = {
        "PGHAVEN_CLUSTER__MAIN__CONNINFO": standby.conninfo,
        "PGHAVEN_CLUSTER__MAIN__DATA_DIRECTORY": str(standby.data_directory),
    }
    found = results(protected, status=0, environment=environment)
    assert "standby on timeline 1" in found["server"]["text"]
    assert "not made on a standby; the primary's newest segment" in found["WAL round trip"]["text"]


def test_all_configured_clusters_are_checked(protected: Site, make_cluster: ClusterFactory) -> None:
    before = protected.config.read_text()
    other = make_cluster(kind=Kind(variant=1))
    section = f'\n[cluster.other]\ndata_directory = "{other.data_directory}"\nconninfo = "{other.conninfo}"\n'
    protected.config.write_text(before + section)
    checked = protected.json("check", status=FAILED)["clusters"]
    protected.config.write_text(before)
    assert [(one["cluster"], one["result"]) for one in checked] == [(NAME, "OK"), ("other", "FAILED")]
    lineage = next(one for one in checked[1]["checks"] if one["name"] == "lineage")
    assert 'cluster "other" is not registered' in lineage["text"]


def test_a_server_that_is_down_fails_and_the_repository_is_still_checked(site: Site) -> None:
    site.set_up()
    site.cluster.stop()
    found = site.check(status=FAILED)
    assert set(found) >= ALWAYS
    assert found["server"][0] == "FAILED"
    assert found["repository"][0] == "OK"
    assert found["WAL round trip"] == ("skipped", "needs the server")


def test_a_server_that_was_never_set_up_fails_setting_by_setting(site: Site) -> None:
    site.write_config()
    site.ok("init", NAME)
    found = site.check(status=FAILED)
    assert found["settings"][0] == "FAILED"
    assert 'archive_mode is "off", should be "on"' in found["settings"][1]
    assert found["WAL round trip"] == ("skipped", "archive_mode is off")


def test_an_archive_command_that_fails_is_noticed_without_waiting(site: Site) -> None:
    site.set_up()
    site.cluster.sql("ALTER SYSTEM SET archive_command = 'exit 7 # pghaven wal push %p'")
    site.cluster.reload()
    found = results(site, status=FAILED)
    assert found["archive_command"]["verdict"] == "OK"
    assert found["WAL round trip"]["verdict"] == "FAILED"
    assert "archive_command failed" in found["WAL round trip"]["text"]


def test_an_archive_command_of_somebody_else_s_is_told(site: Site) -> None:
    site.set_up()
    site.cluster.sql("ALTER SYSTEM SET archive_command = 'cp %p /nonexistent/%f'")
    site.cluster.reload()
    found = results(site, status=FAILED)
    assert found["archive_command"]["verdict"] == "FAILED"
    assert found["archive_command"]["text"] == 'is not pghaven\'s: "cp %p /nonexistent/%f"'
    assert found["WAL round trip"]["verdict"] == "FAILED"


def test_a_time_limit_of_one_s_own_is_kept(site: Site) -> None:
    site.set_up()
    site.cluster.sql("ALTER SYSTEM SET archive_command = 'sleep 20; false'")
    site.cluster.reload()
    ended = site.run("check", "--timeout", "200ms", "--json")
    assert ended.status == FAILED
    assert "did not arrive within 0.2 s" in ended.out
    assert site.error("check", "--timeout", "5", status=2)["message"].startswith("--timeout: ")


def test_another_cluster_s_data_directory_is_told(site: Site, make_cluster: ClusterFactory) -> None:
    site.set_up()
    other = make_cluster(kind=Kind(variant=1), start=False)
    site.write_config(data_directory=str(other.data_directory))
    found = site.check(status=FAILED)
    assert found["data directory"][0] == "FAILED"
    assert "is the data directory of another cluster" in found["data directory"][1]
