"""A file of pg_wal is stored as it was judged, or it is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pghaven.errors import NotFound, Refused
from pghaven.wal.steady import SteadyFile

CONTENT = os.urandom(10_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "segment"
    made.write_bytes(CONTENT)
    os.utime(made, ns=(1, 1))
    return made


@pytest.mark.parametrize("frame_bytes", [1, 999, 5000, 10_000, 20_000])
def test_pieces_are_the_whole(path: Path, frame_bytes: int) -> None:
    assert b"".join([bytes(frame) for frame in SteadyFile(str(path)).iter_frames(frame_bytes)]) == CONTENT


def test_it_can_be_read_again_and_again(path: Path) -> None:
    file = SteadyFile(str(path))
    assert (len(file), file.head, file.mtime_ns) == (10_000, CONTENT[:512], 1)
    assert [file.read_all(), file.read_all()] == [CONTENT, CONTENT]
    with file.mapped() as memory:
        assert memory[:] == CONTENT


def test_an_empty_file_has_no_pieces(path: Path) -> None:
    path.write_bytes(b"")
    assert list(SteadyFile(str(path)).iter_frames(100)) == []


@pytest.mark.parametrize("at", [0, 600, 9_999])
def test_a_file_that_is_written_to_while_it_is_read_is_refused(path: Path, at: int) -> None:
    file = SteadyFile(str(path))
    frames = file.iter_frames(1000)
    next(frames)
    with path.open("r+b") as writer:
        writer.seek(at)
        writer.write(b"other")
    with pytest.raises(Refused, match="has changed while it was read"):
        list(frames)
    with pytest.raises(Refused, match="has changed while it was read"):
        file.read_all()


def test_a_file_that_is_cut_off_while_it_is_read_is_refused(path: Path) -> None:
    frames = SteadyFile(str(path)).iter_frames(1000)
    next(frames)
    os.truncate(path, 500)
    with pytest.raises(Refused, match="has changed while it was read"):
        list(frames)


def test_a_beginning_that_was_not_judged_is_refused_even_where_times_do_not_tell(path: Path) -> None:
    file = SteadyFile(str(path))
    with path.open("r+b") as writer:
        writer.write(b"other")
    os.utime(path, ns=(1, 1))
    with pytest.raises(Refused, match="has changed while it was read"):
        file.read_all()


def test_another_file_of_that_name_is_refused(path: Path) -> None:
    file = SteadyFile(str(path))
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    os.utime(other, ns=(1, 1))
    other.rename(path)
    with pytest.raises(Refused, match="has changed"):
        file.read_all()


def test_what_is_not_there_or_no_file_is_said_to_be(path: Path) -> None:
    with pytest.raises(NotFound):
        SteadyFile(str(path.with_name("absent")))
    os.mkfifo(path.with_name("pipe"))
    with pytest.raises(Refused, match="not a regular file"):
        SteadyFile(str(path.with_name("pipe")))
