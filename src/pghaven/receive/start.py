"""Where a receiver begins to stream: which timeline, which segment, and what became of its slot.

The one idea: what was received lies in the spool, so its end says where to go on, always from a segment's start; only
an empty spool makes the slot the authority. Whatever stands in the way is named with what it means: a slot that was
lost, WAL that was removed, a server of another line.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.errors import Conflict, ServerUnsuitable, SlotLost, WalRemoved
from pghaven.events import Listener, Notice
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.receive.spool import Spool
from pghaven.server.replication import NextTimeline, ReplicationConnection, ServerIdentity, SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """``is_new``: it was made just now; ``lost`` is what had become of the one that was there before."""

    name: str
    state: SlotState
    is_new: bool
    lost: str | None = None


def take_slot(link: ReplicationConnection, name: str, listener: Listener, *, was_used: bool) -> Slot:
    """The slot of this name; made if there is none, made anew if it reserves nothing any more. ``was_used`` says that
    this receiver has received before, so that its slot should be there."""
    state = link.read_slot(name)
    if state is not None and state.restart_lsn is not None:
        return Slot(name=name, state=state, is_new=False)
    lost = None
    if state is not None:
        _warn_of_lost(name, "reserves nothing: it was invalidated", link, listener)
        link.drop_slot(name)
        lost = f'replication slot "{name}" had been invalidated (max_slot_wal_keep_size)'
    elif was_used:
        _warn_of_lost(name, "is not there", link, listener)
        lost = f'replication slot "{name}" was not there: dropped, or not taken along by a failover'
    link.create_slot(name)
    state = link.read_slot(name)
    if state is None or state.restart_lsn is None:
        raise SlotLost(f'replication slot "{name}" reserves nothing although it was just made')
    listener(Notice(level="info", code="slot_created", text=f'made replication slot "{name}" on {link.host}'))
    return Slot(name=name, state=state, is_new=True, lost=lost)


def replace_slot(link: ReplicationConnection, name: str, error: SlotLost, listener: Listener) -> None:
    """Make a slot anew that the server refuses to stream from."""
    _warn_of_lost(name, f"cannot be used: {error.detail or error.message}", link, listener)
    if link.read_slot(name) is not None:
        link.drop_slot(name)
    link.create_slot(name)


def find_start(link: ReplicationConnection, identity: ServerIdentity, spool: Spool, slot: Slot) -> SegmentName:
    """The segment to stream from its start. Raises Conflict, ServerUnsuitable for a server of another line."""
    assert spool.notes is not None
    size = spool.notes.segment_size
    unfinished = [one.segment for one in spool.list_unfinished()]
    finished = [one.next() for one in spool.list_finished()]
    last = max([*unfinished, *finished], default=None)
    if last is None:
        return find_slot_start(identity, slot, size)
    if last.timeline > identity.timeline:
        raise ServerUnsuitable(
            f"{link.host} is on timeline {identity.timeline}, but WAL of timeline {last.timeline} was received before",
            hint="A server that was passed over answers. Stop it, or have target_session_attrs choose another host.",
        )
    if last.timeline == identity.timeline:
        return last
    history = read_history(link, identity.timeline)
    if not history.includes(last.timeline):
        raise Conflict(
            f"{link.host} is on timeline {identity.timeline}, which does not come from timeline {last.timeline}, of "
            "which WAL was received before",
            hint="Two servers were promoted apart. Find out which is the right one; if it is this one, receive into "
            "another directory (receive_spool).",
        )
    fork = history.fork_of(last.timeline)
    if fork is None or last.start_lsn <= fork:
        return last
    return SegmentName.containing(history.timeline_at(fork), fork, size)


def find_slot_start(identity: ServerIdentity, slot: Slot, segment_size: int) -> SegmentName:
    """The segment from which the slot reserves WAL."""
    state = slot.state
    assert state.restart_lsn is not None
    return SegmentName.containing(state.timeline or identity.timeline, state.restart_lsn, segment_size)


def pass_over_removed(
    wanted: SegmentName, error: WalRemoved, identity: ServerIdentity, slot: Slot, listener: Listener
) -> SegmentName:
    """Where to go on when what should come next was removed from the server. Raises WalRemoved if it is nowhere."""
    following = find_slot_start(identity, slot, wanted.segment_size)
    if following <= wanted:
        raise WalRemoved(
            error.message,
            detail=error.detail,
            hint=f'Drop replication slot "{slot.name}"; it is made anew, and the receiver goes on from there.',
        )
    listener(
        Notice(
            level="warning",
            code="wal_removed",
            text=f"the server no longer has WAL from {wanted.start_lsn} of timeline {wanted.timeline} on; receiving "
            f"goes on at {following.start_lsn} of timeline {following.timeline}",
            hint="What lies between is in the repository if archive_command pushed it: see pghaven wal list. If it is "
            "missing there, pghaven wal refill asks all servers for it; otherwise take a backup now.",
        )
    )
    return following


def follow_switch(link: ReplicationConnection, following: NextTimeline, spool: Spool) -> SegmentName:
    """The first segment of the timeline that goes on, whose history is kept first."""
    assert spool.notes is not None
    keep_history(link, following.timeline, spool)
    return SegmentName.containing(following.timeline, following.switch_lsn, spool.notes.segment_size)


def keep_history(link: ReplicationConnection, timeline: Timeline, spool: Spool) -> None:
    """Have the history of a timeline archived before any of its WAL."""
    if timeline > 1:
        spool.put_history(timeline, link.read_history(timeline))


def read_history(link: ReplicationConnection, timeline: Timeline) -> History:
    """The history of a timeline as the server has it."""
    return parse_history(link.read_history(timeline).decode("utf-8", "replace"), timeline)


def get_lowest(segments: list[SegmentName], otherwise: Lsn) -> Lsn:
    """Where the first of these begins, or the other position if there are none."""
    return min((segment.start_lsn for segment in segments), default=otherwise)


def _warn_of_lost(name: str, what: str, link: ReplicationConnection, listener: Listener) -> None:
    listener(
        Notice(
            level="warning",
            code="slot_lost",
            text=f'replication slot "{name}" on {link.host} {what}; it is made anew',
            hint="A slot is not taken along by a failover, and is invalidated when it holds back more WAL than "
            "max_slot_wal_keep_size. What the server still has is received; what it has not is told.",
        )
    )
