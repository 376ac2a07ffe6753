"""Markers as they are kept: which is the newest."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pghaven.clock import ManualClock
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository.markers import Marker, find_markers, list_marker_names, store_marker
from pghaven.repository.repository import Repository
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, START, SYSTEM_IDENTIFIER, make_repository


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore(), clock=ManualClock(START))


def test_markers_of_one_second_are_in_the_order_in_which_they_were_written(repository: Repository) -> None:
    """A drill compares with the newest that its copy has passed."""
    names = []
    for number in range(16):
        marker = Marker(
            name="",
            written_at=START + timedelta(seconds=number / 16),
            timeline=Timeline(1),
            lsn=Lsn(0x1000 + number),
            tables=(),
            passed_over=(),
        )
        names.append(store_marker(repository, CLUSTER, SYSTEM_IDENTIFIER, marker))
    assert list_marker_names(repository, CLUSTER, SYSTEM_IDENTIFIER) == tuple(reversed(names))
    found = find_markers(repository, CLUSTER, SYSTEM_IDENTIFIER)
    assert [int(one.lsn) for one in found] == [0x1000 + number for number in reversed(range(16))]
