"""Real servers archive through the rendered archive_command, and recover through the rendered restore_command without
ever coming up short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.repository import Lineage, create_repository
from pghaven.repository.walstore import WalArchive
from pghaven.server.postmaster import STATUS_READY
from pghaven.store.open import create_root
from pghaven.wal.commands import render_archive_command, render_restore_command
from pghaven.wal.directory import read_system_identifier
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.moving import give_to_plain
from tests.support.places import copy_tree, own, run_as_plain
from tests.support.waiting import wait_until

SEGMENT_SIZE = 1 << 20
ROWS = 6


class Protected:
    """A running primary whose WAL goes into a repository, and what is needed to recover from there."""

    prefetch = "0B"
    """Every file is asked of the program, so that its calls can be counted."""

    def __init__(self, make_cluster: ClusterFactory, command: PghavenCommand, place: Path) -> None:
        self.make_cluster = make_cluster
        self.command = command
        self.place = place
        self.repository = place / "repository"
        self.config = place / "it's 100% here.toml"
        self.base = place / "base"
        self.primary = make_cluster(start=False)
        self.archive = self._register()
        self.primary.append_conf(archive_mode="on", archive_command=self.archive_command)
        self.primary.start()
        self.primary.sql("CREATE TABLE t (a int)")

    def _register(self) -> WalArchive:
        identifier = read_system_identifier(str(self.primary.data_directory))
        assert identifier is not None
        repository = create_repository(create_root(self.repository.as_uri()))
        give_to_plain(self.repository)
        lineage = Lineage(
            system_identifier=identifier,
            major=self.primary.version,
            block_size=8192,
            segment_blocks=131072,
            wal_segment_size=SEGMENT_SIZE,
            registered_at="2026-01-01T00:00:00.000000Z",
        )
        repository.register_lineage("main", lineage, new_lineage=False)
        self.config.write_text(
            f'[repository.main]\nurl = "{self.repository.as_uri()}"\n'
            f'[cluster.main]\ndata_directory = "{self.primary.data_directory}"\nwal_prefetch = "{self.prefetch}"\n'
        )
        return WalArchive(repository, "main", identifier, SEGMENT_SIZE)

    @property
    def archive_command(self) -> str:
        return render_archive_command(self.command.words, str(self.config), "main")

    def take_base_backup(self) -> None:
        arguments = ("-D", str(self.base), "-X", "none", "-c", "fast", "--no-sync")
        self.primary.run("pg_basebackup", *arguments)

    def insert(self, value: int, cluster: TestCluster | None = None) -> str:
        """A row in a segment of its own; the segment's name."""
        server = cluster or self.primary
        server.sql("INSERT INTO t VALUES (%s)", value)
        return server.switch_wal()

    def insert_all(self) -> list[str]:
        """Rows 1 to ROWS, archived."""
        names = [self.insert(value) for value in range(1, ROWS + 1)]
        wait_until(lambda: all(self.archive.exists(name) for name in names), "the archiver")
        return names

    def restore(
        self,
        name: str,
        *,
        executable: Sequence[str] | None = None,
        plan: dict[str, object] | None = None,
        signal: str = "recovery.signal",
        **settings: str,
    ) -> TestCluster:
        """A copy of the base backup that will recover from the repository when it is started."""
        directory = self.place / name
        copy_tree(self.base, directory)
        (directory / signal).touch()
        own(directory / signal)
        if plan is not None:
            path = directory / RESTORE_PLAN_FILE
            path.write_text(json.dumps({"format": 1, "archiving": "off", **plan}))
            own(path)
        command = render_restore_command(
            executable or self.command.words, str(self.config), "main", RESTORE_PLAN_FILE if plan is not None else None
        )
        restored = self.make_cluster.adopt(directory, version=self.primary.version)
        # Without hot_standby nobody gets in before recovery has ended, so that starting says how it ended.
        defaults = {"archive_mode": "off", "hot_standby": "off", "recovery_target_timeline": "1"}
        restored.append_conf(**{**defaults, "restore_command": command, **settings})
        return restored

    def interrupt(self, first: int, last: int) -> tuple[str, ...]:
        """A program that has no repository during these of its calls."""
        counter, script = self.place / f"calls-{first}", self.place / f"interrupted-{first}"
        counter.write_text("0\n")
        own(counter)
        script.write_text(
            f"n=$(($(cat {counter}) + 1)); echo $n > {counter}\n"
            f"if [ $n -ge {first} ] && [ $n -le {last} ]; then\n"
            f'  mv {self.repository} {self.repository}.away; "$@"; s=$?\n'
            f"  mv {self.repository}.away {self.repository}; exit $s\n"
            'fi\nexec "$@"\n'
        )
        return ("/bin/sh", str(script), *self.command.words)


@pytest.fixture
def protected(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    return Protected(make_cluster, pghaven_command, server_path)


def rows(cluster: TestCluster) -> list[int]:
    return [value for (value,) in cluster.sql("SELECT a FROM t ORDER BY a")]


def has_promoted(cluster: TestCluster) -> bool:
    return any((cluster.data_directory / "pg_wal").glob("*.history"))


def straight(end: Lsn) -> dict[str, object]:
    """A plan along timeline 1."""
    return {"timeline_path": [[1, "0/0", None]], "expected_end_lsn": str(end)}


def end_of(segment: str) -> Lsn:
    return SegmentName.parse(segment, SEGMENT_SIZE).end_lsn


def recover(cluster: TestCluster) -> bool:
    """Start a restored server and wait until it has recovered and opened, or has stopped (False)."""
    cluster.start(wait=False)
    return wait_recovered(cluster)


def wait_recovered(cluster: TestCluster) -> bool:
    """As ``recover``, of one that was started."""

    def has_ended() -> bool:
        running = cluster.instance.is_running()
        return cluster.instance.child_pid is None or (running is not None and running.status == STATUS_READY)

    wait_until(has_ended, "the end of recovery")
    return cluster.is_running()


def fail_to_recover(cluster: TestCluster) -> str:
    """What the server says when it refuses to open."""
    assert not recover(cluster), cluster.log()
    assert not has_promoted(cluster)
    return cluster.log()


# -- archiving ---------------------------------------------------------------------------------------------------------


def test_a_server_archives_everything_it_writes(pg_version: int, protected: Protected) -> None:
    primary = protected.primary
    name = protected.insert(1)
    content = (primary.data_directory / "pg_wal" / name).read_bytes()
    primary.wait_archived(name)
    assert protected.archive.get(name) == content
    protected.take_base_backup()
    last = protected.insert(2)
    primary.wait_archived(last)
    assert primary.value("SELECT failed_count FROM pg_stat_archiver") == 0
    stored = {path.name for path in protected.repository.rglob("*.backup")}
    assert len(stored) == 1
    held = [str(segment.name) for segment in protected.archive.list_segments(Timeline(1))]
    assert held[-1] == last
    assert len(held) == int(held[-1][-2:], 16) - int(held[0][-2:], 16) + 1


# -- outages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "unplanned"])
def test_an_outage_in_the_middle_of_recovery_stops_it_and_the_next_start_loses_nothing(
    pg_version: int, protected: Protected, planned: bool
) -> None:
    protected.take_base_backup()
    names = protected.insert_all()
    plan = straight(end_of(names[-1])) if planned else None
    restored = protected.restore("restored", executable=protected.interrupt(4, 6), plan=plan)
    for _ in range(3):
        assert "could not restore file" in fail_to_recover(restored)
    assert recover(restored)
    assert rows(restored) == list(range(1, ROWS + 1))


@pytest.mark.slow
def test_an_outage_at_any_call_stops_recovery(protected: Protected) -> None:
    protected.take_base_backup()
    names = protected.insert_all()
    for call in range(1, ROWS + 3):
        restored = protected.restore(
            f"restored-{call}", executable=protected.interrupt(call, call), plan=straight(end_of(names[-1]))
        )
        fail_to_recover(restored)
        assert recover(restored)
        assert rows(restored) == list(range(1, ROWS + 1))
        restored.stop_and_remove()


def remove(path: Path) -> None:
    path.unlink()


def flip_a_bit(path: Path) -> None:
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("spoil", [remove, flip_a_bit, truncate])
@pytest.mark.parametrize("planned", [True, False], ids=["planned", "unplanned"])
def test_a_segment_that_is_lost_or_damaged_in_the_middle_stops_recovery(
    protected: Protected, spoil: Callable[[Path], None], planned: bool
) -> None:
    protected.take_base_backup()
    names = protected.insert_all()
    (path,) = protected.repository.rglob(names[3])
    kept = path.with_suffix(".kept")
    shutil.copy2(path, protected.place / kept.name)
    spoil(path)
    plan = straight(end_of(names[-1])) if planned else None
    restored = protected.restore("restored", plan=plan)
    log = fail_to_recover(restored)
    assert names[3] in log
    path.unlink(missing_ok=True)
    shutil.move(protected.place / kept.name, path)
    own(path)
    assert recover(restored)
    assert rows(restored) == list(range(1, ROWS + 1))


def test_the_planned_end_holds_even_where_the_archive_simply_ends(protected: Protected) -> None:
    protected.take_base_backup()
    names = protected.insert_all()
    for name in names[4:]:
        (path,) = protected.repository.rglob(name)
        path.unlink()
    planned = protected.restore("planned", plan=straight(end_of(names[-1])))
    assert "needs it to reach" in fail_to_recover(planned)
    unplanned = protected.restore("unplanned")
    assert recover(unplanned)
    assert rows(unplanned) == [1, 2, 3, 4]


# -- timelines ---------------------------------------------------------------------------------------------------------


def test_two_restores_to_one_point_never_use_one_timeline_twice(protected: Protected) -> None:
    protected.take_base_backup()
    names = protected.insert_all()
    for timeline in (2, 3):
        restored = protected.restore(
            f"restored-{timeline}",
            plan={**straight(end_of(names[2])), "archiving": "allowed"},
            recovery_target_lsn=str(end_of(names[2])),
            recovery_target_action="promote",
            archive_mode="on",
            archive_command=protected.archive_command,
        )
        assert recover(restored)
        restored.sql("CHECKPOINT")
        assert restored.value("SELECT timeline_id FROM pg_control_checkpoint()") == timeline
        assert rows(restored) == [1, 2, 3]
        history = Timeline(timeline).history_name
        wait_until(partial(protected.archive.exists, history), "the history file")
        assert restored.value("SELECT failed_count FROM pg_stat_archiver") == 0
        restored.stop()


def test_nobody_replays_what_a_passed_over_primary_wrote(protected: Protected) -> None:
    """Timeline 2 has left timeline 1 inside a segment of which only the old primary's copy is archived."""
    primary = protected.primary
    protected.take_base_backup()
    protected.insert(1)
    standby = protected.make_cluster.standby_of(primary, start=False)
    standby.start({"archive_command": "false", "archive_mode": "on"})
    primary.sql("INSERT INTO t VALUES (2)")
    written = primary.value("SELECT pg_current_wal_lsn()::text")
    standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)
    standby.sql("SELECT pg_promote()")
    history = standby.data_directory / "pg_wal" / "00000002.history"
    assert (
        run_as_plain(
            [*protected.command.words, "wal", "push", "--config", str(protected.config), "pg_wal/00000002.history"],
            cwd=standby.data_directory,
        ).returncode
        == 0
    )
    fork = Lsn.parse(history.read_text().split()[1])

    primary.sql("INSERT INTO t VALUES (666)")
    with_fork = protected.insert(667)
    after = protected.insert(668)
    primary.wait_archived(after)
    assert SegmentName.parse(with_fork, SEGMENT_SIZE).start_lsn < fork < end_of(with_fork)
    assert primary.value("SELECT failed_count FROM pg_stat_archiver") == 0
    assert "quarantined" in primary.log()
    assert [name[:24] for name in protected.archive.list_quarantine()] == [after]
    assert not protected.archive.exists(after)

    path: dict[str, object] = {
        "timeline_path": [[1, "0/0", str(fork)], [2, str(fork), None]],
        "expected_end_lsn": str(fork),
    }
    restored = protected.restore("planned", plan=path, recovery_target_timeline="2")
    assert recover(restored)
    assert rows(restored) == [1, 2]
    astray = protected.restore("unplanned", recovery_target_timeline="2")
    assert recover(astray)
    assert 666 in rows(astray)  # what the plan saves from


# -- standbys ----------------------------------------------------------------------------------------------------------


def test_a_standby_streams_on_while_the_repository_is_away(protected: Protected) -> None:
    protected.take_base_backup()
    protected.insert_all()
    standby = protected.restore(
        "standby",
        plan={**straight(Lsn(1 << 40)), "standby": True},
        signal="standby.signal",
        hot_standby="on",
        primary_conninfo=protected.primary.conninfo,
        recovery_target_timeline="latest",
        wal_retrieve_retry_interval="100ms",
    )
    standby.start()
    standby.wait_for("SELECT count(*) = %s FROM t", ROWS)
    protected.repository.rename(protected.place / "away")
    protected.primary.sql("INSERT INTO t VALUES (100)")
    standby.wait_for("SELECT count(*) = %s FROM t", ROWS + 1)
    standby.restart()
    protected.primary.sql("INSERT INTO t VALUES (101)")
    standby.wait_for("SELECT count(*) = %s FROM t", ROWS + 2)
    (protected.place / "away").rename(protected.repository)
    assert standby.value("SELECT pg_is_in_recovery()")
