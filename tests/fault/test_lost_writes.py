"""Writes that the kernel took, and then could not bring to the disk: it tells of them once, and never again.

The one idea: the disk is a real one that runs out below its file system, and is mended, so that whoever asks too late
is told that all is well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pghaven.dump.export import ExportSettings, export_dump
from pghaven.dump.load import open_dump
from pghaven.errors import TargetFailed
from pghaven.events import Event
from pghaven.repository.backups import BackupCatalog
from pghaven.restore.writing import Disks, flushing
from pghaven.runtime.durable import sync_filesystem
from tests.fault.volumes import Losing, losing_volume, needs_root
from tests.golden.test_repositories import CLUSTER, REPOSITORIES, Golden, unpack
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


def test_an_export_of_a_dump_does_not_end_well_where_something_was_lost(volume: Losing, tmp_path: Path) -> None:
    """Also when somebody else heard of it first, and the disk has come back since."""
    golden: Golden = unpack(REPOSITORIES[-1], tmp_path / "golden")
    dump = open_dump(BackupCatalog(golden.open(), CLUSTER), None)
    lost = []

    def lose(_: Event) -> None:
        if not lost:
            write_too_much(volume)
            with pytest.raises(OSError, match=r"error|space") as failure:
                sync_filesystem(str(volume.path))
            lost.append(failure.value)
            volume.mend()

    settings = ExportSettings(directory=str(volume.path / "files"), format="directory", processes=0)
    with pytest.raises(TargetFailed, match="could not write"):
        export_dump(dump, dump.facts.databases, settings, lose)
    assert lost
    again = ExportSettings(directory=str(volume.path / "again"), format="directory", processes=0)
    export_dump(dump, dump.facts.databases, again, lose)
