"""``pghaven restore``: the plan, the refusals, and the restored server."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from pghaven.errors import Refused, ServerUnsuitable
from tests.cli.site import NAME, Site, shared_site
from tests.support.cluster import adopt
from tests.support.fixtures import ClusterFactory
from tests.support.moving import list_names
from tests.support.places import own, plain_user
from tests.support.waiting import wait_until

REFUSED = Refused.exit_status
WARNINGS = 3

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as somebody else")


@dataclass(frozen=True)
class Journal:
    """A backup followed by the transactions 1, 2 and 3, with what leads to each."""

    site: Site
    label: str
    before: datetime
    moments: tuple[datetime, ...]
    positions: tuple[str, ...]
    xids: tuple[str, ...]


@pytest.fixture(scope="module")
def journal(request: pytest.FixtureRequest) -> Iterator[Journal]:
    with shared_site(request.config) as site:
        site.set_up()
        cluster = site.cluster
        before = cluster.value("SELECT clock_timestamp()")
        cluster.sql("CREATE TABLE t (i int)")
        label = site.json("backup")["label"]
        moments, positions, xids = [], [], []
        for number in (1, 2, 3):
            with cluster.connect() as connection, connection.transaction():
                connection.execute("INSERT INTO t VALUES (%s)", [number])
                row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            assert row is not None
            xids.append(row[0])
            moments.append(cluster.value("SELECT clock_timestamp()"))
            positions.append(cluster.value("SELECT pg_current_wal_insert_lsn()::text"))
            cluster.sql(f"SELECT pg_create_restore_point('after {number}')")
        site.archive_all()
        yield Journal(site, label, before, tuple(moments), tuple(positions), tuple(xids))


@pytest.fixture(autouse=True)
def clean_target(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test restored is gone before the next one."""
    yield
    if "journal" in request.fixturenames:
        request.getfixturevalue("journal").site.remove_target()


def plan(site: Site, *options: str, status: int = 0, **environment: str) -> dict[str, object]:
    words = ("restore", NAME, "--target-dir", str(site.target), "--dry-run", *options)
    body = site.json(*words, status=status, environment=environment)["plan"]
    assert isinstance(body, dict)
    assert not site.target.exists()
    return body


def refused(site: Site, *options: str, status: int = REFUSED, **environment: str) -> dict[str, str]:
    error = site.error(
        "restore", NAME, "--target-dir", str(site.target), *options, status=status, environment=environment
    )
    assert not site.target.exists()
    return error


def plan_text(site: Site, *options: str) -> str:
    return site.ok("restore", NAME, "--target-dir", str(site.target), "--dry-run", *options)


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_plan_says_everything_before_anything_is_written(journal: Journal) -> None:
    site = journal.site
    words = ("restore", NAME, "--target-dir", str(site.target), "--target-time", str(journal.moments[0]), "--dry-run")
    text = site.ok(*words)
    assert not site.target.exists()
    local = journal.moments[0].astimezone().isoformat(sep=" ")
    assert f"target:    up to and including {local}\n" in text
    for title in ("then:", "backup:", "timeline:", "WAL:", "to fetch:", "to write:", "into:", "estimate:"):
        assert f"  {title}" in text
    assert journal.label in text
    assert " free\n" in text
    assert " for the files, " in text
    assert re.search(r" for WAL, \S+ \S+ for planning and opening\), so done at about ", text), text
    assert ", at assumed rates: no drill has measured any\n" in text


def test_the_plan_in_json_has_what_the_text_has(journal: Journal) -> None:
    shown = plan(journal.site, "--target-lsn", journal.positions[0])
    assert shown["backup"] == journal.label
    assert shown["end_lsn"] == journal.positions[0]
    assert shown["timeline"] == 1
    assert shown["segment_count"] == 2
    (place,) = shown["places"]  # type: ignore[misc]
    assert 0 < place["needed_bytes"] < place["free_bytes"]


def test_a_time_without_a_zone_is_read_in_the_local_one_and_echoed_with_it(journal: Journal) -> None:
    local = journal.moments[0].astimezone(UTC) - timedelta(hours=5)
    shown = plan(journal.site, "--target-time", f"{local:%Y-%m-%d %H:%M:%S.%f}", TZ="EST5")
    assert shown["target"]["time"] == f"{journal.moments[0].astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"  # type: ignore[index]
    words = (
        "restore",
        NAME,
        "--target-dir",
        str(journal.site.target),
        "--target-time",
        f"{local:%Y-%m-%d %H:%M:%S.%f}",
    )
    text = journal.site.ok(*words, "--dry-run", environment={"TZ": "EST5"})
    assert f"{local:%Y-%m-%d %H:%M:%S.%f}-05:00" in text


def test_a_time_that_happened_twice_is_refused_with_both_readings(journal: Journal) -> None:
    error = refused(journal.site, "--target-time", "2026-10-25 02:30", status=2, TZ="Europe/Berlin")
    assert "happened twice" in error["message"]
    assert "2026-10-25 02:30:00+02:00 or 2026-10-25 02:30:00+01:00" in error["message"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_target_before_the_end_of_the_backup_is_refused_with_what_can_be_reached(journal: Journal) -> None:
    error = refused(journal.site, "--target-time", str(journal.before))
    assert "before the end of the oldest backup" in error["message"]
    assert journal.label in error["detail"]


def test_a_target_after_the_end_of_the_archive_is_refused(journal: Journal) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    assert "is after the end of the archive" in refused(journal.site, "--target-time", str(later))["message"]
    assert "is after the end of the archive" in refused(journal.site, "--target-lsn", "7F/0")["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target-xid", "4000000000"), "transaction 4000000000 does not end in the archived WAL"),
        (("--target-name", "no such point"), 'no restore point "no such point" is in the archived WAL'),
        (("--target-timeline", "7"), "the history file of timeline 7 is not in the archive"),
    ],
)
def test_a_target_that_is_nowhere_is_refused(journal: Journal, options: tuple[str, ...], message: str) -> None:
    assert refused(journal.site, *options)["message"].startswith(message)


def test_a_backup_or_repository_that_is_not_there_is_not_found(journal: Journal) -> None:
    assert refused(journal.site, "--backup", "2020", status=10)["hint"] == f"Newest backups: {journal.label}."
    assert refused(journal.site, "--repository", "offsite", status=10)["hint"] == 'There are: "main".'
    error = journal.site.error("restore", "other", "--target-dir", str(journal.site.target), status=10)
    assert 'cluster "other" is not in the configuration' in error["message"]


def test_a_directory_that_is_not_empty_is_left_alone(journal: Journal) -> None:
    site = journal.site
    kept = site.place / "kept"
    kept.mkdir()
    (kept / "thesis.txt").write_text("do not lose")
    error = site.error("restore", NAME, "--target-dir", str(kept), status=REFUSED)
    assert error["message"] == f'the target directory "{kept}" is not empty'
    assert "thesis.txt" in error["detail"]
    assert [path.name for path in kept.iterdir()] == ["thesis.txt"]


def test_a_directory_in_use_by_a_server_is_refused(journal: Journal) -> None:
    directory = str(journal.site.cluster.data_directory)
    error = journal.site.error("restore", NAME, "--target-dir", directory, status=REFUSED)
    assert error["message"].startswith(f'a server is running on "{directory}" (process ')


def test_without_a_backup_there_is_nothing_to_restore(site: Site) -> None:
    site.set_up()
    error = refused(site, status=10)
    assert (error["message"], error["hint"]) == ('cluster "main" has no backup', "Take one: pghaven backup main")


def test_the_target_directory_is_required(journal: Journal) -> None:
    assert journal.site.error("restore", NAME, status=2)["message"] == 'missing option "--target-dir"'


# -- what the server will need -----------------------------------------------------------------------------------------


def test_a_program_the_server_cannot_run_stops_a_start_and_warns_else(journal: Journal) -> None:
    site = journal.site
    environment = {"PGHAVEN_CLUSTER__MAIN__PROGRAM": "/nonexistent/pghaven"}
    error = refused(site, "--start", **environment)
    assert error["message"].startswith("the restored server could not fetch WAL: ")
    words = ("restore", NAME, "--target-dir", str(site.target), "--dry-run")
    ended = site.run(*words, environment=environment)
    assert ended.status == WARNINGS
    assert "warning: the restored server could not fetch WAL" in ended.err


def test_without_postgresql_a_start_is_refused_before_anything_is_written(journal: Journal) -> None:
    environment = {"PGHAVEN_CLUSTER__MAIN__PG_BIN": "/nonexistent"}
    error = refused(journal.site, "--start", status=10, **environment)
    assert error["message"].startswith("could not find the programs of PostgreSQL")


@as_root
def test_a_directory_the_server_s_user_cannot_enter_is_told(journal: Journal) -> None:
    closed = journal.site.place / "closed"
    closed.mkdir(mode=0o700)
    error = journal.site.error("restore", NAME, "--target-dir", str(closed / "data"), "--start", status=REFUSED)
    assert f'"{plain_user().name}" may not enter "{closed}"' in error["message"]


# -- restored ----------------------------------------------------------------------------------------------------------


def test_a_restored_directory_is_ready_to_start_by_hand(journal: Journal, make_cluster: ClusterFactory) -> None:
    site = journal.site
    text = site.ok("restore", NAME, "--target-dir", str(site.target), "--target-xid", journal.xids[1])
    assert text.startswith("restore of cluster main\n")
    assert f"as the user:    {plain_user().name}\n" in text
    assert f"pg_ctl -D {site.target} -l {site.target}/pghaven.recovery.log start" in text
    assert {path.stat().st_uid for path in site.target.iterdir()} == {plain_user().uid}
    restored = make_cluster.adopt(site.target, version=site.cluster.version)
    restored.start()
    restored.wait_for("SELECT NOT pg_is_in_recovery()")
    assert restored.value("SELECT max(i) FROM t") == 2


@pytest.mark.parametrize(
    ("option", "place", "exclusive", "last"),
    [
        ("--target-time", "moments", False, 2),
        ("--target-lsn", "positions", False, 2),
        ("--target-xid", "xids", True, 1),
        ("--target-name", "", False, 2),
        ("--immediate", "", False, None),
    ],
)
def test_a_started_server_has_reached_its_target(
    journal: Journal, option: str, place: str, exclusive: bool, last: int | None
) -> None:
    value = str(getattr(journal, place)[1]) if place else "after 2" if option == "--target-name" else None
    options = [option, *([value] if value else []), *(["--exclusive"] if exclusive else [])]
    with journal.site.started(*options) as shown:
        recovery = shown["recovery"]
        assert (recovery["state"], recovery["timeline"]) == ("open", 2)
        assert 0 <= recovery["beyond_plan_bytes"] < 4096
        assert journal.site.ask_restored("SELECT max(i) FROM t") == last


def test_what_recovery_reached_is_told_in_time(journal: Journal) -> None:
    with journal.site.started("--target-time", str(journal.moments[1])) as shown:
        reached = datetime.fromisoformat(shown["recovery"]["last_transaction_at"])
        assert journal.moments[0] < reached < journal.moments[1]
        assert shown["recovery"]["seconds"] > 0


def test_a_paused_server_can_be_looked_into(journal: Journal) -> None:
    site = journal.site
    with site.started("--target-lsn", journal.positions[0], "--target-action", "pause") as shown:
        recovery = shown["recovery"]
        assert recovery["state"] == "paused"
        server = adopt(site.target, site.cluster.programs)
        query = ("psql", "-X", "-A", "-t", "-d", f"{recovery['conninfo']} user=postgres dbname=postgres", "-c")
        assert server.run(query[0], *query[1:], "SELECT max(i) FROM t").stdout.strip() == "1"
        # It outlives the command: what holds its socket must be its own, or an empty directory stays behind for ever.
        assert f"host='{site.target}'" in recovery["conninfo"]
    assert not list(site.target.glob(".s.PGSQL.*"))


def test_a_server_that_shuts_down_at_its_target_has_reached_it(journal: Journal) -> None:
    with journal.site.started("--target-name", "after 1", "--target-action", "shutdown") as shown:
        assert (shown["recovery"]["state"], shown["recovery"]["conninfo"]) == ("shut down", None)


def test_a_standby_follows_the_archive(journal: Journal) -> None:
    site = journal.site
    with site.started("--standby") as shown:
        assert shown["recovery"]["state"] == "standby"
        assert site.ask_restored("SELECT pg_is_in_recovery()") is True
        assert "--plan" not in site.ask_restored("SHOW restore_command")


def test_with_archive_the_restored_cluster_goes_on_archiving(site: Site) -> None:
    site.set_up()
    site.ok("backup")
    site.archive_all()
    site.cluster.stop()
    with site.started("--archive") as shown:
        assert shown["plan"]["archiving"] is True
        assert site.ask_restored("SHOW archive_mode") == "on"
        site.ask_restored("SELECT pg_logical_emit_message(true, 'tests', 'x')")
        segment = site.ask_restored("SELECT pg_walfile_name(pg_switch_wal())")
        wait_until(lambda: segment in list_names(site.repository), segment)
    assert segment.startswith("00000002")


def test_a_copy_gets_the_port_it_is_given(journal: Journal) -> None:
    port = str(find_free_port())
    with journal.site.started("--port", port) as shown:
        assert shown["plan"]["port"] == int(port)
        assert shown["notices"] == []
        assert shown["recovery"]["conninfo"].endswith(f"port={port}")
    (line,) = [row for row in plan_text(journal.site, "--port", port).splitlines() if "port:" in row]
    assert line.split() == ["port:", port]


def test_a_port_that_somebody_has_is_refused_before_anything_is_written(journal: Journal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = refused(journal.site, "--start", "--port", str(port))
        assert error["message"] == f"port {port} is in use on this host"
        words = ("restore", NAME, "--target-dir", str(journal.site.target), "--port", str(port), "--dry-run")
        (notice,) = journal.site.json(*words, status=WARNINGS)["notices"]
        assert notice["text"] == error["message"]


def test_a_copy_that_wants_its_running_original_s_port_is_recovered_and_told_of_it(site: Site) -> None:
    site.cluster.append_conf(unix_socket_directories=str(site.cluster.socket_directory))
    site.set_up()
    site.ok("backup")
    site.cluster.sql("CREATE TABLE t AS SELECT 7 AS i")
    site.archive_all()
    try:
        words = ("restore", NAME, "--target-dir", str(site.target), "--start")
        shown = site.json(*words, status=WARNINGS)
        before, after = shown["notices"]
        assert (before["code"], before["level"]) == ("port", "info")
        assert "on port 5432: the restored one will want it too" in before["text"]
        assert (after["code"], after["level"]) == ("not_open", "warning")
        assert ".s.PGSQL.5432.lock" in after["text"]
        assert (shown["recovery"]["state"], shown["recovery"]["conninfo"]) == ("stopped", None)
        assert str(site.target) in shown["next"]["start_command"]
        restored = adopt(site.target, site.cluster.programs)  # with a socket of its own
        restored.start()
        assert restored.value("SELECT i FROM t") == 7
        assert restored.value("SELECT pg_is_in_recovery()") is False
    finally:
        site.remove_target()


def test_a_standby_that_cannot_start_is_told_to_be_whole(site: Site) -> None:
    """Its original has the socket: what is wrong is the place it was to start at, and nothing that was restored."""
    site.cluster.append_conf(unix_socket_directories=str(site.cluster.socket_directory))
    site.set_up()
    site.ok("backup")
    site.archive_all()
    try:
        words = ("restore", NAME, "--target-dir", str(site.target), "--standby", "--start")
        error = site.error(*words, status=ServerUnsuitable.exit_status)
        assert ".s.PGSQL.5432.lock" in error["message"]
        assert error["hint"].startswith("Every file is in place")
        restored = adopt(site.target, site.cluster.programs)  # with a socket of its own
        restored.start()
        assert restored.value("SELECT pg_is_in_recovery()") is True
    finally:
        site.remove_target()


def test_a_restore_that_runs_says_how_long_is_left_replay_included(site: Site) -> None:
    site.set_up()
    site.cluster.sql("CREATE TABLE t (i int)")
    site.ok("backup")
    site.cluster.sql("INSERT INTO t SELECT generate_series(1, 2000000)")
    site.archive_all()
    try:
        ended = site.run("-v", "restore", NAME, "--target-dir", str(site.target), "--start")
        assert ended.status == 0, ended
        for phase in ("restoring", "replaying WAL"):
            found = re.search(
                rf"^pghaven: {phase}  (\d+) %  .* of .*  [\d.]+ m?s left in all$", ended.err, re.MULTILINE
            )
            assert found is not None, ended.err
        assert site.ask_restored("SELECT count(*) FROM t") == 2000000
    finally:
        site.remove_target()


def test_tablespaces_go_where_they_are_mapped_to(site: Site, make_cluster: ClusterFactory) -> None:
    site.set_up()
    old, new = site.place / "space", site.place / "new space"
    old.mkdir()
    own(old)
    site.cluster.sql(f"CREATE TABLESPACE space LOCATION '{old}'")
    site.cluster.sql("CREATE TABLE t TABLESPACE space AS SELECT 7 AS i")
    site.ok("backup")
    error = refused(site, status=REFUSED)
    assert f'the tablespace directory "{old}" is not empty' in error["message"]
    error = refused(site, "--tablespace-mapping", f"/elsewhere={new}", status=2)
    assert error["hint"] == f'Its tablespaces: "{old}".'
    with site.started("--tablespace-mapping", f"{old}={new}") as shown:
        assert [place["path"] for place in shown["plan"]["places"]] == [str(site.target), str(new)]
        assert site.ask_restored("SELECT i FROM t") == 7


def test_the_plan_stays_with_the_directory_and_a_quiet_restore_shows_its_result_alone(journal: Journal) -> None:
    site = journal.site
    text = site.ok("restore", NAME, "--target-dir", str(site.target), "--quiet")
    left = json.loads((site.target / "pghaven.restore.json").read_text())
    configuration = (site.target / "postgresql.auto.conf").read_text()
    assert text.startswith("restored ")
    assert left["backup"] == journal.label
    assert "--plan pghaven.restore.json" in configuration
