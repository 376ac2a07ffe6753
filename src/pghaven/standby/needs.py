"""What a standby needs of the server it follows, each with its reason; and which slot it is to have.

The one idea: settings are advised as ``init`` advises them, so that they are shown and applied in the same way; what
only an administrator can decide (a stale slot, a role) is told with the statement that does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pghaven.errors import Refused, SlotInUse, UsageError
from pghaven.events import Notice
from pghaven.postgres.settings import SettingAdvice
from pghaven.server.privileges import quote_identifier
from pghaven.standby.upstream import Upstream, UpstreamRole
from pghaven.units import render_size

CARRIED = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)
"""A hot standby does not start, or pauses, with less than its primary had (CheckRequiredParameterValues)."""

_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}")
_COMFORTABLE = 10  # PostgreSQL's own default of both
_KEPT_AT_MOST = "64GB"


class SlotAction(StrEnum):
    CREATE = "create"
    REUSE = "use as it is"
    REPLACE = "make anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    name: str
    action: SlotAction


def plan_settings(upstream: Upstream, slot: SlotPlan | None, senders: int) -> tuple[SettingAdvice, ...]:
    """What should change on the server that is followed, required things first. ``senders`` will be needed at once."""
    return tuple(sorted(_list_advice(upstream, slot, senders), key=lambda one: not one.required))


def _list_advice(upstream: Upstream, slot: SlotPlan | None, senders: int) -> Iterator[SettingAdvice]:
    settings = upstream.server.settings
    if settings.get("wal_level", "") not in {"replica", "logical"}:
        yield _advise(settings, "wal_level", "replica", "WAL must hold all that a standby replays")
    most, wanted = _number(settings, "max_wal_senders"), upstream.sender_count + senders
    if most < wanted:
        reason = f"{upstream.sender_count} are in use, and the standby needs {senders} at once while it is built"
        yield _advise(settings, "max_wal_senders", str(max(wanted, _COMFORTABLE)), reason)
    if slot is not None and slot.action is SlotAction.CREATE:
        most = _number(settings, "max_replication_slots")
        if most <= len(upstream.slots):
            reason = f"{len(upstream.slots)} are in use, and the standby needs one"
            wanted_slots = str(max(len(upstream.slots) + 1, _COMFORTABLE))
            yield _advise(settings, "max_replication_slots", wanted_slots, reason)
    if upstream.server.in_recovery and settings.get("hot_standby") != "on":
        yield _advise(settings, "hot_standby", "on", "a standby serves others only while it accepts connections")
    if not upstream.server.data_checksums and settings.get("wal_log_hints") != "on":
        reason = "without it, or data checksums, a former primary cannot be rewound and is restored instead"
        yield _advise(settings, "wal_log_hints", "on", reason, required=False)
    if settings.get("full_page_writes") == "off":
        reason = "without it a former primary cannot be rewound"
        yield _advise(settings, "full_page_writes", "on", reason, required=False, restart=False)
    if slot is not None and settings.get("max_slot_wal_keep_size") == "-1":
        reason = "a standby that is away would have its slot fill this server's disk; what it misses is in the archive"
        yield _advise(settings, "max_slot_wal_keep_size", _KEPT_AT_MOST, reason, required=False, restart=False)


def _advise(
    settings: Mapping[str, str], name: str, wanted: str, reason: str, *, required: bool = True, restart: bool = True
) -> SettingAdvice:
    return SettingAdvice(
        name=name,
        current=settings.get(name, ""),
        wanted=wanted,
        reason=reason,
        needs_restart=restart,
        required=required,
    )


def _number(settings: Mapping[str, str], name: str) -> int:
    text = settings.get(name, "0")
    return int(text) if text.lstrip("-").isdecimal() else 0


def check_slot_name(name: str) -> None:
    """Raises UsageError."""
    if not _SLOT_NAME.fullmatch(name):
        raise UsageError(
            f'"{name}" cannot be the name of a replication slot',
            hint="It has 1 to 63 lower-case letters, digits and underscores.",
        )


def plan_slot(upstream: Upstream, name: str, *, reuse: bool) -> SlotPlan:
    """What becomes of the slot. Raises SlotInUse, Refused for one that is there and was not offered, UsageError."""
    check_slot_name(name)
    found = upstream.find_slot(name)
    if found is None:
        return SlotPlan(name=name, action=SlotAction.CREATE)
    if not found.is_physical:
        raise Refused(f'"{name}" is a logical replication slot there', hint="Choose another --slot.")
    if found.is_active:
        raise SlotInUse(
            f'replication slot "{name}" is in use by {found.user}', hint="One slot is for one standby: choose another."
        )
    if not reuse:
        kept = "reserves nothing" if found.held_bytes is None else f"keeps {render_size(found.held_bytes)} of WAL"
        state = "it was invalidated" if found.is_lost else f"nobody uses it, and it {kept}"
        raise Refused(
            f'replication slot "{name}" is there already: {state}',
            hint="If it was this standby's, add --reuse-slot; if nobody needs it: "
            f"SELECT pg_drop_replication_slot('{name}')",
        )
    return SlotPlan(name=name, action=SlotAction.REPLACE if found.is_lost else SlotAction.REUSE)


def list_stale_slots(upstream: Upstream, ours: str | None) -> tuple[Notice, ...]:
    """A warning for each slot that nobody uses and that holds up the removal of WAL."""
    return tuple(
        Notice(
            level="warning",
            code="stale_slot",
            text=f'replication slot "{slot.name}" is used by nobody and keeps {render_size(slot.held_bytes)} of WAL',
            hint=f"If its standby is gone: SELECT pg_drop_replication_slot('{slot.name}')",
        )
        for slot in upstream.slots
        if slot.is_physical and not slot.is_active and slot.held_bytes and slot.name != ours
    )


def render_role_statement(name: str, role: UpstreamRole | None) -> str | None:
    """The statement after which a role may stream; None when it may."""
    quoted = quote_identifier(name)
    if role is None:
        return f"CREATE ROLE {quoted} LOGIN REPLICATION"
    missing = [word for word, has in (("LOGIN", role.can_login), ("REPLICATION", role.can_replicate)) if not has]
    return f"ALTER ROLE {quoted} {' '.join(missing)}" if missing else None


def list_too_small(own: Mapping[str, int], upstream: Mapping[str, int]) -> dict[str, int]:
    """Of ``CARRIED`` those which the standby's configuration has smaller than the server it follows, with what is
    needed."""
    return {name: upstream[name] for name in CARRIED if name in own and name in upstream and own[name] < upstream[name]}
