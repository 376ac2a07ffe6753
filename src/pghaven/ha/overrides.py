"""What ``ALTER SYSTEM`` has set on one server and goes before what the configuration says.

The one idea: ``postgresql.auto.conf`` is read after all that Patroni writes, so an old line in it keeps a setting from
ever becoming what is configured, on this node alone and without a word. What Patroni gives on the command line wins
over it, and is nobody's concern here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pghaven.ha.dynamic import is_same
from pghaven.server.connection import Connection, server_errors
from pghaven.server.privileges import quote_identifier
from pghaven.server.settings_apply import reload_configuration

_WRITTEN = """SELECT f.name, f.setting FROM pg_file_settings f JOIN pg_settings s ON s.name = f.name
    WHERE f.sourcefile LIKE '%/postgresql.auto.conf' AND s.source = 'configuration file' ORDER BY f.name"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """``found`` stands in ``postgresql.auto.conf``, where ``wanted`` is configured."""

    name: str
    found: str
    wanted: str


def find_overrides(connection: Connection, wanted: Mapping[str, str]) -> tuple[Override, ...]:
    """Raises NotPermitted, ServerUnsuitable."""
    with server_errors(connection, "read postgresql.auto.conf", privilege="the attribute SUPERUSER"):
        written = connection.execute(_WRITTEN.encode()).fetchall()
    return tuple(
        Override(name=str(name), found=str(value), wanted=wanted[name])
        for name, value in written
        if name in wanted and not is_same(value, wanted[name])
    )


def reset_overrides(connection: Connection, overrides: Sequence[Override]) -> None:
    """Have the configured values hold. Raises NotPermitted, ServerUnsuitable."""
    for one in overrides:
        with server_errors(connection, f"take {one.name} out of postgresql.auto.conf"):
            connection.execute(f"ALTER SYSTEM RESET {quote_identifier(one.name)}".encode())
    if overrides:
        reload_configuration(connection)
