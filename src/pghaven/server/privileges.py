"""The privileges pghaven needs inside PostgreSQL, and the SQL that gives them.

The one idea: the role needs no superuser. Everything it must be able to do is in this one list, from which both the
role's definition and the hint of every "permission denied" come.
"""

from __future__ import annotations

from typing import Final

# What the role may do, in the order of its definition: what is granted, and what for.
LEAST_PRIVILEGES: Final = {
    "pg_monitor": "read settings, file locations and statistics",
    "pg_checkpoint": "ask for a checkpoint",
    "EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean)": "begin a backup",
    "EXECUTE ON FUNCTION pg_catalog.pg_backup_stop(boolean)": "end a backup",
    "EXECUTE ON FUNCTION pg_catalog.pg_switch_wal()": "finish a WAL segment early",
    "EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text)": "name a moment to restore to",
}


def quote_identifier(name: str) -> str:
    """A name as SQL wants it, always quoted."""
    return '"' + name.replace('"', '""') + '"'


def render_least_privilege_sql(role: str) -> str:
    """The statements, run once by a superuser in the database that pghaven connects to, that make the role.

    Functions are granted per database: connect to the one in the cluster's ``conninfo``. Setting the server up
    (``init --apply``) is not among the privileges; see ``render_setup_sql``.
    """
    name = quote_identifier(role)
    lines = [f"CREATE ROLE {name} LOGIN;"]
    lines += [f"GRANT {privilege} TO {name};  -- {purpose}" for privilege, purpose in LEAST_PRIVILEGES.items()]
    return "\n".join(lines) + "\n"


def render_setup_sql(role: str, settings: tuple[str, ...]) -> str:
    """The statements that let the role change exactly these settings itself. They may be revoked afterwards."""
    name = quote_identifier(role)
    lines = [render_setting_grant(role, setting) + ";" for setting in settings]
    lines.append(f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO {name};")
    return "\n".join(lines) + "\n"


def render_setting_grant(role: str, setting: str) -> str:
    """The statement that lets the role change one setting (PostgreSQL 15 and later), without a semicolon."""
    return f"GRANT ALTER SYSTEM ON PARAMETER {quote_identifier(setting)} TO {quote_identifier(role)}"


def render_grant(role: str, privilege: str) -> str:
    """One privilege of ``LEAST_PRIVILEGES`` (or one like them) for a role, without a semicolon."""
    return f"GRANT {privilege} TO {quote_identifier(role)}"
