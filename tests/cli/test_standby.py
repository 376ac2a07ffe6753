"""Standbys as people build, promote, rejoin and look at them, on real servers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pghaven.server.postmaster import is_running
from tests.cli.site import NAME
from tests.support.cluster import Kind, TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import end_servers_below, own
from tests.support.standbys import StandbySite, standby_site
from tests.support.waiting import wait_until
from tests.support.watching import watch_reads


@pytest.fixture
def site(pg_cluster: TestCluster, pghaven_command: PghavenCommand, server_path: Path) -> Iterator[StandbySite]:
    with standby_site(pg_cluster, pghaven_command, server_path) as made:
        yield made


@pytest.mark.ends
def test_a_standby_from_the_repository_streams_and_reads_nothing_of_the_primary(
    pg_version: int, site: StandbySite
) -> None:
    with watch_reads(find_table(site)) as reads:
        one = site.create("one", "--slot", "one")
        assert reads() == 0
    site.cluster.sql("INSERT INTO t VALUES (2)")
    one.wait_rows(1, 2)
    assert site.cluster.value("SELECT active FROM pg_replication_slots WHERE slot_name = 'one'")
    assert site.cluster.value("SELECT application_name FROM pg_stat_replication") == "one"
    assert "BASE_BACKUP" not in site.cluster.log()

    def has_all() -> bool:
        """The primary writes now and then what nobody has asked for, which is behind for a moment."""
        shown.update(site.standby("status", NAME, "--data", str(one.data_directory)))
        return shown["lag_bytes"] == 0

    shown: dict[str, Any] = {}
    wait_until(has_all, "a standby that has all")
    assert (shown["verdict"], shown["source"], shown["slot"]) == ("ok", "streaming", "one")
    assert shown["repositories"][0]["standing"] == "on"


def find_table(site: StandbySite) -> Path:
    """The primary's file of the table ``t``, as it is on its disk."""
    site.cluster.sql("CHECKPOINT")
    return site.cluster.data_directory / str(site.cluster.value("SELECT pg_relation_filepath('t')"))


def test_a_cluster_whose_primary_died_is_back_with_two_commands(pg_version: int, site: StandbySite) -> None:
    one = site.create("one", "--slot", "one")
    site.cluster.sql("INSERT INTO t VALUES (2)")
    one.wait_rows(1, 2)
    site.cluster.crash()
    shown = site.standby("promote", NAME, "--data", str(one.data_directory))
    assert shown["promoted"]["timeline"] == 2
    assert shown["promoted"]["archived"] == ["main"]
    one.value("INSERT INTO t VALUES (3)")

    shown = site.standby("rejoin", NAME, "--upstream", one.conninfo, "--slot", "old", "--start")
    assert shown["rejoined"]["way"] == "rewind"
    old = site.follow_the_first()
    one.value("INSERT INTO t VALUES (4)")
    old.wait_rows(1, 2, 3, 4)
    # Its own configuration is still its own.
    assert old.value("SHOW unix_socket_directories") == str(site.sockets)


def test_a_standby_from_the_primary_streams(pg_version: int, site: StandbySite) -> None:
    with watch_reads(find_table(site)) as reads:
        one = site.create("one", "--from", "primary")
        assert reads() > 0
    site.cluster.sql("INSERT INTO t VALUES (2)")
    one.wait_rows(1, 2)
    assert "BASE_BACKUP" in site.cluster.log()


def test_a_second_standby_follows_the_first_through_its_promotion(site: StandbySite) -> None:
    one = site.create("one")
    two = site.create("two", "--upstream", one.conninfo, "--slot", "two")
    site.cluster.sql("INSERT INTO t VALUES (2)")
    two.wait_rows(1, 2)
    assert one.value("SELECT application_name FROM pg_stat_replication") == "two"
    assert site.standby("status", NAME, "--data", str(two.data_directory))["upstream"]["is_standby"]
    site.cluster.crash()
    site.standby("promote", NAME, "--data", str(one.data_directory))
    one.value("INSERT INTO t VALUES (3)")
    two.wait_rows(1, 2, 3)


def test_a_delayed_standby_is_sound_while_it_waits_and_stops_where_it_is_told(site: StandbySite) -> None:
    one = site.create("one", "--delay", "4h")
    before = one.rows()
    site.cluster.sql("INSERT INTO t VALUES (2)")
    good = site.cluster.value("SELECT pg_current_wal_lsn()::text")
    site.cluster.sql("DELETE FROM t")
    written = site.cluster.value("SELECT pg_current_wal_lsn()::text")
    one.wait_for("SELECT pg_last_wal_receive_lsn() >= %s::pg_lsn", written)
    assert one.rows() == before
    shown = site.standby("status", NAME, "--data", str(one.data_directory))
    assert (shown["verdict"], shown["delay_seconds"]) == ("ok", 14400)
    assert shown["lag_bytes"] > 0
    site.cluster.crash()
    site.standby("promote", NAME, "--data", str(one.data_directory), "--target-lsn", good)
    assert one.rows() == [1, 2]


def test_a_promotion_archives_what_only_the_standby_has(site: StandbySite) -> None:
    one = site.create("one")
    site.cluster.append_conf(archive_command="false")
    site.cluster.reload()
    names = []
    for value in range(2, 5):
        site.cluster.sql("INSERT INTO t VALUES (%s)", value)
        names.append(site.cluster.switch_wal())
    one.wait_rows(1, 2, 3, 4)
    one.wait_for(
        "SELECT pg_last_wal_receive_lsn() >= %s::pg_lsn", site.cluster.value("SELECT pg_current_wal_lsn()::text")
    )
    site.cluster.crash()
    shown = site.standby("promote", NAME, "--data", str(one.data_directory))
    assert set(names) <= set(shown["lacking"])
    assert all(site.find_segment(name).exists() for name in names)
    assert not [line for line in site.ok("wal", "list", NAME).splitlines() if "gap" in line]


def test_what_is_archived_and_was_never_received_is_replayed_before_a_promotion(site: StandbySite) -> None:
    one = site.create("one")
    one.stop()
    site.cluster.sql("INSERT INTO t VALUES (2)")
    site.archive_all()
    site.cluster.crash()
    one.instance.start({"primary_conninfo": ""}, timeout_seconds=60)
    shown = site.standby("promote", NAME, "--data", str(one.data_directory))
    assert one.rows() == [1, 2]
    assert shown["promoted"]["archived"] == ["main"]


def test_a_primary_that_answers_is_not_passed_over_unless_it_is_said(site: StandbySite) -> None:
    one = site.create("one")
    refused = site.refuse("promote", NAME, "--data", str(one.data_directory), status=12)
    assert "still answers" in refused["message"]
    assert one.value("SELECT pg_is_in_recovery()")
    site.standby("promote", NAME, "--data", str(one.data_directory), "--while-primary-runs")
    assert not one.value("SELECT pg_is_in_recovery()")
    refused = site.refuse("promote", NAME, "--data", str(one.data_directory), status=12)
    assert "is no standby" in refused["message"]

    # The old primary goes on, and is passed over now: nobody may follow it, and nobody is built from it.
    site.cluster.sql("INSERT INTO t VALUES (99)")
    refused = site.refuse("create", NAME, "--data", str(site.place / "two"), status=12)
    assert "past the point where the newest timeline left its own" in refused["message"]
    refused = site.refuse("rejoin", NAME, "--upstream", one.conninfo, status=12)
    assert "a server runs in" in refused["message"]
    shown = site.standby("rejoin", NAME, "--upstream", one.conninfo, "--stop", "--start")
    assert shown["rejoined"]["way"] == "rewind"
    one.value("INSERT INTO t VALUES (3)")
    site.follow_the_first().wait_rows(1, 3)
    assert shown["rejoined"]["saved_wal"] is not None  # the row 99 is in there


@pytest.mark.parametrize("is_rewound", [False, True], ids=["before pg_rewind", "after it"])
def test_a_rejoin_that_was_killed_is_made_good_by_the_next(site: StandbySite, is_rewound: bool) -> None:
    one = site.create("one")
    site.cluster.crash()
    site.standby("promote", NAME, "--data", str(one.data_directory))
    one.value("INSERT INTO t VALUES (2)")
    asked = ("standby", "rejoin", NAME, "--upstream", one.conninfo, "--start")
    told, programs = site.place / "told", make_waiting_programs(site, is_rewound=is_rewound)
    words = ("--config", str(site.config), *asked)
    environment = {**site.environment, f"PGHAVEN_CLUSTER__{NAME.upper()}__PG_BIN": str(programs)}
    with site.start_words(*words, environment=environment) as process:
        wait_until(lambda: told.exists() or process.poll() is not None, "pg_rewind")
        process.kill()
        ended = process.communicate()
    assert told.exists(), ended
    os.kill(int(told.read_text()), signal.SIGKILL)
    assert not is_running(str(site.cluster.data_directory))

    site.json(*asked, environment=site.environment)
    one.value("INSERT INTO t VALUES (3)")
    old = site.follow_the_first()
    old.wait_rows(1, 2, 3)
    assert old.value("SHOW unix_socket_directories") == str(site.sockets)
    assert not list(site.cluster.data_directory.parent.glob("*.pghaven*"))  # nothing is left aside


def make_waiting_programs(site: StandbySite, *, is_rewound: bool) -> Path:
    """The server's programs with a pg_rewind that tells its process number and waits, when its work is done or before
    it has begun."""
    directory = site.place / "programs"
    directory.mkdir()
    for program in Path(site.cluster.programs.bin_dir).iterdir():
        (directory / program.name).symlink_to(program)
    rewind = directory / "pg_rewind"
    work = f'"{rewind.resolve()}" "$@" || exit 1' if is_rewound else ":"
    rewind.unlink()
    told = site.place / "told"
    rewind.write_text(f"#!/bin/sh\n{work}\necho $$ > {told}.tmp && mv {told}.tmp {told}\nexec sleep 600\n")
    rewind.chmod(0o755)
    own(directory)
    return directory


def test_a_standby_that_was_passed_over_is_broken_and_says_how_to_mend_it(site: StandbySite) -> None:
    one, two = site.create("one"), site.create("two")
    site.standby("promote", NAME, "--data", str(one.data_directory), "--while-primary-runs")
    shown = site.standby("status", NAME, "--data", str(one.data_directory), status=3)
    assert shown["problems"][0]["text"].startswith("it is no standby")
    site.cluster.sql("INSERT INTO t VALUES (99)")  # of the branch that was left, and the second one follows it there
    two.wait_rows(1, 99)
    shown = site.standby("status", NAME, "--data", str(two.data_directory), status=17)
    assert shown["verdict"] == "critical"
    (told,) = [problem for problem in shown["problems"] if problem["gravity"] == "critical"]
    assert "goes on with timeline 2" in told["text"]
    assert "pghaven standby rejoin" in told["hint"]
    refused = site.refuse("promote", NAME, "--data", str(two.data_directory), "--while-primary-runs", status=12)
    assert "Another server was promoted" in refused["hint"]
    asked = ("rejoin", NAME, "--data", str(two.data_directory), "--upstream", one.conninfo)
    assert site.standby(*asked, "--stop", "--start")["rejoined"]["way"] == "rewind"
    one.value("INSERT INTO t VALUES (2)")
    two.wait_rows(1, 2)
    assert two.value("SHOW port") == str(two.port)


def test_a_former_primary_that_cannot_be_rewound_is_restored_over_what_it_has(
    make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    site = StandbySite(make_cluster(kind=Kind(checksums=False)), pghaven_command, server_path)
    site.protect()
    one = site.create("one")
    site.cluster.crash()
    site.standby("promote", NAME, "--data", str(one.data_directory))
    asked = ("rejoin", NAME, "--upstream", one.conninfo)
    shown = site.standby(*asked, "--dry-run")
    assert (shown["ways"][0]["way"], shown["ways"][0]["is_possible"]) == ("rewind", False)
    assert "neither data checksums nor wal_log_hints" in shown["ways"][0]["reason"]
    shown = site.standby(*asked, "--start")
    assert shown["rejoined"]["way"] == "repository"
    one.value("INSERT INTO t VALUES (2)")
    old = site.follow_the_first()
    old.wait_rows(1, 2)
    assert "BASE_BACKUP" not in (one.data_directory / "pghaven.recovery.log").read_text()

    # Once more, all anew: the old directory stays.
    old.stop()
    shown = site.standby(*asked, "--way", "primary", "--start")
    assert Path(shown["rejoined"]["old_directory"], "PG_VERSION").exists()
    site.follow_the_first().wait_rows(1, 2)
    end_servers_below(server_path)
    end_servers_below(site.cluster.directory)


def test_settings_that_the_primary_lacks_are_shown_and_changed_with_consent(site: StandbySite) -> None:
    site.cluster.append_conf(max_wal_senders="0")
    site.cluster.restart()
    asked = ("create", NAME, "--data", str(site.place / "one"), "--port", "5501", "--slot", "one")
    shown = {one["name"]: one for one in site.standby(*asked, "--dry-run")["settings_to_change"]}
    assert (shown["max_wal_senders"]["wanted"], shown["max_wal_senders"]["required"]) == ("10", True)
    assert "would have its slot fill this server's disk" in shown["max_slot_wal_keep_size"]["reason"]
    refused = site.refuse(*asked, "--start", status=12)
    assert "max_wal_senders is 0 and must be 10: " in refused["detail"]
    assert "--apply" in refused["hint"]
    assert (
        site.cluster.value(
            "SELECT count(*) FROM pg_file_settings WHERE name ~ 'senders|slot' AND sourcefile ~ 'auto.conf'"
        )
        == 0
    )

    # What needs a restart is written, and whose server it is restarts it.
    refused = site.refuse(*asked, "--start", "--apply", status=12)
    assert "in force after its restart" in refused["message"]
    assert site.cluster.value("SHOW max_wal_senders") == "0"
    assert site.cluster.value("SHOW max_slot_wal_keep_size") == "64GB"
    assert not (site.place / "one").exists()
    site.cluster.restart()
    site.create("one", "--slot", "one", "--apply").wait_rows(1)


def test_a_login_that_is_missing_is_told_and_made_with_consent(site: StandbySite) -> None:
    hba = site.cluster.data_directory / "pg_hba.conf"
    hba.write_text("local all all trust\n")
    site.cluster.reload()
    passfile = site.place / "passwords"
    asked = ("create", NAME, "--data", str(site.place / "one"), "--role", "repl", "--port", "5501", "--start")
    refused = site.refuse(*asked, status=12)
    assert 'CREATE ROLE "repl" LOGIN REPLICATION' in refused["detail"]
    assert "--apply" in refused["hint"]
    assert not (site.place / "one").exists()
    site.standby(*asked, "--apply", "--passfile", str(passfile))
    assert 'local  replication  "repl"  scram-sha-256' in hba.read_text()
    assert passfile.stat().st_mode & 0o777 == 0o600
    password = passfile.read_text().strip().split(":")[-1]
    settings = (site.place / "one" / "postgresql.auto.conf").read_text()
    assert password not in settings
    assert password not in site.cluster.log()
    assert str(passfile) in settings


def test_what_cannot_work_is_refused_before_anything_is_made(site: StandbySite, make_cluster: ClusterFactory) -> None:
    target = site.place / "one"
    asked = ("create", NAME, "--data", str(target))
    used = site.place / "used"
    used.mkdir()
    (used / "mine").touch()
    for source in ("repository", "primary"):
        refused = site.refuse("create", NAME, "--data", str(used), "--from", source, status=12)
        assert "is not empty" in refused["message"]
    refused = site.refuse(*asked, "--primary", f"host={site.place} port=1", status=15)
    assert "could not connect" in refused["message"]
    refused = site.refuse(*asked, "--primary", "host=db1 password=secret", status=2)
    assert "--passfile" in refused["hint"]
    stranger = make_cluster(kind=Kind(variant=1))
    refused = site.refuse(*asked, "--primary", stranger.conninfo, status=12)
    assert "system identifier" in refused["message"]
    site.cluster.sql("CREATE ROLE reader LOGIN")
    refused = site.refuse(*asked, "--role", "reader", status=12)
    assert 'ALTER ROLE "reader" REPLICATION' in refused["detail"]
    site.cluster.sql("SELECT pg_create_physical_replication_slot('one', true)")
    refused = site.refuse(*asked, "--slot", "one", status=12)
    assert "is there already" in refused["message"]
    assert "pg_drop_replication_slot('one')" in refused["hint"]
    refused = site.refuse(*asked, "--slot", "One!", status=2)
    assert "replication slot" in refused["message"]
    refused = site.refuse(*asked, "--delay", "soon", status=2)
    assert "--delay" in refused["message"]
    assert not target.exists()


def test_a_slot_in_use_is_refused_and_one_made_for_a_copy_that_fails_goes_again(site: StandbySite) -> None:
    site.create("one", "--slot", "one")
    asked = ("create", NAME, "--data", str(site.place / "two"))
    refused = site.refuse(*asked, "--slot", "one", status=15)
    assert "is in use by one" in refused["message"]
    (pack,) = list(site.repository.glob(f"clusters/{NAME}/packs/*/*"))[:1]
    pack.rename(pack.with_name("away"))
    site.refuse(*asked, "--slot", "two", status=10)
    assert site.cluster.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'two'") == 0
