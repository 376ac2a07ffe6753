"""A cluster with a repository: archiving through the real command line, backups and restores through the library.

The one idea: tests state facts about backups and restores; how a server is set up for them is here, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pghaven.backup.session import BackupResult, BackupSettings, run_backup
from pghaven.clock import SYSTEM_CLOCK
from pghaven.events import Event, Notice
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.repository import Lineage, Repository, create_repository
from pghaven.repository.walstore import WalArchive
from pghaven.restore.execute import RestoreResult, RestoreSettings, find_owner_ids, run_restore
from pghaven.restore.plan import plan_restore
from pghaven.restore.recover import Recovery, run_recovery
from pghaven.restore.request import RestorePlan, RestoreRequest
from pghaven.server.connection import connect
from pghaven.server.probe import ServerFacts, probe_server
from pghaven.store.open import create_root
from pghaven.units import render_time_utc
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.places import own
from tests.support.waiting import PATIENCE_SECONDS, wait_until

LATEST = RecoveryTarget(kind=TargetKind.LATEST)


class Protected:
    """``place`` belongs to the server's user; the repository, the configuration and targets lie in it."""

    name = "main"

    def __init__(self, cluster: TestCluster, command: PghavenCommand, place: Path) -> None:
        self.cluster = cluster
        self.place = place
        self.command = command
        self.config = place / "pghaven.toml"
        self.repository_directory = place / "repository"
        self.repository_directory.mkdir()
        own(self.repository_directory)
        self.url = f"file://{self.repository_directory}"
        self.config.write_text(
            f'[repository.main]\nurl = "{self.url}"\n\n[cluster.main]\ndata_directory = "{cluster.data_directory}"\n'
            f'conninfo = "{cluster.conninfo}"\n'
        )
        own(self.config)
        self.repository: Repository = create_repository(create_root(self.url))
        self.facts = self._probe()
        self.repository.register_lineage(self.name, lineage_of(self.facts), new_lineage=False)
        self.notices: list[Notice] = []
        self._targets = 0
        self.archive_from(cluster)

    def _probe(self) -> ServerFacts:
        with connect(self.cluster.conninfo) as connection:
            return probe_server(connection)

    @property
    def archive(self) -> WalArchive:
        return WalArchive(self.repository, self.name, self.facts.system_identifier, self.facts.wal_segment_size)

    @property
    def catalog(self) -> BackupCatalog:
        return BackupCatalog(self.repository, self.name)

    def archive_command(self) -> str:
        return f"{self.command.text} --config {self.config} wal push --cluster {self.name} %p"

    def restore_command(self) -> str:
        return (
            f"{self.command.text} --config {self.config} wal get --cluster {self.name} --absent-status 86 "
            "--plan pghaven.restore.json %f %p; s=$?; [ $s -eq 0 ] && exit 0; [ $s -eq 86 ] && exit 1; exit 255"
        )

    def archive_from(self, cluster: TestCluster) -> None:
        """Have a running server archive into the repository; from now on it is the cluster."""
        self.cluster = cluster
        cluster.append_conf(archive_mode="on", archive_command=self.archive_command())
        cluster.restart()

    def settle(self) -> None:
        """Until everything written so far is in the archive."""
        segment = self.cluster.switch_wal()
        marks = self.cluster.data_directory / "pg_wal" / "archive_status"

        def is_settled() -> bool:
            """It may arrive before what it follows: several are pushed side by side."""
            waiting = [mark.name for mark in marks.glob("*.ready") if mark.name[: len(segment)] <= segment]
            return not waiting and self.archive.exists(segment)

        wait_until(is_settled, f"WAL up to {segment} in the archive", 120.0)

    def tell(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event)

    def notice_codes(self) -> set[str]:
        return {notice.code for notice in self.notices}

    def backup(self, **changes: object) -> BackupResult:
        settings = BackupSettings(
            cluster=self.name,
            data_directory=str(self.cluster.data_directory),
            conninfo=self.cluster.conninfo,
            level=1,
            processes=2,
            archive_timeout_seconds=PATIENCE_SECONDS,
        )
        return run_backup(self.repository, replace(settings, **changes), self.tell)  # type: ignore[arg-type]

    def plan(self, target: RecoveryTarget = LATEST, **request: object) -> RestorePlan:
        self._targets += 1
        directory = self.place / f"target{self._targets}"
        wanted = RestoreRequest(cluster=self.name, target_dir=str(directory), target=target)
        return plan_restore(self.repository, replace(wanted, **request))  # type: ignore[arg-type]

    def restore(self, target: RecoveryTarget = LATEST, **request: object) -> Path:
        """Files only; gives the directory."""
        plan = self.plan(target, **request)
        self.carry_out(plan)
        return Path(plan.request.target_dir)

    def carry_out(self, plan: RestorePlan) -> RestoreResult:
        settings = RestoreSettings(
            place=self.catalog.pack_place,
            processes=2,
            restore_command=self.restore_command(),
            owner=find_owner_ids(plan.manifest),
        )
        return run_restore(plan, settings, self.tell)

    def recover(self, plan: RestorePlan, adopted: TestCluster) -> Recovery:
        """Carry a plan out and run its recovery; ``adopted`` is the target's cluster in the tests' hands.

        The restored server's own socket settings lead to the source's directory, so they are replaced first.
        """
        self.carry_out(plan)
        adopted.append_conf(unix_socket_directories=str(adopted.socket_directory))
        return run_recovery(plan, str(self.cluster.programs.bin_dir), self.tell)


def lineage_of(facts: ServerFacts) -> Lineage:
    return Lineage(
        system_identifier=facts.system_identifier,
        major=facts.major.major,
        block_size=facts.block_size,
        segment_blocks=facts.segment_size // facts.block_size,
        wal_segment_size=facts.wal_segment_size,
        registered_at=render_time_utc(SYSTEM_CLOCK.now()),
    )


def dump_hash(cluster: TestCluster, database: str = "postgres") -> str:
    """What a database holds, by pg_dump, without what is the run's own.

    Sequences are left out: WAL has them up to 32 values ahead, so after recovery they have skipped some. So are the
    rows of unlogged tables, of which recovery leaves none.
    """
    text = cluster.run("pg_dump", "--no-unlogged-table-data", "--dbname", database).stdout
    passed_over = ("--", "\\restrict", "\\unrestrict", "SELECT pg_catalog.setval(")
    kept = [line for line in text.splitlines() if not line.startswith(passed_over)]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def settings_of(cluster: TestCluster, *names: str) -> Mapping[str, str]:
    return {name: str(cluster.value(f"SHOW {name}")) for name in names}
