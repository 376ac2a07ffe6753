"""Rounds of chaos: a fault, the way back to health, and what must be true then.

The one idea: everything drawn comes from one seed, round by round, so a run can be taken up where it was left, with a
new cluster: what is kept of a round is its line in a file.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.entry import BackupState
from pghaven.repository.ledger import walk_path
from tests.chaos.announced import Announcer
from tests.chaos.checker import Honesty, Rules, Verdict, judge, judge_announced
from tests.chaos.faults import Fault, list_faults
from tests.chaos.ledger import Ledger
from tests.chaos.members import Cluster, Member
from tests.chaos.times import judge_times
from tests.support.cluster import adopt
from tests.support.waiting import wait_until

DURABILITIES = ("quorum", "sync", "strict", "async")
HEAL_SECONDS = 240.0
JUDGED_AGAIN = 3
BACKUP_EVERY = 4
RESTORE_EVERY = 8


@dataclass(frozen=True, kw_only=True)
class Round:
    number: int
    fault: str
    durability: str
    problems: tuple[str, ...]
    heal_seconds: float
    acknowledged: int = 0
    cancelled: int = 0
    lost: int = 0
    cancelled_lost: int = 0
    lost_bytes: int = 0
    announced_bytes: int | None = None
    written_bytes: int | None = None
    lost_seconds: float | None = None
    gap_seconds: float = 0.0
    timeline: int = 0


def draw_round(seed: int, number: int) -> tuple[Fault, str, random.Random]:
    """What round ``number`` of a seed is. Every fault comes in each stretch of as many rounds as there are faults."""
    faults = list_faults()
    stretch, place = divmod(number, len(faults))
    order = random.Random(f"{seed}/{stretch}").sample(range(len(faults)), len(faults))
    draw = random.Random(f"{seed}/{number}")
    durability = DURABILITIES[(number // 5 + seed) % len(DURABILITIES)]
    return faults[order[place]], durability, draw


class Chaos:
    """Rounds on one running cluster."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._done = 0
        self._honesty = Honesty()

    def play(self, number: int, fault: Fault, durability: str, draw: random.Random) -> Round:
        """One round; its problems, if there are any, are in it. Raises nothing for what the cluster does wrong."""
        cluster = self._cluster
        problems: list[str] = []
        verdict: Verdict | None = None
        self._honesty = Honesty()
        began = time.monotonic()
        try:
            if cluster.durability != durability:
                cluster.set_durability(durability)
            if self._done % BACKUP_EVERY == 0:
                self.back_up(draw)
            announcer = Announcer(cluster, durability)
            announcer.ask_command(cluster.members[0])
            with announcer.listening():
                began = time.monotonic()
                fault.act(cluster, draw)
                cluster.wait_healthy(HEAL_SECONDS)
                healed = time.monotonic()
            verdict = self._judge_in_health(fault, durability, began, announcer)
            problems += [*verdict.problems, *self._honesty.problems]
            problems += self.judge_archive()
            if fault.of_clocks:
                problems += judge_times(cluster)
            if fault.of_clocks or self._done % RESTORE_EVERY == RESTORE_EVERY - 1:
                problems += self.judge_restores(draw)
        except (AssertionError, OSError, psycopg.Error, subprocess.SubprocessError) as error:
            healed = time.monotonic()
            problems.append(f"{type(error).__name__}: {error}")
        self._done += 1
        honesty = {k: v for k, v in asdict(self._honesty).items() if k != "problems"}
        told = {} if verdict is None else {k: v for k, v in asdict(verdict).items() if k != "problems"}
        leader = cluster.find_leader()
        return Round(
            number=number,
            fault=fault.name,
            durability=durability,
            problems=tuple(problems),
            heal_seconds=round(healed - began, 1),
            gap_seconds=round(self._find_gap(began), 1),
            timeline=0 if leader is None else int(leader.ask()[1].get("timeline") or 0),
            **told,
            **honesty,
        )

    def _judge_in_health(self, fault: Fault, durability: str, began: float, announcer: Announcer) -> Verdict:
        """It may look healthy a moment before it notices what happened, such as that etcd had been away."""
        for _ in range(JUDGED_AGAIN):
            try:
                return self.judge(fault, durability, began, announcer)
            except psycopg.OperationalError:
                self._cluster.wait_healthy(HEAL_SECONDS)
        return self.judge(fault, durability, began, announcer)

    # -- the ledger -------------------------------------------------------------------------------------------------

    def judge(self, fault: Fault, durability: str, began: float, announcer: Announcer) -> Verdict:
        leader = self._cluster.await_leader()
        acks = self._ledger.take()  # before the survivors are read: what is acknowledged later is judged later
        survivors = self._read_ids(leader)
        for replica in self._cluster.list_replicas():
            self._await_same(leader, replica)
        asynchronous = durability == "async"
        rules = Rules(
            may_lose=(asynchronous and fault.loses) or fault.loses_always,
            may_overlap=fault.overlaps,
            forks=self._read_forks(leader),
            began=began,
            window_seconds=fault.seconds,
        )
        verdict = judge(acks, survivors, rules)
        if not fault.loses_always:  # somebody's hand is announced by nobody
            lost = [ack for ack in acks if ack.id not in survivors and not ack.cancelled]
            self._honesty = judge_announced(lost, announcer.heard, rules, lease_holds=not fault.overlaps)
        self._ledger.forget([ack.id for ack in acks if ack.id not in survivors])
        return verdict

    def _read_ids(self, member: Member) -> set[int]:
        with member.connect() as connection:
            return {number for (number,) in connection.execute("SELECT id FROM ledger")}

    def _await_same(self, leader: Member, replica: Member) -> None:
        """Until the replica has replayed what the leader has written now; then it has the same rows."""
        with leader.connect() as connection:  # it may step down just now
            (lsn,) = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("",)
        query = f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn"
        wait_until(lambda: replica.value(query), f"{replica.name} at {lsn}", 30)
        missing = self._read_ids(leader) - self._read_ids(replica)
        with replica.connect() as connection:
            (at,) = connection.execute("SELECT pg_last_wal_replay_lsn()::text").fetchone() or ("",)
        newest = max(self._read_ids(leader), default=0)
        old = [number for number in missing if number < newest - 500]
        assert not old, f"{replica.name} at {at} lacks {len(old)} rows that {leader.name} has had for long"

    def _read_forks(self, leader: Member) -> dict[int, Lsn]:
        history = self._read_history(leader)
        return {
            int(one): lsn
            for one in range(1, history.timeline)
            if history.includes(Timeline(one)) and (lsn := history.fork_of(Timeline(one))) is not None
        }

    def _read_history(self, leader: Member) -> History:
        timeline = Timeline(leader.read_timeline())
        archive = self._cluster.archive
        if timeline > 1:
            wait_until(lambda: archive.exists(timeline.history_name), f"the history of timeline {timeline}", 60)
        return archive.read_history(timeline)

    def _find_gap(self, began: float) -> float:
        """The longest time without any commit since a fault began."""
        times = sorted(ack.at for ack in self._ledger.take() if ack.at >= began - 1)
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    # -- the archive ------------------------------------------------------------------------------------------------

    def judge_archive(self) -> list[str]:
        """One unbroken line from the oldest backup to a segment that is ended now."""
        leader = self._cluster.await_leader()
        archive = self._cluster.archive
        written = Lsn.parse(leader.value("SELECT pg_switch_wal()::text"))
        history = self._read_history(leader)
        last = SegmentName.before(history.timeline, written, archive.segment_size)
        wait_until(lambda: archive.exists(str(last)), f"{last} in the archive", 90)
        problems: list[str] = []

        def is_unbroken() -> bool:
            problems[:] = self._find_breaks(history, last)
            return not problems

        try:
            wait_until(is_unbroken, "an unbroken line", 60)
        except AssertionError:
            return list(problems)
        return []

    def _find_breaks(self, history: History, last: SegmentName) -> list[str]:
        archive = self._cluster.archive
        held = archive.list_numbers()
        problems = []
        for entry in self._list_backups():
            timeline, start = Timeline(int(entry.summary["timeline"])), Lsn.parse(entry.summary["start_lsn"])
            if not history.contains_end(timeline, Lsn.parse(entry.summary["stop_lsn"])):
                continue  # of a line that was left
            first = SegmentName.containing(timeline, start, archive.segment_size)
            walk = walk_path(history, first, held)
            if walk.end_lsn < last.end_lsn:
                problems.append(f"backup {entry.label} leads to {walk.first_missing} and not to {last}")
        return problems

    def _list_backups(self) -> list[Any]:
        return [one for one in self._cluster.catalog.list_entries() if one.state is BackupState.COMMITTED]

    def back_up(self, draw: random.Random) -> None:
        """Of a member that is drawn: standbys too."""
        member = draw.choice(self._cluster.members)
        self._cluster.run_on(member, "backup", "main", "--quiet")

    def judge_restores(self, draw: random.Random) -> list[str]:
        """The newest backup and another of the line are brought to the end, and hold what the cluster held."""
        leader = self._cluster.await_leader()
        history = self._read_history(leader)
        line = [
            one
            for one in self._list_backups()
            if history.contains_end(Timeline(int(one.summary["timeline"])), Lsn.parse(one.summary["stop_lsn"]))
        ]
        chosen = {one.label: one for one in (line[-1], draw.choice(line))}
        before = max((ack.id for ack in self._ledger.take() if not ack.cancelled), default=0)
        survivors = {number for number in self._read_ids(leader) if number <= before}
        leader.value("SELECT pg_switch_wal()::text")
        problems = self.judge_archive()
        for label in chosen:
            problems += self._restore(leader, label, survivors)
        return problems

    def _restore(self, leader: Member, label: str, survivors: set[int]) -> list[str]:
        target = self._cluster.place / "restored"
        shutil.rmtree(target, ignore_errors=True)
        try:
            self._cluster.run_on(leader, "restore", "main", "--target-dir", str(target), "--backup", label, "--quiet")
            copy = adopt(target, self._cluster.engine.postgres)
            try:
                copy.append_conf(unix_socket_directories=str(copy.socket_directory), listen_addresses="")
                copy.start({"port": "5432", "hot_standby": "on"})
                copy.wait_for("SELECT NOT pg_is_in_recovery()", timeout_seconds=90)
                found = {number for (number,) in copy.sql("SELECT id FROM ledger")}
            finally:
                copy.stop_and_remove()
        finally:
            shutil.rmtree(target, ignore_errors=True)
        lost = survivors - found
        return [f"backup {label} restored to latest lacks {len(lost)} of {len(survivors)} rows"] if lost else []


def play_rounds(cluster: Cluster, seed: int, numbers: Iterator[int] | range) -> Iterator[Round]:
    ledger = Ledger(cluster)
    ledger.set_up()
    with ledger:
        chaos = Chaos(cluster, ledger)
        for number in numbers:
            fault, durability, draw = draw_round(seed, number)
            yield chaos.play(number, fault, durability, draw)


def read_rounds(path: Path) -> list[Mapping[str, Any]]:
    """The rounds of a run that was left."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show(done: Round) -> None:
    verdict = "ok" if not done.problems else "PROBLEM " + "; ".join(done.problems)
    print(
        f"{done.number:4d} {done.durability:7s} {done.fault:40s} healed in {done.heal_seconds:6.1f} s, "
        f"gap {done.gap_seconds:5.1f} s, {done.lost} of {done.acknowledged} lost{_show_announced(done)}, "
        f"timeline {done.timeline}: {verdict}",
        flush=True,
    )
    sys.stdout.flush()


def _show_announced(done: Round) -> str:
    if done.announced_bytes is None:
        return ""
    return f" ({done.lost_bytes} bytes, announced {done.announced_bytes} + {done.written_bytes} written after)"
