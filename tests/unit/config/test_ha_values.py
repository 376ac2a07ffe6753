"""The description of a cluster under Patroni: what is refused, and in which words."""

from __future__ import annotations

import pytest

from pghaven.config.loading import parse_config
from pghaven.config.values import Config
from pghaven.errors import ConfigError

HEAD = '[repository.main]\nurl = "file:///backup"\n[cluster.shop]\ndata_directory = "/data"\n'
HA = '[cluster.shop.ha]\nsecrets = "/etc/s.toml"\n'
NODE = '[[cluster.shop.ha.node]]\nname = "{}"\naddress = "{}"\n'
TWO = NODE.format("db1", "10.0.0.1") + NODE.format("db2", "10.0.0.2")


def read(text: str, **environment: str) -> Config:
    return parse_config(HEAD + text, "/etc/pghaven.toml", environment)


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return "\n".join(caught.value.problems)


def test_nodes_are_read_in_their_order() -> None:
    ha = read(HA + TWO + "port = 5433\n").clusters["shop"].ha
    assert [(node.name, node.address, node.port) for node in ha.node] == [
        ("db1", "10.0.0.1", 5432),
        ("db2", "10.0.0.2", 5433),
    ]
    assert ha.durability == "quorum"


def test_a_cluster_without_nodes_is_none_of_patronis() -> None:
    assert not read("").clusters["shop"].ha.is_configured


def test_an_option_of_a_node_is_overridden_by_its_number() -> None:
    config = read(HA + TWO, PGHAVEN_CLUSTER__SHOP__HA__NODE__2__PORT="6000")
    assert [node.port for node in config.clusters["shop"].ha.node] == [5432, 6000]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            HA + 'failover_after = "10s"\n' + TWO,
            ':7: [cluster.shop.ha]: "failover_after" is 10 s, but',
        ),
        (HA + 'check_every = "9s"\n' + TWO, '"check_every" is 9 s, but three of it must fit into'),
        (HA + NODE.format("db1", "a") + NODE.format("db1", "b"), 'two nodes have the name "db1"'),
        (
            HA + NODE.format("a-1", "a") + NODE.format("a_1", "b"),
            'the nodes "a-1" and "a_1" would have one replication',
        ),
        (HA + NODE.format("db1", "a") + NODE.format("db2", "a"), 'port 5432 of a is given to "db1" and to "db2"'),
        (HA + NODE.format("DB 1", "a"), '"name" in [cluster.shop.ha.node.1] must be 1 to 63 lower-case letters'),
        (HA + NODE.format("db1", "a") + "priority = 0\n", "no node may lead"),
        (
            HA + NODE.format("db1", "a") + "prot = 1\n",
            'unknown option "prot" in [cluster.shop.ha.node.1]',
        ),
        (HA + "[cluster.shop.ha.node]\n", '"node" must be written as [[cluster.shop.ha.node]]'),
        (TWO, 'needs "secrets"'),
        (HA + 'durability = "two"\n' + TWO, "must be one of async, sync, quorum, strict"),
        (HA + 'follow = "shpo"\n' + TWO, 'names "shpo", but there is no other [cluster.shpo]'),
        (HA + 'parameters = ["work_mem"]\n' + TWO, 'has "work_mem", which is not written as "name = value"'),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(text: str, said: str) -> None:
    assert said in problems(text)
