"""The data directory a WAL command runs for: whose it is, and whether it may archive.

The one idea: PostgreSQL runs its commands in the data directory, so the current directory is the first authority on
which server is asking; the configured directory counts only for commands that people run elsewhere.
"""

from __future__ import annotations

import json
import os
import struct

from pghaven.errors import NotPermitted, Refused, StoreUnreachable
from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.runtime.durable import OwnerOf, write_durably

_CONTROL_FILE = "global/pg_control"
_STANDBY_SIGNAL = "standby.signal"
# pg_control.h: after the system identifier and two version numbers; shut down, shutting down, in production.
_STATE_OFFSET = 16
_STATES_OF_PRIMARIES = (1, 3, 6)


def find_data_directory(configured: str | None, current: str = ".") -> str | None:
    """The current directory if it is a data directory, else the configured one if that is; None for neither."""
    for directory in (current, configured):
        if directory is not None and any(
            os.path.lexists(os.path.join(directory, name)) for name in (_CONTROL_FILE, RESTORE_PLAN_FILE)
        ):
            return directory
    return None


def read_system_identifier(directory: str) -> int | None:
    """The identifier of the cluster in a data directory; None when it has no control file.

    Only the first field of ``global/pg_control`` is read (pg_control.h keeps it first in all versions): it never
    changes, while the rest may be half written when a running server updates it.
    """
    path = os.path.join(directory, _CONTROL_FILE)
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise NotPermitted(f'could not read "{path}": permission denied') from error
    except OSError as error:
        raise StoreUnreachable(f'could not read "{path}": {error.strerror}') from error
    if len(head) < 8:
        return None
    (identifier,) = struct.unpack("<Q", head)
    return int(identifier)


def is_standby(directory: str) -> bool:
    """Whether the server there runs as a standby, by the file that decides it. A standby waits for WAL for ever; in
    any other recovery the end of the archive is the end of recovery."""
    return os.path.lexists(os.path.join(directory, _STANDBY_SIGNAL))


def ran_as_primary(directory: str) -> bool:
    """Whether the server there runs as a primary, or did last, by its control file: a file that makes a standby of it
    may have been written since, for its next start. False where there is none."""
    try:
        with open(os.path.join(directory, _CONTROL_FILE), "rb") as file:
            head = file.read(_STATE_OFFSET + 4)
    except OSError:
        return False
    if len(head) < _STATE_OFFSET + 4:
        return False
    (state,) = struct.unpack_from("<I", head, _STATE_OFFSET)
    return state in _STATES_OF_PRIMARIES


def refuse_restored_copy(directory: str, cluster: str | None = None) -> None:
    """Raises Refused if the directory was restored and nobody has allowed it to archive, or only as another cluster
    than ``cluster``.

    A copy has its source's system identifier and goes on with its timelines, so nothing else would keep it from
    writing into its source's archive.
    """
    path = os.path.join(directory, RESTORE_PLAN_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            plan = json.load(file)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _refused(directory, f"{path} cannot be read ({error})") from error
    if not isinstance(plan, dict) or plan.get("archiving") != "allowed":
        raise _refused(directory, f'{path} does not say "archiving": "allowed"')
    only = plan.get("archives_as")
    if cluster is not None and only is not None and only != cluster:
        raise Refused(
            f'the server in "{os.path.abspath(directory)}" is a copy that archives as "{only}", not as "{cluster}"',
            hint="Its archive_command names the wrong cluster: the archive is its source's.",
        )


def make_archive_of_its_own(directory: str, cluster: str) -> None:
    """Have a restored directory archive as this cluster, and as no other. Raises OSError, ValueError."""
    path = os.path.join(directory, RESTORE_PLAN_FILE)
    with open(path, encoding="utf-8") as file:
        plan = {**json.load(file), "archiving": "allowed", "archives_as": cluster}
    write_durably(path, f"{json.dumps(plan, indent=2)}\n".encode(), 0o600, OwnerOf.path(directory))


def _refused(directory: str, reason: str) -> Refused:
    return Refused(
        f'the server in "{os.path.abspath(directory)}" is a restored copy and may not archive: {reason}',
        hint="If it takes the place of the server it was restored from, make sure that one never runs again and write "
        f'"archiving": "allowed" in {RESTORE_PLAN_FILE} there. A copy for tests runs with archive_mode = off.',
    )
