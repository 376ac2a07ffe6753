"""What a cluster is told to do: switch over, fail over, pause, make a member anew.

The one idea: what would be lost is measured and told before it is, and every act waits until it has come true, by the
word of the members themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from pghaven.clock import Clock
from pghaven.errors import Cancelled, Refused, ServerUnsuitable
from pghaven.ha.etcd import Etcd
from pghaven.ha.rest import RestApi
from pghaven.ha.spec import HaNode, HaSpec
from pghaven.ha.view import OWN_KEY, ClusterView, Member, find_last_position, look
from pghaven.units import render_size, render_time_utc

Result = TypeVar("Result")

_POLL_SECONDS: Final = 0.1
_SWITCH_SECONDS: Final = 120.0
_ELECTION_SECONDS: Final = 20.0
"""More than what is called before a promotion may take."""
_TELL_SECONDS: Final = 90.0
_READ_SECONDS: Final = 15.0
"""Each reads it in its next round, for which it is woken."""
_FOLLOWING: Final = ("running", "streaming", "in archive recovery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """``lost_bytes`` is what was written and is on no promoted node; None when that is not known. ``at_least``: the
    primary may have written and acknowledged more, since it was last heard of."""

    old: str | None
    new: str
    seconds: float
    lost_bytes: int | None = 0
    at_least: bool = False


def render_cost(lost_bytes: int | None, chosen: Member, silent_since_seconds: int | None = None) -> str:
    """What promoting a member may cost, in words. ``silent_since_seconds``: a primary that waited for no standby is
    silent, and so old its last word may have been when it ended."""
    if chosen.written is None:
        return "how much cannot be told, because its server does not say yet how far it has come"
    if lost_bytes is None:
        return "how much cannot be told, because the primary's last position is not known"
    known = f"{render_size(lost_bytes)} of WAL that the primary has written and this node does not have"
    if silent_since_seconds is None:
        return known
    since = f"what the primary wrote after its last word, which it gives every {silent_since_seconds} s"
    return f"{known}, and {since}" if lost_bytes else f"{since}, is not known"


class Acts:
    """Acts on one cluster."""

    def __init__(self, spec: HaSpec, api: RestApi, clock: Clock) -> None:
        self._spec = spec
        self._api = api
        self._clock = clock

    def switch_over(self, target: str | None) -> Switched:
        """Hand the lead to another node without loss. Raises Refused with the reason when that is not possible."""
        view = look(self._spec, self._api)
        leading = view.leading
        if leading is None or leading.silence is not None:
            raise Refused(
                "there is no primary that answers, so nothing can be handed over",
                hint=f"If its host is dead: pghaven ha failover {self._spec.cluster}",
            )
        if target == leading.name:
            raise Refused(f'node "{target}" is the primary already')
        if target is not None:
            self._require_candidate(view, target)
        began = self._clock.monotonic()
        body = {"leader": leading.name, **({} if target is None else {"candidate": target})}
        self._api.tell(self._spec.servers, "POST", "/switchover", body, timeout_seconds=_TELL_SECONDS)
        new = self._await_primary(leading.name)
        if target is not None and new != target:
            raise self._overtaken(new, target)
        return Switched(old=leading.name, new=new, seconds=self._clock.monotonic() - began)

    def fail_over(self, target: str | None, *, accept_loss: bool, primary_is_dead: bool) -> Switched:
        """Promote a node although the primary may have more. Raises Refused, with the bytes."""
        view = look(self._spec, self._api)
        chosen = self._choose(view, target)
        lost = self.measure_loss(view, chosen)
        at_least = self._may_be_more(view, chosen)
        if (lost != 0 or at_least) and not accept_loss:
            cost = render_cost(lost, chosen, self._spec.timing.loop if at_least else None)
            raise Refused(
                f'promoting "{chosen.name}" may lose commits: {cost}',
                hint="If that is accepted: --accept-loss. A switchover loses nothing, where the primary still answers.",
            )
        leading = view.leading
        if primary_is_dead and leading is not None and leading.silence is None:
            raise Refused(
                f'"{leading.name}" is said to be dead, but answers as the primary', hint="Leave the option out."
            )
        began = self._clock.monotonic()
        old = view.leader
        new = None
        if primary_is_dead and old is not None:
            Etcd(self._spec.dcs_hosts, self._spec.cluster).delete("leader")
            new = self._await_elected(old)
        if new is None or (target is not None and new != chosen.name):
            self._order(chosen, new or old)
            new = chosen.name
        seconds = self._clock.monotonic() - began
        return Switched(old=old, new=new, seconds=seconds, lost_bytes=lost, at_least=at_least)

    def _may_be_more(self, view: ClusterView, chosen: Member) -> bool:
        """Whether the primary may have acknowledged what is not counted: it is silent, what it left in etcd is as old
        as its last look, and it waited for no standby that is to lead."""
        leading = view.leading
        is_silent = leading is None or leading.silence is not None
        return is_silent and not (self._spec.durability != "async" and chosen.is_sync)

    def measure_loss(self, view: ClusterView, chosen: Member) -> int | None:
        """Bytes of WAL that the primary is known to have and this member has not."""
        last = find_last_position(self._spec, view)
        return None if last is None or chosen.written is None else max(0, last - chosen.written)

    def pause(self, until: datetime | None) -> None:
        """Have Patroni leave everything as it is; ``until`` is when ``status`` begins to warn."""
        own = None if until is None else {"pause_until": render_time_utc(until)}
        self.change_shared({"pause": True, OWN_KEY: own})

    def resume(self) -> None:
        self.change_shared({"pause": None, OWN_KEY: None})

    def change_shared(self, change: Mapping[str, Any]) -> None:
        """Change the shared configuration, and wait a while until each Patroni that answers has read it: until then
        they tell what it was, and whoever looks next would take it for not changed. Raises ServerUnsuitable, Refused.
        """
        wanted = self._api.tell(self._spec.servers, "PATCH", "/config", change).body
        with suppress(Cancelled):  # it is in etcd in any case
            self._wait(lambda: self._all_have_read(wanted), "the members to read it", _READ_SECONDS)

    def _all_have_read(self, wanted: object) -> bool:
        for node in self._spec.servers:
            with suppress(ServerUnsuitable):
                if self._api.call(node, "GET", "/config").body != wanted:
                    return False
        return True

    def make_independent(self) -> str:
        """Have a cluster that follows another become one of its own; its primary's name."""
        self.change_shared({"standby_cluster": None})
        return self._await_primary(None)

    def make_anew(self, name: str, *, from_leader: bool, timeout_seconds: float) -> float:
        """Fill a member's data directory again and wait until it streams; seconds. Raises Refused for the primary."""
        view, node = look(self._spec, self._api), self._spec.get_server(name)
        if view.leader == name:
            raise Refused(f'node "{name}" is the primary: it is what the others are made from')
        if view.leader is None:
            raise Refused("there is no primary that a member could follow")
        began = self._clock.monotonic()
        self._api.tell([node], "POST", "/reinitialize", {"force": True, "from_leader": from_leader})
        # What it said of itself a moment ago is over.
        self._wait(lambda: self._state_of(node) not in _FOLLOWING, "the member's end", _SWITCH_SECONDS)
        self._wait(lambda: self._streams(name), f'"{name}" to stream', timeout_seconds)
        return self._clock.monotonic() - began

    def await_streaming(self, name: str, timeout_seconds: float) -> bool:
        """Whether a member follows the primary, within this time."""
        try:
            self._wait(lambda: self._streams(name), f'"{name}" to stream', timeout_seconds)
        except Cancelled:
            return False
        return True

    # -- what is true ------------------------------------------------------------------------------------------------

    def _require_candidate(self, view: ClusterView, name: str) -> None:
        node, member = self._spec.get_server(name), view.find(name)
        if not node.may_lead:
            raise Refused(f'node "{name}" is never promoted: it is delayed, or its priority is 0')
        if member is None or member.silence is not None:
            raise Refused(f'node "{name}" does not answer', hint="Does Patroni's service run there?")

    def _choose(self, view: ClusterView, target: str | None) -> Member:
        if target is not None:
            self._require_candidate(view, target)
            found = view.find(target)
            assert found is not None
            return found
        able = [
            one
            for one in view.members
            if one.silence is None and one.name != view.leader and self._spec.get_node(one.name).may_lead
        ]
        if not able:
            raise Refused("no node that may lead answers", hint="Name one with --to, or start Patroni's services.")
        return max(able, key=lambda one: (one.written or 0, self._spec.get_node(one.name).priority))

    def _order(self, chosen: Member, ruling: str | None) -> None:
        """Have a member promoted, whatever the others think, in the place of ``ruling``. That it was elected meanwhile
        is as good; that another one was is told: somebody else has ordered that."""
        try:
            body = {"candidate": chosen.name}
            self._api.tell(self._spec.servers, "POST", "/failover", body, timeout_seconds=_TELL_SECONDS)
        except Refused:
            if not self._leads(self._spec.get_server(chosen.name)):
                raise
        new = self._wait(lambda: self._find_leading(ruling), f'"{chosen.name}" to lead', _SWITCH_SECONDS)
        if new != chosen.name:
            assert new is not None
            raise self._overtaken(new, chosen.name)

    def _overtaken(self, new: str, wanted: str) -> Refused:
        return Refused(
            f'"{new}" became the primary, not "{wanted}": somebody else asked for that at the same time',
            hint=f"If it is still to be {wanted}: pghaven ha switchover {self._spec.cluster} --to {wanted}",
        )

    def _await_elected(self, old: str) -> str | None:
        """Who is elected when a lease ended; None when nobody is.

        With synchronous replication nobody may be elected while Patroni has no member noted as synchronous, which is
        so for a moment after each change of primary: then only an order helps.
        """
        try:
            return self._wait(lambda: self._find_leading(old), "an election", _ELECTION_SECONDS)
        except Cancelled:
            return None

    def _find_leading(self, old: str | None) -> str | None:
        return next((node.name for node in self._spec.servers if node.name != old and self._leads(node)), None)

    def _await_primary(self, old: str | None) -> str:
        found = self._wait(lambda: self._find_leading(old), "another primary", _SWITCH_SECONDS)
        assert found is not None
        return found

    def _leads(self, node: HaNode) -> bool:
        try:
            answer = self._api.call(node, "GET", "/primary")
        except ServerUnsuitable:
            return False
        # It says so as soon as it is told to lead; only a server that has left recovery has a position to write at.
        return answer.status == 200 and "location" in (answer.body.get("xlog") or {})

    def _state_of(self, node: HaNode) -> str:
        """By its own word: what the others know of it is as old as its last round."""
        try:
            body = self._api.call(node, "GET", "/patroni").body
        except ServerUnsuitable:
            return "silent"
        return str(body.get("replication_state") or body.get("state"))

    def _streams(self, name: str) -> bool:
        return self._state_of(self._spec.get_server(name)) in _FOLLOWING[1:]

    def _wait(self, condition: Callable[[], Result], what: str, timeout_seconds: float) -> Result:
        deadline = self._clock.monotonic() + timeout_seconds
        while not (result := condition()):
            if self._clock.monotonic() > deadline:
                raise Cancelled(
                    f"waited {timeout_seconds:g} s in vain for {what}",
                    hint=f"See: pghaven ha status {self._spec.cluster}",
                )
            self._clock.sleep(_POLL_SECONDS)
        return result
