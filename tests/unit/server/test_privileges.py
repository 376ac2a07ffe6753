"""The SQL that makes the role."""

from __future__ import annotations

from pghaven.server.privileges import quote_identifier, render_least_privilege_sql, render_setup_sql


def test_role_is_made_and_granted_what_it_needs() -> None:
    lines = render_least_privilege_sql("pghaven").splitlines()
    assert lines[0] == 'CREATE ROLE "pghaven" LOGIN;'
    granted = [line.partition(" TO ")[0] for line in lines[1:]]
    assert granted == [
        "GRANT pg_monitor",
        "GRANT pg_checkpoint",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean)",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_stop(boolean)",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal()",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text)",
    ]
    assert not any("superuser" in line.lower() for line in lines)


def test_setup_allows_exactly_the_settings_named() -> None:
    assert render_setup_sql("r", ("archive_command",)).splitlines() == [
        'GRANT ALTER SYSTEM ON PARAMETER "archive_command" TO "r";',
        'GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO "r";',
    ]


def test_names_cannot_leave_their_quotes() -> None:
    assert quote_identifier('a" SUPERUSER; --') == '"a"" SUPERUSER; --"'
