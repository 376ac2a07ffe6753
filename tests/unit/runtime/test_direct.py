"""Direct writes: the same bytes as by the usual way, whatever the file system can do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pghaven.runtime.direct import PIECE_BYTES_MIN, DirectWriter, open_direct, write_new

PIECE = 1 << 20


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    yield fd
    os.close(fd)


@pytest.fixture
def direct(descriptor: int) -> Iterator[int]:
    found = open_direct(descriptor)
    if found is None:
        pytest.skip("this file system has no direct writes")
    yield found
    os.close(found)


def test_pieces_arrive_where_they_belong_in_whatever_order(descriptor: int, direct: int) -> None:
    pieces = {number * PIECE: bytes([number + 1]) * PIECE for number in (4, 0, 3, 1, 2)}
    with closing(DirectWriter(PIECE)) as writer:
        for offset, piece in pieces.items():
            writer.write((direct, descriptor), offset, memoryview(piece), "file")
        writer.drain()
        assert os.pread(descriptor, 6 * PIECE, 0) == b"".join(pieces[offset] for offset in sorted(pieces))


def test_the_callers_memory_is_its_own_again_at_once(descriptor: int, direct: int) -> None:
    with closing(DirectWriter(PIECE)) as writer:
        memory = bytearray(b"a" * PIECE)
        writer.write((direct, descriptor), 0, memoryview(memory), "file")
        memory[:] = b"b" * PIECE
    assert os.pread(descriptor, PIECE + 1, 0) == b"a" * PIECE


def test_what_no_block_fits_is_written_as_usual(descriptor: int, direct: int) -> None:
    with closing(DirectWriter(PIECE)) as writer:
        writer.write((direct, descriptor), 0, memoryview(b"a" * 1001), "file")
        writer.write((direct, descriptor), 1001, memoryview(b"b" * 1002), "file")
    assert os.pread(descriptor, PIECE, 0) == b"a" * 1001 + b"b" * 1002


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, PIECE, True),
        (8192, PIECE_BYTES_MIN, True),
        (0, PIECE_BYTES_MIN - 4096, False),
        (0, PIECE + 4096, False),
        (512, PIECE, False),
        (0, PIECE - 512, False),
    ],
)
def test_only_large_aligned_pieces_fit(offset: int, length: int, expected: bool) -> None:
    with closing(DirectWriter(PIECE)) as writer:
        assert writer.fits(offset, length) is expected


def test_an_error_comes_with_a_later_call_and_names_its_file() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = DirectWriter(PIECE)
    try:
        writer.write((full, full), 0, memoryview(bytes(PIECE)), "base/1/2")
        with pytest.raises(OSError, match="base/1/2") as caught:
            writer.drain()
        assert caught.value.errno == errno.ENOSPC
    finally:
        writer.close()
        os.close(full)


@pytest.mark.parametrize("place", ["disk", "memory"])
@pytest.mark.parametrize(
    "sizes",
    [
        (),
        (0,),
        (1001,),
        (PIECE_BYTES_MIN,),
        (PIECE_BYTES_MIN - 1, 0, 1),
        (16, 4 << 20, 77),
        ((2 << 20) - 1, 1, 1),
        (300_001,) * 9,
        (4096,) * 1500,
    ],
)
def test_all_of_a_new_file_arrives_in_order(tmp_path: Path, place: str, sizes: tuple[int, ...]) -> None:
    parts = [os.urandom(size) for size in sizes]
    path = tmp_path / "new" if place == "disk" else Path(f"/dev/shm/pghaven-{os.getpid()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_new(fd, parts)
        assert path.read_bytes() == b"".join(parts)
    finally:
        os.close(fd)
        path.unlink()


def test_what_a_file_that_takes_nothing_says_is_raised() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space") as caught:
            write_new(full, [bytes(PIECE)])
        assert caught.value.errno == errno.ENOSPC
    finally:
        os.close(full)


def test_a_file_that_cannot_be_written_directly_has_no_such_descriptor() -> None:
    ours, theirs = os.pipe()
    try:
        assert open_direct(ours) is None
    finally:
        os.close(ours)
        os.close(theirs)
