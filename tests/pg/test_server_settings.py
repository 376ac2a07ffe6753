"""Applying settings, and what becomes of them."""

from __future__ import annotations

import re

import pytest

from pghaven.errors import NotPermitted, ServerUnsuitable
from pghaven.postgres.settings import SettingAdvice, plan_settings
from pghaven.server.connection import connect
from pghaven.server.privileges import render_setup_sql
from pghaven.server.probe import probe_server
from pghaven.server.settings_apply import apply_settings
from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory


def advise(name: str, wanted: str) -> SettingAdvice:
    return SettingAdvice(name=name, current="", wanted=wanted, reason="", needs_restart=False, required=True)


def test_planned_settings_are_in_force_after_a_restart(pg_version: int, pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo) as connection:
        facts = probe_server(connection)
        plan = plan_settings(facts.settings, "pghaven 'wal' push %p", facts.major)
        result = apply_settings(connection, plan)
        assert set(result.needs_restart) == {item.name for item in plan if item.needs_restart}
        assert set(result.in_force) == {item.name for item in plan if not item.needs_restart}
        assert "archive_mode" in result.needs_restart
        assert result.overridden == ()
        assert probe_server(connection).pending_restart == result.needs_restart
    pg_cluster.restart()
    with connect(pg_cluster.conninfo) as connection:
        facts = probe_server(connection)
        assert facts.settings["archive_command"] == "pghaven 'wal' push %p"
        # The server of a test runs without fsync, which is on its list of advice and now changed.
        assert plan_settings(facts.settings, "pghaven 'wal' push %p", facts.major) == ()


def test_setting_of_the_command_line_is_reported_as_overriding(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(start=False)
    cluster.start({"archive_timeout": "7"})
    with connect(cluster.conninfo) as connection:
        result = apply_settings(connection, [advise("archive_timeout", "60s"), advise("work_mem", "5MB")])
    assert result.in_force == ("work_mem",)
    assert [(lost.name, lost.source) for lost in result.overridden] == [("archive_timeout", "command line")]


def test_value_the_server_refuses_is_an_error_with_its_reason(pg_cluster: TestCluster) -> None:
    with (
        connect(pg_cluster.conninfo) as connection,
        pytest.raises(ServerUnsuitable, match='could not set "wal_level" to "high": invalid value'),
    ):
        apply_settings(connection, [advise("wal_level", "high")])


def test_configuration_that_cannot_be_read_is_an_error(pg_cluster: TestCluster) -> None:
    pg_cluster.append_conf("nonsense without sense = = 1")
    from pghaven.clock import ManualClock

    with (
        connect(pg_cluster.conninfo) as connection,
        pytest.raises(ServerUnsuitable, match="did not read its configuration"),
    ):
        apply_settings(connection, [advise("work_mem", "5MB")], clock=ManualClock())


def test_nothing_to_do_is_done(pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo) as connection:
        assert apply_settings(connection, []).in_force == ()


def test_role_can_be_allowed_just_these_settings(pg_version: int, pg_cluster: TestCluster) -> None:
    pg_cluster.sql("CREATE ROLE poor LOGIN; GRANT pg_monitor TO poor")
    with connect(f"{pg_cluster.conninfo} user=poor") as connection:
        with pytest.raises(NotPermitted) as caught:
            apply_settings(connection, [advise("archive_command", "true")])
        statement = re.search("GRANT .*", caught.value.hint or "")
        assert statement is not None
        pg_cluster.sql(statement[0])
        with pytest.raises(NotPermitted, match="reload") as caught:
            apply_settings(connection, [advise("archive_command", "true")])
        pg_cluster.sql(render_setup_sql("poor", ("archive_command", "archive_mode")))
        assert apply_settings(connection, [advise("archive_command", "true")]).in_force == ("archive_command",)
        assert apply_settings(connection, [advise("archive_mode", "on")]).needs_restart == ("archive_mode",)
