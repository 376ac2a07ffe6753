"""``pghaven init``: what it makes, what it shows, and what it refuses."""

from __future__ import annotations

import os
import shutil
import stat
import tomllib
from pathlib import Path

import pytest

from pghaven.errors import NotPermitted, Refused, ServerUnsuitable
from pghaven.server.privileges import LEAST_PRIVILEGES
from pghaven.wal.marks import Marks
from tests.cli.site import NAME, Site
from tests.support.cluster import Kind
from tests.support.fixtures import ClusterFactory, ObjectServerFactory
from tests.support.places import own, plain_user

REFUSED = Refused.exit_status
UNSUITABLE = ServerUnsuitable.exit_status
NOT_PERMITTED = NotPermitted.exit_status
OTHER_CLUSTER = Kind(variant=1)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as somebody else")


def make_options(site: Site) -> tuple[str, ...]:
    cluster = site.cluster
    return ("--data-directory", str(cluster.data_directory), "--conninfo", cluster.conninfo, "--repository", site.url)


def conninfo_of(site: Site, user: str) -> str:
    return site.cluster.conninfo.replace("user=postgres", f"user={user}")


# -- the configuration -------------------------------------------------------------------------------------------------


def test_a_first_configuration_is_written_for_the_server_s_user_to_read(site: Site) -> None:
    shown = site.json("init", NAME, *make_options(site))
    assert shown["config_written"] is True
    assert tomllib.loads(site.config.read_text()) == {
        "repository": {"main": {"url": site.url}},
        "cluster": {
            "main": {
                "data_directory": str(site.cluster.data_directory),
                "conninfo": site.cluster.conninfo,
                "repositories": ["main"],
            }
        },
    }
    status = site.config.stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_gid == plain_user().gid


def test_without_a_data_directory_the_server_is_asked(site: Site) -> None:
    shown = site.json("init", NAME, "--conninfo", site.cluster.conninfo, "--repository", site.url)
    assert shown["data_directory"] == str(site.cluster.data_directory)


def test_a_configuration_that_is_there_is_never_changed(site: Site) -> None:
    site.write_config()
    before = site.config.read_text()
    site.ok("init", NAME)
    error = site.error("init", NAME, "--repository", "file:///elsewhere", status=2)
    assert error["message"] == f'--repository is "file:///elsewhere", but {site.config} says "{site.url}"'
    error = site.error("init", "another", *make_options(site), status=2)
    assert error["message"] == f'cluster "another" is not in the configuration {site.config}'
    assert "[cluster.another]" in error["detail"]
    assert site.config.read_text() == before


def test_options_of_the_repository_are_written_as_their_kinds(site: Site, object_server: ObjectServerFactory) -> None:
    settings = object_server("seaweedfs").settings()
    site.url = settings.url
    given = {
        "endpoint": settings.endpoint,
        "credentials_file": settings.credentials_file,
        "path_style": "true",
        "retry_timeout": "10s",
    }
    words = [word for name, value in given.items() for word in ("--store-option", f"{name}={value}")]
    site.ok("init", NAME, "--no-encryption", *make_options(site), *words)
    written = tomllib.loads(site.config.read_text())["repository"]["main"]
    assert written == {"url": site.url} | given | {"path_style": True}
    site.ok("init", NAME, "--store-option", "retry_timeout=10s")
    error = site.error("init", NAME, "--store-option", "retry_timeout=11s", status=2)
    assert error["message"] == f"--store-option retry_timeout contradicts the configuration {site.config}"


def test_options_that_there_are_not_are_told_before_anything_is_made(site: Site) -> None:
    for word, told in (
        ("endpoint", "NAME=VALUE"),
        ("url=s3://b", "NAME=VALUE"),
        ("endpiont=https://x", 'did you mean "endpoint"'),
        ("endpoint=https://x", "is for s3://"),
        ("limit=fast", '"limit"'),
    ):
        error = site.error("init", NAME, *make_options(site), "--store-option", word, status=2)
        assert told in error["message"] + error["detail"], error
    assert not site.config.exists()
    assert not site.repository.exists()


PASSPHRASE = {"PGHAVEN_PASSPHRASE": "correct horse"}


def test_a_passphrase_in_the_environment_seals_what_is_made_unless_told_not_to(site: Site) -> None:
    """And what was made opens with the same environment, whichever it was."""
    error = site.error("init", NAME, *make_options(site), status=2, environment=PASSPHRASE)
    assert "would be sealed" in error["message"]
    assert not site.config.exists()
    shown = site.json("init", NAME, *make_options(site), "--no-encryption", environment=PASSPHRASE)
    assert shown["repositories"][0]["is_sealed"] is False
    assert tomllib.loads(site.config.read_text())["repository"]["main"]["encryption"] is False
    site.ok("list", environment=PASSPHRASE)
    site.ok("list")


def test_an_open_repository_stands_beside_one_with_a_passphrase(site: Site) -> None:
    site.write_config()
    error = site.error("init", NAME, "--no-encryption", status=2, environment=PASSPHRASE)
    assert "write encryption = false into [repository.main]" in error["hint"]
    site.config.write_text(site.config.read_text().replace("\n\n", "\nencryption = false\n\n", 1))
    site.ok("init", NAME, environment=PASSPHRASE)
    site.ok("list", environment=PASSPHRASE)
    site.config.write_text(site.config.read_text().replace("encryption = false", "encryption = true"))
    assert "nothing in it is sealed" in site.error("list", status=REFUSED)["message"]


def test_what_a_repository_of_the_name_held_before_counts_for_nothing(site: Site) -> None:
    site.ok("init", NAME, *make_options(site))
    marks = Marks(str(site.cluster.data_directory / "pg_wal"))
    segment = next(path for path in (site.cluster.data_directory / "pg_wal").iterdir() if len(path.name) == 24)
    name, time_ns = segment.name, segment.stat().st_mtime_ns
    marks.mark(name, time_ns)
    marks.mark_held(NAME, name, time_ns)
    site.ok("init", NAME)
    assert marks.is_marked(name)
    assert marks.is_held(NAME, name)
    shutil.rmtree(site.repository)
    site.ok("init", NAME)
    assert not marks.is_marked(name)
    assert not marks.is_held(NAME, name)


def test_without_a_configuration_the_repository_must_be_named(site: Site) -> None:
    error = site.error("init", NAME, "--conninfo", site.cluster.conninfo, status=2)
    assert str(site.config) in error["message"]
    assert "--repository file://" in error["hint"]
    assert not site.config.exists()


def test_a_failed_first_init_leaves_nothing_behind(site: Site) -> None:
    before = set(site.place.iterdir())
    nowhere = "host=/nonexistent dbname=postgres"
    error = site.error("init", NAME, "--conninfo", nowhere, "--repository", site.url, status=UNSUITABLE)
    assert "could not connect" in error["message"]
    assert set(site.place.iterdir()) == before


@pytest.mark.parametrize("name", ["Main", "a/b", ".."])
def test_a_name_that_cannot_be_a_cluster_s_is_refused(site: Site, name: str) -> None:
    assert "cannot be the name of a cluster" in site.error("init", name, status=2)["message"]


def test_a_configuration_that_is_wrong_is_told_with_its_place(site: Site) -> None:
    site.config.write_text('[cluster.main]\ndata_directori = "/x"\n')
    error = site.error("init", NAME, status=2)
    assert error["code"] == "config"
    assert f'{site.config}:2: unknown option "data_directori"' in error["detail"]


# -- the repository ----------------------------------------------------------------------------------------------------


@as_root
def test_root_gives_the_repository_to_the_server_s_user(site: Site) -> None:
    site.write_config()
    site.ok("init", NAME)
    assert {path.stat().st_uid for path in (site.repository, *site.repository.rglob("*"))} == {plain_user().uid}


@as_root
def test_an_empty_directory_of_root_s_is_given_to_the_server_s_user(site: Site) -> None:
    site.write_config()
    site.repository.mkdir()
    site.ok("init", NAME)
    assert site.repository.stat().st_uid == plain_user().uid


def test_a_place_that_holds_something_else_is_refused(site: Site) -> None:
    site.write_config()
    site.repository.mkdir()
    (site.repository / "photos").mkdir()
    own(site.repository)
    error = site.error("init", NAME, status=REFUSED)
    assert "is not empty and not a repository: it holds photos" in error["message"]


def test_another_cluster_cannot_take_a_name_unless_told_to(site: Site, make_cluster: ClusterFactory) -> None:
    site.write_config()
    first = site.json("init", NAME)["system_identifier"]
    other = make_cluster(kind=OTHER_CLUSTER)
    site.write_config(data_directory=str(other.data_directory), conninfo=other.conninfo)
    error = site.error("init", NAME, status=REFUSED)
    assert f'is not known under the name "{NAME}": the repository knows {first}' in error["message"]
    assert "--new-lineage" in error["hint"]
    assert site.json("init", NAME, "--new-lineage")["system_identifier"] != first
    assert site.json("init", NAME)["repositories"][0]["newly_registered"] is False


def test_a_data_directory_of_another_cluster_is_refused(site: Site, make_cluster: ClusterFactory) -> None:
    other = make_cluster(kind=OTHER_CLUSTER)
    site.write_config(data_directory=str(other.data_directory))
    error = site.error("init", NAME, status=REFUSED)
    assert f'"{other.data_directory}" is the data directory of another cluster' in error["message"]
    assert not site.repository.exists()


def test_a_copy_of_the_data_directory_is_not_taken_for_the_server_s(site: Site, make_cluster: ClusterFactory) -> None:
    copy = make_cluster(start=False)
    site.write_config(data_directory=str(copy.data_directory))
    error = site.error("init", NAME, status=REFUSED)
    assert error["hint"] == f'The server says its data directory is "{site.cluster.data_directory}".'


# -- the server's settings ---------------------------------------------------------------------------------------------


def test_settings_are_shown_with_their_reasons_and_left_alone(site: Site) -> None:
    site.write_config()
    auto = site.cluster.data_directory / "postgresql.auto.conf"
    before = auto.read_bytes()
    shown = site.json("init", NAME)
    assert shown["ready"] is False
    assert {one["name"] for one in shown["settings_to_change"]} >= {"archive_mode", "archive_command"}
    assert all(one["reason"] for one in shown["settings_to_change"])
    assert auto.read_bytes() == before
    text = site.ok("init", NAME)
    assert "because:    nothing is archived without it" in text
    assert "Have them changed with: pghaven init main --apply" in text


def test_applying_tells_what_waits_for_a_restart_and_the_next_run_has_nothing_to_do(site: Site) -> None:
    site.write_config()
    applied = site.json("init", NAME, "--apply")
    assert applied["applied"]["needs_restart"] == ["archive_mode"]
    assert "archive_command" in applied["applied"]["in_force"]
    assert applied["restart_command"].endswith(f"pg_ctl -D {site.cluster.data_directory} restart")
    assert applied["ready"] is False

    waiting = site.json("init", NAME, "--apply")
    assert waiting["applied"] is None
    assert {one["name"] for one in waiting["settings_waiting_for_restart"]} == {"archive_mode", "archive_command"}

    site.cluster.restart()
    auto = site.cluster.data_directory / "postgresql.auto.conf"
    before = auto.read_bytes()
    assert "All is well." in site.ok("init", NAME, "--apply")
    assert site.json("init", NAME)["ready"] is True
    assert auto.read_bytes() == before


def test_what_the_server_runs_is_what_was_shown(site: Site) -> None:
    site.set_up()
    assert site.cluster.value("SHOW archive_command") == site.json("init", NAME)["archive_command"]
    site.archive_all()


def test_a_setting_that_something_else_wins_over_is_a_warning(site: Site) -> None:
    site.write_config()
    site.cluster.restart({"archive_timeout": "0"})
    ended = site.run("init", NAME, "--apply")
    assert ended.status == 3
    assert "archive_timeout was written, but command line wins over it" in ended.err


# -- the program -------------------------------------------------------------------------------------------------------


def test_a_program_the_server_cannot_run_is_told_and_not_written_into_its_settings(site: Site) -> None:
    site.write_config(program="/nonexistent/pghaven")
    ended = site.run("init", NAME)
    assert ended.status == 3
    assert "archiving would fail" in ended.err
    assert "/nonexistent/pghaven cannot be run: no such file or directory" in ended.err
    error = site.error("init", NAME, "--apply", status=REFUSED)
    assert "settings are left as they are" in error["message"]
    assert '"program"' in error["hint"]
    assert site.cluster.value("SELECT count(*) FROM pg_file_settings WHERE name = 'archive_command'") == 0


@as_root
def test_a_configuration_the_server_s_user_cannot_read_is_told(site: Site) -> None:
    site.write_config()
    site.config.chmod(0o600)
    os.chown(site.config, 0, 0)
    error = site.error("init", NAME, "--apply", status=REFUSED)
    assert f'could not read configuration file "{site.config}": permission denied' in error["message"]


@as_root
def test_a_repository_the_server_s_user_cannot_write_to_is_told(site: Site) -> None:
    site.write_config()
    site.ok("init", NAME)
    os.chown(site.repository, 0, 0)
    site.repository.chmod(0o755)
    error = site.error("init", NAME, "--apply", status=REFUSED)
    assert f'"{plain_user().name}" may not write to the repository\'s directory "{site.repository}"' in error["message"]


# -- privileges --------------------------------------------------------------------------------------------------------


def test_a_role_that_does_not_exist_is_told_with_the_sql_that_makes_it(site: Site) -> None:
    site.write_config(conninfo=conninfo_of(site, "keeper"))
    error = site.error("init", NAME, status=UNSUITABLE)
    assert 'role "keeper" does not exist' in error["message"]
    statements = error["detail"].partition("\n")[2]
    assert statements.startswith('CREATE ROLE "keeper" LOGIN;')
    site.cluster.sql(statements)
    site.ok("init", NAME)


def test_a_role_without_rights_is_told_every_grant_it_needs(site: Site) -> None:
    site.write_config(conninfo=conninfo_of(site, "keeper"))
    site.cluster.sql("CREATE ROLE keeper LOGIN")
    error = site.error("init", NAME, status=NOT_PERMITTED)
    assert error["hint"].startswith('As a superuser, run: GRANT pg_monitor TO "keeper"')
    grants = error["detail"].partition("\n")[2]
    assert len(grants.splitlines()) == len(LEAST_PRIVILEGES)
    site.cluster.sql(grants)
    assert site.json("init", NAME)["missing_privileges"] == []


def test_a_role_that_may_not_change_settings_is_told_the_grants_and_can_then(site: Site) -> None:
    site.cluster.sql("CREATE ROLE keeper LOGIN; GRANT pg_monitor TO keeper")
    site.write_config(conninfo=conninfo_of(site, "keeper"))
    shown = site.json("init", NAME, status=3)
    assert shown["missing_privileges"] == [one for one in LEAST_PRIVILEGES if one != "pg_monitor"]
    error = site.error("init", NAME, "--apply", status=NOT_PERMITTED)
    assert "GRANT ALTER SYSTEM ON PARAMETER" in error["hint"]
    site.cluster.sql(error["detail"].partition("\n")[2])
    assert "archive_mode" in site.json("init", NAME, "--apply", status=3)["applied"]["needs_restart"]


def test_a_server_that_is_down_is_told_as_such(site: Site) -> None:
    site.write_config()
    site.cluster.stop()
    error = site.error("init", NAME, status=UNSUITABLE)
    assert error["code"] == "server_unsuitable"
    assert "Check that the server runs" in error["hint"]


def test_a_data_directory_that_is_not_there_is_told(site: Site, tmp_path: Path) -> None:
    site.write_config(data_directory=str(tmp_path / "nowhere"))
    error = site.error("init", NAME, status=UNSUITABLE)
    assert error["message"] == f'data directory "{tmp_path}/nowhere" does not exist'
