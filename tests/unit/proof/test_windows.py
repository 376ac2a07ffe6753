"""Windows and gaps, from backups and the segments that are held."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.proof.windows import find_reach
from pghaven.repository import layout
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.repository.repository import create_repository
from pghaven.repository.walstore import WalArchive
from pghaven.store.memory import MemoryStore
from pghaven.units import render_time_utc

SIZE = 1 << 20
START = datetime(2026, 11, 23, tzinfo=UTC)


def segment(number: int, timeline: int = 1) -> SegmentName:
    return SegmentName(timeline=Timeline(timeline), number=number, segment_size=SIZE)


def written(number: int) -> datetime:
    return START + timedelta(minutes=number)


@pytest.fixture
def archive() -> WalArchive:
    return WalArchive(create_repository(MemoryStore()), "main", 77, SIZE)


def hold(archive: WalArchive, numbers: Iterable[int], timeline: int = 1) -> None:
    for number in numbers:
        facts = {"source_mtime": render_time_utc(written(number))}
        archive.put(str(segment(number, timeline)), b"%d %d" % (timeline, number), facts)


def backup(number: int, timeline: int = 1) -> BackupEntry:
    """A backup that begins and ends within one segment."""
    begin = number * SIZE
    summary = {
        "timeline": timeline,
        "start_lsn": str(Lsn(begin + 40)),
        "stop_lsn": str(Lsn(begin + 400)),
        "stopped_at": render_time_utc(written(number)),
    }
    return BackupEntry(label=f"b{number}", state=BackupState.COMMITTED, intent=None, last_sign=None, summary=summary)


def test_backups_whose_wal_runs_on_share_a_window(archive: WalArchive) -> None:
    hold(archive, range(3, 9))
    reach = find_reach(archive, [backup(3), backup(6)])
    (window,) = reach.windows
    assert (window.begin, window.end) == (written(3), written(8))
    assert (window.begin_lsn, window.end_lsn) == (Lsn(3 * SIZE + 400), Lsn(9 * SIZE))
    assert window.backups == ("b3", "b6")
    assert (reach.gaps, reach.unusable, reach.unknown) == ((), (), ())


def test_a_gap_ends_a_window_and_the_next_backup_begins_another(archive: WalArchive) -> None:
    hold(archive, [3, 4, 7, 8, 9])
    reach = find_reach(archive, [backup(3), backup(8)])
    assert [(window.begin, window.end) for window in reach.windows] == [
        (written(3), written(4)),
        (written(8), written(9)),
    ]
    (gap,) = reach.gaps
    assert (gap.first, gap.last, gap.count) == (segment(5), segment(6), 2)


def test_wal_that_simply_ends_is_no_gap(archive: WalArchive) -> None:
    hold(archive, [3, 4])
    assert find_reach(archive, [backup(3)]).gaps == ()


def test_wal_before_the_first_backup_opens_no_window(archive: WalArchive) -> None:
    hold(archive, range(9))
    assert find_reach(archive, []).windows == ()


def test_a_backup_without_its_own_wal_is_unusable(archive: WalArchive) -> None:
    hold(archive, [4, 5])
    reach = find_reach(archive, [backup(3), backup(4)])
    assert reach.unusable == (("b3", segment(3)),)
    assert [window.backups for window in reach.windows] == [("b4",)]


def test_a_backup_leads_along_the_timelines_that_left_its_own(archive: WalArchive) -> None:
    hold(archive, range(3, 8))
    hold(archive, range(6, 9), timeline=2)
    archive.put("00000002.history", f"1\t{Lsn(6 * SIZE + 100)}\tno reason\n".encode(), {})
    reach = find_reach(archive, [backup(3)])
    assert {int(window.timeline): window.last_segment for window in reach.windows} == {1: segment(7), 2: segment(8, 2)}


def test_a_backup_past_a_fork_does_not_lead_along_it(archive: WalArchive) -> None:
    hold(archive, range(3, 8))
    hold(archive, [5], timeline=2)
    archive.put("00000002.history", f"1\t{Lsn(5 * SIZE + 100)}\tno reason\n".encode(), {})
    reach = find_reach(archive, [backup(6)])
    assert [int(window.timeline) for window in reach.windows] == [1]


def test_a_timeline_without_its_history_is_unknown(archive: WalArchive) -> None:
    hold(archive, [3])
    hold(archive, [4], timeline=2)
    assert find_reach(archive, [backup(3)]).unknown == (Timeline(2),)


def test_wal_that_was_removed_on_purpose_is_no_gap(archive: WalArchive) -> None:
    """A held backup keeps its own WAL, and what lies between it and the window has gone."""
    hold(archive, [3, 8, 9, 11])
    held = find_reach(archive, [backup(3), backup(8)], {Timeline(1): Lsn(8 * SIZE)})
    assert [str(gap.first) for gap in held.gaps] == [str(segment(10))]
    assert [window.backups for window in held.windows] == [("b3",), ("b8",)]


def spoil(archive: WalArchive, number: int) -> None:
    """Change the last byte of a segment's object."""
    store = archive.store
    name = layout.wal_object_name("main", 77, str(segment(number)))
    content = bytearray(store.read(name))
    content[-1] ^= 0xFF
    store.delete(name)
    store.create(name, [bytes(content)])


def test_damaged_segments_at_the_end_take_away_themselves(archive: WalArchive) -> None:
    hold(archive, range(3, 9))
    spoil(archive, 7)
    spoil(archive, 8)
    reach = find_reach(archive, [backup(3), backup(7)])
    (window,) = reach.windows
    assert (window.end, window.end_lsn, window.backups) == (written(6), Lsn(7 * SIZE), ("b3",))
    assert [one for one, _ in reach.damaged] == [segment(7), segment(8)]
    assert (reach.unusable, reach.gaps) == ((("b7", segment(7)),), ())


def test_damage_before_a_gap_is_not_told_as_missing(archive: WalArchive) -> None:
    hold(archive, [3, 4, 5, 7])
    spoil(archive, 5)
    reach = find_reach(archive, [backup(3), backup(7)])
    assert [window.last_segment for window in reach.windows] == [segment(4), segment(7)]
    assert [one for one, _ in reach.damaged] == [segment(5)]
    assert [(gap.first, gap.last) for gap in reach.gaps] == [(segment(6), segment(6))]
