"""What ``pghaven agent`` keeps going, made of what the commands do.

The one idea: a service is a command that somebody would otherwise run again and again; here it is only bound to its
part of the configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from pghaven.agent.desk import Desk, DeskSettings
from pghaven.agent.services import Service
from pghaven.cli.agent_proof import list_proof_services
from pghaven.cli.opening import find_spool, list_places
from pghaven.cli.wal_run import PushCall, count_push_processes, push, report
from pghaven.config.values import ClusterConfig, Config
from pghaven.errors import Cancelled, PghavenError
from pghaven.events import Listener, Notice
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.wal.behind import BehindNotes

_CATCH_UP_SECONDS = 60.0


def list_services(config: Config, clusters: Sequence[ClusterConfig]) -> list[Service]:
    return [service for cluster in clusters for service in _list_of(config, cluster)]


def _list_of(config: Config, cluster: ClusterConfig) -> Iterator[Service]:
    def service(what: str, run: object, every_seconds: float | None = None, place: str | None = None) -> Service:
        assert callable(run)
        return Service(
            name=f"{what} of {cluster.name}",
            data_directory=cluster.data_directory,
            run=run,
            every_seconds=every_seconds,
            place=place,
        )

    yield service("push", partial(_push_all, config, cluster))
    yield service("refill", partial(_refill, config, cluster), cluster.wal_refill_every_seconds)
    yield service("catching up", partial(_catch_up, config, cluster), _CATCH_UP_SECONDS)
    if cluster.receive:
        yield service("receive", partial(_receive, config, cluster), place=find_spool(cluster))
    yield from list_proof_services(config, cluster)


def _push_all(config: Config, cluster: ClusterConfig, listener: Listener) -> None:
    _load_what_pushes_need()

    def push_one(name: str, spent: float, look_ahead: bool) -> int:
        path = os.path.join(WAL_DIRECTORY, name)
        call = PushCall(config=config, cluster=cluster, path=path, spent_seconds=spent, look_ahead=look_ahead)
        try:
            return push(call)
        except PghavenError as error:
            return report(error)
        except KeyboardInterrupt:
            return report(Cancelled("the agent was ended"))

    settings = DeskSettings(
        cluster=cluster.name,
        config_path=config.source,
        data_directory=cluster.data_directory,
        places=list_places(config, cluster),
        limit_seconds=cluster.wal_timeout_seconds,
        look_ahead=cluster.wal_look_ahead,
        # One more than there are cores: each waits for its store a part of the time.
        processes=count_push_processes(cluster) + 1,
        push=push_one,
    )
    Desk(settings, listener).run()


def _load_what_pushes_need() -> None:
    """Once here, and not in each process that pushes: importing starts no thread and opens nothing."""
    import blake3
    import google_crc32c

    from pghaven.cli import output, progress
    from pghaven.store import posix
    from pghaven.wal import everywhere

    assert all((blake3, google_crc32c, output, progress, posix, everywhere))


def _refill(config: Config, cluster: ClusterConfig, listener: Listener) -> None:
    from pghaven.wal.refilling import refill_cluster

    wal_directory = os.path.join(cluster.data_directory, WAL_DIRECTORY)
    found = refill_cluster(cluster.name, list_places(config, cluster), wal_directory, listener, cluster.wal_nodes)
    for one in found:
        if one.count or one.gaps.filled:
            text = f"{one.count + len(one.gaps.filled)} WAL files filled in in {one.repository}"
            listener(Notice(level="info", code="refill", text=text))
        for gap in one.gaps.lost:
            text = f"WAL {gap.first} to {gap.last} is lost: no server has it"
            hint = f"Take a new backup: pghaven backup {cluster.name}"
            listener(Notice(level="warning", code="refill", text=text, hint=hint))
        if one.error is not None:
            listener(Notice(level="warning", code="refill", text=f"{one.repository}: {one.error}", hint=one.hint))


def _receive(config: Config, cluster: ClusterConfig, listener: Listener) -> None:
    from pghaven.cli.wal_receive import make_request, receive

    receive(make_request(config, cluster), listener)


def _catch_up(config: Config, cluster: ClusterConfig, listener: Listener) -> None:
    """Refill at once what a repository is known to have missed, when it is back."""
    notes = BehindNotes(os.path.join(cluster.data_directory, WAL_DIRECTORY))
    with suppress(OSError):
        if notes.read_all(cluster.repositories):
            _refill(config, cluster, listener)
