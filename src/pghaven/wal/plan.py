"""The restore plan that stays in a restored data directory, as ``wal get`` is held to it.

The one idea: for each segment number before the planned end there is one file that recovery must get, and its absence
is damage. PostgreSQL asks for a number on the newest timeline first and goes to older ones as long as it is told
"absent" (XLogFileReadAnyTLI in xlogrecovery.c), so the answers have to lead it to that file and to no other:

    the file is of…                                             answer
    the timeline that owns the last planned byte in it          served; absent is damage
    a later planned timeline, which began behind the plan's     served if there, else absent: the one above
      end in the very segment where the plan ends                 is asked for next
    an earlier planned timeline                                 refused: the file that is needed was asked for
                                                                  before and served, or recovery was stopped
    a timeline that is not planned, or a planned one before     absent, whatever the archive holds
      it began or after it was left

Segments from the planned end on are served if they are there. A file that goes on past the point where its timeline was
left is served up to that point and zeros, which PostgreSQL takes for the end of WAL.

History files tell no segments apart and are always answered truthfully: the restored server is told its timeline and
looks at later ones only to find a number for its own that nobody has used (findNewestTimeLine in timeline.c). An
"absent" there would have it use one twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pghaven.errors import Damaged, NotFound, NotPermitted, StoreUnreachable
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.ledger import PathLeg
from pghaven.repository.place import RepositoryPlace

_FORMAT = 1


class Verdict(StrEnum):
    """What the plan says of one segment's file."""

    NEEDED = "needed"
    WELCOME = "welcome"
    PASSED_OVER = "passed over"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedPlan:
    """The path of a recovery and how far it must come. ``source`` is the file it was read from.

    ``repositories`` are the names of those that it was planned with, which lead to its end without any other: one that
    was lost before is not waited for. The one that was chosen comes first. Empty where that was not written down.
    """

    source: str
    path: tuple[PathLeg, ...]
    expected_end_lsn: Lsn
    system_identifier: int | None
    repositories: tuple[str, ...] = ()

    def judge(self, segment: SegmentName) -> Verdict:
        """What to answer for the file of this segment."""
        leg = self._find_leg(segment)
        if leg is None:
            return Verdict.ELSEWHERE
        if segment.start_lsn >= self.expected_end_lsn:
            return Verdict.WELCOME
        last = min(segment.end_lsn, self.expected_end_lsn) - 1
        if leg.begin_lsn > last:
            return Verdict.WELCOME
        return Verdict.NEEDED if leg.end_lsn is None or last < leg.end_lsn else Verdict.PASSED_OVER

    def find_cut(self, segment: SegmentName) -> Lsn | None:
        """Where the contents of this file leave the path; None when they do not."""
        leg = self._find_leg(segment)
        if leg is None or leg.end_lsn is None or leg.end_lsn >= segment.end_lsn:
            return None
        return leg.end_lsn

    def choose_places(self, places: Sequence[RepositoryPlace]) -> tuple[RepositoryPlace, ...]:
        """Those of the cluster's repositories to ask, in the order of the plan; all, when none of them has the name of
        one that was planned."""
        named = {place.name: place for place in places}
        return tuple(named[name] for name in self.repositories if name in named) or tuple(places)

    def needs_history(self, timeline: Timeline) -> bool:
        """Whether recovery cannot begin without this timeline's history file."""
        return timeline == self.path[-1].timeline and timeline != 1

    def _find_leg(self, segment: SegmentName) -> PathLeg | None:
        for leg in self.path:
            if leg.timeline == segment.timeline and leg.begin_lsn < segment.end_lsn:
                return leg if leg.end_lsn is None or segment.start_lsn < leg.end_lsn else None
        return None


def read_plan(path: str) -> FollowedPlan:
    """The plan in a file. Raises NotFound, NotPermitted, StoreUnreachable, Damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise NotFound(
            f'restore plan "{path}" does not exist', hint="Without it nobody can say where recovery must not end."
        ) from error
    except PermissionError as error:
        raise NotPermitted(f'could not read restore plan "{path}": permission denied') from error
    except UnicodeDecodeError as error:
        raise Damaged(f'restore plan "{path}" is not UTF-8 text') from error
    except OSError as error:
        raise StoreUnreachable(f'could not read restore plan "{path}": {error.strerror}') from error
    return parse_plan(text, path)


def parse_plan(text: str, source: str) -> FollowedPlan:
    """The plan in the text of ``pghaven.restore.json``. Raises Damaged naming ``source``."""
    try:
        return _parse_body(json.loads(text), source)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'restore plan "{source}" cannot be followed: {error!r}') from error


def _parse_body(body: Any, source: str) -> FollowedPlan:
    if body["format"] != _FORMAT:
        raise ValueError(f"format {body['format']} is not known")
    path = tuple(_parse_leg(item) for item in body["timeline_path"])
    if not path:
        raise ValueError("its timeline path is empty")
    identifier = body.get("system_identifier")
    return FollowedPlan(
        source=source,
        path=_cut_short(path),
        expected_end_lsn=Lsn.parse(body["expected_end_lsn"]),
        system_identifier=None if identifier is None else int(identifier),
        repositories=tuple(str(name) for name in body.get("repositories", ())),
    )


def _parse_leg(item: Any) -> PathLeg:
    timeline, begin, end = item
    return PathLeg(
        timeline=Timeline(int(timeline)),
        begin_lsn=Lsn.parse(begin),
        end_lsn=None if end is None else Lsn.parse(end),
    )


def _cut_short(path: tuple[PathLeg, ...]) -> tuple[PathLeg, ...]:
    """Each leg ends where the next begins; see ``History.fork_of`` for how a later one can begin before an earlier."""
    legs: list[PathLeg] = []
    end = path[-1].end_lsn
    for leg in reversed(path):
        if end is None or leg.begin_lsn < end:
            legs.append(PathLeg(timeline=leg.timeline, begin_lsn=leg.begin_lsn, end_lsn=end))
            end = leg.begin_lsn
    return tuple(reversed(legs))
