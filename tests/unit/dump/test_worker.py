"""Parts of one file in any order, cuts, and rows that are found again: without a server."""

from __future__ import annotations

import random
from pathlib import Path

from pghaven.dump.cutting import MIN_BYTES, cut_rows
from pghaven.dump.rows import WholeText, find_same_rows
from pghaven.dump.worker import DumpWorker, DumpWorkerSettings, RangeJob
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.pack import PackPlace
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.memory import MemoryStore


def make_rows(count: int, seed: int = 1) -> bytes:
    dice = random.Random(seed)
    return b"".join(b"%d\t%s\n" % (number, dice.randbytes(20).hex().encode()) for number in range(count))


def test_the_last_part_of_a_file_may_be_read_before_the_others(tmp_path: Path) -> None:
    """By another worker, which must leave it to be opened; what was read takes no room any more."""
    place = PackPlace(store=MemoryStore(), repository_id="ab" * 16, cluster="shop", keyring=OPEN_KEYRING)
    worker = DumpWorker(DumpWorkerSettings(place=place, label="20260301T130000Z-1a2b", level=1, known=None))
    path, other = tmp_path / "1.dat", tmp_path / "other"
    content = make_rows(20_000)
    path.write_bytes(content)
    other.hardlink_to(path)
    half = len(content) // 2
    for offset, length, is_last in ((half, len(content) - half, True), (0, half, False)):
        part = worker(RangeJob(0, (str(other), str(path)), offset, length, is_last))
        assert part is not None
    assert path.stat().st_blocks * 512 <= 8192
    worker.close()


def test_cuts_fall_into_step_again_after_a_change() -> None:
    content = make_rows(100_000)
    frames = [content[begin:end] for begin, end in cut_rows(content)]
    assert b"".join(frames) == content
    assert all(MIN_BYTES <= len(frame) <= FRAME_BYTES for frame in frames[:-1])
    changed = b"a new row\n" + content
    again = {changed[begin:end] for begin, end in cut_rows(changed)}
    assert len([frame for frame in frames if frame not in again]) <= 2


def test_data_without_rows_is_cut_too() -> None:
    for content in (b"", b"x", bytes(3 * FRAME_BYTES + 5)):
        assert b"".join(content[begin:end] for begin, end in cut_rows(content)) == content


def test_what_is_said_to_be_the_same_is_the_same() -> None:
    """Rows changed, gone, added, moved and many times over, at random."""
    for seed in range(20):
        dice = random.Random(seed)
        old = make_rows(3000, seed).splitlines(keepends=True)
        new = [row for row in old if dice.random() > 0.01]
        for _ in range(30):
            new.insert(dice.randrange(len(new)), b"same\n" if dice.random() < 0.5 else b"%d\n" % dice.randrange(10**9))
        data, before = b"".join(new), b"".join(old)
        at = covered = 0
        for run in find_same_rows(data, WholeText(before)):
            assert run.at >= at
            at = run.at + run.length
            covered += run.length
            assert data[run.at : at] == before[run.old_at : run.old_at + run.length]
        assert covered > len(data) * 0.8
