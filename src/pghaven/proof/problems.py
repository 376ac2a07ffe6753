"""What is wrong with a cluster's protection, from what was found. Pure.

The one idea: each problem is told in one sentence with the one thing to do about it, the gravest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from pghaven.proof.catalog import ListedBackup, ShownState
from pghaven.proof.clocks import judge_clock
from pghaven.proof.drilled import describe_ago, judge_drills, judge_proofs
from pghaven.proof.findings import list_labels
from pghaven.proof.judgements import BACKUP_AGE_WARNED
from pghaven.proof.receiving import is_receiving, judge_agent, judge_receiver
from pghaven.proof.results import count_files
from pghaven.proof.standing import judge_standbys
from pghaven.proof.states import Problem, RepositorySilence, RepositoryState, ServerSilence, ServerState
from pghaven.proof.wal_incidents import judge_audit, judge_writers
from pghaven.repository.evidence import Verdict
from pghaven.repository.memory import OLDER_HINT
from pghaven.units import render_duration, render_time
from pghaven.wal.agentstate import AgentState
from pghaven.wal.behind import Behind
from pghaven.wal.gapcause import Cause

# Finished files that wait: a burst is normal, a queue is not.
_WAITING_WARNED = 16
ONE_WRITER = 'repository "{name}" is used as if nobody else ever wrote to it (single_writer)'
ONE_WRITER_HINT = (
    "Its store lets a second writer replace an object: let no two commands write at once, on any host. "
    "A store that honours If-None-Match needs no such care."
)
IMPORTANCE: Final = (
    *("server_silent", "no_backup", "repository_failed", "archive_off", "archiving_failed", "fenced", "older_state"),
    *(
        "horizon_damaged",
        "wal_gap",
        "wal_damaged",
        "two_writers",
        "slot_lost",
        "backup_unusable",
        "backup_damaged",
        "damage_found",
    ),
    *(
        "drill_failed",
        "bad_pages",
        "archiving_behind",
        "repository_behind",
        "receiver_missing",
        "agent_silent",
        "standby_lost",
    ),
    *("clock", "standby_behind", "past_gap", "past_damage", "history_missing", "backup_old", "verification_old"),
    *("dump_failed", "drill_doubtful", "verification_doubtful", "drill_old"),
    *("quarantine", "single_writer"),
)
"""The codes of problems, in the order in which they are told: what is lost by the hour comes before what may be lost
one day."""
# What nobody has read for longer is not known to be there: disks lose bytes in silence.
VERIFICATION_AGE_WARNED = timedelta(days=30)


def find_problems(
    cluster: str,
    server: ServerState | ServerSilence,
    repositories: Sequence[RepositoryState | RepositorySilence],
    now: datetime,
    agent: AgentState = AgentState.NONE,
) -> tuple[Problem, ...]:
    """All problems, the gravest first."""
    found = [*_judge_server(cluster, server), *judge_agent(agent)]
    for repository in repositories:
        if isinstance(repository, RepositorySilence):
            text = f'repository "{repository.name}" cannot be used: {repository.reason}'
            hint = f"{repository.hint or ''} Then look again: pghaven check {cluster}".strip()
            found.append(Problem(code="repository_failed", level="critical", text=text, hint=hint))
            found += _judge_behind(cluster, repository.behind)
        else:
            found += _judge_repository(cluster, server, repository, now)
    found += judge_clock(cluster, repositories, now)
    return tuple(sorted(found, key=_rank))


def _rank(problem: Problem) -> tuple[str, int]:
    known = problem.code in IMPORTANCE
    return problem.level, IMPORTANCE.index(problem.code) if known else len(IMPORTANCE)


def _judge_server(cluster: str, server: ServerState | ServerSilence) -> Iterator[Problem]:
    if isinstance(server, ServerSilence):
        what = {
            True: "the server runs, but does not let us in",
            False: "the server is down",
            None: "the server does not answer",
        }
        hint = f"{server.hint or ''} What can be restored, and how fast, is told here; then: pghaven restore {cluster}"
        if server.is_running:
            hint = server.hint or f"Once it lets us in: pghaven check {cluster}"
        text = f"{what[server.is_running]}: {server.reason}"
        yield Problem(code="server_silent", level="critical", text=text, hint=hint.strip())
        return
    yield from judge_receiver(cluster, server)
    yield from judge_standbys(cluster, server.standbys)
    if server.archive_mode == "off":
        if is_receiving(server):
            return
        hint = f"Run: pghaven init {cluster} --apply, and restart the server."
        text = "archive_mode is off: no WAL reaches the repository"
        yield Problem(code="archive_off", level="critical", text=text, hint=hint)
    elif server.archiver.is_failing:
        since = server.archiver.last_archived_time
        text = f"archiving fails ({server.archiver.last_failed_name})" + (
            f"; the last file was archived at {render_time(since)}" if since else "; nothing was ever archived"
        )
        if server.waiting:
            text += f"; {count_files(server.waiting)} in pg_wal"
        if server.room is not None:
            text += f"; {server.room.describe()}"
        hint = f"The server's log shows what archive_command said. Run: pghaven check {cluster}"
        yield Problem(code="archiving_failed", level="critical", text=text, hint=hint)
    elif server.waiting is not None and server.waiting > _WAITING_WARNED:
        text = f"archiving is behind: {count_files(server.waiting)}"
        if server.room is not None:
            text += f"; {server.room.describe()}"
        hint = f"Is the repository slow? Watch whether the number falls: pghaven status {cluster} --watch"
        yield Problem(code="archiving_behind", level="warning", text=text, hint=hint)


def _judge_repository(
    cluster: str, server: ServerState | ServerSilence, repository: RepositoryState, now: datetime
) -> Iterator[Problem]:
    if repository.fenced is not None:
        hint = (
            "Stop this server, and rebuild it as a standby of the one that is primary now: "
            f"pghaven restore {cluster} --target-dir DIR --delta --standby"
        )
        yield Problem(code="fenced", level="critical", text=repository.fenced, hint=hint)
    if repository.older:
        text = f'repository "{repository.name}" is in an older state than this host has seen: '
        hint = OLDER_HINT.replace("NAME", repository.name)
        yield Problem(code="older_state", level="critical", text=text + "; ".join(repository.older), hint=hint)
    newest = repository.newest
    if newest is None:
        text = f'there is no backup in repository "{repository.name}": nothing could be restored'
        yield Problem(code="no_backup", level="critical", text=text, hint=f"Run: pghaven backup {cluster}")
    else:
        yield from _judge_newest(cluster, newest, now)
        yield from _judge_gaps(cluster, server, repository)
    yield from _judge_verification(cluster, repository, now)
    yield from _judge_behind(cluster, repository.behind)
    yield from judge_writers(cluster, repository.incidents, now)
    yield from judge_audit(cluster, repository.audit)
    yield from judge_drills(cluster, repository.drills, now)
    there = {one.label for one in repository.dumps}
    yield from judge_proofs(cluster, [one for one in repository.proofs if one.backup in there], now)
    if not repository.is_horizon_whole:
        text = (
            f'what was expired of the WAL in repository "{repository.name}" cannot be read: '
            "it is told as missing here, and no backup can be taken"
        )
        hint = f"What is damaged: pghaven verify {cluster}. Restores do not need it."
        yield Problem(code="horizon_damaged", level="critical", text=text, hint=hint)
    if repository.single_writer:
        text = ONE_WRITER.format(name=repository.name)
        hint = f"{ONE_WRITER_HINT} Whether it does by now: pghaven check {cluster}"
        yield Problem(code="single_writer", level="warning", text=text, hint=hint)
    if repository.quarantined:
        text = f"{repository.quarantined} WAL files of a server that was passed over are in quarantine"
        if repository.quarantined_from is not None:
            text += f"; the last from {repository.quarantined_from}"
        hint = f"Find the server that wrote them after another was promoted, and stop it: pghaven wal list {cluster}"
        yield Problem(code="quarantine", level="warning", text=text, hint=hint)


def _judge_behind(cluster: str, behind: Behind | None) -> Iterator[Problem]:
    if behind is None:
        return
    count = len(behind.names)
    text = (
        f'repository "{behind.repository}" has missed {count} WAL file{"s" if count != 1 else ""} since '
        f"{render_time(behind.since)}: {behind.reason}"
    )
    hint = f"Until it is filled in, the others alone hold that WAL. When it is back: pghaven wal refill {cluster}"
    yield Problem(code="repository_behind", level="warning", text=text, hint=hint)


def _judge_newest(cluster: str, newest: ListedBackup, now: datetime) -> Iterator[Problem]:
    assert newest.stopped_at is not None
    age = now - newest.stopped_at
    if age > BACKUP_AGE_WARNED:
        text = f"the newest backup is {render_duration(age / timedelta(seconds=1))} old"
        hint = f"A restore replays all WAL since then. Run: pghaven backup {cluster}"
        yield Problem(code="backup_old", level="warning", text=text, hint=hint)
    if newest.bad_pages:
        text = f"the newest backup holds {newest.bad_pages} damaged pages of the server"
        hint = f"Older backups may hold these pages whole: pghaven list {cluster}, and pghaven hold LABEL keeps one."
        yield Problem(code="bad_pages", level="critical", text=text, hint=hint)


def _judge_verification(cluster: str, repository: RepositoryState, now: datetime) -> Iterator[Problem]:
    for one in repository.backups:
        if one.state is ShownState.DAMAGED:
            text = f"backup {one.label} cannot be used: {one.reason}"
            hint = f"Run: pghaven verify {cluster}"
            yield Problem(code="backup_damaged", level="critical", text=text, hint=hint)
    damaged = tuple(one.label for one in repository.backups if one.verified.verdict is Verdict.DAMAGED)
    found = repository.last_damage
    if damaged:
        verb = "was" if len(damaged) == 1 else "were"
        hint = f"What is damaged: pghaven verify {cluster}. Take a new backup at once: pghaven backup {cluster} --full"
        text = f"{list_labels(damaged)} {verb} found damaged"
        yield Problem(code="backup_damaged", level="critical", text=text, hint=hint)
    elif found is not None:
        ago = render_duration(max(0.0, (now - found.began_at).total_seconds()))
        what = "a damaged or missing object was" if found.damage_count == 1 else f"{found.damage_count} damages were"
        text = f'{what} found in repository "{repository.name}" {ago} ago'
        hint = f"What it is, and whether it is still so: pghaven verify {cluster}"
        yield Problem(code="damage_found", level="critical", text=text, hint=hint)
    doubtful = repository.doubtful
    if doubtful is not None:
        ago = describe_ago(doubtful.began_at, now)
        text = f"the result of the last verification, {ago}, does not count: {doubtful.doubt}"
        hint = f"Find out who wrote {doubtful.name}, and prove it anew: pghaven verify {cluster}"
        yield Problem(code="verification_doubtful", level="warning", text=text, hint=hint)
    stale = tuple(one.label for one in repository.backups if is_stale(one, now))
    if stale:
        days = VERIFICATION_AGE_WARNED.days
        verb = "has" if len(stale) == 1 else "have"
        text = f"{list_labels(stale)} {verb} not been verified for more than {days} days"
        hint = f"Run: pghaven verify {cluster}"
        yield Problem(code="verification_old", level="warning", text=text, hint=hint)


def is_stale(backup: ListedBackup, now: datetime) -> bool:
    """Whether nobody has read all of a complete backup for too long; a new one was read while it was taken."""
    if backup.state is not ShownState.COMPLETE or backup.verified.verdict is Verdict.DAMAGED:
        return False
    since = backup.verified.at or backup.stopped_at
    return since is not None and now - since > VERIFICATION_AGE_WARNED


def _judge_gaps(cluster: str, server: ServerState | ServerSilence, repository: RepositoryState) -> Iterator[Problem]:
    reach = repository.reach
    damaged = dict(reach.damaged)
    for label, missing in reach.unusable:
        what = "damaged" if missing in damaged else "missing"
        text = f"backup {label} cannot be restored: WAL segment {missing} is {what}"
        hint = f"Run: pghaven backup {cluster}"
        yield Problem(code="backup_unusable", level="critical", text=text, hint=hint)
    timeline = server.timeline if isinstance(server, ServerState) else None
    newest = repository.find_window(timeline)
    for segment, reason in reach.damaged:
        text = f"WAL segment {segment} cannot be read"
        hint = f"What is damaged, and what it means: pghaven verify {cluster}"
        if newest is None or newest.end_lsn <= segment.start_lsn:
            text += f", and nothing from {segment.start_lsn} on can be restored: {reason}"
            hint += f". Take a new backup at once: pghaven backup {cluster}"
            yield Problem(code="wal_damaged", level="critical", text=text, hint=hint)
        else:
            yield Problem(code="past_damage", level="warning", text=f"{text}: {reason}", hint=hint)
    for gap in reach.gaps:
        spans = f"{gap.first}" if gap.count == 1 else f"{gap.first} to {gap.last} ({gap.count} segments)"
        is_last = newest is None or newest.end_lsn <= gap.first.start_lsn
        text = f"WAL segment {spans} is missing from the archive" if gap.count == 1 else f"WAL {spans} is missing"
        explained = next((one for one in repository.explained if one.gap.first == gap.first), None)
        cause = "" if explained is None else f" ({explained.text})"
        if is_last:
            text += f": nothing written after it can be restored{cause}"
            hint = f"Take a new backup: pghaven backup {cluster}"
            if explained is None or explained.cause is not Cause.LOST:
                hint = f"If a server still has it: pghaven wal refill {cluster}. Else: pghaven backup {cluster}"
            yield Problem(code="wal_gap", level="critical", text=text, hint=hint)
        else:
            hint = f"Moments inside the gap cannot be restored. If a server still has it: pghaven wal refill {cluster}"
            yield Problem(code="past_gap", level="warning", text=text + cause, hint=hint)
    for timeline in reach.unknown:
        text = f"the history of timeline {timeline} is not in the archive: its WAL cannot be used"
        hint = f"Archive {timeline.history_name} from the pg_wal of a server that has it: pghaven wal push PATH"
        yield Problem(code="history_missing", level="warning", text=text, hint=hint)
