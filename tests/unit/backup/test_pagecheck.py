"""Pages that fail their checksum: read again, taken as they come to be good, and judged where they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pghaven.backup import pagecheck
from pghaven.backup.damage import judge_suspects
from pghaven.backup.jobs import Part, ScanJob
from pghaven.backup.listing import Listing, ListingRules, list_data_directory
from pghaven.backup.pagecheck import PageChecker, Pages, SuspectPage
from pghaven.backup.pipeline import WorkerSettings, open_worker
from pghaven.events import Event
from pghaven.postgres.lsn import Lsn
from pghaven.repository.backups import BackupCatalog
from pghaven.store.memory import MemoryStore
from tests.support.increments import make_page
from tests.support.synthetic import CLUSTER, PAGE, make_repository

LSN = 0x5000
SPAN = (Lsn(0x4000), Lsn(0x6000))
NAME = "base/5/16384"


class Reading:
    """A file of some pages, and a buffer in which one of them was caught half written."""

    def __init__(self, root: Path, count: int = 4, torn: int = 2) -> None:
        self.path = root / NAME
        self.path.parent.mkdir(parents=True)
        self.good = b"".join(make_page(block, LSN, b"new") for block in range(count))
        self.torn = torn
        self.buffer = bytearray(self.good)
        before = make_page(torn, LSN - 8, b"old")
        self.buffer[torn * PAGE + PAGE // 2 : (torn + 1) * PAGE] = before[PAGE // 2 :]
        self.path.write_bytes(self.good)
        self.checker = PageChecker(memoryview(self.buffer), PAGE)

    def check(self) -> list[int]:
        return self.checker.check([Pages(0, str(self.path), 0, len(self.buffer), 0, 0)])


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    return Reading(tmp_path)


def test_page_caught_half_written_is_taken_as_it_is_when_read_again(reading: Reading) -> None:
    assert reading.check() == []
    assert reading.buffer == reading.good
    assert reading.checker.take_suspects() == []


def test_page_is_read_again_until_it_is_whole(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is still at it when the second look comes."""
    reading.path.write_bytes(reading.buffer)
    looks = 0
    open_file = pagecheck.open_file

    def look(path: str) -> int | None:
        nonlocal looks
        looks += 1
        if looks == 3:
            reading.path.write_bytes(reading.good)
        return open_file(path)

    monkeypatch.setattr(pagecheck, "open_file", look)
    assert reading.check() == []
    assert (looks, bytes(reading.buffer)) == (3, reading.good)


def test_page_that_stays_bad_is_told_with_its_place_and_lsn(reading: Reading) -> None:
    reading.path.write_bytes(reading.buffer)
    assert reading.check() == [2]
    assert reading.checker.take_suspects() == [SuspectPage(file=0, block_in_file=2, block=2, lsn=LSN)]
    assert reading.checker.take_suspects() == []


@pytest.mark.parametrize("left", [None, 0, 2 * PAGE, 2 * PAGE + 100])
def test_page_that_is_gone_when_it_is_read_again_is_nobodys_damage(reading: Reading, left: int | None) -> None:
    if left is None:
        reading.path.unlink()
    else:
        reading.path.write_bytes(reading.good[:left])
    assert reading.check() == []
    assert reading.checker.take_suspects() == []


# -- torn or damaged --------------------------------------------------------------------------------------------------


@pytest.fixture
def listing(reading: Reading, tmp_path: Path) -> Listing:
    return list_data_directory(str(tmp_path), ListingRules(tablespace_oids=frozenset(), segment_blocks=131072))


def judge(listing: Listing, lsn: int) -> tuple[list[int], list[Event]]:
    """The blocks that are called damaged, and what was told."""
    events: list[Event] = []
    suspect = SuspectPage(file=0, block_in_file=2, block=2, lsn=lsn)
    return [page.block for page in judge_suspects([suspect], listing, SPAN, {}, events.append)], events


@pytest.mark.parametrize("lsn", [SPAN[0], LSN, SPAN[1]])
def test_page_that_was_being_written_while_the_backup_ran_is_no_damage(listing: Listing, lsn: int) -> None:
    """Its LSN says that it was changed after the checkpoint: replay writes it whole."""
    assert judge(listing, lsn) == ([], [])


@pytest.mark.parametrize("lsn", [0, SPAN[0] - 1, SPAN[1] + 1, (1 << 64) - 1])
def test_page_of_another_time_is_damaged_and_told(listing: Listing, lsn: int) -> None:
    blocks, events = judge(listing, lsn)
    assert blocks == [2]
    assert [f'"{NAME}", block 2' in str(event) for event in events] == [True]


def test_blocks_of_a_later_file_are_counted_through_the_relation(tmp_path: Path) -> None:
    path = tmp_path / "16384.1"
    page = bytearray(make_page(131072, LSN, b"new"))
    path.write_bytes(page)
    checker = PageChecker(memoryview(page), PAGE)
    parts = [Pages(0, str(path), 0, PAGE, 0, 131072)]
    assert checker.check(parts) == []
    page[5000] ^= 1
    path.write_bytes(page)
    assert checker.check(parts) == [0]
    assert checker.take_suspects() == [SuspectPage(file=0, block_in_file=0, block=131072, lsn=LSN)]


def test_page_that_stays_bad_is_stored_by_a_scan_whatever_its_lsn(reading: Reading, tmp_path: Path) -> None:
    """The parent may hold it whole, or in another state: what is there now is what a full backup would hold."""
    reading.path.write_bytes(reading.buffer)
    size = len(reading.buffer)
    place = BackupCatalog(make_repository(MemoryStore()), CLUSTER).pack_place
    worker = open_worker(
        WorkerSettings(place=place, label="20260101T000000Z-0001", level=1, block_size=PAGE, verify=True)
    )
    job = ScanJob(
        files=(Part(number=0, path=str(reading.path), offset=0, length=size, block=0, is_main=True),),
        size_bytes=size,
        is_range=False,
        since=Lsn(LSN + 8),
        known_bytes=(size,),
        extents=((),),
        unlogged_marks=(False,),
    )
    result = worker(job)
    last = worker.close()
    assert [suspect.block for suspect in result.suspects] == [2]
    offsets, lengths = (np.frombuffer(last.pieces[column], np.uint64).tolist() for column in (1, 2))
    assert (offsets, lengths) == ([2 * PAGE], [PAGE])
