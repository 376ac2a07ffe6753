"""The walk along a path against PostgreSQL's own way of choosing files, XLogFileReadAnyTLI in xlogrecovery.c."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, HistoryEntry, Timeline
from pghaven.repository.ledger import list_legs, walk_path
from pghaven.runtime.ranges import NumberRanges

SIZE = 1 << 20
Held = dict[Timeline, NumberRanges]


def choose_file(history: History, held: Held, number: int, current: Timeline) -> SegmentName | None:
    """Which file of this number the server takes, having read ``current`` last; the newest timeline first."""
    begins = [Lsn(0), *(entry.switch_lsn for entry in history.entries)]
    timelines = [*(entry.timeline for entry in history.entries), history.timeline]
    for timeline, begin in reversed(list(zip(timelines, begins, strict=True))):
        if timeline < current:
            break  # don't bother looking at too-old TLIs
        if begin != 0 and number < begin // SIZE:
            continue  # the timeline began later
        if number in held.get(timeline, ()):
            return SegmentName(timeline=timeline, number=number, segment_size=SIZE)
    return None


@st.composite
def any_history(draw: st.DrawFn) -> History:
    """Up to three forks at increasing positions, some at a segment's first byte, several in one segment."""
    forks = sorted(draw(st.lists(st.integers(4, 48), max_size=3)))
    entries = tuple(
        HistoryEntry(timeline=Timeline(number + 1), switch_lsn=Lsn(quarter * SIZE // 4), reason="")
        for number, quarter in enumerate(forks)
    )
    return History(timeline=Timeline(len(forks) + 1), entries=entries)


@given(any_history(), st.data())
def test_the_walk_is_what_the_server_reads(history: History, data: st.DataObject) -> None:
    numbers = st.sets(st.integers(1, 13), min_size=8)
    held: Held = {Timeline(one): NumberRanges(data.draw(numbers)) for one in range(1, history.timeline + 1)}
    first = data.draw(st.integers(1, 12))
    owner = history.timeline_at(Lsn(first * SIZE))
    walk = walk_path(history, SegmentName(timeline=owner, number=first, segment_size=SIZE), held)

    current, chosen = owner, []
    for number in range(first, first + len(walk.segments)):
        file = choose_file(history, held, number, current)
        assert file is not None
        chosen.append(file)
        current = file.timeline
    assert chosen == list(walk.segments)

    # Where the walk ends, the server finds nothing, or an ancestor's file that leads up to the fork and no further.
    # A timeline that was left where it began has nothing but its ancestor's: the walk does without its files.
    legs = {leg.timeline for leg in list_legs(history)}
    of_legs = {timeline: numbers for timeline, numbers in held.items() if timeline in legs}
    after = choose_file(history, of_legs, walk.first_missing.number, current)
    if after is not None and _begins_past_its_fork(history, after):
        after = None  # the server would read what was left behind; `wal get` does not give it such a file
    assert after == walk.tail
    if walk.tail is not None:
        fork = history.fork_of(walk.tail.timeline)
        assert fork is not None
        assert walk.tail.start_lsn < walk.end_lsn == fork <= walk.tail.end_lsn
    else:
        assert walk.end_lsn == walk.first_missing.start_lsn


def _begins_past_its_fork(history: History, file: SegmentName) -> bool:
    fork = history.fork_of(file.timeline)
    return fork is not None and file.start_lsn >= fork
