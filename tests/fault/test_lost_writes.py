"""Writes that the kernel took, and then could not bring to the disk: it tells of them once, and never again.

The one idea: the disk is a real one that runs out below its file system, and is mended, so that whoever asks too late
is told that all is well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pghaven.restore.writing import Disks, flushing
from pghaven.runtime.durable import sync_filesystem
from tests.fault.volumes import Losing, losing_volume, needs_root
from tests.support.waiting import wait_until

pytestmark = needs_root


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Losing]:
    with losing_volume(tmp_path / "disk") as made:
        yield made


def write_too_much(volume: Losing) -> None:
    (volume.path / "file").write_bytes(bytes([1]) * (32 << 20))


def is_whole(disks: Disks) -> bool:
    try:
        disks.require_whole()
    except OSError:
        return False
    return True


def test_a_write_that_was_lost_is_told_whoever_else_has_heard_of_it(volume: Losing) -> None:
    with closing(Disks([str(volume.path)])) as disks:
        write_too_much(volume)
        with pytest.raises(OSError, match=r"error|space"):
            sync_filesystem(str(volume.path))  # anybody's
        volume.mend()
        sync_filesystem(str(volume.path))  # the kernel has told, and has forgotten
        for _ in range(2):
            with pytest.raises(OSError, match=r"error|space") as failure:
                disks.sync()
            assert failure.value.filename == str(volume.path)


def test_what_was_lost_while_a_restore_wrote_ends_it(volume: Losing) -> None:
    with closing(Disks([str(volume.path)])) as disks:
        with flushing(disks):
            write_too_much(volume)
            wait_until(lambda: not is_whole(disks), "the disk to tell")
            volume.mend()
        with pytest.raises(OSError, match=r"error|space"):
            disks.sync()
