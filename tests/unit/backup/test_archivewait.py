"""What a backup asks of the archive before it goes on."""

from __future__ import annotations

import pytest

from pghaven.backup.archivewait import refuse_removed_wal
from pghaven.errors import Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository.horizon import raise_horizon
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, SYSTEM_IDENTIFIER, make_repository, open_archive


def test_a_backup_that_starts_before_the_horizon_is_refused() -> None:
    repository = make_repository(MemoryStore())
    archive = open_archive(repository)
    refuse_removed_wal(archive, Timeline(1), Lsn(0x3000028))
    raise_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(0x4000000)})
    refuse_removed_wal(archive, Timeline(1), Lsn(0x4000000))
    refuse_removed_wal(archive, Timeline(2), Lsn(0x3000028))
    with pytest.raises(Refused, match="WAL before 0/4000000 is no longer kept"):
        refuse_removed_wal(archive, Timeline(1), Lsn(0x3000028))
