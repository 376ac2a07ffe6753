"""Holding pg_dump back, with another program in its place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pghaven.dump.programs import Calling, DumpPrograms
from pghaven.dump.spool import Spool
from pghaven.dump.spooled import SpooledFile
from pghaven.dump.worker import RangeJob
from tests.support.waiting import wait_until


def refuse(*_arguments: object) -> RangeJob:
    raise AssertionError("nothing is taken here")


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    programs = DumpPrograms(bin_dir="/nowhere", major=17, version="17.0")
    calling = Calling.of(programs, "host=/nowhere", None)
    return Spool(
        calling, str(tmp_path), number_file=lambda _: 0, settle=lambda _: False, make_range=refuse, bytes_max=64 << 10
    )


def test_who_is_held_back_goes_on_when_there_is_room_or_when_nothing_can_make_any(spool: Spool, tmp_path: Path) -> None:
    """Parts of files that are too small to be taken before these end may be all that lies there."""
    part = tmp_path / "1.dat"
    with subprocess.Popen(["sleep", "600"], process_group=0) as process:
        try:
            part.write_bytes(bytes(1 << 20))
            spool._hold_back(process)
            wait_until(lambda: is_stopped(process), "it to be held back")
            part.write_bytes(b"")
            spool._hold_back(process)
            wait_until(lambda: not is_stopped(process), "it to go on")
            part.write_bytes(bytes(1 << 20))
            spool._hold_back(process)
            wait_until(lambda: is_stopped(process), "it to be held back again")
            calls = 0
            while spool._stopped:
                spool._hold_back(process)
                calls += 1
                assert calls < 100, "it would stand still for ever"
            assert calls > 10, "workers had no time to take anything"
            wait_until(lambda: not is_stopped(process), "it to go on although nothing was taken")
        finally:
            process.kill()


def test_rows_are_counted_without_what_ends_them() -> None:
    file = SpooledFile(number=0, name="1.dat", path="1.dat")
    file.take(memoryview(b"1\tone\n2\ttwo\n\\."))
    file.take(memoryview(b"\n\n\n"))
    file.finish()
    assert (file.rows, file.is_whole) == (2, True)
    cut = SpooledFile(number=0, name="1.dat", path="1.dat")
    cut.take(memoryview(b"1\tone\n2\tt"))
    cut.finish()
    assert not cut.is_whole
