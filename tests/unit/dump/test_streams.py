"""What goes wrong while the pipes for large tables are made: with a process that writes as pg_dump does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pghaven.dump.spooled import SpooledFile
from pghaven.dump.streams import STREAMED_BYTES_MIN, Means, Streams
from pghaven.errors import StoreUnreachable
from pghaven.runtime.sharedslots import SharedSlots
from tests.fault.volumes import memory_volume, needs_root

_WRITES_CONTENTS = 'mkdir "$0"; until [ -p "$0/toc.dat" ]; do :; done; exec head -c 200000 /dev/zero > "$0/toc.dat"'


def open_no_file(name: str) -> SpooledFile:
    raise AssertionError(f"{name} is in no table of contents")


@needs_root
def test_a_table_of_contents_for_which_there_is_no_room(tmp_path: Path) -> None:
    slots = SharedSlots(1, 1 << 16)
    with memory_volume(tmp_path / "full", "size=64k") as spool:
        path = str(spool / "dump")
        process = subprocess.Popen(["sh", "-c", _WRITES_CONTENTS, path])
        ended = os.pidfd_open(process.pid)
        try:
            streams = Streams(path, Means(slots=slots, sizes={1: STREAMED_BYTES_MIN}, jobs=0), None, open_no_file)
            with pytest.raises(StoreUnreachable, match="No space left on device") as failed:
                for _ in streams.prepare(process, ended):
                    pass
        finally:
            process.kill()
            process.wait()
            os.close(ended)
            slots.close()
    assert failed.value.hint is not None and "dump_spool" in failed.value.hint
