"""Which earlier backup a new one may build on, and why others may not.

The one idea: "this page has not changed since the parent began" is concluded from LSNs, so the parent must have been
taken of this very history: everything it read was written by WAL that also led to what the server holds now. A backup
that reaches past the point where its timeline was left, or past where this server has come to, has pages from another
future, and a page with a small LSN here may be a different one there.

That the parent ended before the new backup starts is needed too: then every record the parent's pages had seen had been
replayed here before, so a standby may follow a primary and the other way round. Pages that were damaged or being
written when the parent read them do no harm: a torn page was changed after the parent began and is stored anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.entry import BackupEntry, BackupState


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentNeeds:
    """What a new backup is of. ``history`` is that of the timeline it is taken on, ``start_lsn`` where it starts.

    The size of pages and of relation files is not among it: the lineage, and so the system identifier, fixes both.
    """

    system_identifier: int
    major: int
    wal_segment_size: int
    data_checksums: bool
    history: History
    start_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentChoice:
    """``entry`` is the newest backup that may be built on, or None. ``reasons`` say for each newer one why it may not,
    newest first.
    """

    entry: BackupEntry | None
    reasons: tuple[str, ...]


def choose_parent(entries: Iterable[BackupEntry], needs: ParentNeeds) -> ParentChoice:
    """The parent of a new backup. ``entries`` are in the catalog's order, oldest first."""
    reasons: list[str] = []
    for entry in reversed(tuple(entries)):
        refusal = find_refusal(entry, needs)
        if refusal is None:
            return ParentChoice(entry=entry, reasons=tuple(reasons))
        reasons.append(f'backup "{entry.label}" {refusal}')
    return ParentChoice(entry=None, reasons=tuple(reasons))


def find_refusal(entry: BackupEntry, needs: ParentNeeds) -> str | None:
    """Why this backup cannot be the parent, as what follows its name in a sentence; None if it can."""
    if entry.state is not BackupState.COMMITTED:
        return f"is {entry.state}"
    try:
        return _find_stranger(entry, needs) or _find_other_history(entry, needs)
    except (KeyError, TypeError, ValueError) as error:
        return f"does not say enough about itself ({error!r})"


def _find_stranger(entry: BackupEntry, needs: ParentNeeds) -> str | None:
    """Whether it is a backup of another cluster, or of this one with other files."""
    summary = entry.summary
    identifier = int(summary["system_identifier"])
    if identifier != needs.system_identifier:
        return f"is of system identifier {identifier}, and this server is {needs.system_identifier}"
    major = int(summary["server_version_num"]) // 10000
    if major != needs.major:
        return f"is of PostgreSQL {major}, and this server is PostgreSQL {needs.major}"
    if summary["data_checksums"] is not needs.data_checksums:
        return f"was taken with data checksums {_switch(not needs.data_checksums)}; they were switched since"
    segment_size = int(summary["wal_segment_size"])
    if segment_size != needs.wal_segment_size:
        return f"has WAL segments of {segment_size} bytes, and this server's have {needs.wal_segment_size}"
    return None


def _find_other_history(entry: BackupEntry, needs: ParentNeeds) -> str | None:
    """Whether it lies off the path that led to the new backup's start."""
    history = needs.history
    timeline = Timeline(int(entry.summary["timeline"]))
    start_lsn, stop_lsn = (Lsn.parse(entry.summary[name]) for name in ("start_lsn", "stop_lsn"))
    if not start_lsn < stop_lsn:
        return f"does not say where it lies in the WAL: from {start_lsn} to {stop_lsn}"
    if not history.includes(timeline):
        return f"is of timeline {timeline}, which is not in the history of timeline {history.timeline}"
    if not history.contains_end(timeline, stop_lsn):
        return (
            f"ends at {stop_lsn} of timeline {timeline}, which was left at {history.fork_of(timeline)} on the way to "
            f"timeline {history.timeline}"
        )
    if stop_lsn > needs.start_lsn:
        return f"ends at {stop_lsn}, after the new one starts ({needs.start_lsn})"
    return None


def _switch(is_on: bool) -> str:
    return "on" if is_on else "off"
