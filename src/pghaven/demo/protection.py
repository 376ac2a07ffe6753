"""What `pghaven init`, `check`, `backup` and `status` do for a cluster, done for the demonstration's."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from pghaven.backup.session import BackupResult, BackupSettings, run_backup
from pghaven.clock import Clock
from pghaven.config.loading import load_config
from pghaven.config.starter import render_starter
from pghaven.config.values import ClusterConfig, Config
from pghaven.demo.ground import Ground
from pghaven.demo.servers import DemoServer
from pghaven.errors import CheckFailed
from pghaven.events import Listener, Step, ignore
from pghaven.proof.roundtrip import RoundTrip, RoundTripSettings, run_round_trip
from pghaven.proof.states import RecoveryPoint, RepositoryState
from pghaven.proof.status import StatusSettings, gather_status
from pghaven.proof.windows import Window
from pghaven.repository.place import RepositoryPlace
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import WalArchive
from pghaven.server.probe import probe_server
from pghaven.server.settings_apply import apply_settings
from pghaven.setup.register import make_lineage, prepare_repository
from pghaven.setup.settings import plan_setup, read_written_command
from pghaven.wal.commands import render_archive_command

CLUSTER: Final = "shop"
_ROUND_TRIP_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """The cluster, and where its backups and WAL go. ``changed`` are the server settings that made it so."""

    config: Config
    cluster: ClusterConfig
    repository: Repository
    archive: WalArchive
    changed: tuple[str, ...]

    @property
    def processes(self) -> int:
        return len(os.sched_getaffinity(0))


def protect(ground: Ground, server: DemoServer, clock: Clock, listener: Listener) -> Protected:
    """Repository, registration, settings, and the restart that archive_mode needs. Raises what ``init`` raises."""
    config = _write_configuration(ground, server)
    cluster = config.get_cluster(CLUSTER)
    listener(Step(text="making the repository"))
    (place,) = _list_places(config, cluster)
    repository = prepare_repository(place, ground.user, clock).repository
    with closing(server.connect()) as connection:
        facts = probe_server(connection)
        repository.register_lineage(CLUSTER, make_lineage(facts, clock), new_lineage=False)
        command = render_archive_command(ground.program, config.source, CLUSTER)
        plan = plan_setup(facts, command, read_written_command(connection))
        apply_settings(connection, plan.change, clock=clock)
    listener(Step(text="restarting the server"))
    server.restart()
    return Protected(
        config=config,
        cluster=cluster,
        repository=repository,
        archive=WalArchive(repository, CLUSTER, facts.system_identifier, facts.wal_segment_size),
        changed=tuple(one.name for one in plan.change),
    )


def _write_configuration(ground: Ground, server: DemoServer) -> Config:
    """As ``init`` writes it, with what belongs to this directory alone."""
    url = f"file://{ground.path('repository')}"
    text = render_starter(CLUSTER, server.data_directory, server.conninfo(), url)
    # A JSON string is a TOML string too.
    text += f"pg_bin = {json.dumps(ground.programs.bin_dir)}\nprogram = {json.dumps(_join(ground.program))}\n"
    path = ground.path("pghaven.toml")
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o644)
    return load_config(path)


def _join(words: tuple[str, ...]) -> str:
    import shlex

    return shlex.join(words)


def try_archive(protected: Protected, server: DemoServer, clock: Clock, listener: Listener) -> RoundTrip:
    """One WAL segment into the repository and back. Raises CheckFailed."""
    with closing(server.connect()) as connection:
        facts = probe_server(connection)
        settings = RoundTripSettings(version=facts.major, may_name=True, timeout_seconds=_ROUND_TRIP_SECONDS)
        return run_round_trip(connection, [protected.archive], settings, clock, listener)


def take_backup(protected: Protected, listener: Listener) -> BackupResult:
    """Raises what ``backup`` raises."""
    cluster = protected.cluster
    settings = BackupSettings(
        cluster=cluster.name,
        data_directory=cluster.data_directory,
        conninfo=cluster.conninfo,
        level=cluster.compression_level,
        processes=protected.processes,
        archive_timeout_seconds=cluster.backup_archive_timeout_seconds,
    )
    return run_backup(protected.repository, settings, listener)


def measure(protected: Protected, clock: Clock) -> tuple[RecoveryPoint, Window]:
    """What would be lost at this moment, and what can be restored. Raises CheckFailed when nothing can be."""
    cluster = protected.cluster
    settings = StatusSettings(
        cluster=cluster.name,
        data_directory=cluster.data_directory,
        conninfo=cluster.conninfo,
        repositories=_list_places(protected.config, cluster),
    )
    (state,) = gather_status(settings, ignore, clock=clock).repositories
    if not isinstance(state, RepositoryState):
        raise CheckFailed(f"the repository cannot be used: {state.reason}", hint=state.hint)
    window = state.find_window(None)
    if window is None or state.recovery_point is None:
        raise CheckFailed("nothing can be restored from the repository")
    return state.recovery_point, window


def _list_places(config: Config, cluster: ClusterConfig) -> tuple[RepositoryPlace, ...]:
    return tuple(
        RepositoryPlace(name=one.name, store=one.store, key=one.key) for one in config.get_repositories(cluster)
    )
