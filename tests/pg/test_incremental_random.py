"""Rounds of random work, each with a backup in the middle of it that must hold what a full one does.

A failure shows the seed; ``--seed`` gives the same statements, and the same decisions, again.
"""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from pghaven.backup.session import BackupResult
from pghaven.errors import ServerUnsuitable
from pghaven.repository import layout
from tests.support.cluster import Kind
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.protected import Protected
from tests.support.twins import assert_twin_of_full
from tests.support.workload import Workload, set_up

SPACES = ("near", "far")
_TRIES_MAX = 5


class Game:
    """A cluster, its repository, and what chance makes of them."""

    def __init__(
        self, seed: int, make_cluster: ClusterFactory, command: PghavenCommand, place: Path, version: int
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.make_cluster = make_cluster
        self.version = version
        conf = {"autovacuum": "off", "wal_log_hints": self.chance.choice(["on", "off"]), "max_wal_size": "64MB"}
        if version >= 17:
            conf["summarize_wal"] = "on"
        kind = Kind(wal_segment_size_mib=16, checksums=self.chance.random() < 0.5)
        self.site = Protected(make_cluster(kind=kind, conf=conf), command, place)
        for name in SPACES:
            directory = place / name
            directory.mkdir()
            own(directory)
            self.site.cluster.sql(f"CREATE TABLESPACE {name} LOCATION '{directory}'")
        set_up(self.site.cluster)
        self.site.backup()

    def play(self, rounds: int) -> None:
        for number in range(rounds):
            result = self.work(number)
            print(f"round {number}: {result.facts.changes} backup {result.facts.label} of {result.facts.parent}")
            full = self.site.backup(changes="full")
            if self.chance.random() < 0.4:
                self.remove_all_but(result, full)
            assert_twin_of_full(self.site, result.facts, self.make_cluster, full.facts)
            # The next one is to build on this one, not on the full one beside it.
            self.remove(full.facts.label)
            self.disturb()

    def work(self, number: int) -> BackupResult:
        workload = Workload(self.site.cluster, f"{self.seed}/{number}", SPACES)
        with workload.running():
            wanted = self.chance.randint(20, 60)
            workload.wait_for(wanted)
            with workload.within_rules():
                result = self.back_up(self.choose_method())
            workload.wait_for(wanted + 10)
        return result

    def back_up(self, method: str) -> BackupResult:
        """A database that is made again in another tablespace, under its number, looks as if it were moved."""
        for _ in range(_TRIES_MAX):
            with suppress(ServerUnsuitable):
                return self.site.backup(changes=method)
        return self.site.backup(changes=method)

    def choose_method(self) -> str:
        return self.chance.choice(["lsn", "summaries"] if self.version >= 17 else ["lsn"])

    def disturb(self) -> None:
        """Between rounds the server may stop, or fall."""
        what = self.chance.choice(["nothing", "nothing", "restart", "crash"])
        if what == "restart":
            self.site.cluster.restart()
        elif what == "crash":
            self.site.cluster.crash()
            self.site.cluster.start()

    # -- without the others -----------------------------------------------------------------------------------------

    def remove_all_but(self, *kept: BackupResult) -> None:
        """Every object of other backups goes, and every pack that the kept ones do not name."""
        labels = {result.facts.label for result in kept}
        catalog = self.site.catalog
        needed = {
            self.site.repository_directory / layout.pack_name(self.site.name, pack.label, pack.id)
            for label in labels
            for pack in catalog.load_manifest(catalog.find_entry(label)).packs
        }
        for entry in catalog.list_entries():
            if entry.label not in labels:
                shutil.rmtree(self._home / "backups" / entry.label)
        packs = {path for path in (self._home / "packs").rglob("*") if path.is_file()}
        assert needed <= packs
        for path in packs - needed:
            path.unlink()

    def remove(self, label: str) -> None:
        for kind in ("backups", "packs"):
            shutil.rmtree(self._home / kind / label, ignore_errors=True)

    @property
    def _home(self) -> Path:
        return self.site.repository_directory / "clusters" / self.site.name


@pytest.fixture
def game(
    seed: int,
    make_cluster: ClusterFactory,
    pghaven_command: PghavenCommand,
    server_path: Path,
    pg_version: int,
) -> Game:
    return Game(seed, make_cluster, pghaven_command, server_path, pg_version)


def test_backup_under_random_work_holds_what_a_full_one_does(game: Game) -> None:
    game.play(rounds=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_backups_under_random_work_hold_what_full_ones_do_for_long(game: Game) -> None:
    game.play(rounds=40)
