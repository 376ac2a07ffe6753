"""What the agent does so that restores stay proven: markers and drills, where the configuration says how often.

The one idea: whether one is due is asked of the repositories, so an agent that is started again, or a second way of
doing it (a timer, a hand), makes none too many.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from pghaven.agent.services import Service
from pghaven.clock import SYSTEM_CLOCK
from pghaven.config.values import ClusterConfig, Config
from pghaven.errors import StoreUnreachable
from pghaven.events import Listener, Notice
from pghaven.units import render_duration

if TYPE_CHECKING:
    from pghaven.drill.result import DrillResult

_LOOK_SECONDS = 600.0
_SWEEP_SECONDS = 3600.0
_LONGEST_PAUSE_SECONDS = 86400.0
_UNKEPT_HINT = "May this host write to the repository? A drill by hand shows the reason: pghaven drill"


def list_proof_services(config: Config, cluster: ClusterConfig) -> Iterator[Service]:
    own = cluster.drill
    yield Service(
        name=f"sweeping of {cluster.name}",
        data_directory=cluster.data_directory,
        run=partial(_sweep, cluster),
        every_seconds=_SWEEP_SECONDS,
        as_owner=False,  # whoever started a drill by hand may have been root
    )
    if own.markers:
        yield Service(
            name=f"markers of {cluster.name}",
            data_directory=cluster.data_directory,
            run=partial(_mark_if_due, config, cluster),
            every_seconds=min(_LOOK_SECONDS, own.marker_every_seconds),
        )
    if own.every_seconds is not None:
        yield Service(
            name=f"drill of {cluster.name}",
            data_directory=cluster.data_directory,
            run=partial(_drill_if_due, config, cluster, own.every_seconds),
            every_seconds=min(_LOOK_SECONDS, own.every_seconds),
            longest_pause_seconds=min(own.every_seconds, _LONGEST_PAUSE_SECONDS),
        )


def _sweep(cluster: ClusterConfig, _: Listener) -> None:
    """What a drill or a proof of a dump that was killed has left is as large as the cluster."""
    from pghaven.cli.drill_job import find_drill_place
    from pghaven.cli.dump_command import find_spool
    from pghaven.server.identity import find_owner
    from pghaven.server.scratch import sweep_scratch

    owner = find_owner(cluster.data_directory) if os.geteuid() == 0 else None
    for above in {find_drill_place(cluster), find_spool(cluster), "/tmp"}:  # noqa: S108  sockets of long paths are there
        sweep_scratch(os.path.abspath(above), owner)


def _mark_if_due(config: Config, cluster: ClusterConfig, listener: Listener) -> None:
    from pghaven.cli.marking import find_last_marker, mark_by_itself

    if not _is_due(find_last_marker(config, cluster, listener), cluster.drill.marker_every_seconds):
        return
    done = mark_by_itself(config, cluster, listener)
    if done is not None:
        text = f"a marker was written at {done.marker.lsn}: {len(done.marker.tables)} tables were counted"
        listener(Notice(level="info", code="marker", text=text))


def _drill_if_due(config: Config, cluster: ClusterConfig, every_seconds: float, listener: Listener) -> None:
    from pghaven.cli.drill_job import DrillJob, Wishes
    from pghaven.cli.limiting import Limits

    if not _is_due(_find_last_drill(config, cluster, listener), every_seconds):
        return
    job = DrillJob(config, cluster, Limits(config, cluster, listener))
    result = job.run(job.make_settings(Wishes()))
    if result.passed:
        took = render_duration(result.seconds["total"])
        listener(Notice(level="info", code="drill", text=f"a drill from {result.backup} passed, in {took}"))
    else:
        _tell_failure(cluster, result, listener)
    if result.evidence is None:
        raise StoreUnreachable("nobody will know of this drill, so it will be repeated", hint=_UNKEPT_HINT)


def _tell_failure(cluster: ClusterConfig, result: DrillResult, listener: Listener) -> None:
    failures = "; ".join(f"{one.name}: {one.text}" for one in result.checks if one.verdict.value == "FAILED")
    hint = f"All that was asked: {result.evidence}. Once the cause is mended: pghaven drill {cluster.name}"
    listener(Notice(level="warning", code="drill", text=f"a drill FAILED: {failures}", hint=hint))


def _find_last_drill(config: Config, cluster: ClusterConfig, listener: Listener) -> datetime | None:
    from pghaven.cli.opening import each_repository
    from pghaven.repository.drills import load_drills
    from pghaven.repository.repository import Repository

    def ask(_name: str, repository: Repository) -> datetime | None:
        counting = (one for one in load_drills(repository, cluster.name) if one.doubt is None)
        return max((one.began_at for one in counting), default=None)

    found = [moment for _, moment in each_repository(config, cluster, None, listener, ask)]
    return max((one for one in found if one is not None), default=None)


def _is_due(last: datetime | None, every_seconds: float) -> bool:
    return last is None or SYSTEM_CLOCK.now() - last >= timedelta(seconds=every_seconds)
