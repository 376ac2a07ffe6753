"""Which backups stay and which go: the rules of retention, and the reasons they give. Pure.

The one idea: every rule names what it keeps, a backup is dropped only if no rule names it, and holds and protections
come on top without changing what the rules count. So a wrong rule keeps too much, never too little.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from pghaven.repository.entry import BackupState
from pghaven.retention.facts import DatedBackup, KnownBackup, KnownLineage, date_backups
from pghaven.retention.periods import Period, find_newest_of_periods
from pghaven.retention.window import find_bases
from pghaven.units import render_time

CLOCK_TOLERANCE: Final = timedelta(days=1)
"""How far in the future a backup may seem to be: clocks of two hosts differ, but not by that much."""


class Rule(StrEnum):
    """What made a verdict. The values are what ``--json`` shows."""

    WINDOW = "window"
    WINDOW_BASE = "window-base"
    UNKNOWN_PATH = "unknown-path"
    COUNT = "count"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    LAST = "last"
    LAST_SOUND = "last-sound"
    LAST_VERIFIED = "last-verified"
    NO_WAL = "no-wal"
    HELD = "held"
    MISDATED = "misdated"
    FUTURE = "future"
    UNDECIDED = "undecided"
    NO_POLICY = "no-policy"
    CLOCK = "clock"
    EXPIRED = "expired"
    RETIRED = "retired"


# Kept so that one can go on from it to any later moment; the others are kept for their own sake.
_LEADING: Final = {Rule.WINDOW, Rule.WINDOW_BASE, Rule.UNKNOWN_PATH, Rule.COUNT}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What is kept: the union of what the rules say. A rule that is None says nothing; without any, nothing expires.

    ``grace`` is how long a retired backup can still be brought back.
    """

    window: timedelta | None = None
    count: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    grace: timedelta = timedelta(hours=24)

    @property
    def periods(self) -> tuple[tuple[Period, int], ...]:
        numbers = (self.daily, self.weekly, self.monthly, self.yearly)
        return tuple((period, number) for period, number in zip(Period, numbers, strict=True) if number is not None)

    @property
    def is_empty(self) -> bool:
        return self.window is None and self.count is None and not self.periods


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """``text`` goes on after "kept: " or "dropped: "."""

    rule: Rule
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of one backup. ``reasons`` is never empty.

    ``leads_on``: all WAL from its start on is wanted, so that it can be restored to any later moment. Of others only
    the WAL between start and stop is.
    """

    backup: KnownBackup
    system_identifier: int
    moment: datetime
    is_kept: bool
    leads_on: bool
    reasons: tuple[Reason, ...]

    @property
    def words(self) -> str:
        return "; ".join(reason.text for reason in self.reasons)

    def __str__(self) -> str:
        return ("kept: " if self.is_kept else "dropped: ") + self.words


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPlan:
    """A verdict for every backup, oldest first. ``refusal`` is why nothing at all is dropped, None if things may be."""

    policy: RetentionPolicy
    now: datetime
    verdicts: tuple[Verdict, ...]
    refusal: Reason | None

    @property
    def kept(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.is_kept)

    @property
    def to_retire(self) -> tuple[Verdict, ...]:
        """What is dropped by this plan and not only since an earlier one."""
        return tuple(v for v in self.verdicts if not v.is_kept and v.backup.state is BackupState.COMMITTED)


Named = Iterator[tuple[str, Reason]]


def plan_retention(policy: RetentionPolicy, lineages: Sequence[KnownLineage], *, now: datetime) -> RetentionPlan:
    """Judge every backup. ``lineages`` in the order they were registered, labels unique among all of them."""
    dated = date_backups(lineages)
    committed = [one for one in dated if one.backup.state is BackupState.COMMITTED]
    refusal = _find_refusal(policy, dated, now)
    reasons: dict[str, list[Reason]] = {one.backup.label: [] for one in dated}
    leading: set[str] = set()
    for label, reason in _apply_rules(policy, lineages, dated, now):
        reasons[label].append(reason)
        if reason.rule in _LEADING:
            leading.add(label)
    for lineage in lineages:
        ours = [one.backup for one in committed if one.system_identifier == lineage.system_identifier]
        for label, reason in _protect(ours):
            if reason.rule is not Rule.LAST_VERIFIED:
                leading.add(label)
            if not reasons[label]:
                reasons[label].append(reason)
    for label, reason in _spare(dated, refusal, now):
        reasons[label].append(reason)
    return RetentionPlan(
        policy=policy,
        now=now,
        verdicts=tuple(_judge(one, reasons[one.backup.label], leading, policy) for one in dated),
        refusal=refusal,
    )


def _find_refusal(policy: RetentionPolicy, dated: Sequence[DatedBackup], now: datetime) -> Reason | None:
    if policy.is_empty:
        return Reason(rule=Rule.NO_POLICY, text="no retention policy is configured")
    newest = max(dated, key=lambda one: one.moment, default=None)
    if newest is not None and newest.moment > now + CLOCK_TOLERANCE:
        text = (
            f'backup "{newest.backup.label}" was taken at {render_time(newest.moment)}, but the clock here says '
            f"{render_time(now)}: one of them is wrong"
        )
        return Reason(rule=Rule.CLOCK, text=text)
    return None


def _apply_rules(
    policy: RetentionPolicy,
    lineages: Sequence[KnownLineage],
    dated: Sequence[DatedBackup],
    now: datetime,
) -> Named:
    """What the policy's own rules keep, held or not. What has no certain date takes no part in them."""
    judged = [
        one for one in dated if one.backup.state is BackupState.COMMITTED and one.follows is None and one.moment <= now
    ]
    if policy.window is not None:
        for lineage in lineages:
            yield from _apply_window(policy.window, lineage, dated, judged, now - policy.window)
    named: set[tuple[str, Rule]] = set()
    for label, reason in apply_numbers(policy, judged):
        named.add((label, reason.rule))
        yield label, reason
    # What lacks WAL may get it back, so it goes no sooner for that; but it takes no other one's place.
    restorable = [one for one in judged if one.backup.missing_wal is None]
    for label, reason in apply_numbers(policy, restorable):
        if (label, reason.rule) not in named:
            yield label, replace(reason, text=f"{reason.text}, among those with all their WAL")


def apply_numbers(policy: RetentionPolicy, judged: Sequence[DatedBackup]) -> Named:
    """What the policy's numbers keep of these, which are oldest first."""
    if policy.count is not None:
        for number, one in enumerate(reversed(judged[-policy.count :]), start=1):
            yield one.backup.label, Reason(rule=Rule.COUNT, text=_count_words(number, policy.count))
    for period, wanted in policy.periods:
        chosen = find_newest_of_periods(judged, period, wanted)
        for number, (name, one) in enumerate(chosen, start=1):
            text = f"newest of {name} ({period.value} {number} of {wanted})"
            yield one.backup.label, Reason(rule=Rule(period.value), text=text)


def _apply_window(
    window: timedelta,
    lineage: KnownLineage,
    dated: Sequence[DatedBackup],
    judged: Sequence[DatedBackup],
    begin: datetime,
) -> Named:
    name = render_window(window)
    ours = [one for one in dated if one.system_identifier == lineage.system_identifier]
    choice = [one for one in judged if one.system_identifier == lineage.system_identifier]
    for one in choice:
        if one.moment > begin:
            yield one.backup.label, Reason(rule=Rule.WINDOW, text=f"within the {name} window")
    named: set[str] = set()
    for base in find_bases(lineage, choice, dated=ours, begin=begin):
        label = base.backup.backup.label
        if label in named:
            continue
        named.add(label)
        if base.is_guess:
            yield label, Reason(rule=Rule.UNKNOWN_PATH, text=base.words)
        else:
            yield label, Reason(rule=Rule.WINDOW_BASE, text=f"base of the {name} window{base.words}")


def _count_words(number: int, count: int) -> str:
    return "the newest" if count == 1 else f"number {number} of the {count} newest"


def _protect(committed: Sequence[KnownBackup]) -> Named:
    """What of a lineage's committed backups, oldest first, no policy may take."""
    if not committed:
        return
    newest = committed[-1]
    yield newest.label, Reason(rule=Rule.LAST, text="the last backup of this lineage")
    sound = next((one for one in reversed(committed) if one.flaw is None), newest)
    if sound is not newest:
        text = "the last backup of this lineage in which nothing bad is known"
        yield sound.label, Reason(rule=Rule.LAST_SOUND, text=text)
    verified = next((one for one in reversed(committed) if one.verified), newest)
    if verified is not newest:
        text = "the last backup of this lineage that was verified"
        yield verified.label, Reason(rule=Rule.LAST_VERIFIED, text=text)


def _spare(dated: Iterable[DatedBackup], refusal: Reason | None, now: datetime) -> Named:
    """What is kept whatever the policy says."""
    for one in dated:
        backup = one.backup
        if backup.held is not None:
            yield backup.label, Reason(rule=Rule.HELD, text=f"held {backup.held}")
        if backup.state is BackupState.UNDECIDED:
            yield backup.label, Reason(rule=Rule.UNDECIDED, text="not finished yet")
        elif backup.state is BackupState.COMMITTED:
            if one.follows is not None:
                text = (
                    f"dated {render_time(one.moment)}, but in the WAL it comes after one of {render_time(one.follows)}"
                )
                yield backup.label, Reason(rule=Rule.MISDATED, text=text)
            if one.moment > now:
                text = f"dated {render_time(one.moment)}, which is still to come: it stands for no other backup"
                yield backup.label, Reason(rule=Rule.FUTURE, text=text)
            if refusal is not None:
                yield backup.label, refusal


def _judge(one: DatedBackup, reasons: Sequence[Reason], leading: set[str], policy: RetentionPolicy) -> Verdict:
    backup = one.backup
    why = list(reasons) or [_why_dropped(backup, policy)]
    if backup.missing_wal is not None:
        text = f"WAL segment {backup.missing_wal}, which it needs, is missing: it stands for no other backup"
        why.append(Reason(rule=Rule.NO_WAL, text=text))
    return Verdict(
        backup=backup,
        system_identifier=one.system_identifier,
        moment=one.moment,
        is_kept=bool(reasons),
        leads_on=backup.label in leading,
        reasons=tuple(why),
    )


def _why_dropped(backup: KnownBackup, policy: RetentionPolicy) -> Reason:
    if backup.state is BackupState.RETIRED:
        return Reason(rule=Rule.RETIRED, text=f"retired {backup.retired or 'before'}")
    parts = []
    if policy.window is not None:
        parts.append(f"older than the {render_window(policy.window)} window and its base")
    if policy.count is not None:
        parts.append("not the newest" if policy.count == 1 else f"not among the {policy.count} newest")
    if policy.periods:
        parts.append(f"not kept as {' or '.join(period.value for period, _ in policy.periods)} backup")
    return Reason(rule=Rule.EXPIRED, text=", ".join(parts))


def render_window(window: timedelta) -> str:
    """``"7-day"``, ``"36-hour"``, ``"90-minute"``: the largest unit that divides it, seconds at last."""
    seconds = round(window.total_seconds())
    for unit_seconds, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds and seconds % unit_seconds == 0:
            return f"{seconds // unit_seconds}-{name}"
    return f"{window.total_seconds():g}-second"
