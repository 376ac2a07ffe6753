"""One WAL segment's way from the server into the repository and back, tried now.

The one idea: settings and statistics say what should happen; only a segment that was finished now, archived by the
server itself, and read back whole proves that it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pghaven.clock import Clock
from pghaven.errors import CheckFailed, ObjectMissing
from pghaven.events import Listener, Step
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.version import MajorVersion
from pghaven.proof.results import count_files
from pghaven.repository.walstore import WalArchive
from pghaven.server.backlog import count_waiting
from pghaven.server.connection import Connection
from pghaven.server.probe import read_archiver
from pghaven.server.walcontrol import create_restore_point, switch_wal
from pghaven.units import render_duration

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrip:
    """``restore_point`` was created on the way, None when the role may not."""

    segment: SegmentName
    restore_point: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTripSettings:
    """``may_name``: the role may create a restore point, which also puts something into a segment that is empty."""

    version: MajorVersion
    may_name: bool
    timeout_seconds: float


def run_round_trip(
    connection: Connection,
    archives: Sequence[WalArchive],
    settings: RoundTripSettings,
    clock: Clock,
    listener: Listener,
) -> RoundTrip:
    """Finish a segment, wait until every archive has it, and read it back. On a primary only.

    Raises CheckFailed when the server fails to archive or time is up, Damaged when it is not what it should be,
    NotPermitted with the GRANT needed.
    """
    name = None
    failed_before = read_archiver(connection).failed_count
    if settings.may_name:
        name = f"pghaven_check_{clock.now():%Y%m%dT%H%M%SZ}"
        create_restore_point(connection, name)
    began = clock.monotonic()
    segment = switch_wal(connection).segment
    listener(Step(text=f"waiting for WAL segment {segment} to be archived"))
    for archive in archives:
        while True:
            try:
                archive.require_whole(segment, settings.version)
                break
            except ObjectMissing:
                _give_up_if_hopeless(connection, segment, failed_before)
            if clock.monotonic() - began > settings.timeout_seconds:
                raise CheckFailed(
                    f"WAL segment {segment} did not arrive within {render_duration(settings.timeout_seconds)}",
                    detail=_count_waiting(connection),
                    hint="The server's log shows what archive_command says.",
                )
            clock.sleep(_POLL_SECONDS)
    return RoundTrip(segment=segment, restore_point=name, seconds=clock.monotonic() - began)


def _give_up_if_hopeless(connection: Connection, segment: SegmentName, failed_before: int) -> None:
    archiver = read_archiver(connection)
    if archiver.failed_count > failed_before:
        raise CheckFailed(
            f"the server could not archive {archiver.last_failed_name or segment}: archive_command failed",
            detail=_count_waiting(connection),
            hint="The server's log shows what it said.",
        )


def _count_waiting(connection: Connection) -> str | None:
    count = count_waiting(connection)
    return None if count is None else f"{count_files(count)} to be archived."
