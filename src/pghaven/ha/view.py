"""A cluster as it is: what each member says of itself, and what they say of one another.

The one idea: every node is asked by itself, so that one that is cut off shows as that, and not as gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pghaven.errors import PghavenError, ServerUnsuitable
from pghaven.ha.etcd import Etcd
from pghaven.ha.rest import RestApi
from pghaven.ha.spec import HaNode, HaSpec
from pghaven.units import parse_time_utc

LEADING: Final = ("leader", "standby_leader", "primary", "master")
OWN_KEY: Final = "pghaven"
"""What Patroni's shared configuration holds of ours; Patroni passes over names it does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """``role`` and ``state`` are Patroni's words; ``written`` is the position the server has written or received,
    ``replayed`` what it has applied. ``silence`` says why the node does not answer, if it does not."""

    name: str
    role: str = "unknown"
    state: str = "unknown"
    timeline: int | None = None
    written: int | None = None
    replayed: int | None = None
    version: str | None = None
    is_sync: bool = False
    pending_restart: bool = False
    silence: str | None = None

    @property
    def leads(self) -> bool:
        return self.role in LEADING


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """``leader`` is None when nobody holds the lease. ``paused_until`` is what ``ha pause --for`` has promised.
    ``dcs_is_silent``: the members answer and etcd does not; each is then seen by its own word alone."""

    members: tuple[Member, ...]
    leader: str | None
    paused: bool
    paused_until: datetime | None
    config: Mapping[str, Any] | None
    dcs_is_silent: bool = False

    def find(self, name: str) -> Member | None:
        return next((one for one in self.members if one.name == name), None)

    @property
    def leading(self) -> Member | None:
        return None if self.leader is None else self.find(self.leader)

    def lag_bytes(self, member: Member) -> int | None:
        """How far a standby's own WAL is behind what the primary has written; None when that is not known."""
        leading = self.leading
        if leading is None or leading.written is None or member.written is None:
            return None
        return max(0, leading.written - member.written)


def look(spec: HaSpec, api: RestApi, *, without_dcs: bool = False) -> ClusterView:
    """Ask every node. Raises ServerUnsuitable when none answers, and, unless ``without_dcs``, when etcd does not: what
    is to be done needs it."""
    try:
        cluster = api.ask(spec.servers, "/cluster")
    except ServerUnsuitable:
        # Patroni gives no answer to this one while it cannot ask etcd.
        members = tuple(_ask_member(node, api, {}) for node in spec.servers)
        if all(one.silence is not None for one in members):
            raise
        if without_dcs:
            return _look_at(members)
        raise ServerUnsuitable(
            "Patroni answers, and knows nothing of its cluster: etcd does not answer",
            hint=f"Start etcd; which of its members are silent: pghaven ha check {spec.cluster}",
        ) from None
    known = {one.get("name"): one for one in cluster.get("members", [])}
    leader = next((str(name) for name, one in known.items() if one.get("role") in LEADING), None)
    # The primary last: what the others lack of it is then never told as less than it was.
    order = sorted(spec.servers, key=lambda node: node.name == leader)
    found = {node.name: _ask_member(node, api, known.get(node.name, {})) for node in order}
    members = tuple(found[node.name] for node in spec.servers)
    try:
        config: dict[str, Any] | None = api.ask(spec.servers, "/config")
    except ServerUnsuitable:
        config = None
    own = (config or {}).get(OWN_KEY) or {}
    return ClusterView(
        members=members,
        leader=leader,
        paused=bool(cluster.get("pause")),
        paused_until=_find_time(own.get("pause_until")),
        config=config,
    )


def _look_at(members: tuple[Member, ...]) -> ClusterView:
    leading = [one.name for one in members if one.leads]
    leader = leading[0] if len(leading) == 1 else None
    return ClusterView(members=members, leader=leader, paused=False, paused_until=None, config=None, dcs_is_silent=True)


def _ask_member(node: HaNode, api: RestApi, known: Mapping[str, Any]) -> Member:
    try:
        body = api.call(node, "GET", "/patroni").body
    except ServerUnsuitable as error:
        role, state = str(known.get("role", "unknown")), "silent"
        return Member(name=node.name, role=role, state=state, silence=error.message)
    xlog = body.get("xlog") or {}
    written = xlog.get("location") or xlog.get("received_location") or xlog.get("replayed_location")
    if (xlog.get("received_location") or 0) < (xlog.get("replayed_location") or 0):
        written = xlog.get("replayed_location")
    return Member(
        name=node.name,
        role=str(known.get("role") or body.get("role", "unknown")),
        state=str(known.get("state") or body.get("replication_state") or body.get("state", "unknown")),
        timeline=body.get("timeline"),
        written=written,
        replayed=xlog.get("location") or xlog.get("replayed_location"),
        version=(body.get("patroni") or {}).get("version"),
        is_sync=known.get("role") in ("sync_standby", "quorum_standby"),
        pending_restart=bool(body.get("pending_restart")),
    )


def find_last_position(spec: HaSpec, view: ClusterView) -> int | None:
    """The position of the primary that was last known: from itself, else from what it last left in etcd."""
    leading = view.leading
    if leading is not None and leading.written is not None:
        return leading.written
    try:
        import json

        status = Etcd(spec.dcs_hosts, spec.cluster).get("status")
        return None if status is None else int(json.loads(status)["optime"])
    except (PghavenError, ValueError, KeyError, TypeError):
        return None


def _find_time(text: object) -> datetime | None:
    try:
        return parse_time_utc(text) if isinstance(text, str) else None
    except ValueError:
        return None
