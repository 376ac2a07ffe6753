"""The faults: each is begun, lasts until something is seen or a time is over, and is ended.

The one idea: a fault knows what it may cost. Whether a commit may be lost, or two nodes may acknowledge for an instant,
is part of what it is, and the checker holds the cluster to it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import clocks
from tests.chaos.members import LOOP, TTL, Cluster, Member
from tests.chaos.network import cut_from
from tests.support.waiting import wait_until

TAKEOVER_SECONDS = TTL + 4 * LOOP + 15.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``act`` does all of it, and leaves the cluster to heal by itself. ``loses`` and ``overlaps`` are what it may do
    where durability does not forbid it."""

    name: str
    act: Callable[[Cluster, random.Random], None]
    loses: bool = True
    loses_always: bool = False
    overlaps: bool = False
    seconds: float = 0.0
    """How long it holds at least."""
    of_clocks: bool = False


def _leader(cluster: Cluster) -> Member:
    found: list[Member] = []

    def find() -> bool:
        leader = cluster.find_leader()
        if leader is not None:
            found.append(leader)
        return bool(found)

    wait_until(find, "a leader", 60)
    return found[-1]


def _await_takeover(cluster: Cluster, former: Member, seconds: float = TAKEOVER_SECONDS) -> None:
    """Until another one is primary."""
    others = [one for one in cluster.members if one is not former]
    wait_until(lambda: any(one.ask("/primary")[0] == 200 for one in others), f"a successor of {former.name}", seconds)


def _hold(seconds: float) -> None:
    import threading

    threading.Event().wait(seconds)


def _others(cluster: Cluster, member: Member) -> list[Member]:
    return [one for one in cluster.members if one is not member]


# -- kills -------------------------------------------------------------------------------------------------------------


def kill_primary(cluster: Cluster, draw: random.Random) -> None:
    """The whole host, at once; half of the times its lease is ended too, as a fencing device would."""
    leader = _leader(cluster)
    leader.kill()
    if draw.random() < 0.5:
        cluster.drop_leader_key()
    _await_takeover(cluster, leader)
    leader.start()


def kill_replica(cluster: Cluster, draw: random.Random) -> None:
    replica = draw.choice(cluster.list_replicas())
    replica.kill()
    _hold(3)
    replica.start()


def kill_patroni(cluster: Cluster, draw: random.Random) -> None:
    """Patroni alone: its primary goes on, and becomes a zombie when another one is promoted."""
    leader = _leader(cluster)
    assert leader.process is not None
    pid = leader.process.pid
    os.kill(pid, signal.SIGKILL)
    leader.process.wait()
    _await_takeover(cluster, leader)
    _hold(3)
    leader.start()


def kill_postgres(cluster: Cluster, draw: random.Random) -> None:
    """The postmaster alone; Patroni starts it again where it was."""
    leader = _leader(cluster)
    with (leader.data_directory / "postmaster.pid").open() as file:
        os.kill(int(file.readline()), signal.SIGKILL)
    _hold(2)


def wipe_replica(cluster: Cluster, draw: random.Random) -> None:
    """Its disk is lost; it is built again from the repository."""
    replica = draw.choice(cluster.list_replicas())
    replica.kill()
    replica.wipe()
    replica.start()


# -- freezes -----------------------------------------------------------------------------------------------------------


def freeze_primary(cluster: Cluster, draw: random.Random) -> None:
    leader = _leader(cluster)
    leader.signal_all(signal.SIGSTOP)
    try:
        _await_takeover(cluster, leader)
        _hold(2)
    finally:
        leader.signal_all(signal.SIGCONT)


def freeze_replica(cluster: Cluster, draw: random.Random) -> None:
    replica = draw.choice(cluster.list_replicas())
    replica.signal_all(signal.SIGSTOP)
    _hold(8)
    replica.signal_all(signal.SIGCONT)


# -- partitions --------------------------------------------------------------------------------------------------------


def cut_primary(cluster: Cluster, draw: random.Random) -> None:
    """From the other nodes and from etcd."""
    leader = _leader(cluster)
    leader.host.cut(cut_from([*(one.host for one in _others(cluster, leader)), cluster.etcd_host]))
    try:
        _await_takeover(cluster, leader)
    finally:
        leader.host.heal()


def cut_one_way(cluster: Cluster, draw: random.Random) -> None:
    """The primary hears everybody and nobody hears it, or the other way round."""
    leader = _leader(cluster)
    hosts = [*(one.host for one in _others(cluster, leader)), cluster.etcd_host]
    incoming = draw.random() < 0.5
    leader.host.cut(cut_from(hosts, incoming=incoming, outgoing=not incoming))
    try:
        _await_takeover(cluster, leader)
    finally:
        leader.host.heal()


def cut_dcs(cluster: Cluster, draw: random.Random) -> None:
    """The primary from etcd alone; replication goes on."""
    leader = _leader(cluster)
    leader.host.cut(cut_from([cluster.etcd_host]))
    try:
        _await_takeover(cluster, leader)
    finally:
        leader.host.heal()


def cut_replication(cluster: Cluster, draw: random.Random) -> None:
    """The primary's SQL port for the other nodes; etcd and Patroni's own connections stay."""
    leader = _leader(cluster)
    _cut_replication(cluster, leader)
    try:
        _hold(10)
    finally:
        leader.host.heal()


def _cut_replication(cluster: Cluster, leader: Member) -> None:
    hosts = [one.host for one in _others(cluster, leader)]
    leader.host.cut(
        [
            *cut_from(hosts, tcp="tcp dport 5432", outgoing=False),
            *cut_from(hosts, tcp="tcp sport 5432", incoming=False),
        ]
    )


def cancel_waits(cluster: Cluster, draw: random.Random) -> None:
    """No standby answers, clients lose patience and cancel commits that wait for one, and then the primary is lost:
    shortly enough for Patroni not to have taken the standby for gone."""
    leader = _leader(cluster)
    _cut_replication(cluster, leader)
    try:
        for _ in range(8):
            leader.value("SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            _hold(0.3)
        leader.kill()
    finally:
        leader.host.heal()
    cluster.drop_leader_key()
    _await_takeover(cluster, leader)
    leader.start()


def cut_replica(cluster: Cluster, draw: random.Random) -> None:
    replica = draw.choice(cluster.list_replicas())
    others = [*(one.host for one in _others(cluster, replica)), cluster.etcd_host]
    replica.host.cut(cut_from(others))
    try:
        _hold(10)
    finally:
        replica.host.heal()


def lose_etcd(cluster: Cluster, draw: random.Random) -> None:
    """Longer than the lease: the primary steps down, and comes back with etcd."""
    cluster.stop_etcd()
    try:
        _hold(draw.choice((4, TTL + 4)))
    finally:
        cluster.start_etcd()


# -- disks and the repository ------------------------------------------------------------------------------------------


def fill_disk(cluster: Cluster, draw: random.Random) -> None:
    """The primary's: PostgreSQL stops itself, since it cannot write WAL; room comes back later."""
    leader = _leader(cluster)
    filler = leader.place / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True, check=False)
    try:
        _hold(15)
    finally:
        filler.unlink(missing_ok=True)


def lose_repository(cluster: Cluster, draw: random.Random) -> None:
    """It cannot be reached, much is written, and then the primary goes, with the only archiver that knew of it."""
    leader = _leader(cluster)
    away = cluster.repository_directory.with_name("repository-away")
    cluster.repository_directory.rename(away)
    try:
        for _ in range(4):
            leader.value("SELECT pg_switch_wal()::text")
            _hold(1)
        if is_dead := draw.random() < 0.7:
            leader.kill()
            cluster.drop_leader_key()
            _await_takeover(cluster, leader)
    finally:
        away.rename(cluster.repository_directory)
    if is_dead:
        leader.start()


# -- people ------------------------------------------------------------------------------------------------------------


def switch_over(cluster: Cluster, draw: random.Random) -> None:
    import json
    import urllib.error
    import urllib.request

    leader = _leader(cluster)
    wanted = {"leader": leader.name}
    if cluster.durability == "async":  # else only a synchronous one may be it, and that changes
        wanted["candidate"] = draw.choice(_others(cluster, leader)).name
    body = json.dumps(wanted).encode()
    request = urllib.request.Request(
        f"http://{leader.host.address}:8008/switchover", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60):
            pass
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(f"switchover: {error.read().decode()}") from None


def promote_by_hand(cluster: Cluster, draw: random.Random) -> None:
    """Somebody promotes a standby behind Patroni's back."""
    replica = draw.choice(cluster.list_replicas())
    replica.value("SELECT pg_promote()")
    _hold(3)


# -- clocks ------------------------------------------------------------------------------------------------------------


def jump_primary(cluster: Cluster, draw: random.Random) -> None:
    """An hour ahead or back, for a moment or for longer than a lease; a backup of it is taken meanwhile. Half of the
    times it is lost then: its successor's clock is right, and it comes back with a wrong one."""
    leader = _leader(cluster)
    _give_clock(cluster, leader)
    leader = _leader(cluster)
    _give_clock(cluster, leader)
    seconds = draw.choice((clocks.HOUR, -clocks.HOUR))
    leader.set_clock(seconds)
    try:
        _hold(draw.choice((3, TTL + 5)))
        cluster.wait_healthy(TAKEOVER_SECONDS)
        cluster.run_on(leader, "backup", "main", "--quiet")
        if draw.random() < 0.5:
            leader = _leader(cluster)
            leader.kill()
            cluster.drop_leader_key()
            _await_takeover(cluster, leader)
            leader.start()
            cluster.wait_healthy(4 * TAKEOVER_SECONDS)
    finally:
        for member in cluster.members:
            if member.clock_environment:
                member.set_clock(0)
    cluster.await_turns()


def jump_replica(cluster: Cluster, draw: random.Random) -> None:
    """The same of a standby, which then takes over half of the times."""
    replica = draw.choice(cluster.list_replicas())
    _give_clock(cluster, replica)
    replica.set_clock(draw.choice((clocks.HOUR, -clocks.HOUR)))
    try:
        _hold(draw.choice((3, TTL + 5)))
        cluster.wait_healthy(TAKEOVER_SECONDS)
        cluster.run_on(replica, "backup", "main", "--quiet")
        if draw.random() < 0.5:
            switch_over(cluster, draw)
            cluster.wait_healthy(4 * TAKEOVER_SECONDS)
    finally:
        replica.set_clock(0)
    cluster.await_turns()


def _give_clock(cluster: Cluster, member: Member) -> None:
    """Its programs are started anew, with a clock that can be set; that is over before its lease is."""
    if member.clock_environment:
        return
    member.make_clock()
    member.kill()
    member.start()
    cluster.wait_healthy(4 * TAKEOVER_SECONDS)


LEASE_SECONDS = TTL + LOOP + 2.0

FAULTS = (
    Fault(name="kill the primary's host", act=kill_primary, seconds=1),
    Fault(name="kill a replica's host", act=kill_replica, loses=False),
    Fault(name="kill Patroni alone", act=kill_patroni, overlaps=True, seconds=LEASE_SECONDS + 20),
    Fault(name="kill the postmaster", act=kill_postgres, seconds=LEASE_SECONDS),
    Fault(name="lose a replica's disk", act=wipe_replica, loses=False),
    Fault(name="freeze the primary's host", act=freeze_primary, overlaps=True, seconds=2 * TAKEOVER_SECONDS),
    Fault(name="freeze a replica's host", act=freeze_replica, loses=False),
    Fault(name="cut the primary off", act=cut_primary, seconds=LEASE_SECONDS),
    Fault(name="cut one way", act=cut_one_way, seconds=LEASE_SECONDS),
    Fault(name="cut the primary from etcd", act=cut_dcs, seconds=LEASE_SECONDS),
    Fault(name="cut replication", act=cut_replication, loses=False),
    Fault(name="cut a replica off", act=cut_replica, loses=False),
    Fault(name="lose etcd", act=lose_etcd, loses=False),
    Fault(name="fill the primary's disk", act=fill_disk, seconds=LEASE_SECONDS),
    Fault(name="lose the repository, then the primary", act=lose_repository, seconds=LEASE_SECONDS + 10),
    Fault(name="switch over", act=switch_over, loses=False),
    Fault(name="cancel commits that wait, then lose the primary", act=cancel_waits, seconds=LEASE_SECONDS),
    Fault(name="the primary's clock jumps", act=jump_primary, seconds=4 * LEASE_SECONDS, of_clocks=True),
    Fault(name="a replica's clock jumps", act=jump_replica, seconds=4 * LEASE_SECONDS, of_clocks=True),
    Fault(name="promote a standby by hand", act=promote_by_hand, loses_always=True, overlaps=True, seconds=60),
)


def list_faults() -> tuple[Fault, ...]:
    """Those that can be played on this machine."""
    return FAULTS if clocks.find_obstacle() is None else tuple(fault for fault in FAULTS if not fault.of_clocks)
