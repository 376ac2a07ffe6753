"""Real servers recover from what was fetched ahead, and never from what should not be served any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from pghaven.wal.spool import SPOOLS
from tests.pg.test_wal_server import Protected, end_of, recover, rows, straight
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.waiting import wait_until

SEGMENTS = 40


class Ahead(Protected):
    prefetch = "256MiB"


@pytest.fixture
def protected(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    return Ahead(make_cluster, pghaven_command, server_path)


def counting(protected: Protected) -> tuple[tuple[str, ...], Path]:
    """A program that notes each call, and where."""
    calls, script = protected.place / "calls", protected.place / "counting"
    calls.touch()
    own(calls)
    script.write_text(f'echo "$@" >>{calls}\nexec "$@"\n')
    return ("/bin/sh", str(script), *protected.command.words), calls


def insert_many(protected: Protected, count: int = SEGMENTS) -> list[str]:
    names = [protected.insert(value) for value in range(1, count + 1)]
    wait_until(lambda: all(protected.archive.exists(name) for name in names), "the archiver")
    return names


def wait_removed(restored: TestCluster) -> None:
    wait_until(lambda: not (restored.data_directory / SPOOLS).exists(), "the removal of the spool")


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "unplanned"])
def test_most_of_a_recovery_is_served_without_the_program(pg_version: int, protected: Protected, planned: bool) -> None:
    protected.take_base_backup()
    names = insert_many(protected)
    program, calls = counting(protected)
    plan = straight(end_of(names[-1])) if planned else None
    restored = protected.restore("restored", executable=program, plan=plan)
    assert recover(restored), restored.log()
    assert rows(restored) == list(range(1, SEGMENTS + 1))
    asked = [line for line in calls.read_text().splitlines() if "RECOVERYXLOG" in line]
    assert len(asked) < SEGMENTS / 2, asked
    wait_removed(restored)
