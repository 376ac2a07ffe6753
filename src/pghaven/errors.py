"""Every error pghaven raises on purpose: its stable code, its exit status, and a hint for the reader.

The one idea: an error's class says what the caller or the shell may conclude from it, its message says what was
wrong and where (PostgreSQL's style: one line, lower case, no full stop), its hint names something to do.
Anything else that escapes is a bug in pghaven and ends with exit status 1.

    PghavenError
    ├── UsageError              2   wrong usage
    │   └── ConfigError         2   wrong configuration; carries every problem found
    ├── NotFound               10
    │   ├── Ambiguous          10   the beginning of a label is that of several
    │   └── ObjectMissing      10   a named object is proven absent from a store that answered
    ├── Locked                 11   another process is at it
    ├── Refused                12   a safety rule says no
    │   ├── ObjectExists       12   a name is taken (put-if-absent found it)
    │   ├── Busy               12   somebody has a file system or a file open
    │   └── Conflict           12   two clusters, or two servers of one, write to one place
    ├── NotPermitted           13
    ├── StoreUnreachable       14   includes a full or failing disk
    │   ├── StoreFull          14   there is no room for what was to be stored
    │   └── TargetFailed       14   the disk that a restore writes to, and no repository
    ├── ServerUnsuitable       15   server unreachable, too old, wrongly set up
    │   ├── SlotLost           15   a replication slot is gone or reserves nothing any more
    │   ├── SlotInUse          15   another receiver has it
    │   └── WalRemoved         15   the server no longer has the WAL that was asked for
    ├── Damaged                16   stored data is not what was stored
    ├── CheckFailed            17
    └── Cancelled              18   interrupted or out of time
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_WARNINGS = 3

# What ``wal get`` ends with on anything but success or proven absence. PostgreSQL takes 1..125 from
# restore_command as "end of archive" and promotes; above 125 it stops recovery (RestoreArchivedFile in
# src/backend/access/transam/xlogarchive.c).
EXIT_STOP_RECOVERY = 255


class PghavenError(Exception):
    """Base of all errors raised on purpose; ``str()`` is the one-line message."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = EXIT_BUG

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries: worker processes raise them, the coordinator reports them.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[PghavenError], args: tuple[object, ...], state: dict[str, object]) -> PghavenError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(PghavenError):
    code = "usage"
    exit_status = 2


class ConfigError(UsageError):
    """Wrong configuration. ``problems`` lists every one found, each a full line with its place."""

    code = "config"

    def __init__(self, message: str, problems: Sequence[str] = (), *, hint: str | None = None) -> None:
        super().__init__(message, detail="\n".join(problems) or None, hint=hint)
        self.problems = tuple(problems)


class NotFound(PghavenError):
    code = "not_found"
    exit_status = 10


class Ambiguous(NotFound):
    """There is more than one that a name could mean, so that to look elsewhere would be to guess."""

    code = "ambiguous"


class ObjectMissing(NotFound):
    """The store answered that there is no object of this name: a positive proof of absence."""

    code = "object_missing"


class Locked(PghavenError):
    code = "locked"
    exit_status = 11


class Refused(PghavenError):
    code = "refused"
    exit_status = 12


class ObjectExists(Refused):
    """Put-if-absent found the name taken; the caller compares the contents."""

    code = "object_exists"


class Conflict(Refused):
    """Another cluster's archive, or other contents under a file's name: to go on would tear one history in two."""

    code = "conflict"


class Busy(Refused):
    """Somebody has it open, or had until just now."""

    code = "busy"


class NotPermitted(PghavenError):
    code = "not_permitted"
    exit_status = 13


class StoreUnreachable(PghavenError):
    code = "store_unreachable"
    exit_status = 14


class StoreFull(StoreUnreachable):
    """The store answers, and has no room left: whoever removes something from it helps."""

    code = "store_full"


class TargetFailed(StoreUnreachable):
    """What a restore writes to is full or fails; another repository would not help."""

    code = "target_failed"


class ServerUnsuitable(PghavenError):
    code = "server_unsuitable"
    exit_status = 15


class SlotLost(ServerUnsuitable):
    """A replication slot is gone, or was invalidated: it reserves nothing any more."""

    code = "slot_lost"


class SlotInUse(ServerUnsuitable):
    """Another receiver has the replication slot."""

    code = "slot_in_use"


class WalRemoved(ServerUnsuitable):
    """The server no longer has the WAL that was asked for."""

    code = "wal_removed"


class Damaged(PghavenError):
    code = "damaged"
    exit_status = 16


class CheckFailed(PghavenError):
    code = "check_failed"
    exit_status = 17


class Cancelled(PghavenError):
    code = "cancelled"
    exit_status = 18
