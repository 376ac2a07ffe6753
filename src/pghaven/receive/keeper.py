"""What keeps an unfinished segment in one repository: a child process that is told how far it has come.

The one idea: pieces are written as a binary counter counts. Piece number n reaches back over as many pieces as the
lowest bit of n says, so that however often it is written there are never more than a few pieces to read, and each byte
is stored again only as often as the counter has digits. What a piece covers is removed, where that is allowed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pghaven.clock import Clock
from pghaven.errors import Conflict, NotPermitted, PghavenError, Refused
from pghaven.events import ignore
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.walspan import find_span
from pghaven.repository.keys import list_key_sets
from pghaven.repository.partials import Piece, list_pieces, put_piece, remove_pieces
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.walfacts import render_span
from pghaven.store.open import open_store
from pghaven.units import render_time_utc
from pghaven.wal.archives import OpenArchive, open_archive
from pghaven.wal.children import Tell, render_error
from pghaven.wal.fence import find_last_fork, load_later_histories

# How often it is looked whether the repository has got another key set, while anything is kept.
_KEYS_SECONDS = 60.0
# A piece has no more than this, so that a segment of 1 GB does not take as much memory; and a longer part of a segment
# is not looked into for its last commit, for which it would be read again every second.
_PIECE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperPlan:
    """``directory`` is the spool, ``receiver`` what its pieces are named by."""

    cluster: str
    place: RepositoryPlace
    directory: str
    receiver: str
    system_identifier: int
    clock: Clock


def run_keeper(plan: KeeperPlan, orders: int, tell: Tell) -> None:
    """Follow the orders that come through a pipe until it is closed. A line is one order and gets one answer,
    before it ``goes_on`` for each part of much that is stored:

    ``keep SEGMENT LENGTH TIME``   have the first bytes of a segment in the repository; TIME is when the last was sent
    ``rest SEGMENT LENGTH TIME``   the same of one that may never get longer
    ``whole SEGMENT``              the segment is archived: its pieces may go
    ``anew``                       what was received before has turned out to be different
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # our parent ends us by closing the pipe, when all is brought home
    keeper = _Keeper(plan)
    with os.fdopen(orders, encoding="ascii") as lines:
        for line in lines:
            try:
                keeper.follow(line.split(), tell)
            except PghavenError as error:
                keeper.close()
                tell(("failed", render_error(error)))
            else:
                tell(("done",))


class _Keeper:
    def __init__(self, plan: KeeperPlan) -> None:
        self._plan = plan
        self._receiver = plan.receiver
        self._opened: OpenArchive | None = None
        self._key_sets: tuple[int, ...] = ()
        self._look_due = 0.0
        self._segment: SegmentName | None = None
        self._ends: list[int] = [0]
        self._live: list[Piece] = []
        self._is_left_behind = False
        self._may_remove = True

    def follow(self, order: list[str], tell: Tell) -> None:
        if order[0] in ("keep", "rest"):
            is_rest = order[0] == "rest"
            if self._keep(order[1], int(order[2]), order[3], tell, is_rest=is_rest):
                tell(("left_behind", order[1]))
        elif order[0] == "whole":
            self._remove_whole(order[1])
        else:
            self._begin_anew()
        if not self._may_remove and self._live:
            self._live = []
            tell(("kept_all",))

    def close(self) -> None:
        """What has failed is opened again next time."""
        self._opened = None
        self._segment = None

    def _open(self) -> OpenArchive:
        """The archive, under the keys that are in force: a receiver runs for months, and what it stores after a
        rotation must not open with what the rotation was meant to shut out."""
        place, now = self._plan.place, self._plan.clock.monotonic()
        if self._opened is not None and place.key.is_known and now >= self._look_due:
            self._look_due = now + _KEYS_SECONDS
            if list_key_sets(self._opened.archive.repository.store) != self._key_sets:
                self.close()
        if self._opened is None:
            if place.key.is_known:
                # Before it is opened: what comes in between is seen at the next look.
                self._key_sets = list_key_sets(open_store(place.store))
                self._look_due = now + _KEYS_SECONDS
            self._opened = open_archive(open_place(place), self._plan.cluster, self._plan.system_identifier)
        return self._opened

    def _begin_anew(self) -> None:
        self._receiver = os.urandom(4).hex()
        self._segment = None

    def _turn_to(self, opened: OpenArchive, name: str) -> SegmentName:
        segment = SegmentName.parse(name, opened.lineage.wal_segment_size)
        if segment != self._segment:
            archive = opened.archive
            fork = find_last_fork(segment.timeline, load_later_histories(archive, segment.timeline, ignore))
            self._is_left_behind = fork is not None and fork.has_left_behind(segment)
            ours = [piece for piece, _ in list_pieces(archive, segment.timeline) if piece.receiver == self._receiver]
            self._live = [piece for piece in ours if piece.segment == segment]
            self._ends = [0]
            self._segment = segment
        return segment

    def _keep(self, name: str, length: int, sent_at: str, tell: Tell, *, is_rest: bool) -> bool:
        """True for what went into quarantine."""
        opened = self._open()
        segment = self._turn_to(opened, name)
        if self._is_left_behind:
            # While it grows it waits in the spool, until it is finished and pushed.
            if is_rest and (content := self._read(name, length)) is not None:
                self._put_left_behind(opened, segment, content, sent_at)
                return True
            return False
        while self._ends[-1] < length:
            end = min(length, self._ends[-1] + _PIECE_BYTES_MAX)
            if not self._keep_up_to(opened, segment, end, sent_at):
                break  # it was finished and archived meanwhile
            if end < length:
                tell(("goes_on",))
        return False

    def _keep_up_to(self, opened: OpenArchive, segment: SegmentName, end: int, sent_at: str) -> bool:
        begin = self._find_begin(end)
        is_looked_into = end <= _PIECE_BYTES_MAX
        content = self._read(str(segment), end, 0 if is_looked_into else begin)
        if content is None:
            return False
        facts = self._state_facts(opened, sent_at)
        if is_looked_into:
            facts.update(render_span(find_span(content, segment)))
            content = content[begin:]
        try:
            piece = Piece(segment=segment, receiver=self._receiver, begin=begin, end=end)
            self._put(opened, piece, content, facts)
        except Conflict:
            self._begin_anew()
            raise
        self._ends.append(end)
        return True

    def _find_begin(self, end: int) -> int:
        number = len(self._ends)
        reach = number & -number
        while reach > 1 and end - self._ends[number - reach] > _PIECE_BYTES_MAX:
            reach >>= 1
        return self._ends[number - reach]

    def _put_left_behind(self, opened: OpenArchive, segment: SegmentName, content: bytes, sent_at: str) -> None:
        """What a server wrote past the point where another one took over, and the receiver may have vouched for."""
        whole = content + bytes(segment.segment_size - len(content))
        opened.archive.put_quarantine(f"{segment}.partial", whole, self._state_facts(opened, sent_at))

    def _state_facts(self, opened: OpenArchive, sent_at: str) -> dict[str, Any]:
        return {
            "host": os.uname().nodename,
            "pushed_at": render_time_utc(self._plan.clock.now()),
            "source_mtime": sent_at,
            "system_identifier": str(opened.archive.system_identifier),
        }

    def _put(self, opened: OpenArchive, piece: Piece, content: bytes, facts: Mapping[str, Any]) -> None:
        put_piece(opened.archive, piece, content, facts)
        covered = [one for one in self._live if piece.begin <= one.begin and one.end <= piece.end and one != piece]
        self._live = [*(one for one in self._live if one not in covered), piece]
        self._remove(opened, covered)

    def _remove_whole(self, name: str) -> None:
        opened = self._open()
        archive = opened.archive
        segment = SegmentName.parse(name, opened.lineage.wal_segment_size)
        found = [piece for piece, _ in list_pieces(archive, segment.timeline) if piece.segment == segment]
        if found and archive.exists(name):
            self._remove(opened, found)

    def _remove(self, opened: OpenArchive, pieces: list[Piece]) -> None:
        """A store that lets nobody remove anything keeps them until ``expire`` is allowed to."""
        if self._may_remove:
            try:
                remove_pieces(opened.archive, pieces)
            except (NotPermitted, Refused):
                self._may_remove = False

    def _read(self, name: str, length: int, begin: int = 0) -> bytes | None:
        for path in (f"{name}.partial", name):
            with suppress(FileNotFoundError), open(os.path.join(self._plan.directory, path), "rb") as file:
                file.seek(begin)
                return file.read(length - begin)
        return None
