"""What all members of a cluster share: the configuration that Patroni keeps in etcd.

The one idea: Patroni reads it from a node's file once, when the cluster is made, and never again. So it is compared
with what is wanted each time, and changed where it is kept; what we do not set there is nobody's mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pghaven.ha.spec import HaSpec, LocalPlaces

# Servers that the network cut off must be given up before clients are: the default of 60 s blocks commits that long.
_REPLICATION_TIMEOUT = "15s"
# How soon a standby looks again for somebody to follow: until one does, no commit that waits for it ends. A second
# site polls an archive, and has time.
_LOOK_AGAIN, _POLL_ARCHIVE = "2s", "5s"
_SWITCHES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
_UNITS = {
    "b": 1,
    "kb": 1 << 10,
    "mb": 1 << 20,
    "gb": 1 << 30,
    "tb": 1 << 40,
    "us": 0.000001,
    "ms": 0.001,
    "s": 1,
    "min": 60,
    "h": 3600,
    "d": 86400,
}
_QUANTITY = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A value in etcd that is not the wanted one. ``path`` is written with dots; ``found`` None: not there."""

    path: str
    found: object
    wanted: object


def render_dynamic(spec: HaSpec, places: LocalPlaces) -> dict[str, object]:
    """The shared configuration, as Patroni's ``PATCH /config`` takes it. Pure."""
    timing = spec.timing
    mode: object = {"async": False, "sync": True, "quorum": "quorum", "strict": True}[spec.durability]
    shared: dict[str, object] = {
        "ttl": timing.ttl,
        "loop_wait": timing.loop,
        "retry_timeout": timing.retry,
        "maximum_lag_on_failover": spec.max_lag_on_failover,
        "check_timeline": True,
        "failsafe_mode": spec.survive_dcs_loss,
        "synchronous_mode": mode,
        "synchronous_mode_strict": spec.durability == "strict",
        "synchronous_node_count": spec.synchronous_nodes,
        "member_slots_ttl": "30min",
        "primary_start_timeout": 60,
        "postgresql": {
            "use_pg_rewind": True,
            "use_slots": True,
            "parameters": {
                "wal_level": "replica",
                "hot_standby": "on",
                "wal_log_hints": "on",
                "archive_mode": "on",
                "archive_timeout": "60s",
                "wal_sender_timeout": _REPLICATION_TIMEOUT,
                "wal_receiver_timeout": _REPLICATION_TIMEOUT,
                "tcp_user_timeout": _REPLICATION_TIMEOUT,
                "max_slot_wal_keep_size": "64GB",
                "wal_retrieve_retry_interval": _LOOK_AGAIN if spec.followed is None else _POLL_ARCHIVE,
                **spec.parameters,
            },
        },
    }
    if spec.followed is not None:
        shared["standby_cluster"] = _render_followed(spec, places)
    return shared


def merge(theirs: Mapping[str, object], ours: Mapping[str, object]) -> dict[str, object]:
    """A shared configuration in which ours is set, and what it does not speak of is as it was. Pure."""
    merged = dict(theirs)
    for key, value in ours.items():
        there = theirs.get(key)
        merged[key] = merge(there, value) if isinstance(value, Mapping) and isinstance(there, Mapping) else value
    return merged


def list_parameters(shared: Mapping[str, object]) -> dict[str, str]:
    """The servers' settings in a shared configuration. Pure."""
    postgresql = shared.get("postgresql")
    found = postgresql.get("parameters") if isinstance(postgresql, Mapping) else None
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, Mapping) else {}


def _render_followed(spec: HaSpec, places: LocalPlaces) -> dict[str, object]:
    assert spec.followed is not None
    followed: dict[str, object] = {
        "create_replica_methods": ["pghaven"],
        "restore_command": places.restore_command,
    }
    if spec.followed.delay_seconds is not None:
        followed["recovery_min_apply_delay"] = f"{spec.followed.delay_seconds:g}s"
    return followed


def find_drift(wanted: Mapping[str, object], found: Mapping[str, object]) -> tuple[Drift, ...]:
    """Where the shared configuration differs from what is wanted, in the order of ``wanted``. Pure."""
    return tuple(_compare("", wanted, found))


def _compare(path: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> Iterator[Drift]:
    for key, value in wanted.items():
        there, place = found.get(key), f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _compare(f"{place}.", value, there if isinstance(there, Mapping) else {})
        elif not is_same(there, value):
            yield Drift(path=place, found=there, wanted=value)


def is_same(found: object, wanted: object) -> bool:
    """Whether two writings of a value mean the same. Pure."""
    return found == wanted or (found is not None and _normal(found) == _normal(wanted))


def _normal(value: object) -> object:
    """A setting without the accidents of its writing: 15s and 15000ms, on and true."""
    if isinstance(value, bool) or value is None:
        return value
    text = str(value).strip().lower()
    if text in _SWITCHES:
        return _SWITCHES[text]
    match = _QUANTITY.fullmatch(text)
    if match and match[2] in _UNITS:
        return round(float(match[1]) * _UNITS[match[2]], 6)
    try:
        return float(text)
    except ValueError:
        return text
