"""Which of the privileges that pghaven needs a role lacks.

The one idea: every role may ask what it may do, so this works, and answers with the statements that help, even for a
role that may do nothing else.
"""

from __future__ import annotations

from typing import Final

from pghaven.server.connection import Connection, server_errors
from pghaven.server.privileges import LEAST_PRIVILEGES

_FUNCTION: Final = "EXECUTE ON FUNCTION "
_MONITOR: Final = "pg_monitor"
# What pg_monitor is needed for here; a role may have been given just these.
_MONITOR_PARTS: Final = ("pg_read_all_settings", "pg_read_all_stats")


def list_missing_privileges(connection: Connection) -> tuple[str, ...]:
    """Those of ``LEAST_PRIVILEGES`` that the session's role lacks, in its order. Raises ServerUnsuitable."""
    return tuple(privilege for privilege in LEAST_PRIVILEGES if not _has(connection, privilege))


def _has(connection: Connection, privilege: str) -> bool:
    with server_errors(connection, "ask for the role's privileges"):
        if privilege.startswith(_FUNCTION):
            function = privilege.removeprefix(_FUNCTION)
            row = connection.execute("SELECT has_function_privilege(%s, 'EXECUTE')", (function,)).fetchone()
            return bool(row and row[0])
        if _has_role(connection, privilege):
            return True
        return privilege == _MONITOR and all(_has_role(connection, part) for part in _MONITOR_PARTS)


def _has_role(connection: Connection, name: str) -> bool:
    row = connection.execute("SELECT pg_has_role(%s, 'USAGE')", (name,)).fetchone()
    return bool(row and row[0])
