"""Parts of one file in any order, cuts, and rows that are found again: without a server."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from pghaven.dump.anchors import AnchorTable, render_anchors
from pghaven.dump.cutting import MIN_BYTES, cut_rows
from pghaven.dump.earlier import EarlierFile, EarlierReader, EarlierText
from pghaven.dump.rows import WholeText, find_same_rows
from pghaven.dump.spooled import SpooledFile
from pghaven.dump.worker import DumpWorker, DumpWorkerSettings, RangeJob
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.pack import PackPlace, PackWriter
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


def test_where_many_rows_came_or_went_anchors_say_where_to_go_on() -> None:
    """All old rows that are still there are found, up to those of one look, however far they have moved."""
    old = make_rows(100_000)
    middle = old.index(b"\n50000\t") + 1
    later = old.index(b"\n70000\t") + 1
    new = old[:middle] + make_rows(40_000, seed=2) + old[later:]
    earlier, file = (SpooledFile(number=0, name="1.dat", path="") for _ in range(2))
    earlier.take(memoryview(old))
    file.take(memoryview(new))
    table = AnchorTable([(7, render_anchors(earlier.anchors))])
    anchors = [(at, there) for row, at in file.anchors for number, there in table.find(row) if number == 7]
    assert len(anchors) > 3
    runs = list(find_same_rows(new, WholeText(old), 0, anchors))
    assert all(new[run.at : run.at + run.length] == old[run.old_at : run.old_at + run.length] for run in runs)
    assert sum(run.length for run in runs) >= middle + len(old) - later


def test_of_an_earlier_file_a_part_is_at_hand_that_moves_on() -> None:
    place = PackPlace(store=MemoryStore(), repository_id="ab" * 16, cluster="shop", keyring=OPEN_KEYRING)
    content = make_rows(120_000)
    writer = PackWriter(place, "20260301T130000Z-1a2b", level=1)
    places = [(writer.append(content[begin:end]), end - begin) for begin, end in cut_rows(content)]
    packs = writer.close()
    length = np.array([size for _, size in places], np.uint64)
    file = EarlierFile(
        begin=np.cumsum(length) - length,
        length=length,
        pack=np.array([pack for (pack, _), _ in places], np.uint32),
        offset=np.array([offset for (_, offset), _ in places], np.uint64),
        size=len(content),
    )
    text = EarlierText(EarlierReader(place, packs), file, 1 << 20)
    for begin in (0, 100_000, 900_000, len(content) - 10, 3_000_000, 5):
        text.hold(begin, 65_536)
        end = min(begin + 65_536, len(content))
        assert text.start <= begin
        assert end <= text.start + text.fill
        assert text.content[begin - text.start : end - text.start] == content[begin:end]
        assert text.fill <= 2 << 20
