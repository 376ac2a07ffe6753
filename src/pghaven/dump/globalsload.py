"""Loading the roles and tablespaces of a dump, and nothing else.

The one idea: as with any load, what a server has already is never changed, only shown where it differs; so this can be
run again, and on a server in use.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.dump.globals import compare_globals, make_missing
from pghaven.dump.load import OpenDump, tell_globals
from pghaven.dump.programs import Calling
from pghaven.events import Listener
from pghaven.server.connection import connect


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalsResult:
    """Statements, without passwords: those carried out, or that would be, and those that the server has otherwise."""

    label: str
    made: tuple[str, ...]
    other: tuple[str, ...]


def load_globals(
    dump: OpenDump, calling: Calling, reach: tuple[str, str | None], listener: Listener, *, dry_run: bool = False
) -> GlobalsResult:
    """Make the roles and tablespaces of a dump that the server lacks. ``reach``: its connection string, and as whom.
    ``dry_run``: only say which.

    Raises ServerUnsuitable with the statement.
    """
    with calling.ask_globals() as running:
        changes = compare_globals(dump.read_globals(), running.take())
    tell_globals(changes, listener, make=True, dry_run=dry_run)
    conninfo, os_user = reach
    if not dry_run:
        with connect(conninfo, os_user=os_user) as connection:
            make_missing(connection, changes)
    return GlobalsResult(
        label=dump.label,
        made=tuple(str(one) for one in changes if one.is_missing),
        other=tuple(str(one) for one in changes if not one.is_missing),
    )
