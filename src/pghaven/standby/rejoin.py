"""A former primary that comes back as a standby: rewound, else restored over what it has, else copied anew.

    look → keep what only it has → its own configuration aside → rewind | delta restore | new copy beside → follow

The one idea: the directory is the base of the next attempt until one has succeeded, so each way is decided by reasons
that are known before, and what no other server and no repository has is kept first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from pghaven.clock import Clock
from pghaven.errors import Conflict, NotFound, NotPermitted, Refused, ServerUnsuitable, StoreUnreachable
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.control import CONTROL_PATH, ControlFile, parse_control
from pghaven.postgres.datadir import RESTORE_PLAN_FILE, WAL_DIRECTORY
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import WalFileKind, classify
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.walstore import WalArchive
from pghaven.restore.oldwal import find_unarchived
from pghaven.runtime.durable import OwnerOf, fsync_directory, write_durably
from pghaven.server.identity import OsUser
from pghaven.server.postmaster import is_running, list_server_processes
from pghaven.server.programs import Programs
from pghaven.standby.programs import run_program
from pghaven.wal.backfill import push_waiting
from pghaven.wal.marks import Marks

OWN_FILES = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf", RESTORE_PLAN_FILE)
"""What a rewind replaces by the new primary's, and a restore by the backup's; a server's own comes back behind it."""

_ASIDE = ".pghaven-rejoin"


class Way(StrEnum):
    REWIND = "rewind"
    REPOSITORY = "repository"
    PRIMARY = "primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """A stopped data directory. ``end_lsn`` is the least that it has written; ``fork_lsn`` where the new line left its
    timeline, None when it has not. ``was_interrupted``: an earlier rejoin ended in the midst; then ``control``,
    ``timeline`` and ``end_lsn`` may be None."""

    data_directory: str
    control: ControlFile | None
    timeline: Timeline | None
    end_lsn: Lsn | None
    fork_lsn: Lsn | None
    is_on_line: bool
    was_interrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WayChoice:
    """A way and why it is taken, or not."""

    way: Way
    is_possible: bool
    reason: str


def read_former(data_directory: str, system_identifier: int, history: History) -> Former:
    """Look at a stopped directory; ``history`` is that of the server to be followed.

    Raises NotFound for what is no data directory, Refused while a server runs there, Conflict for another cluster's.
    """
    path = os.path.join(data_directory, CONTROL_PATH)
    refuse_running(data_directory)
    try:
        with open(path, "rb") as file:
            control = parse_control(file.read())
    except FileNotFoundError as error:
        if os.path.isdir(data_directory + _ASIDE):
            return Former(
                data_directory=data_directory,
                control=None,
                timeline=None,
                end_lsn=None,
                fork_lsn=None,
                is_on_line=False,
                was_interrupted=True,
            )
        raise NotFound(
            f'"{data_directory}" is no data directory: there is no {CONTROL_PATH}',
            hint="A standby in a new directory is made by: pghaven standby create",
        ) from error
    except PermissionError as error:
        raise NotPermitted(f'could not read "{path}": permission denied') from error
    if control.system_identifier != system_identifier:
        raise Conflict(
            f'"{data_directory}" is of system identifier {control.system_identifier}, and the server to be followed of '
            f"{system_identifier}",
            hint="They are two clusters: is --data right, and --upstream?",
        )
    timeline = max(control.checkpoint_timeline, control.min_recovery_timeline or control.checkpoint_timeline)
    end_lsn = max(control.checkpoint_lsn, control.min_recovery_point)
    return Former(
        data_directory=data_directory,
        control=control,
        timeline=timeline,
        end_lsn=end_lsn,
        fork_lsn=history.fork_of(timeline),
        is_on_line=history.includes(timeline),
        was_interrupted=os.path.isdir(data_directory + _ASIDE),
    )


def refuse_running(data_directory: str) -> None:
    """Raises Refused."""
    if not os.path.isdir(data_directory):
        raise NotFound(f'there is no directory "{data_directory}"')
    running = is_running(data_directory)
    if running is not None:
        raise Refused(
            f'a server runs in "{data_directory}" (process {running.pid}), and may still be written to',
            hint="Stop it first, or have it stopped: --stop",
        )
    left = list_server_processes(data_directory)
    if left:
        raise Refused(
            f'processes of a server still work in "{data_directory}": {", ".join(map(str, left))}',
            hint="They outlived their server. Wait for their end, or end them.",
        )


def choose_ways(former: Former, asked: Way | None) -> tuple[WayChoice, ...]:
    """The ways in the order in which they are tried, with the reasons; ``asked`` alone where it was. Pure."""
    control = former.control
    rewind = WayChoice(way=Way.REWIND, is_possible=True, reason="only pages that changed since the fork are fetched")
    reason = None
    if control is None or former.was_interrupted:
        reason = "an earlier rejoin was interrupted, and may have left a half rewound directory"
    elif not former.is_on_line:
        reason = f"the server to be followed does not come from timeline {former.timeline}"
    elif not control.has_data_checksums and not control.wal_log_hints:
        reason = "the cluster has neither data checksums nor wal_log_hints = on, without which changes are missed"
    elif not control.full_page_writes:
        reason = "full_page_writes was off"
    if reason is not None:
        rewind = WayChoice(way=Way.REWIND, is_possible=False, reason=reason)
    ways = (
        rewind,
        WayChoice(way=Way.REPOSITORY, is_possible=True, reason="what differs from a backup is fetched from there"),
        WayChoice(way=Way.PRIMARY, is_possible=True, reason="everything is copied anew, beside the old directory"),
    )
    return ways if asked is None else tuple(one for one in ways if one.way is asked)


# -- what only this directory has --------------------------------------------------------------------------------


def keep_wal(
    former: Former,
    archives: Sequence[WalArchive],
    push: Callable[[str], object],
    listener: Listener,
    *,
    clock: Clock,
) -> str | None:
    """Archive the WAL that waits (what lies past the fork goes into quarantine), and copy aside what no archive takes.

    The directory of the copies; None when there was nothing. Raises NotPermitted, StoreUnreachable.
    """
    directory = os.path.join(former.data_directory, WAL_DIRECTORY)
    waiting = Marks(directory).list_waiting()
    if waiting:
        listener(Step(text=f"archiving {len(waiting)} files that this server had not archived"))
        for name, reason in push_waiting(directory, waiting, push).failed:
            text = f'"{name}" could not be archived: {reason}'
            listener(Notice(level="info", code="not_archived", text=text))
    names = [name for name in os.listdir(directory) if classify(name) in (WalFileKind.SEGMENT, WalFileKind.PARTIAL)]
    lost = set(names)
    for archive in archives:
        quarantined = {entry.rpartition("-")[0] for entry in archive.list_quarantine()}
        lost &= set(find_unarchived(archive, directory, sorted(lost - quarantined)))
    if not lost:
        return None
    aside = f"{former.data_directory}.{WAL_DIRECTORY}-{clock.now():%Y%m%dT%H%M%SZ}"
    owner = OwnerOf.path(former.data_directory)
    with _storing(aside):
        os.mkdir(aside, 0o700)
        owner.give(aside)
        for name in sorted(lost):
            shutil.copy2(os.path.join(directory, name), os.path.join(aside, name))
            owner.give(os.path.join(aside, name))
        fsync_directory(aside)
    text = f"{len(lost)} WAL files that no archive has were copied to {aside}"
    listener(Notice(level="info", code="saved_wal", text=text))
    return aside


def set_config_aside(data_directory: str) -> None:
    """Keep the server's own configuration beside the directory, where neither a rewind nor a restore comes. An earlier
    copy, of a rejoin that was interrupted, is the right one and stays. Durable when it returns."""
    aside = data_directory + _ASIDE
    if os.path.isdir(aside):
        return
    owner = OwnerOf.path(data_directory)
    unfinished = f"{aside}.tmp"
    with _storing(aside):
        shutil.rmtree(unfinished, ignore_errors=True)
        os.mkdir(unfinished, 0o700)
        owner.give(unfinished)
        for name in OWN_FILES:
            with suppress(FileNotFoundError), open(os.path.join(data_directory, name), "rb") as file:
                write_durably(os.path.join(unfinished, name), file.read(), 0o600, owner)
        os.rename(unfinished, aside)
        fsync_directory(os.path.dirname(aside))


def bring_config_back(data_directory: str) -> None:
    """Put the configuration that was set aside where it was."""
    aside = data_directory + _ASIDE
    owner = OwnerOf.path(data_directory)
    with _storing(data_directory):
        for name in OWN_FILES:
            path = os.path.join(data_directory, name)
            try:
                with open(os.path.join(aside, name), "rb") as file:
                    write_durably(path, file.read(), 0o600, owner)
            except FileNotFoundError:
                if name == RESTORE_PLAN_FILE:
                    with suppress(FileNotFoundError):
                        os.unlink(path)


def finish(data_directory: str) -> None:
    """The rejoin is complete: what was set aside goes."""
    shutil.rmtree(data_directory + _ASIDE, ignore_errors=True)


# -- the ways ----------------------------------------------------------------------------------------------------


def rewind(programs: Programs, data_directory: str, source_conninfo: str, user: OsUser | None) -> str:
    """``pg_rewind`` with WAL from the archive, its own quarantined WAL included; what it said last.

    Raises ServerUnsuitable with its reason. The directory must not be started then.
    """
    arguments = [
        f"--target-pgdata={data_directory}",
        f"--source-server={source_conninfo}",
        "--restore-target-wal",
        "--progress",
    ]
    ran = run_program(programs, "pg_rewind", arguments, user)
    if ran.status != 0:
        raise ServerUnsuitable(f"could not rewind: {ran.reason}", detail=ran.told.strip() or None)
    lines = [line.strip() for line in ran.told.splitlines() if line.strip()]
    return lines[-1] if lines else "done"


def read_tablespace_mapping(data_directory: str, original: Sequence[tuple[int, str]]) -> dict[str, str]:
    """Original path -> where this directory has that tablespace, for those that lie elsewhere here."""
    found: dict[str, str] = {}
    for oid, path in original:
        with suppress(OSError):
            here = os.readlink(os.path.join(data_directory, "pg_tblspc", str(oid)))
            if here != path:
                found[path] = here
    return found


def swap_in(fresh: str, data_directory: str, clock: Clock) -> str:
    """Put a complete new directory in the place of the old one, which is kept; where it is now."""
    old = f"{data_directory}.old-{clock.now():%Y%m%dT%H%M%SZ}"
    with _storing(data_directory):
        os.rename(data_directory, old)
        try:
            os.rename(fresh, data_directory)
        except OSError:
            os.rename(old, data_directory)
            raise
        fsync_directory(os.path.dirname(os.path.abspath(data_directory)))
    return old


@contextmanager
def _storing(path: str) -> Iterator[None]:
    """Failures of the disk as ours."""
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f'could not write at "{path}": permission denied') from error
    except OSError as error:
        raise StoreUnreachable(f'could not write at "{path}": {error.strerror}') from error


def require_on_line(history: History, timeline: int, stop_lsn: Lsn, label: str) -> None:
    """Raises Refused for a backup that does not lie on the line of the server to be followed."""
    if not history.contains_end(Timeline(timeline), stop_lsn):
        raise Refused(
            f"backup {label} does not lie on the history of timeline {history.timeline}, which is to be followed"
        )
