"""``pghaven status``: what would be lost, what can be restored, what is wrong; whatever is still there."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from pghaven.cli.status_schema import FIELDS
from tests.cli.running import clean_environment
from tests.cli.site import NAME, Site
from tests.support.cluster import adopt
from tests.support.moving import list_names
from tests.support.waiting import wait_until

WARNINGS, DAMAGED = 3, 16
COLUMNS = {"COLUMNS": "240"}


def list_paths(value: object, at: str = "") -> set[str]:
    """Where there are values in a body; what the schema calls an object is not looked into."""
    if at in OPAQUE:
        return {at}
    if isinstance(value, dict):
        below = {path for key, item in value.items() for path in list_paths(item, f"{at}.{key}" if at else key)}
        return below | ({at} if at in DECLARED else set())
    if isinstance(value, list):
        return {path for item in value for path in list_paths(item, f"{at}[]")}
    return {at}


DECLARED = {path for path, _, _ in FIELDS}
OPAQUE = {path for path, kind, _ in FIELDS if kind == "object"} - {
    above for path in DECLARED for above in (path.rpartition(".")[0],) if above in DECLARED
}


def look(site: Site, *, status: int, environment: dict[str, str] | None = None) -> dict[str, Any]:
    (cluster,) = site.json("status", status=status, environment=environment)["clusters"]
    assert isinstance(cluster, dict)
    return cluster


def test_all_is_well_where_all_is_well(protected: Site) -> None:
    protected.archive_all()
    text = protected.ok("status")
    assert text.endswith("  all is well\n")
    assert "\x1b" not in text, "nobody looks at it in colours"
    assert re.search(r"^  window: +━*┄+$", text, re.MULTILINE), text
    assert re.search(r"^   backups: +B *$", text, re.MULTILINE), text
    assert re.search(r"^   time: .*now\|$", text, re.MULTILINE), text
    found = look(protected, status=0)
    (repository,) = found["repositories"]
    assert found["server"]["up"] is True
    assert repository["reachable"] is True
    assert repository["gaps"] == []
    (window,) = repository["windows"]
    assert window["begin"] < window["end"]
    assert window["backups"][-1] == repository["newest_backup"]


def test_every_field_that_is_shown_is_in_the_reference_and_the_other_way_round(protected: Site) -> None:
    protected.cluster.sql("SELECT pg_create_physical_replication_slot('second', true)")
    try:
        shown = list_paths(protected.json("status", status=0))
    finally:
        protected.cluster.sql("SELECT pg_drop_replication_slot('second')")
    shown |= list_paths(protected.json("status", status=3, environment={"PGHAVEN_CLUSTER__MAIN__CONNINFO": "host=/no"}))
    nowhere = {"PGHAVEN_REPOSITORY__MAIN__URL": "file:///nonexistent/place"}
    shown |= list_paths(protected.json("status", status=3, environment=nowhere))
    assert shown <= DECLARED
    rare = ("receiver.", "missed.", "gaps[]", "last_drill.", "lacks[]", "damaged_wal[]", "notices[]", "[].older[]")
    unseen = {path for path in DECLARED - shown if not any(word in path for word in rare)}
    assert unseen <= {f"clusters[].repositories[].{name}[]" for name in LISTS}, unseen


LISTS = ("incidents", "running_backups", "timelines_without_history", "unusable_backups")


def test_a_narrow_or_old_terminal_gets_what_it_can_show(protected: Site) -> None:
    plain = protected.run("status", environment={"PYTHONIOENCODING": "ascii", "COLUMNS": "60"}).out
    (line,) = re.findall(r"^  window: +(.+)$", plain, re.MULTILINE)
    assert set(line) <= set("=x-"), line
    assert max(len(line) for line in plain.splitlines() if "now|" in line) <= 60
    narrow = protected.run("status", environment={"COLUMNS": "30"}).out
    assert "window:" not in narrow
    assert "restorable:" in narrow


def test_on_a_terminal_it_is_coloured_unless_that_is_not_wanted(protected: Site) -> None:
    words = [*protected.command.words, "--config", str(protected.config), "status"]
    environment = {**clean_environment({}), "TERM": "xterm", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTHONPATH", None)

    def show(**more: str) -> str:
        master, slave = pty.openpty()
        with subprocess.Popen(words, stdout=slave, stderr=slave, env={**environment, **more}) as process:
            os.close(slave)
            found = b""
            with contextlib.suppress(OSError):  # the other end is closed
                while part := os.read(master, 4096):
                    found += part
        os.close(master)
        assert process.returncode == 0
        return found.decode()

    # How much of the window is in the repository already is a matter of time.
    assert re.search("\x1b\\[3[0-9]m[━┄]", show())
    assert "\x1b[3" not in show(NO_COLOR="1")


def test_several_clusters_have_a_line_each_the_gravest_first(protected: Site) -> None:
    (row,) = read_brief(protected.ok("status", "--brief", environment=COLUMNS))
    assert (row["state"], row["cluster"], row["server"]) == ("ok", NAME, "primary")
    assert row["recovery time"] == "?", "no drill has measured it"
    assert (row["drill"], row["standbys"], row["first problem"]) == ("never", "0", "")
    original = protected.config.read_text()
    other = '[cluster.other]\ndata_directory = "/nonexistent"\nconninfo = "host=/nonexistent"\n'
    protected.config.write_text(f'{original}\n{other}repositories = ["main"]\n')
    try:
        ended = protected.run("status", environment=COLUMNS)
        bodies = protected.json("status", status=WARNINGS)["clusters"]
    finally:
        protected.config.write_text(original)
    assert ended.status == WARNINGS
    first, second = read_brief(ended.out)
    assert (first["state"], first["cluster"]) == ("CRITICAL", "other")
    assert (first["server"], first["would be lost"], first["backup"]) == ("?", "?", "?")
    assert first["first problem"].startswith("the server does not answer")
    assert second["cluster"] == NAME
    assert [one["cluster"] for one in bodies] == [NAME, "other"]


def read_brief(text: str) -> list[dict[str, str]]:
    """A table's rows by the titles of their columns."""
    head, *lines = text.splitlines()
    titles = ("state", "cluster", "server", "would be lost", "recovery time", "back to", "backup", "drill", "standbys")
    assert all(title in head for title in titles)
    found = []
    for line in lines:
        cells = re.split(r"  +", line)
        names = [*titles, "first problem"]
        found.append(dict(zip(names, [*cells, *[""] * (len(names) - len(cells))], strict=True)))
    return found


def test_standbys_are_told_of_as_the_server_knows_them(site: Site) -> None:
    site.set_up()
    site.ok("backup")
    site.archive_all()
    assert re.search(r"^  standbys: +none$", site.ok("status"), re.MULTILINE)
    site.cluster.sql("SELECT pg_create_physical_replication_slot('second', true)")
    (one,) = look(site, status=0)["server"]["standbys"]
    assert (one["name"], one["state"], one["replayed_lsn"]) == ("second", "away", None)
    standby = ("restore", NAME, "--target-dir", str(site.target), "--standby")
    site.ok(*standby)
    with open(site.target / "postgresql.auto.conf", "a") as file:
        file.write(f"primary_conninfo = '{site.cluster.conninfo} application_name=second'\n")
        file.write("primary_slot_name = 'second'\nport = 5433\nhot_standby = on\n")
    follower = adopt(site.target, site.cluster.programs)
    try:
        follower.start()
        site.cluster.wait_for("SELECT count(*) = 1 FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()")
        (one,) = look(site, status=0)["server"]["standbys"]
        assert (one["name"], one["slot"], one["state"]) == ("second", "second", "streaming")

        def has_all() -> bool:
            """The server writes now and then what nobody has asked for, which is behind for a moment."""
            (one,) = look(site, status=0)["server"]["standbys"]
            return one["behind_bytes"] == 0

        wait_until(has_all, "a standby that has all")
        nothing = r"^  standbys: +second: streaming, nothing behind"
        wait_until(lambda: re.search(nothing, site.ok("status"), re.MULTILINE), "the same in words")
        (row,) = read_brief(site.ok("status", "--brief"))
        assert row["standbys"] == "1"
    finally:
        site.remove_target()


def test_what_would_be_lost_is_measured(protected: Site) -> None:
    protected.archive_all()
    before = protected.cluster.value("SELECT clock_timestamp()")
    protected.cluster.sql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 300000))")
    point = look(protected, status=0)["repositories"][0]["recovery_point"]
    assert 300_000 <= point["unarchived_bytes"] < 1 << 20
    assert datetime.fromisoformat(point["since"]) < before
    assert point["seconds"] > 0
    assert "KiB of WAL, written since" in protected.ok("status")


def test_with_the_server_down_the_repository_still_answers(site: Site) -> None:
    site.set_up()
    site.ok("backup")
    site.archive_all()
    site.cluster.stop()
    found = look(site, status=WARNINGS)
    assert (found["server"]["up"], found["server"]["is_running"]) == (False, False)
    assert found["problems"][0]["text"].startswith("the server is down: could not connect")
    (repository,) = found["repositories"]
    assert repository["windows"]
    assert repository["recovery_point"]["unarchived_bytes"] is None
    assert "would be lost:    what the server has written since" in site.run("status").out


def test_with_the_repository_away_the_server_still_answers(protected: Site) -> None:
    environment = {"PGHAVEN_REPOSITORY__MAIN__URL": "file:///nonexistent/place"}
    found = look(protected, status=WARNINGS, environment=environment)
    assert found["server"]["up"] is True
    assert found["repositories"] == [
        {
            "reachable": False,
            "name": "main",
            "url": "file:///nonexistent/place",
            "reason": "could not open file:///nonexistent/place: No such file or directory",
            "hint": "Is its file system mounted? Is the URL in the configuration right?",
            "missed": None,
        }
    ]
    assert 'repository "main" cannot be used' in found["problems"][0]["text"]


def test_with_both_away_there_is_still_an_answer(protected: Site) -> None:
    environment = {
        "PGHAVEN_REPOSITORY__MAIN__URL": "file:///nonexistent/place",
        "PGHAVEN_CLUSTER__MAIN__CONNINFO": "host=/nonexistent",
    }
    ended = protected.run("status", environment=environment)
    assert ended.status == WARNINGS
    assert ended.out.count("CRITICAL: ") == 2
    assert "runs, but does not let us in" in ended.out


def test_before_the_first_backup_everything_would_be_lost(site: Site) -> None:
    site.set_up()
    ended = site.run("status")
    assert ended.status == WARNINGS
    assert "would be lost:    everything: nothing can be restored" in ended.out
    assert "HINT:  Run: pghaven backup main" in ended.out


def test_a_cluster_nobody_has_registered_is_told(site: Site) -> None:
    site.write_config()
    site.ok("init", NAME)
    shutil.rmtree(site.repository / "clusters")
    (repository,) = look(site, status=WARNINGS)["repositories"]
    assert repository["reachable"] is False
    assert repository["hint"] == "Register it with: pghaven init main"


def test_a_gap_is_named_by_its_segments_and_splits_the_windows(site: Site) -> None:
    site.set_up()
    site.ok("backup")
    lost = [site.archive_all() for _ in range(3)][1]
    site.find_segment(lost).unlink()
    site.archive_all()
    found = look(site, status=WARNINGS)
    (repository,) = found["repositories"]
    (gap,) = repository["gaps"]
    assert (gap["first"], gap["last"], gap["segments"]) == (lost, lost, 1)
    assert gap["cause"] == "unstored"
    (window,) = repository["windows"]
    assert window["last_segment"] < lost
    (problem,) = found["problems"]
    assert problem["level"] == "critical"
    assert problem["text"].startswith(f"WAL segment {lost} is missing from the archive: nothing written after it")
    assert repository["recovery_point"]["since_lsn"] == window["end_lsn"]

    site.ok("backup")
    found = look(site, status=WARNINGS)
    assert len(found["repositories"][0]["windows"]) == 2
    assert [problem["level"] for problem in found["problems"]] == ["warning"]


def test_a_backup_without_its_wal_is_told(site: Site) -> None:
    site.set_up()
    first = site.json("backup")
    site.find_segment(first["first_segment"]).unlink()
    problems = look(site, status=WARNINGS)["problems"]
    expected = f"backup {first['label']} cannot be restored: WAL segment {first['first_segment']} is missing"
    assert expected in [problem["text"] for problem in problems]


def test_archiving_that_fails_is_the_first_thing_told(site: Site) -> None:
    site.set_up()
    site.ok("backup")
    site.cluster.wait_for("SELECT last_archived_wal LIKE '%.backup' FROM pg_stat_archiver")  # what a backup makes last
    site.cluster.sql("ALTER SYSTEM SET archive_command = 'false'")
    site.cluster.reload()
    site.cluster.switch_wal()
    site.cluster.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver")
    found = look(site, status=WARNINGS)
    problem = found["problems"][0]
    assert problem["level"] == "critical"
    assert problem["text"].startswith("archiving fails (")
    assert "1 finished WAL file waits in pg_wal; pg_wal has room for" in problem["text"]
    assert found["server"]["room"]["waiting"] == 1
    assert found["server"]["room"]["free_bytes"] > 0


def test_after_a_promotion_the_old_timeline_s_window_leads_into_the_new_one(site: Site) -> None:
    site.set_up()
    site.ok("backup")
    site.cluster.sql("SELECT pg_current_xact_id()")
    site.archive_all()
    site.cluster.stop()
    with open(site.cluster.data_directory / "recovery.signal", "w"):
        pass
    site.cluster.append_conf(restore_command="false")
    site.cluster.start()
    site.cluster.wait_for("SELECT NOT pg_is_in_recovery()")
    site.archive_all()
    wait_until(lambda: "00000002.history" in list_names(site.repository), "the history")
    found = look(site, status=0)
    windows = {window["timeline"]: window for window in found["repositories"][0]["windows"]}
    assert found["server"]["timeline"] == 2
    assert set(windows) == {1, 2}
    assert windows[2]["begin"] == windows[1]["begin"]
    assert windows[2]["end"] > windows[1]["end"]
    one, two = found["repositories"][0]["timelines"]
    assert two["ancestors"] == [{"timeline": 1, "left_at_lsn": two["ancestors"][0]["left_at_lsn"]}]
    assert one["ranges"][0]["first_commit"] is not None
    text = site.ok("status")
    assert f"timeline 2, which left timeline 1 at {two['ancestors'][0]['left_at_lsn']}: " in text
    held = (
        f"WAL held:         timeline 1: {one['ranges'][0]['from_lsn']} to {one['ranges'][0]['to_lsn']}, commits from "
    )
    assert held in text


def test_a_cluster_that_is_not_configured_is_not_found(protected: Site) -> None:
    assert protected.error("status", "nobody", status=10)["code"] == "not_found"
    assert f"cluster {NAME}\n" in protected.ok("status", NAME)


def spoil_end(path: Path) -> None:
    """Change the last byte of an object, among what is read of it first."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.chmod(0o600)
    path.write_bytes(content)


def test_a_last_segment_that_is_damaged_takes_itself_from_the_window_and_nothing_else(site: Site) -> None:
    site.set_up()
    label = site.json("backup")["label"]
    site.cluster.sql("SELECT pg_create_restore_point('before')")
    position = site.cluster.value("SELECT pg_current_wal_insert_lsn()")
    xid = site.cluster.value("SELECT pg_current_xact_id()::text")
    before = site.cluster.pass_moment()
    kept = site.archive_all()
    site.cluster.sql("SELECT pg_current_xact_id()")
    lost = site.archive_all()
    spoil_end(site.find_segment(lost))

    found = look(site, status=WARNINGS)
    (repository,) = found["repositories"]
    (window,) = repository["windows"]
    assert (window["last_segment"], window["backups"]) == (kept, [label])
    assert (repository["damaged_wal"], repository["gaps"]) == ([lost], [])
    assert repository["recovery_point"]["since_lsn"] == window["end_lsn"]
    (problem,) = found["problems"]
    assert problem["level"] == "critical"
    assert problem["text"].startswith(f"WAL segment {lost} cannot be read, and nothing from {window['end_lsn']} on can")
    assert "pghaven verify main" in problem["hint"]
    assert f"damaged WAL:      {lost}" in site.run("status").out

    into = ("restore", NAME, "--target-dir", str(site.target), "--dry-run")
    for target in (
        ("--target-time", before.isoformat()),
        ("--target-lsn", position),
        ("--target-xid", xid),
        ("--target-name", "before"),
    ):
        made = site.json(*into, *target, status=WARNINGS)
        assert made["plan"]["last_segment"] <= kept
    error = site.error(*into, status=DAMAGED)
    assert lost in error["message"]
    assert "--target-time" in error["hint"]
    assert site.error(*into, "--target-lsn", "F/0", status=DAMAGED)["message"] == error["message"]
    try:
        restored = site.run("restore", NAME, "--target-dir", str(site.target), "--start", "--target-name", "before")
        assert restored.status == WARNINGS, restored
        assert site.ask_restored("SELECT pg_is_in_recovery()") is False
    finally:
        site.remove_target()


def test_monitoring_gets_one_line_and_its_own_statuses(protected: Site) -> None:
    protected.archive_all()
    ended = protected.run("check", "--nagios")
    assert ended.status == 0, ended
    (line,) = ended.out.splitlines()
    text, _, numbers = line.partition(" | ")
    assert text == "PGHAVEN OK - 1 cluster, all is well"
    found = dict(one.split("=") for one in numbers.split())
    assert found["'main.problems'"] == "0"
    assert found["'main.unarchived'"].endswith("B")
    assert found["'main.backup_age'"].endswith("s")
    assert "'main.recovery_time'" not in found, "no drill has measured it"
    environment = {"PGHAVEN_REPOSITORY__MAIN__URL": "file:///nonexistent/place"}
    ended = protected.run("check", "--nagios", environment=environment)
    assert (ended.status, ended.out.split(" - ")[0]) == (2, "PGHAVEN CRITICAL")
    ended = protected.run("check", "nosuch", "--nagios")
    assert (ended.status, ended.out.split(" - ")[0]) == (3, "PGHAVEN UNKNOWN")


def test_a_moment_is_asked_for_before_anything_is_restored(protected: Site) -> None:
    protected.cluster.sql("CREATE TABLE IF NOT EXISTS moments (i int)")
    moment = protected.cluster.pass_moment()
    protected.cluster.sql("INSERT INTO moments VALUES (1)")
    protected.archive_all()
    (answer,) = protected.json("status", "--at", str(moment))["answers"]
    assert answer["is_reachable"] is True
    assert answer["seconds"] is None
    assert "in about:     unknown: no drill has measured it" in protected.ok("status", "--at", str(moment))
    (answer,) = protected.json("status", "--at", "2001-01-01 00:00Z", status=WARNINGS)["answers"]
    assert answer["is_reachable"] is False


def test_watching_shows_it_again_and_again(protected: Site) -> None:
    with protected.start_words("--config", str(protected.config), "--json", "status", "--watch", "10ms") as process:
        assert process.stdout is not None
        shown = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.terminate()
    assert shown[0]["clusters"][0]["looked_at"] < shown[1]["clusters"][0]["looked_at"]
    assert process.returncode == 18
