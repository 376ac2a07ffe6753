"""Carrying out advice on server settings: ALTER SYSTEM and a reload, then a look at what became of it.

The one idea: a setting that was written is not yet one that is in force. Some wait for a restart, some are overridden
by the command line or a role; the result says which, by the server's own account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import NotPermitted, ServerUnsuitable
from pghaven.postgres.settings import SettingAdvice
from pghaven.server.connection import Connection, fetch_one, server_errors
from pghaven.server.privileges import render_setting_grant

_RELOAD = "EXECUTE ON FUNCTION pg_catalog.pg_reload_conf()"
_RELOAD_SECONDS = 10.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class OverriddenSetting:
    """A setting whose written value something else wins over: ``source`` as in ``pg_settings.source``."""

    name: str
    source: str
    place: str | None
    """The file and line that win, where a file does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedSettings:
    """Every name is in exactly one of the three."""

    in_force: tuple[str, ...]
    needs_restart: tuple[str, ...]
    overridden: tuple[OverriddenSetting, ...]


def apply_settings(
    connection: Connection, advice: Sequence[SettingAdvice], *, clock: Clock = SYSTEM_CLOCK
) -> AppliedSettings:
    """Write each wanted value into ``postgresql.auto.conf``, reload, and report what is in force.

    Values are checked by the server as they are written; the ones before a refused one stay written, and doing it again
    is harmless. Raises NotPermitted with the GRANT needed, ServerUnsuitable with the server's reason.
    """
    for item in advice:
        _write(connection, item)
    if advice:
        reload_configuration(connection, clock)
    return _look(connection, [item.name for item in advice])


def _write(connection: Connection, item: SettingAdvice) -> None:
    statement = sql.SQL("ALTER SYSTEM SET {} = {}").format(
        sql.Identifier(*item.name.split(".")), sql.Literal(item.wanted)
    )
    doing = f'set "{item.name}" to "{item.wanted}"'
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        role = connection.info.user
        raise NotPermitted(
            f'role "{role}" may not {doing}: {error.diag.message_primary}',
            hint=f"As a superuser, run: {render_setting_grant(role, item.name)}",
        ) from error
    except psycopg.Error as error:
        raise ServerUnsuitable(
            f"could not {doing}: {error.diag.message_primary or error}",
            detail=error.diag.message_detail,
            hint=error.diag.message_hint,
        ) from error


def reload_configuration(connection: Connection, clock: Clock = SYSTEM_CLOCK) -> None:
    """Reload, and wait until this session has read the files again; it does so between two statements.

    Raises NotPermitted with the GRANT needed, ServerUnsuitable when it does not."""
    with server_errors(connection, "reload the server's configuration", privilege=_RELOAD):
        (before,) = fetch_one(connection, "SELECT pg_conf_load_time()")
        fetch_one(connection, "SELECT pg_reload_conf()")
        deadline = clock.monotonic() + _RELOAD_SECONDS
        while fetch_one(connection, "SELECT pg_conf_load_time()") == (before,):
            if clock.monotonic() > deadline:
                raise ServerUnsuitable(
                    f"the server did not read its configuration again within {_RELOAD_SECONDS:g} s",
                    hint="An error in a configuration file makes it keep the old one; see pg_file_settings.",
                )
            clock.sleep(_POLL_SECONDS)


def _look(connection: Connection, names: Sequence[str]) -> AppliedSettings:
    with server_errors(connection, "read the settings back", privilege="pg_monitor"):
        rows = connection.execute(
            "SELECT name, pending_restart, source, sourcefile, sourceline,"
            " coalesce(sourcefile = current_setting('data_directory') || '/postgresql.auto.conf', false)"
            " FROM pg_settings WHERE name = ANY(%s)",
            (list(names),),
        ).fetchall()
    pending = {name for name, is_pending, *_ in rows if is_pending}
    overridden = tuple(_overridden(row) for row in rows if row[0] not in pending and not row[5])
    lost = {setting.name for setting in overridden}
    return AppliedSettings(
        in_force=tuple(name for name in names if name not in pending | lost),
        needs_restart=tuple(name for name in names if name in pending),
        overridden=overridden,
    )


def _overridden(row: tuple[Any, ...]) -> OverriddenSetting:
    name, _, source, file, line, _ = row
    return OverriddenSetting(name=name, source=source, place=f"{file}:{line}" if file else None)
