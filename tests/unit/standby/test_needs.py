"""What a refusal means, and what a standby's settings say."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from pghaven.errors import UsageError
from pghaven.standby.access import Obstacle, judge_refusal, render_hba_line
from pghaven.standby.needs import CARRIED, check_slot_name, list_too_small
from pghaven.standby.settings import StandbySettings, render_primary_conninfo, render_settings


@pytest.mark.parametrize(
    ("text", "obstacle"),
    [
        ('FATAL:  role "repl" does not exist', Obstacle.NO_ROLE),
        ("FATAL:  must be superuser or replication role to start walsender", Obstacle.NO_ATTRIBUTE),
        ("FATAL:  permission denied to start WAL sender", Obstacle.NO_ATTRIBUTE),
        ('FATAL:  role "repl" is not permitted to log in', Obstacle.NO_ATTRIBUTE),
        ('no pg_hba.conf entry for replication connection from host "10.0.0.2", user "repl"', Obstacle.NO_ENTRY),
        ('pg_hba.conf rejects replication connection for host "10.0.0.2"', Obstacle.NO_ENTRY),
        ("fe_sendauth: no password supplied", Obstacle.NOT_PROVEN),
        ('password authentication failed for user "repl"', Obstacle.NOT_PROVEN),
        ('number of requested standby connections exceeds "max_wal_senders" (currently 2)', Obstacle.NO_ROOM),
        ("connection refused", Obstacle.UNREACHABLE),
    ],
)
def test_a_servers_words_name_what_is_in_the_way(text: str, obstacle: Obstacle) -> None:
    assert judge_refusal(text, text).obstacle is obstacle


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ("[local]", 'local  replication  "re pl"  scram-sha-256'),
        ("10.0.0.2", 'host  replication  "re pl"  10.0.0.2/32  scram-sha-256'),
        ("fe80::1", 'host  replication  "re pl"  fe80::1/128  scram-sha-256'),
    ],
)
def test_the_line_lets_in_that_address_and_no_other(host: str, line: str) -> None:
    assert render_hba_line(host, "re pl") == line


def test_the_standbys_connection_has_no_password_and_leaves_nothing_to_the_environment() -> None:
    text = render_primary_conninfo(
        "user=postgres dbname=shop sslmode=require password=secret",
        "/run/postgresql",
        5433,
        role="repl",
        application_name="it's one",
        passfile="/etc/pass",
    )
    assert conninfo_to_dict(text) == {
        "host": "/run/postgresql",
        "port": "5433",
        "sslmode": "require",
        "user": "repl",
        "application_name": "it's one",
        "passfile": "/etc/pass",
    }


def test_what_a_restore_switches_off_a_standby_is_given_again() -> None:
    settings = dict(
        render_settings(
            StandbySettings(
                cluster="main",
                restore_command="get %f %p",
                primary_conninfo="host=db1",
                slot="one",
                delay_seconds=14400,
                more={"max_connections": "200"},
            )
        )
    )
    assert settings["recovery_min_apply_delay"] == "14400000ms"
    assert settings["recovery_target_timeline"] == "latest"
    assert settings["primary_slot_name"] == "one"
    assert settings["max_connections"] == "200"
    assert settings["archive_cleanup_command"] == ""


def test_only_what_is_smaller_than_on_the_upstream_is_raised() -> None:
    own = dict.fromkeys(CARRIED, 10) | {"max_connections": 20}
    assert list_too_small(own, dict.fromkeys(CARRIED, 15)) == {
        name: 15 for name in CARRIED if name != "max_connections"
    }


@pytest.mark.parametrize("name", ["", "Upper", "with-dash", "x" * 64, "ä"])
def test_a_name_that_no_slot_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_slot_name(name)
