"""Which parts of a frame are proven to be in place, and which are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import blake3
import numpy as np
import pytest

from pghaven.errors import PghavenError
from pghaven.repository.container import CELL_BYTES, FRAME_BYTES, hash_cells
from pghaven.restore.compare import Comparison, LocalFiles, Piece, cut_runs, make_zero
from pghaven.restore.targetfiles import Directories, FileTarget


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.directories = Directories((("", str(root)),))
        self.comparison = Comparison()
        self.files: list[FileTarget] = []

    def add(self, name: str, wanted: bytes, there: bytes | None, *, known: bool = False) -> int:
        """A file that should hold ``wanted``; its number in the job. ``known``: the manifest has its hash."""
        if there is not None:
            (self.root / name).write_bytes(there)
        content_hash = blake3.blake3(wanted).digest(16) if known else b""
        self.files.append(FileTarget("", name.encode(), len(wanted), 0o600, 10**18, -1, -1, content_hash))
        return len(self.files) - 1

    def compare(self, frame: bytes, pieces: list[Piece]) -> list[Piece]:
        with LocalFiles(self.directories, self.files) as local:
            return self.comparison.find_differing(local, pieces, len(frame), lambda: hash_cells(frame))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.directories.close()


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def test_a_file_that_is_the_same_is_proven_and_gets_its_time(place: Place) -> None:
    frame = noise(FRAME_BYTES)
    number = place.add("a", frame, frame)
    assert place.compare(frame, [(number, 0, FRAME_BYTES, 0)]) == []
    assert (place.root / "a").stat().st_mtime_ns == 10**18


def test_of_a_file_only_the_pages_that_differ_are_wanted(place: Place) -> None:
    frame = noise(16 * CELL_BYTES)
    there = bytearray(frame)
    for cell in (3, 4, 9):
        there[cell * CELL_BYTES + 7] ^= 1
    number = place.add("a", noise(CELL_BYTES, 2) + frame, noise(CELL_BYTES, 2) + bytes(there))
    wanted = place.compare(frame, [(number, CELL_BYTES, 16 * CELL_BYTES, 0)])
    assert wanted == [
        (number, 4 * CELL_BYTES, 2 * CELL_BYTES, 3 * CELL_BYTES),
        (number, 10 * CELL_BYTES, CELL_BYTES, 9 * CELL_BYTES),
    ]


def test_files_need_not_lie_at_the_edges_of_cells(place: Place) -> None:
    parts = [noise(size, size) for size in (3, 524, 8192, 9001, 100)]
    frame = b"".join(parts)
    pieces, at = [], 0
    for number, part in enumerate(parts):
        pieces.append((place.add(str(number), part, part), 0, len(part), at))
        at += len(part)
    assert place.compare(frame, pieces) == []


def test_what_shares_a_cell_with_a_difference_is_wanted_with_it_unless_its_own_hash_proves_it(place: Place) -> None:
    frame = noise(300)
    good = place.add("good", frame[:100], frame[:100])
    bad = place.add("bad", frame[100:200], b"x" * 100)
    known = place.add("known", frame[200:], frame[200:], known=True)
    pieces = [(good, 0, 100, 0), (bad, 0, 100, 100), (known, 0, 100, 200)]
    assert place.compare(frame, pieces) == pieces[:2]


def test_bytes_that_nobody_needs_are_taken_for_zeros(place: Place) -> None:
    """A writer pads with zeros; where there was something else, only a file's own hash can prove it."""
    part = noise(100)
    padded = part + bytes(CELL_BYTES - 100) + noise(CELL_BYTES, 2)
    other = part + noise(2 * CELL_BYTES - 100, 3)
    unknown, known = place.add("u", part, part), place.add("k", part, part, known=True)
    assert place.compare(padded, [(unknown, 0, 100, 0)]) == []
    assert place.compare(other, [(unknown, 0, 100, 0)]) == [(unknown, 0, 100, 0)]
    assert place.compare(other, [(known, 0, 100, 0)]) == []


def test_what_was_compared_before_proves_nothing_for_a_file_that_is_not_there(place: Place) -> None:
    frame = noise(2 * CELL_BYTES)
    there = place.add("there", frame, frame)
    gone = place.add("gone", frame[:CELL_BYTES], None)
    half = place.add("half", frame[CELL_BYTES:], frame[CELL_BYTES:])
    assert place.compare(frame, [(there, 0, 2 * CELL_BYTES, 0)]) == []
    pieces = [(gone, 0, CELL_BYTES, 0), (half, 0, CELL_BYTES, CELL_BYTES)]
    assert place.compare(frame, pieces) == pieces[:1]


def test_cell_hashes_are_not_asked_for_when_no_file_is_there(place: Place) -> None:
    number = place.add("gone", noise(100), None)

    def fail() -> bytes:
        raise AssertionError("asked for")

    with LocalFiles(place.directories, place.files) as local:
        assert place.comparison.find_differing(local, [(number, 0, 100, 0)], 100, fail) == [(number, 0, 100, 0)]


@pytest.mark.parametrize("size", [0, 100, 2 * CELL_BYTES + 5, 5 * CELL_BYTES])
def test_a_file_of_another_size_gets_its_size_and_keeps_what_is_right(place: Place, size: int) -> None:
    frame = noise(3 * CELL_BYTES)
    number = place.add("a", frame, (frame + noise(2 * CELL_BYTES, 2))[:size])
    wanted = place.compare(frame, [(number, 0, 3 * CELL_BYTES, 0)])
    assert sum(piece[2] for piece in wanted) == max(0, 3 - size // CELL_BYTES) * CELL_BYTES
    assert (place.root / "a").stat().st_size == 3 * CELL_BYTES


def test_several_files_may_have_the_same_bytes(place: Place) -> None:
    frame = noise(4 * CELL_BYTES)
    right = [place.add(f"right{n}", frame, frame) for n in range(3)]
    wrong = place.add("wrong", frame[CELL_BYTES : 2 * CELL_BYTES], bytes(CELL_BYTES))
    pieces = [(number, 0, 4 * CELL_BYTES, 0) for number in right]
    pieces.insert(2, (wrong, 0, CELL_BYTES, CELL_BYTES))
    assert place.compare(frame, sorted(pieces, key=lambda piece: piece[3])) == [(wrong, 0, CELL_BYTES, CELL_BYTES)]


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_what_is_no_file_of_ours_alone_is_not_touched(place: Place, tmp_path: Path, kind: str) -> None:
    other = tmp_path.parent / f"{tmp_path.name}-other"
    other.write_bytes(b"keep")
    number = place.add("a", noise(100), None)
    if kind == "link":
        (place.root / "a").symlink_to(other)
    elif kind == "hard link":
        (place.root / "a").hardlink_to(other)
    else:
        os.mkfifo(place.root / "a")
    with pytest.raises(PghavenError, match=r"could not write|exists already"):
        place.compare(noise(100), [(number, 0, 100, 0)])
    assert other.read_bytes() == b"keep"


def test_runs_are_cut_where_frames_end() -> None:
    offsets = (0, 100, 250, 300)
    runs = [(0, 40, 10, 5), (1, 0, 180, 90), (2, 7, 1, 299)]
    assert cut_runs(runs, offsets) == {
        0: [(0, 40, 10, 5), (1, 0, 10, 90)],
        1: [(1, 10, 150, 0)],
        2: [(1, 160, 20, 0), (2, 7, 1, 49)],
    }


def test_zeros_are_made_only_where_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(8 << 20)
        file.seek(5 << 20)
        file.write(b"x")
    blocks = path.stat().st_blocks
    fd = os.open(path, os.O_RDWR)
    try:
        assert make_zero(fd, 0, 4 << 20) == 0
        assert make_zero(fd, 4 << 20, 4 << 20) == FRAME_BYTES
    finally:
        os.close(fd)
    assert path.read_bytes() == bytes(8 << 20)
    assert path.stat().st_blocks <= blocks + FRAME_BYTES // 512
