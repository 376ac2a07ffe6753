"""Restoring to a time when the server's clock has jumped: commits are stamped with it, and are in no order then."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from pghaven.errors import Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from tests.chaos import clocks
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import run_as_plain
from tests.support.protected import Protected

HOUR = clocks.HOUR


class Jumping:
    """A protected server whose clock is set by the tests; its archiver's and its backups' clock is the same."""

    def __init__(self, site: Protected, clock: Path, make_cluster: ClusterFactory) -> None:
        self.site = site
        self._clock = clock
        self._make_cluster = make_cluster
        site.cluster.sql("CREATE TABLE ledger (note text)")

    def set_clock(self, seconds: int) -> None:
        clocks.set_offset(self._clock, seconds)

    def write(self, *notes: str) -> datetime:
        """A transaction for each; a moment after them and before the next one, by the server's clock."""
        for note in notes:
            self.site.cluster.sql("INSERT INTO ledger VALUES (%s)", note)
        return self.site.cluster.pass_moment()

    def restore(self, target: RecoveryTarget) -> str:
        """What is there when the server has recovered, in the order in which it was written."""
        plan = self.site.plan(target)
        copy = self._make_cluster.adopt(Path(plan.request.target_dir))
        recovery = self.site.recover(plan, copy)
        assert recovery.reached_lsn >= plan.wal.end_lsn
        try:
            return "".join(note for (note,) in copy.sql("SELECT note FROM ledger"))
        finally:
            copy.stop_and_remove()

    def restore_to(self, moment: datetime) -> str:
        return self.restore(RecoveryTarget(kind=TargetKind.TIME, time=moment))

    def refuse(self, moment: datetime) -> Refused:
        with pytest.raises(Refused, match="came 2 times by the clock of the server") as refused:
            self.site.plan(RecoveryTarget(kind=TargetKind.TIME, time=moment))
        return refused.value

    def restore_each(self, moment: datetime) -> list[str]:
        """Refused as it is; what each of the positions that are named then brings back."""
        words = (self.refuse(moment).detail or "").split()
        found = [Lsn.parse(word.rstrip(":,")) for before, word in pairwise(words) if before == "at"]
        return [self.restore(RecoveryTarget(kind=TargetKind.LSN, lsn=lsn, inclusive=False)) for lsn in found]


@pytest.fixture
def jumping(
    make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Jumping]:
    if (obstacle := clocks.find_obstacle()) is not None:
        pytest.skip(obstacle)
    cluster = make_cluster()
    cluster.stop()
    clock = server_path / "clock"
    clocks.set_offset(clock, 0)
    with monkeypatch.context() as given:
        for name, value in clocks.render_environment(clock).items():
            given.setenv(name, value)
        cluster.start()
        site = Protected(cluster, pghaven_command, server_path)  # restarts it
    yield Jumping(site, clock, make_cluster)


def test_a_clock_that_was_ahead_for_a_moment(jumping: Jumping) -> None:
    site = jumping.site
    site.backup()
    before = jumping.write("a")
    jumping.set_clock(HOUR)
    ahead = jumping.write("b", "c")
    jumping.set_clock(0)
    after = jumping.write("d", "e")
    jumping.write("f")
    site.settle()
    assert jumping.restore_to(before) == "a"
    # PostgreSQL itself stops at the first later commit, which is that of "b".
    assert jumping.restore_each(after) == ["a", "abcde"]
    with pytest.raises(Refused, match="is after the end of the archive"):
        jumping.restore_to(ahead)

    words = ["--config", str(site.config), "wal", "list", site.name, "--at", after.isoformat(sep=" ")]
    asked = run_as_plain([*site.command.words, *words])
    assert asked.returncode == 10
    assert "came 2 times by the clock of the server" in asked.stdout
    assert "It could mean at 0/" in asked.stdout


def test_a_jump_that_nothing_shows_does_not_end_a_recovery_early(jumping: Jumping) -> None:
    jumping.site.backup()
    jumping.write("a")
    jumping.set_clock(HOUR)
    jumping.write("b")
    jumping.set_clock(0)
    for note in "cdefg":
        jumping.write(note)
        jumping.site.cluster.switch_wal()
    jumping.set_clock(60)
    moment = jumping.write("h")
    jumping.write("i")
    jumping.site.settle()
    assert jumping.restore_to(moment) == "abcdefgh"


def test_a_clock_that_was_ahead_over_many_segments_and_a_backup(jumping: Jumping) -> None:
    site = jumping.site
    site.backup()
    jumping.write("a")
    jumping.set_clock(HOUR)
    for note in "bcde":
        moment = jumping.write(note)
        site.cluster.switch_wal()
    site.backup()
    jumping.write("f")
    jumping.set_clock(0)
    for note in "ghij":
        jumping.write(note)
        site.cluster.switch_wal()
    after = jumping.write("k")
    jumping.write("l")
    site.settle()
    assert jumping.restore_each(after) == ["a", "abcdefghijk"]
    assert jumping.restore_to(moment) == "abcde"  # which came once


def test_a_backup_that_was_dated_too_late_is_taken_for_what_was_written_after_it(jumping: Jumping) -> None:
    jumping.set_clock(HOUR)
    jumping.site.backup()
    jumping.write("a")
    jumping.set_clock(0)
    moment = jumping.write("b")
    jumping.write("c")
    jumping.site.settle()
    assert jumping.restore_to(moment) == "ab"


def test_a_backup_that_was_dated_too_early_does_not_bring_back_what_was_to_be_undone(jumping: Jumping) -> None:
    site = jumping.site
    site.backup()
    jumping.write("a")
    jumping.set_clock(HOUR)
    jumping.write("b")
    site.cluster.switch_wal()
    jumping.set_clock(HOUR // 2)
    jumping.write("c")
    site.backup()
    moment = jumping.write("d")
    jumping.write("e")
    site.settle()
    assert jumping.restore_each(moment) == ["a", "abcd"]


def test_a_clock_that_was_set_back_for_good(jumping: Jumping) -> None:
    jumping.site.backup()
    jumping.write("a")
    jumping.set_clock(-HOUR)
    earlier = jumping.write("b")
    jumping.write("c")
    jumping.site.settle()
    assert jumping.restore_to(earlier) == "ab"
