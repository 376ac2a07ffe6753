"""Real servers recover from what was fetched ahead, and never from what should not be served any more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.wal.spool import SPOOLS
from tests.pg.test_wal_server import Protected, end_of, rows, straight, wait_recovered
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.moving import list_names
from tests.support.places import own
from tests.support.recovering import PATIENCE
from tests.support.waiting import wait_until

SEGMENTS = 40
# What is called first for a segment ends when the test says so.
COUNTING = """\
echo "$@" >>{place}/calls
case "$*" in
*RECOVERYXLOG*) if mkdir {place}/first; then "$@"; status=$?; read line <{place}/go; exit $status; fi;;
esac
exec "$@"
"""


class Ahead(Protected):
    prefetch = "256MiB"


@pytest.fixture
def protected(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    return Ahead(make_cluster, pghaven_command, server_path)


class Counting:
    """A program that notes each call, and holds recovery at its first segment until it may ``go`` on; what fetches
    ahead vouches for its spool for longer than anything here takes."""

    def __init__(self, protected: Protected) -> None:
        self._place = protected.place / "counting"
        self._place.mkdir()
        (self._place / "calls").touch()
        os.mkfifo(self._place / "go")
        for path in (self._place, *self._place.iterdir()):
            own(path)
        shell, program = protected.command.words
        text = Path(program).read_text()
        assert "\nimport sys\n" in text
        (self._place / "pghaven").write_text(text.replace("\nimport sys\n", f"\nimport sys\n{PATIENCE}\n"))
        (self._place / "counting").write_text(COUNTING.format(place=self._place))
        self.words = (shell, str(self._place / "counting"), shell, str(self._place / "pghaven"))
        self._go = os.open(self._place / "go", os.O_RDWR)  # so that neither end waits for the other to be opened

    def go(self) -> None:
        os.write(self._go, b"\n")

    def close(self) -> None:
        os.close(self._go)

    def list_segment_calls(self) -> list[str]:
        return [line for line in (self._place / "calls").read_text().splitlines() if "RECOVERYXLOG" in line]


@pytest.fixture
def counting(protected: Protected) -> Iterator[Counting]:
    made = Counting(protected)
    yield made
    made.close()


def insert_many(protected: Protected, count: int = SEGMENTS) -> list[str]:
    names = [protected.insert(value) for value in range(1, count + 1)]
    wait_until(lambda: all(protected.archive.exists(name) for name in names), "the archiver")
    return names


def wait_removed(restored: TestCluster) -> None:
    wait_until(lambda: not (restored.data_directory / SPOOLS).exists(), "the removal of the spool")


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "unplanned"])
def test_most_of_a_recovery_is_served_without_the_program(
    pg_version: int, protected: Protected, counting: Counting, planned: bool
) -> None:
    protected.take_base_backup()
    names = insert_many(protected)
    plan = straight(end_of(names[-1])) if planned else None
    restored = protected.restore("restored", executable=counting.words, plan=plan)
    restored.start(wait=False)
    wait_until(lambda: list_names(restored.data_directory / SPOOLS) >= set(names[1:]), "all files in the spool")
    counting.go()
    assert wait_recovered(restored), restored.log()
    assert rows(restored) == list(range(1, SEGMENTS + 1))
    asked = counting.list_segment_calls()
    assert len(asked) < SEGMENTS / 2, asked
    wait_removed(restored)
