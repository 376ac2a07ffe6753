"""Durable files: all bytes written, the old content or the new, and flushed in the right order."""

from __future__ import annotations

import os
import pwd
import stat
import threading
from pathlib import Path

import pytest

from pghaven.runtime import durable
from pghaven.runtime.durable import OwnerOf
from tests.fault.tracing import needs_strace, run_traced


def test_everything_is_written_through_a_pipe_that_takes_little_at_a_time() -> None:
    """A pipe accepts part of a write, in the middle of a buffer and in the middle of many."""
    buffers = [bytes([number % 256]) * (number * 7 % 5000) for number in range(2500)] + [bytes(300_000)]
    reading, writing = os.pipe()
    os.set_blocking(writing, True)
    received: list[bytes] = []

    def receive() -> None:
        while chunk := os.read(reading, 3001):
            received.append(chunk)

    reader = threading.Thread(target=receive)
    reader.start()
    total = durable.write_fully(writing, buffers)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert total == sum(map(len, buffers))
    assert b"".join(received) == b"".join(buffers)


def test_a_file_is_put_in_place_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    durable.write_durably(str(path), b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    durable.write_durably(str(path), [b"ne", bytearray(b"w")], 0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["settings"]


def test_a_link_in_its_place_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"untouched")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    durable.write_durably(str(tmp_path / "link"), b"new")
    assert (tmp_path / "target").read_bytes() == b"untouched"
    assert not (tmp_path / "link").is_symlink()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(TypeError):
        durable.write_durably(str(tmp_path / "file"), [b"new", None])  # type: ignore[list-item]
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        durable.write_durably(str(tmp_path / "directory"), b"new")
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@needs_strace
def test_content_is_flushed_before_the_rename_and_the_directory_after(tmp_path: Path) -> None:
    code = "import sys; from pghaven.runtime.durable import write_durably; write_durably(sys.argv[1], b'x')"
    place = tmp_path / "place"
    place.mkdir()
    trace = ("writev", "fchmod", "fsync", "rename", "renameat", "renameat2")
    traced = run_traced(code, [str(place / "file")], tmp_path / "log", trace=trace)
    assert traced.status == 0, traced.err
    assert [call.name for call in traced.calls] == ["writev", "fchmod", "fsync", "rename", "fsync"]
    assert traced.calls[-1].arguments.endswith(f"<{place}>")


def test_directories_are_made_all_the_way_and_may_exist(tmp_path: Path) -> None:
    durable.make_directories_durably(str(tmp_path / "a/b/c"))
    durable.make_directories_durably(str(tmp_path / "a/b/c"))
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/c")] == [0o750] * 3
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        durable.make_directories_durably(str(tmp_path / "file/x"))


def test_a_file_system_is_flushed_by_any_path_on_it(tmp_path: Path) -> None:
    durable.sync_filesystem(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        durable.sync_filesystem(str(tmp_path / "nowhere"))


def test_giving_a_file_to_its_own_owner_needs_no_rights(tmp_path: Path) -> None:
    OwnerOf.path(str(tmp_path)).give(str(tmp_path))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_gives_files_away_by_path_and_by_descriptor(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    owner = OwnerOf(uid=nobody.pw_uid, gid=nobody.pw_gid)
    durable.write_durably(str(tmp_path / "file"), b"x", owner=owner)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    owner.give(str(tmp_path / "link"))
    assert (tmp_path / "link").lstat().st_uid == owner.uid
    assert OwnerOf.path(str(tmp_path / "file")) == owner
