"""What is done with a member just before and just after it is promoted, so that the archive has no hole there.

The one idea: before, only marks are set, because Patroni waits for it with the lock in its hand; a mark makes the new
primary archive what its predecessor had not. Whatever cannot be asked in time is marked too: a file that is archived
twice costs a moment, one that never is costs every backup before it. After, there is time to look for what is missing
still, and to end the first segment of the new timeline, so that standbys find it instead of the old timeline's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import PghavenError, ServerUnsuitable
from pghaven.events import Listener, Step
from pghaven.postgres.control import parse_control
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.postgres.segment import SegmentName
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import WalArchive
from pghaven.wal.backfill import UNASKED_MAX, list_lacking, list_whole, mark_waiting
from pghaven.wal.gapfill import GapFilling, fill_gaps
from pghaven.wal.nodes import LocalNode, Node, QuarantineNode, SqlNode

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A server on this host, as hooks see it. ``places`` are the repositories of the cluster."""

    cluster: str
    data_directory: str
    places: tuple[RepositoryPlace, ...]

    @property
    def wal_directory(self) -> str:
        return os.path.join(self.data_directory, WAL_DIRECTORY)


def mark_lacking(member: Member) -> tuple[str, ...]:
    """Mark the files that any repository lacks as waiting to be archived.

    Raises PghavenError when one of the repositories cannot be asked, with those of the others marked; nothing then
    tells what it lacks.
    """
    failure: PghavenError | None = None
    archives = []
    for place in member.places:
        try:
            archives.append(find_archive(open_place(place), member))
        except PghavenError as error:
            failure = failure or error
    marked = mark_waiting(member.wal_directory, list_lacking(member.wal_directory, archives)) if archives else ()
    if failure is not None:
        raise failure
    return marked


def mark_newest(member: Member) -> tuple[str, ...]:
    """Mark the newest complete segments without asking anybody."""
    identifier, size = _identify(member.data_directory)
    whole = list_whole(member.wal_directory, identifier, size)
    return mark_waiting(member.wal_directory, [str(segment) for segment in whole[-UNASKED_MAX:]])


def find_archive(repository: Repository, member: Member) -> WalArchive:
    """The archive of the member's own system identifier. Raises NotFound."""
    identifier, _ = _identify(member.data_directory)
    lineage = repository.require_lineage(member.cluster, identifier)
    return WalArchive(repository, member.cluster, identifier, lineage.wal_segment_size)


def _identify(data_directory: str) -> tuple[int, int]:
    path = os.path.join(data_directory, "global/pg_control")
    try:
        with open(path, "rb") as file:
            control = parse_control(file.read(8192))
    except OSError as error:
        raise ServerUnsuitable(f'could not read "{path}": {error.strerror}') from error
    return control.system_identifier, control.wal_segment_size


# -- after it ----------------------------------------------------------------------------------------------------------


def finish_first_segment(conninfo: str, timeout_seconds: float, clock: Clock = SYSTEM_CLOCK) -> SegmentName:
    """Wait for the end of recovery, and switch to the next segment; the one that was ended. Raises ServerUnsuitable."""
    from pghaven.server.connection import connect, fetch_one
    from pghaven.server.walcontrol import switch_wal

    deadline = clock.monotonic() + timeout_seconds
    with closing(connect(conninfo)) as connection:
        while fetch_one(connection, "SELECT pg_is_in_recovery()")[0]:
            if clock.monotonic() >= deadline:
                raise ServerUnsuitable("the server is still in recovery")
            clock.sleep(_POLL_SECONDS)
        connection.execute("SELECT pg_logical_emit_message(false, 'pghaven', 'role change')")
        return switch_wal(connection).segment


def repair_continuity(
    member: Member, conninfos: Sequence[str], listener: Listener, open_one: Callable[[RepositoryPlace], Repository]
) -> dict[str, GapFilling]:
    """Fill what each repository lacks of the line: from this member, from others, from what was quarantined.

    Raises what the last repository raised that failed.
    """
    found: dict[str, GapFilling] = {}
    failure: PghavenError | None = None
    for place in member.places:
        listener(Step(text=f'looking for gaps in repository "{place.name}"'))
        try:
            archive = find_archive(open_one(place), member)
            identifier = archive.system_identifier
            nodes: list[Node] = [
                QuarantineNode(archive=archive),
                LocalNode(wal_directory=member.wal_directory),
                *(SqlNode(conninfo=one, system_identifier=identifier) for one in conninfos),
            ]
            found[place.name] = fill_gaps(archive, nodes, lambda text: listener(Step(text=text)))
        except PghavenError as error:
            failure = error
    if failure is not None:
        raise failure
    return found
