"""Whether the server, the directory and the repository belong together, asked before anything is written.

The one idea: each check refuses with both sides named, because the usual cause is a line in the configuration.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pghaven.backup.listing import ListingRules, read_whole
from pghaven.errors import NotPermitted, PghavenError, Refused, ServerUnsuitable, StoreUnreachable
from pghaven.events import Listener, Notice
from pghaven.postgres.control import ControlFile, parse_control
from pghaven.postgres.label import parse_tablespace_map
from pghaven.repository.repository import Lineage
from pghaven.runtime.whoami import find_parent
from pghaven.server.bracket import OpenBackup, StoppedBackup
from pghaven.server.connection import Connection
from pghaven.server.identity import find_owner
from pghaven.server.probe import Database, ServerFacts, read_archiver, read_timeline

_CONTROL_BYTES = 8192
_START_SECONDS_MAX = 3600


def check_server(cluster: str, facts: ServerFacts, lineage: Lineage) -> None:
    """Raises ServerUnsuitable or Refused unless a backup of this server, as it is set up, can be restored."""
    if facts.settings["archive_mode"] == "off":
        raise ServerUnsuitable(
            "archive_mode is off: a backup needs the WAL written while it is taken",
            hint=f"Run: pghaven init {cluster} --apply",
        )
    sizes = (facts.block_size, facts.segment_size // facts.block_size, facts.wal_segment_size)
    known = (lineage.block_size, lineage.segment_blocks, lineage.wal_segment_size)
    if sizes != known or facts.major.major != lineage.major:
        raise Refused(
            f'cluster "{cluster}" is registered as PostgreSQL {lineage.major} with (block size, blocks a file, '
            f"WAL segment size) = {known}, but the server is PostgreSQL {facts.major} with {sizes}",
            hint=f"If the cluster was upgraded, run: pghaven init {cluster} --new-lineage",
        )
    if facts.settings.get("full_page_writes") == "off" and facts.in_recovery:
        raise ServerUnsuitable("full_page_writes is off: pages read from a standby could be torn for good")


def find_owner_name(data_directory: str) -> str | None:
    """The operating-system user that owns a data directory; raises ServerUnsuitable when there is none."""
    try:
        owner = find_owner(data_directory)
    except FileNotFoundError:
        raise ServerUnsuitable(
            f'data directory "{data_directory}" does not exist',
            hint="If its disk is gone, restore it. If it lies elsewhere, correct data_directory in the configuration.",
        ) from None
    except OSError as error:
        raise NotPermitted(f'could not look at "{data_directory}": {error.strerror}') from error
    return owner.name if owner else None


def check_data_directory(data_directory: str, facts: ServerFacts) -> ControlFile:
    """Raises Refused unless the running server is the one whose files are in this directory.

    The same system identifier is not enough: a standby, or yesterday's copy, has it too. The server's own lock file
    names its process.
    """
    control = parse_control(read_control(data_directory, None))
    if control.system_identifier != facts.system_identifier:
        raise Refused(
            f'"{data_directory}" is the data directory of another cluster: its system identifier is '
            f"{control.system_identifier}, the server's is {facts.system_identifier}",
            hint="Correct data_directory or conninfo in the configuration.",
        )
    if not _is_served(data_directory, facts):
        raise Refused(
            f'"{data_directory}" is not the directory the server runs on: '
            "its lock file is missing or another server's",
            hint=f'The server says its data directory is "{facts.data_directory}".',
        )
    return control


def _is_served(data_directory: str, facts: ServerFacts) -> bool:
    """Whether the server we talk to is the one whose process the directory's lock file names."""
    lock = read_whole(f"{data_directory}/postmaster.pid", 4096) if _exists(f"{data_directory}/postmaster.pid") else b""
    lines = lock.decode("utf-8", "replace").splitlines()
    if len(lines) < 3 or not lines[0].lstrip("-").isdecimal() or not lines[2].isdecimal():
        return False
    parent = find_parent(facts.backend_pid) if facts.backend_pid else None
    if parent is not None:
        return parent == abs(int(lines[0]))
    # The server numbers its processes elsewhere (a container). The lock file is written first, and what is loaded
    # before the server calls itself started may take a while.
    return -1 <= facts.started.timestamp() - int(lines[2]) <= _START_SECONDS_MAX


def make_listing_rules(data_directory: str, facts: ServerFacts, control: ControlFile) -> ListingRules:
    """What the walk of the data directory must know of this server."""
    home = os.path.realpath(data_directory)
    places = (os.path.realpath(os.path.join(home, tablespace.path)) for tablespace in facts.tablespaces)
    return ListingRules(
        tablespace_oids=frozenset(tablespace.oid for tablespace in facts.tablespaces),
        segment_blocks=facts.segment_size // facts.block_size,
        tablespace_version=f"PG_{facts.major}_{control.catalog_version}",
        tablespaces_inside=frozenset(os.path.relpath(path, home) for path in places if path.startswith(home + "/")),
    )


def refuse_changing_timeline(connection: Connection, backup: OpenBackup) -> None:
    """Raises ServerUnsuitable when a standby replays another timeline than its last restart point is on.

    Its backup would begin on the old timeline and end on the new one.
    """
    if not backup.from_standby:
        return
    current = read_timeline(connection)
    if current != backup.timeline:
        raise ServerUnsuitable(
            f"the standby follows timeline {current}, but its last restart point is on timeline {backup.timeline}",
            hint="Run CHECKPOINT on the primary and then on this standby, and take the backup again.",
        )


def check_copied(facts: ServerFacts, backup: OpenBackup, stopped: StoppedBackup, control: ControlFile) -> None:
    """Raises ServerUnsuitable when what was copied does not fit what the server says it must hold."""
    needed = {oid for oid, _ in parse_tablespace_map(stopped.tablespace_map or "")}
    missing = needed - {tablespace.oid for tablespace in facts.tablespaces}
    if missing:
        raise ServerUnsuitable(
            f"tablespace {', '.join(map(str, sorted(missing)))} came while the backup began and was not copied",
            hint="Take the backup again.",
        )
    if backup.from_standby and control.min_recovery_timeline not in (None, 0, backup.timeline):
        raise ServerUnsuitable(
            f"the standby went from timeline {backup.timeline} to {control.min_recovery_timeline} while it was copied",
            hint="Take the backup again.",
        )


def refuse_moved_databases(before: Sequence[Database], after: Sequence[Database]) -> None:
    """Raises ServerUnsuitable when a database went to another tablespace from before the backup began to its end.

    Replaying that copies its files from where they were (dbase_redo, dbcommands.c); they are gone from there, and the
    copy may not have them. One that is moved back before the end is not seen: a limit of all base backups.
    """
    places = {database.oid: database.tablespace_oid for database in before}
    moved = [one.name for one in after if places.get(one.oid, one.tablespace_oid) != one.tablespace_oid]
    if moved:
        raise ServerUnsuitable(
            f'database "{moved[0]}" was moved to another tablespace while it was copied', hint="Take the backup again."
        )


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def read_control(data_directory: str, system_identifier: int | None) -> bytes:
    """pg_control, read again should it be caught while it is written (its CRC tells)."""
    path = f"{data_directory}/global/pg_control"
    error: PghavenError | None = None
    for _ in range(10):
        try:
            data = read_whole(path, _CONTROL_BYTES)
            control = parse_control(data)
        except StoreUnreachable as unreadable:
            raise ServerUnsuitable(
                f'"{data_directory}" is not a data directory: {unreadable.message}',
                hint="Correct data_directory in the configuration; SHOW data_directory tells it.",
            ) from unreadable
        except PghavenError as damaged:
            error = damaged
            continue
        if system_identifier is not None and control.system_identifier != system_identifier:
            raise Refused(f'"{path}" became another cluster\'s while the backup ran')
        return data
    assert error is not None
    raise error


def explain_archiver(connection: Connection, in_recovery: bool) -> str | None:
    """What the server knows about WAL that does not arrive, for a message."""
    if in_recovery:
        return "The backup is from a standby: its primary archives the WAL, and only when a segment is full. " + (
            "SELECT pg_switch_wal() on the primary finishes one at once."
        )
    archiver = read_archiver(connection)
    if archiver.is_failing:
        return f"The server's last attempt to archive failed, for {archiver.last_failed_name}."
    return f"The server archived {archiver.last_archived_name or 'nothing'} last."


def mention_checksums(facts: ServerFacts, tell: Listener) -> None:
    """Say so where nothing can tell a damaged page."""
    if not facts.data_checksums:
        text = "data checksums are off: damaged pages cannot be told from good ones"
        hint = "Switch them on with pg_checksums --enable while the server is stopped."
        tell(Notice(level="info", code="no_checksums", text=text, hint=hint))
