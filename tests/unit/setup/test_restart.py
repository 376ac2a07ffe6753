"""The command that restarts a server, by what looks after it."""

from __future__ import annotations

from pghaven.setup.restart import render_debian, render_pg_ctl, render_restart_command


def test_a_cluster_of_debian_s_is_restarted_by_debian_s_tools() -> None:
    config = "/etc/postgresql/17/main/postgresql.conf"
    assert render_restart_command("/var/lib/postgresql/17/main", config, 17, None) == "pg_ctlcluster 17 main restart"


def test_any_other_is_restarted_by_pg_ctl_with_its_path_quoted() -> None:
    assert render_pg_ctl("/srv/my data", 17, "/nonexistent", "restart") == "pg_ctl -D '/srv/my data' restart"


def test_only_configuration_where_debian_keeps_it_is_debian_s() -> None:
    assert render_debian("/etc/postgresql/17/main/postgresql.conf", "start") == "pg_ctlcluster 17 main start"
    assert render_debian("/srv/etc/postgresql/17/main/postgresql.conf", "start") is None
    assert render_debian("/etc/postgresql/17/main/conf.d/postgresql.conf", "start") is None
