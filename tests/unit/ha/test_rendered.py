"""What a description becomes, as values and text."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from pghaven.ha.dynamic import find_drift, render_dynamic
from pghaven.ha.patroni_file import describe_patroni, render_hba
from pghaven.ha.services import render_etcd_command, render_patroni_unit, render_proxy_file
from pghaven.ha.spec import (
    Followed,
    HaNode,
    HaSpec,
    LocalPlaces,
    Secrets,
    derive_timing,
    parse_parameters,
    render_mask,
)
from pghaven.ha.yamltext import render_yaml

NODES = (
    HaNode(name="db1", address="10.0.0.1"),
    HaNode(name="db2", address="10.0.0.2", delay_seconds=3600.0),
    HaNode(name="vote", address="fd00::3", witness=True),
)
SPEC = HaSpec(cluster="shop", nodes=NODES, timing=derive_timing(20.0, None))
PLACES = LocalPlaces(
    directory="/etc/pghaven/ha/shop",
    unit_directory="/etc/systemd/system",
    data_directory="/srv/data",
    bin_directory="/usr/lib/postgresql/17/bin",
    major=17,
    socket_directory="/run/postgresql",
    secrets=Secrets(superuser="s", replication="r", rest="a"),
    service_user="postgres",
    program=("pghaven",),
    engine=("/opt/pghaven/bin/patroni",),
    config_path="/etc/pghaven/pghaven.toml",
    archive_command="push %p",
    restore_command="get %f %p",
)


@pytest.mark.parametrize("seconds", [20, 21, 28, 30, 40, 60, 300])
def test_the_times_fit_into_the_lease(seconds: float) -> None:
    timing = derive_timing(seconds, None)
    assert timing.ttl == seconds
    assert timing.loop + 2 * timing.retry <= timing.ttl


@pytest.mark.parametrize(
    ("durability", "mode", "strict"),
    [("async", False, False), ("sync", True, False), ("quorum", "quorum", False), ("strict", True, True)],
)
def test_each_durability_is_a_mode_of_patroni(durability: str, mode: object, strict: bool) -> None:
    shared = render_dynamic(replace(SPEC, durability=durability), PLACES)  # type: ignore[arg-type]
    assert (shared["synchronous_mode"], shared["synchronous_mode_strict"]) == (mode, strict)


def test_a_delayed_node_is_never_promoted_or_synchronous_or_read() -> None:
    described = describe_patroni(SPEC, NODES[1], PLACES)
    assert described["tags"] == {"nofailover": True, "nosync": True, "noloadbalance": True}
    postgresql = described["postgresql"]
    assert isinstance(postgresql, dict)
    assert postgresql["recovery_conf"]["recovery_min_apply_delay"] == "3600s"
    assert "db2" not in render_proxy_file(SPEC, NODES[0]).partition("listen standbys")[2]


def test_patroni_is_started_when_the_etcd_of_its_own_host_answers() -> None:
    unit = render_patroni_unit(SPEC, NODES[0], PLACES)
    (order,) = [line for line in unit.splitlines() if line.startswith("After=")]
    assert order.split()[-1] == "pghaven-etcd-shop-db1.service"
    elsewhere = render_patroni_unit(replace(SPEC, dcs=("10.0.0.9:2379",)), NODES[0], PLACES)
    assert "pghaven-etcd" not in elsewhere


def test_no_promotion_waits_for_wal_summaries_unless_somebody_wants_them() -> None:
    def find(spec: HaSpec, places: LocalPlaces) -> object:
        postgresql = describe_patroni(spec, NODES[0], places)["postgresql"]
        assert isinstance(postgresql, dict)
        return postgresql["parameters"].get("summarize_wal")

    assert find(SPEC, PLACES) == "off"
    assert find(replace(SPEC, parameters={"summarize_wal": "on"}), PLACES) is None
    assert find(SPEC, replace(PLACES, major=16)) is None


def test_a_second_site_calls_its_hooks_by_its_own_name_and_fetches_from_the_one_it_follows() -> None:
    described = describe_patroni(replace(SPEC, followed=Followed(cluster="main")), NODES[0], PLACES)
    postgresql = described["postgresql"]
    assert isinstance(postgresql, dict)
    assert " replica shop " in postgresql["pghaven"]["command"]


def test_a_hook_that_cannot_run_does_not_hold_up_a_promotion() -> None:
    postgresql = describe_patroni(SPEC, NODES[0], PLACES)["postgresql"]
    assert isinstance(postgresql, dict)
    assert postgresql["pre_promote"].startswith("/bin/sh -c 'timeout -k 1 15 pghaven ")
    assert postgresql["pre_promote"].endswith("|| true'")


def test_a_witness_has_no_server_and_votes() -> None:
    assert [node.name for node in SPEC.servers] == ["db1", "db2"]
    words = render_etcd_command(SPEC, NODES[2], "/var/lib/etcd")
    assert "db1=http://10.0.0.1:2380,db2=http://10.0.0.2:2380,vote=http://[fd00::3]:2380" in words
    assert not [line for line in render_hba(SPEC) if "fd00" in line]


def test_the_unit_keeps_misleading_passwords_from_patroni() -> None:
    unit = render_patroni_unit(SPEC, NODES[0], PLACES)
    (unset,) = [line.partition("=")[2].split() for line in unit.splitlines() if line.startswith("UnsetEnvironment=")]
    read = {option.envvar.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar}
    assert read - set(unset) == set()  # all that libpq reads
    assert "ExecStart=/opt/pghaven/bin/patroni /etc/pghaven/ha/shop/db1/patroni.yml" in unit


def test_the_server_of_a_patroni_that_hung_and_was_killed_is_stopped() -> None:
    unit = render_patroni_unit(SPEC, NODES[0], PLACES)
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStopPost=")]
    # The variable is the shell's, not the unit's.
    assert line.startswith('ExecStopPost=-/bin/sh -c "[ \\"$$SERVICE_RESULT\\" != timeout ] || exec ')
    assert line.endswith(f'/pg_ctl stop -D {PLACES.data_directory} -m fast -t 100"')


def test_a_second_site_is_made_and_fed_from_the_repository_alone() -> None:
    shared = render_dynamic(replace(SPEC, followed=Followed(cluster="main", delay_seconds=60.0)), PLACES)
    assert shared["standby_cluster"] == {
        "create_replica_methods": ["pghaven"],
        "restore_command": "get %f %p",
        "recovery_min_apply_delay": "60s",
    }


def test_drift_is_what_differs_and_not_how_it_is_written() -> None:
    wanted = {"ttl": 20, "postgresql": {"parameters": {"archive_timeout": "60s", "wal_log_hints": "on"}}, "x": 1}
    found = {"ttl": 30, "postgresql": {"parameters": {"archive_timeout": "1min", "wal_log_hints": True}}, "y": 2}
    assert [(one.path, one.found, one.wanted) for one in find_drift(wanted, found)] == [("ttl", 30, 20), ("x", None, 1)]


def test_yaml_keeps_texts_texts() -> None:
    text = render_yaml({"a": "yes", "b": ["1", 2, True], "on": {"x:y": 'q"\\'}, "empty": {}, "none": []})
    assert text == 'a: "yes"\nb:\n  - "1"\n  - 2\n  - true\n"on":\n  "x:y": "q\\"\\\\"\nempty: {}\nnone: []\n'


def test_parameters_are_read_as_postgresql_writes_them() -> None:
    assert parse_parameters(("a = 4GB", "b='it''s'", "c =  on ")) == {"a": "4GB", "b": "it's", "c": "on"}


def test_an_address_is_masked_by_its_kind() -> None:
    assert [render_mask(one) for one in ("10.0.0.1", "fd00::3", "db1.example")] == [
        "10.0.0.1/32",
        "fd00::3/128",
        "db1.example",
    ]


def test_the_bound_of_a_takeover_is_what_the_guide_says() -> None:
    for check, bounds in ((None, (37, 50)), (2.0, (32, 40))):
        timing = derive_timing(20.0, check)
        assert (timing.takeover_seconds, timing.takeover_of_cut_off_seconds) == bounds
