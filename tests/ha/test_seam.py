"""The rows of docs/design/seam.md, without Patroni: each shows the failure without the cure, and none with it.

The one idea: both archives see the same servers at the same time. One is a plain directory with ``cp``, as in the
manual; the other is ours. What the first gets wrong is asserted, so that a test says what it protects from.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pghaven.errors import Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.entry import BackupState
from pghaven.repository.gaps import find_gaps
from pghaven.repository.horizon import read_horizon
from pghaven.repository.incidents import IncidentKind, list_incidents
from pghaven.wal.commands import render_restore_command
from tests.ha.called import call_hook
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import own, run_as_plain
from tests.support.protected import Protected
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROWS_BEFORE, ROWS_AFTER = 1000, 2500


class Seam(Protected):
    """A primary that archives into a plain directory and into the repository."""

    def __init__(self, make_cluster: ClusterFactory, command: PghavenCommand, place: Path) -> None:
        self.make_cluster = make_cluster
        self.plain = place / "plain"
        self.plain.mkdir()
        own(self.plain)
        super().__init__(make_cluster(conf={"wal_log_hints": "on", "hot_standby": "on"}), command, place)
        self.cluster.sql(f"CREATE TABLE t AS SELECT i FROM generate_series(1, {ROWS_BEFORE}) i")

    def archive_command(self) -> str:
        return f"cp %p {self.plain}/%f && {super().archive_command()}"

    def restore_ours(self) -> str:
        return render_restore_command(self.command.words, str(self.config), "main", None)

    def restore_plain(self) -> str:
        return f"cp {self.plain}/%f %p"

    def config_for(self, cluster: TestCluster, name: str) -> Path:
        """The configuration of another member; the same repository."""
        path = self.place / f"{name}.toml"
        path.write_text(
            f'[repository.main]\nurl = "{self.url}"\n\n[cluster.main]\ndata_directory = "{cluster.data_directory}"\n'
            f'conninfo = "{cluster.conninfo}"\nstate_directory = "{self.place}/state-{name}"\n'
        )
        own(path)
        return path

    def insert_segments(self, server: TestCluster, first: int, last: int, count: int) -> list[str]:
        """Rows in segments of their own."""
        step = (last - first + 1) // count
        names = []
        for number in range(count):
            begin = first + number * step
            server.sql(f"INSERT INTO t SELECT i FROM generate_series({begin}, {begin + step - 1}) i")
            names.append(server.switch_wal())
        return names

    def find_gaps(self) -> list[str]:
        archive = self.archive
        timelines = archive.list_timelines()
        held = {one: archive.list_numbers_of(one) for one in timelines}
        histories = {one: archive.read_history(one) for one in timelines}
        horizon = read_horizon(archive.repository, "main", archive.system_identifier).positions
        return [str(gap.first) for gap in find_gaps(held, histories, horizon, archive.segment_size)]

    def count_restored(self) -> int:
        """The rows of the newest backup, brought to the end of the archive."""
        plan = self.plan()
        copy = self.make_cluster.adopt(Path(plan.request.target_dir))
        self.recover(plan, copy)
        if not copy.is_running():
            copy.start()
        copy.wait_for("SELECT NOT pg_is_in_recovery()")
        found = copy.value("SELECT count(*) FROM t")
        copy.stop_and_remove()
        shutil.rmtree(plan.request.target_dir, ignore_errors=True)
        return int(found)


@pytest.fixture
def seam(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Seam:
    return Seam(make_cluster, pghaven_command, server_path)


def promote(standby: TestCluster) -> None:
    standby.sql("SELECT pg_promote()")
    standby.wait_for("SELECT NOT pg_is_in_recovery()")


def catch_up(primary: TestCluster, standby: TestCluster) -> None:
    written = primary.value("SELECT pg_current_wal_lsn()::text")
    standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)


def pass_over(seam: Seam) -> tuple[TestCluster, list[str]]:
    """A standby that has all, a primary that could not archive the last four segments, and is lost."""
    standby = seam.make_cluster.standby_of(seam.cluster)
    seam.backup()
    seam.settle()
    seam.cluster.append_conf(archive_command="false")
    seam.cluster.reload()
    names = seam.insert_segments(seam.cluster, ROWS_BEFORE + 1, ROWS_BEFORE + ROWS_AFTER, 4)
    catch_up(seam.cluster, standby)
    standby.wait_for("SELECT status = 'streaming' FROM pg_stat_wal_receiver")
    seam.cluster.crash()
    standby.stop()
    standby.append_conf(archive_mode="on", archive_command=seam.archive_command(), restore_command=seam.restore_ours())
    standby.start()
    return standby, names


@pytest.mark.parametrize("hook", [False, True])
def test_the_wal_that_a_lost_primary_had_not_archived_is_archived_by_its_successor(seam: Seam, hook: bool) -> None:
    standby, names = pass_over(seam)
    if hook:
        config = seam.config_for(standby, "db2")
        done = call_hook(seam.command, config, ["pre-promote", "main", "--node", "db2", "--limit", "30s"])
        assert done.returncode == 0
        assert f"{len(names)} files" in done.stderr
    promote(standby)
    standby.sql("CHECKPOINT")
    last = standby.switch_wal()
    wait_until(lambda: seam.archive.exists(last), f"{last} in the archive")
    if hook:
        wait_until(lambda: seam.find_gaps() == [], "an unbroken line")
        assert seam.count_restored() == ROWS_BEFORE + ROWS_AFTER
    else:
        assert seam.find_gaps() == [names[0]]
        assert not any(seam.archive.exists(name) for name in names)
        assert seam.count_restored() < ROWS_BEFORE + ROWS_AFTER  # it "succeeds", and the rest is gone


def test_a_gap_is_filled_from_any_member_after_the_promotion(seam: Seam) -> None:
    """With nothing done before it: the callback, or ``wal refill``, brings them from the new primary's pg_wal."""
    standby, names = pass_over(seam)
    standby.append_conf(wal_keep_size="256MB")
    standby.reload()
    promote(standby)
    config = seam.config_for(standby, "db2")
    last = standby.switch_wal()
    wait_until(lambda: seam.archive.exists(last), f"{last} in the archive")
    assert seam.find_gaps() == [names[0]]
    words = ["role-change", "main", "--node", "db2", "on_role_change", "primary", "shop"]
    done = call_hook(seam.command, config, words)
    assert done.returncode == 0
    assert seam.find_gaps() == [], done.stderr
    assert seam.count_restored() == ROWS_BEFORE + ROWS_AFTER


@pytest.mark.parametrize("ours", [False, True])
def test_no_standby_shows_what_a_point_in_time_restore_has_undone(seam: Seam, ours: bool) -> None:
    """It is built from the same backup before the new timeline's first segment is archived."""
    label = seam.backup().facts.label
    seam.insert_segments(seam.cluster, ROWS_BEFORE + 1, ROWS_BEFORE + 10, 1)
    target = Lsn.parse(seam.cluster.value("SELECT pg_current_wal_lsn()::text"))
    seam.insert_segments(seam.cluster, 5001, 5100, 2)
    seam.settle()
    seam.cluster.stop()
    plan = seam.plan(RecoveryTarget(kind=TargetKind.LSN, lsn=target, action="promote"), archiving=True)
    primary = seam.make_cluster.adopt(Path(plan.request.target_dir))
    seam.carry_out(plan)
    archive = f"case %f in *.history) {seam.archive_command()};; *) exit 1;; esac"
    primary.start({"archive_command": archive})
    primary.wait_for("SELECT NOT pg_is_in_recovery()")
    wait_until(lambda: seam.archive.exists("00000002.history"), "the history")
    wait_until(lambda: (seam.plain / "00000002.history").exists(), "the history")
    assert primary.value("SELECT count(*) FROM t WHERE i > 5000") == 0
    assert not list(seam.archive.list_segments(Timeline(2)))
    copy = seam.restore(backup_label=label, standby=True)
    standby = seam.make_cluster.adopt(copy)
    standby.append_conf(unix_socket_directories=str(standby.socket_directory))
    (copy / "postgresql.auto.conf").write_text("")
    command = seam.restore_ours() if ours else seam.restore_plain()
    # No connection yet, as when the first attempt comes too early: what it has is what the archive gives.
    standby.start({"restore_command": command, "recovery_target_timeline": "latest"})
    standby.wait_for("SELECT count(*) > %s FROM t", ROWS_BEFORE - 1)
    if ours:
        # Nothing past the fork is to be had; then it streams.
        standby.wait_for("SELECT count(*) >= %s FROM t WHERE i <= 5000", ROWS_BEFORE)
        standby.restart({"primary_conninfo": primary.conninfo})
        catch_up(primary, standby)
        assert standby.value("SELECT count(*) FROM t WHERE i > 5000") == 0
        assert standby.value("SELECT count(*) FROM t") == ROWS_BEFORE + 10
    else:
        standby.wait_for("SELECT count(*) = 100 FROM t WHERE i > 5000")


def test_a_passed_over_primary_goes_on_in_quarantine_where_cp_mixes_both_lines(seam: Seam) -> None:
    standby = seam.make_cluster.standby_of(seam.cluster)
    seam.settle()
    catch_up(seam.cluster, standby)
    standby.stop()
    standby.append_conf(archive_mode="on", archive_command=seam.archive_command(), restore_command=seam.restore_ours())
    standby.start()
    promote(standby)
    wait_until(lambda: seam.archive.exists("00000002.history"), "the history")
    dead = seam.insert_segments(seam.cluster, 5001, 5300, 3)
    seam.cluster.wait_archived(dead[-1])
    standby.sql("INSERT INTO t VALUES (1)")
    last = standby.switch_wal()
    wait_until(lambda: seam.archive.exists(last), "the successor's WAL")
    past = dead[1:]
    assert all((seam.plain / name).exists() for name in past)
    assert not any(seam.archive.exists(name) for name in past)
    assert {entry.rpartition("-")[0] for entry in seam.archive.list_quarantine()} >= set(past)
    assert seam.find_gaps() == []


def test_a_backup_of_a_passed_over_primary_is_refused_at_its_start(seam: Seam) -> None:
    standby = seam.make_cluster.standby_of(seam.cluster)
    take_over(seam, standby)
    seam.insert_segments(seam.cluster, 5001, 5300, 3)
    with pytest.raises(Refused, match="which timeline 2 left"):
        seam.backup()


@pytest.mark.parametrize("watched", [False, True])
def test_a_backup_whose_line_is_left_while_it_is_taken_is_refused_at_its_end(
    seam: Seam, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the look at the end it would be committed, and lead nowhere."""
    from pghaven.backup import archivewait

    if not watched:
        monkeypatch.setattr(archivewait.LineageWatch, "look", lambda self: None)
        monkeypatch.setattr(archivewait.LineageWatch, "confirm", lambda self: None)
    standby = seam.make_cluster.standby_of(seam.cluster)
    done: list[bool] = []

    def tell(event: object) -> None:
        if not done and "stopping the backup" in getattr(event, "text", ""):
            done.append(True)
            take_over(seam, standby)
            # Behind the fork, in the segment that holds it, which both lines have.
            seam.cluster.sql("INSERT INTO t VALUES (5001)")

    seam.tell = tell  # type: ignore[method-assign]
    if watched:
        with pytest.raises(Refused, match="which timeline 2 left"):
            seam.backup(archive_timeout_seconds=120)
        (entry,) = seam.catalog.list_entries()
        assert entry.state is BackupState.ABANDONED
    else:
        facts = seam.backup(archive_timeout_seconds=120).facts
        history = seam.archive.read_history(Timeline(2))
        assert not history.contains_end(facts.timeline, facts.stop_lsn)


def take_over(seam: Seam, standby: TestCluster) -> None:
    """The standby is promoted, and its history is in the archive; the primary does not know."""
    catch_up(seam.cluster, standby)
    standby.stop()
    standby.append_conf(archive_mode="on", archive_command=seam.archive_command(), restore_command=seam.restore_ours())
    standby.start()
    promote(standby)
    wait_until(lambda: seam.archive.exists("00000002.history"), "the history")


def test_of_two_histories_under_one_name_the_second_is_refused_where_cp_replaces_the_first(seam: Seam) -> None:
    """Two standbys without a restore_command, promoted apart: both call their timeline 2."""
    standbys = [seam.make_cluster.standby_of(seam.cluster) for _ in range(2)]
    for number, standby in enumerate(standbys):
        seam.cluster.sql("INSERT INTO t VALUES (%s)", number)
        catch_up(seam.cluster, standby)
        standby.stop()
        settings = {"primary_conninfo": "", "restore_command": "", "archive_mode": "on"}
        standby.start({**settings, "archive_command": seam.archive_command()})
    name = "00000002.history"
    promote(standbys[0])
    wait_until(lambda: seam.archive.exists(name), "the first history")
    first = (seam.plain / name).read_bytes()
    promote(standbys[1])
    wait_until(lambda: "is in the archive with other contents" in standbys[1].log(), "the refusal")
    assert (seam.plain / name).read_bytes() != first
    assert seam.archive.get(name) == first
    incidents = list_incidents(seam.repository, "main", seam.archive.system_identifier)
    assert [(one.kind, one.subject) for one in incidents] == [(IncidentKind.TWO_WRITERS, name)]


def test_a_copy_archives_nothing_where_cp_takes_all_of_it(seam: Seam) -> None:
    seam.backup()
    seam.settle()
    plan = seam.plan()
    copy = seam.make_cluster.adopt(Path(plan.request.target_dir))
    seam.recover(plan, copy)
    held = {name for timeline in seam.archive.list_timelines() for name in seam.archive.list_files(timeline)}
    copy.stop()
    # Somebody switches archiving on again, as the copied configuration had it.
    copy.append_conf(archive_mode="on")
    (copy.data_directory / "postgresql.auto.conf").write_text("")
    copy.start()
    copy.sql("CREATE TABLE copied ()")
    copy.switch_wal()
    wait_until(lambda: "is a restored copy and may not archive" in copy.log(), "the refusal")
    assert any(path.name.startswith("00000002") for path in seam.plain.iterdir())
    assert {n for t in seam.archive.list_timelines() for n in seam.archive.list_files(t)} == held


@pytest.mark.parametrize("ours", [False, True])
def test_a_store_that_hangs_does_not_keep_a_server_from_stopping(seam: Seam, ours: bool) -> None:
    """What a switchover waits for: the old primary's end."""
    import os

    found = next(path for path in seam.repository_directory.iterdir() if path.is_file())
    found.unlink()
    os.mkfifo(found)
    own(found)
    if ours:
        text = seam.config.read_text()
        seam.config.write_text(f'{text}wal_timeout = "2s"\n')
        command = super(Seam, seam).archive_command()
    else:
        command = f"cat {found} >/dev/null; exit 1"
    seam.cluster.append_conf(archive_command=command)
    seam.cluster.reload()
    seam.cluster.switch_wal()
    wait_until(lambda: is_archiving(seam.cluster), "the archiver at work")
    # A command that hangs is waited for without end; ours is given up at each try when its time is over.
    seconds = f"{PATIENCE_SECONDS:.0f}" if ours else "8"
    done = seam.cluster.run("pg_ctl", "stop", "-D", str(seam.cluster.data_directory), "-t", seconds, check=False)
    assert (done.returncode == 0) is ours, done.stderr
    if not ours:
        with found.open("wb"):  # whoever hangs there reads its end
            pass


def is_archiving(cluster: TestCluster) -> bool:
    return bool(cluster.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'archiver'")) and bool(
        list((cluster.data_directory / "pg_wal" / "archive_status").glob("*.ready"))
    )


def test_a_member_that_is_promoted_without_its_cluster_s_leave_archives_into_quarantine(seam: Seam) -> None:
    """Else its history would fence the primary, which goes on, and draw its standbys away."""
    mistake = seam.make_cluster.standby_of(seam.cluster)
    config = seam.config_for(mistake, "db2")
    done = call_hook(seam.command, config, ["role-change", "main", "--node", "db2", "on_start", "replica", "shop"])
    assert done.returncode == 0, done.stderr
    seam.settle()
    catch_up(seam.cluster, mistake)
    mistake.stop()
    commands = {"archive_command": seam.archive_command(), "restore_command": seam.restore_ours()}
    mistake.start({"archive_mode": "on", **commands})
    promote(mistake)
    strays = seam.insert_segments(mistake, 6001, 6200, 2)
    mistake.wait_archived(strays[-1])
    assert "was promoted without its cluster's leave" in mistake.log()
    assert (seam.plain / "00000002.history").exists()
    assert seam.archive.list_timelines() == (1,)
    assert {entry.rpartition("-")[0] for entry in seam.archive.list_quarantine()} >= {"00000002.history", *strays}
    names = seam.insert_segments(seam.cluster, 5001, 5200, 2)
    wait_until(lambda: all(seam.archive.exists(name) for name in names), "the WAL of the primary that goes on")
    # When it is announced, it is its cluster's.
    done = call_hook(seam.command, config, ["pre-promote", "main", "--node", "db2", "--limit", "20s"])
    assert done.returncode == 0, done.stderr
    words = [*seam.command.words, "--config", str(config), "wal", "push", "pg_wal/00000002.history"]
    assert run_as_plain(words, cwd=mistake.data_directory).returncode == 0
    assert seam.archive.exists("00000002.history")


def test_what_a_promotion_by_hand_sent_into_quarantine_comes_back_when_the_line_goes_on(seam: Seam) -> None:
    """A standby is promoted by mistake and thrown away; the primary that stays is fenced from there on. The next
    promotion shows by its history whose the line is, and what was quarantined of it is filled in."""
    mistake = seam.make_cluster.standby_of(seam.cluster)
    heir = seam.make_cluster.standby_of(seam.cluster)
    seam.settle()
    take_over(seam, mistake)
    mistake.stop_and_remove()
    names = seam.insert_segments(seam.cluster, 5001, 5300, 3)
    seam.cluster.wait_archived(names[-1])
    missing = [name for name in names if not seam.archive.exists(name)]
    assert missing[-2:] == names[-2:]
    catch_up(seam.cluster, heir)
    seam.cluster.stop()
    heir.stop()
    # Of the history of the mistake it is to know that the number is taken, and no more.
    settings = {"archive_mode": "on", "primary_conninfo": "", "recovery_target_timeline": "1"}
    commands = {"archive_command": seam.archive_command(), "restore_command": seam.restore_ours()}
    heir.start({**settings, **commands})
    promote(heir)
    wait_until(lambda: seam.archive.exists("00000003.history"), "the history of the line")
    last = heir.switch_wal()
    wait_until(lambda: seam.archive.exists(last), f"{last} in the archive")
    assert seam.find_gaps() == [missing[0]]
    config = seam.config_for(heir, "db3")
    done = run_as_plain([*seam.command.words, "--config", str(config), "wal", "refill", "main"])
    assert done.returncode == 0, done.stderr
    assert "from quarantine" in done.stdout
    assert seam.find_gaps() == []
    for name in names:
        assert seam.archive.exists(name)
    assert SegmentName.parse(last, seam.archive.segment_size).timeline == 3
