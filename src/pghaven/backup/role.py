"""Which server of a cluster a backup is taken from, when every member runs the same schedule.

The one idea: nobody is appointed. Each run asks all members anew what they are, and decides for its own host alone;
where that is not the one that was wished for, it leaves the backup to it. Whoever cannot be asked takes no part, so a
backup is missing only when nobody can take it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

from pghaven.errors import PghavenError
from pghaven.postgres.lsn import Lsn
from pghaven.server.connection import connect, fetch_one, server_errors

_LAG_BYTES_MAX = 1 << 30
_ASK = (
    "SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(),"
    " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,"
    " EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')"
)


class BackupFrom(StrEnum):
    ANY = "any"
    STANDBY = "standby"
    PRIMARY = "primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """What a member says of itself. ``lsn`` is up to where it has written or replayed."""

    name: str
    system_identifier: int
    in_recovery: bool
    lsn: Lsn
    streaming: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChoice:
    """``left_to`` is the member that is to take the backup; None when this one is. ``reason`` says why."""

    left_to: str | None
    reason: str


def choose_source(wanted: BackupFrom, own: MemberState, others: Iterable[MemberState]) -> SourceChoice:
    """Pure. ``others`` are those that answered; of another cluster's system identifier none counts."""
    peers = [one for one in others if one.system_identifier == own.system_identifier]
    head = max([own.lsn, *(one.lsn for one in peers)])
    if wanted is BackupFrom.ANY:
        return SourceChoice(left_to=None, reason="any member may take it")
    if wanted is BackupFrom.PRIMARY:
        primary = next((one for one in peers if not one.in_recovery), None)
        if own.in_recovery and primary is not None:
            return SourceChoice(left_to=primary.name, reason="this server is a standby, and the primary takes it")
        return SourceChoice(left_to=None, reason="no other primary answers" if own.in_recovery else "it is the primary")
    fit = [one for one in peers if is_fit(one, head)]
    if is_fit(own, head):
        return SourceChoice(left_to=None, reason="it is a standby that follows")
    if fit:
        kind = "is behind" if own.in_recovery else "is the primary"
        return SourceChoice(left_to=fit[0].name, reason=f"this server {kind}, and a standby takes it")
    return SourceChoice(left_to=None, reason="no standby follows")


def is_fit(member: MemberState, head: Lsn) -> bool:
    """Whether this is a standby whose backup would not be an old one."""
    return member.in_recovery and member.streaming and head - member.lsn <= _LAG_BYTES_MAX


def ask_member(conninfo: str, os_user: str | None = None) -> MemberState:
    """Raises ServerUnsuitable, NotPermitted."""
    with closing(connect(conninfo, os_user=os_user)) as connection, server_errors(connection, "ask for its role"):
        identifier, in_recovery, lsn, streaming = fetch_one(connection, _ASK)
        return MemberState(
            name=f"{connection.info.host or 'local'}:{connection.info.port}",
            system_identifier=int(identifier),
            in_recovery=bool(in_recovery),
            lsn=Lsn.parse(lsn or "0/0"),
            streaming=bool(streaming),
        )


def ask_members(conninfos: Iterable[str]) -> tuple[MemberState, ...]:
    """Those that answer."""
    found = []
    for conninfo in conninfos:
        try:
            found.append(ask_member(conninfo))
        except PghavenError:
            continue
    return tuple(found)
