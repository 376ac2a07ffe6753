"""Configuration that is rewritten while a backup reads it: read again until it is at rest, or told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pghaven.backup.collect import Collector
from pghaven.backup.configfiles import tell_unsettled
from pghaven.backup.jobs import iter_jobs
from pghaven.backup.listing import ListingRules, list_data_directory
from pghaven.backup.pipeline import BackupWorker, WorkerSettings
from pghaven.backup.settled import QUIET_SECONDS, Settled, read_settled
from pghaven.clock import ManualClock
from pghaven.events import Event
from pghaven.repository.backups import BackupCatalog
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, PAGE, make_repository

WHOLE = b"port = 5432\n" * 100
LABEL = "20260101T000000Z-0001"


class WriterClock(ManualClock):
    """Somebody else works on a file whenever we sleep."""

    def __init__(self, path: Path, steps: list[bytes]) -> None:
        super().__init__()
        self.path = path
        self.steps = steps
        self.sleeps = 0
        self.write()

    def write(self) -> None:
        if self.steps:
            self.path.write_bytes(self.steps.pop(0))
            now = self.now().timestamp()
            os.utime(self.path, (now, now))

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.sleeps += 1
        self.write()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "postgresql.conf"


def read(path: Path, clock: ManualClock, room: int = 1 << 16) -> tuple[Settled | None, bytes]:
    buffer = bytearray(room)
    found = read_settled(str(path), memoryview(buffer), clock)
    return found, bytes(buffer[: found.length if found else 0])


def test_what_is_at_rest_is_read_once(path: Path) -> None:
    clock = WriterClock(path, [WHOLE])
    clock.advance(QUIET_SECONDS)
    assert read(path, clock) == (Settled(len(WHOLE), is_settled=True), WHOLE)
    assert clock.sleeps == 0


def test_what_is_half_written_is_read_again_until_it_is_whole(path: Path) -> None:
    """Emptied, then written line by line, as Patroni does."""
    clock = WriterClock(path, [b"", WHOLE[:100], WHOLE[:300], WHOLE])
    assert read(path, clock) == (Settled(len(WHOLE), is_settled=True), WHOLE)
    assert clock.sleeps > 3


def test_what_never_comes_to_rest_is_told_after_a_bounded_number_of_tries(path: Path) -> None:
    clock = WriterClock(path, [b"%d" % number for number in range(1000)])
    found, _ = read(path, clock)
    assert found is not None
    assert not found.is_settled
    assert clock.sleeps < 100


def test_what_does_not_fit_is_not_taken_for_whole(path: Path) -> None:
    clock = WriterClock(path, [WHOLE])
    assert read(path, clock, room=50)[0] == Settled(50, is_settled=False)


def test_what_is_gone_is_gone(path: Path) -> None:
    assert read(path, ManualClock()) == (None, b"")


@pytest.mark.parametrize("listed", [b"", WHOLE[:50]], ids=["empty", "half"])
def test_a_backup_holds_all_of_a_file_that_was_being_rewritten(tmp_path: Path, listed: bytes) -> None:
    stored, told = back_up(tmp_path, listed, lambda path: [WHOLE[:70], WHOLE])
    assert stored == {"postgresql.conf": len(WHOLE), "plain": 5}
    assert told == []


def test_a_backup_names_a_file_that_did_not_come_to_rest(tmp_path: Path) -> None:
    _, told = back_up(tmp_path, b"", lambda path: [b"%d" % number for number in range(1000)])
    assert ["postgresql.conf" in text for text in told] == [True]


def back_up(root: Path, listed: bytes, steps: Callable[[Path], list[bytes]]) -> tuple[dict[str, int], list[str]]:
    """The sizes that the files have in the backup, and what was told."""
    path = root / "data" / "postgresql.conf"
    path.parent.mkdir()
    path.write_bytes(listed)
    (root / "data" / "plain").write_bytes(b"plain")
    listing = list_data_directory(str(path.parent), ListingRules(tablespace_oids=frozenset(), segment_blocks=131072))
    place = BackupCatalog(make_repository(MemoryStore()), CLUSTER).pack_place
    settings = WorkerSettings(place=place, label=LABEL, level=1, block_size=PAGE, verify=True)
    worker = BackupWorker(settings, WriterClock(path, steps(path)))
    collector = Collector(len(listing.size))
    for job in iter_jobs(listing, PAGE):
        collector.take(worker(job))
    collector.take(worker.close())
    events: list[Event] = []
    tell_unsettled(collector.unsettled, listing, events.append)
    files = collector.finish(listing, verified=True).files
    sizes = {os.fsdecode(name): int(size) for name, size in zip(files.names, files.size, strict=True)}
    return sizes, [str(event) for event in events]
