"""Which dumps stay and which go, by the same policy as backups and apart from them.

The one idea: a dump needs no WAL and nothing needs a dump, so its window and the policy's numbers are counted among
dumps alone, for each database by itself: runs that dump one database each take no other one's place, and a run with
several stays as long as one of them needs it. The same with other options is another series, since it may lack what
the first one has. The newest dump of each series always stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pghaven.errors import NotFound, Refused
from pghaven.events import Listener, Notice
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.retention.facts import DatedBackup, know_announced
from pghaven.retention.policy import CLOCK_TOLERANCE, RetentionPolicy, apply_numbers, render_window


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpVerdict:
    """What becomes of one dump, and why; ``is_kept`` is False for one that this plan drops."""

    label: str
    taken: datetime
    is_kept: bool
    reasons: tuple[str, ...]


def plan_dumps(policy: RetentionPolicy, entries: Sequence[BackupEntry], *, now: datetime) -> tuple[DumpVerdict, ...]:
    """Judge every committed dump, oldest first. One from the future takes no other one's place and stays."""
    dated = [_date(entry) for entry in entries if entry.state is BackupState.COMMITTED and entry.intent is not None]
    dated.sort(key=lambda one: one.moment)
    held = {entry.label: entry.hold.reason for entry in entries if entry.hold is not None}
    judged = [one for one in dated if one.moment <= now]
    reasons: dict[str, list[str]] = {one.backup.label: [] for one in dated}
    series = _list_series(entries, judged)
    for name, group in series:
        for label, reason in apply_numbers(policy, group):
            _add(reasons[label], reason.text + name)
    for one in dated:
        label = one.backup.label
        if policy.window is not None and one.moment > now - policy.window:
            reasons[label].append(f"within the {render_window(policy.window)} window")
        if one.moment > now:
            reasons[label].append("dated in the future")
        if label in held:
            reasons[label].append(f"held: {held[label]}")
    for name, group in series:
        newest = group[-1].backup.label
        if not reasons[newest]:
            reasons[newest].append(f"the last dump{name}")
    too_late = dated and dated[-1].moment > now + CLOCK_TOLERANCE
    return tuple(
        DumpVerdict(
            label=one.backup.label,
            taken=one.moment,
            is_kept=bool(reasons[one.backup.label] or too_late),
            reasons=tuple(reasons[one.backup.label]) or (("a clock is wrong",) if too_late else ("no rule keeps it",)),
        )
        for one in dated
    )


def _list_series(
    entries: Sequence[BackupEntry], judged: Sequence[DatedBackup]
) -> tuple[tuple[str, list[DatedBackup]], ...]:
    """The dumps of each database with the same options, oldest first, and of roles and tablespaces alone; each series
    with what it is called where there are several."""
    told = {entry.label: entry.summary.get("dump", {}) for entry in entries}
    found: dict[tuple[str | None, tuple[str, ...]], list[DatedBackup]] = {}
    for one in judged:
        body = told[one.backup.label]
        options = tuple(body.get("options", ()))
        for database in body.get("databases", ()) or (None,):
            found.setdefault((database, options), []).append(one)
    # Databases that were always dumped together are one series to whoever reads of it.
    named: dict[tuple[str, ...], tuple[tuple[str | None, tuple[str, ...]], list[DatedBackup]]] = {}
    for key, group in found.items():
        named.setdefault(tuple(one.backup.label for one in group), (key, group))
    if len(named) == 1:
        return tuple(("", group) for _, group in named.values())
    return tuple((_name_series(*key), group) for key, group in named.values())


def _name_series(database: str | None, options: tuple[str, ...]) -> str:
    what = f' of "{database}"' if database is not None else " of roles and tablespaces alone"
    return what + (f" with {' '.join(options)}" if options else "")


def _add(reasons: list[str], text: str) -> None:
    if text not in reasons:
        reasons.append(text)


def expire_dumps(
    catalog: BackupCatalog,
    policy: RetentionPolicy,
    undo_until: datetime,
    listener: Listener,
    *,
    dry_run: bool,
) -> tuple[DumpVerdict, ...]:
    """Retire the dumps that the policy drops, or only say which; without a policy none is."""
    if policy.is_empty:
        return ()
    verdicts = plan_dumps(policy, catalog.list_entries(Purpose.DUMP), now=catalog.repository.clock.now())
    for one in verdicts:
        if one.is_kept or dry_run:
            continue
        try:
            Removal(catalog).retire(one.label, RetireOrder(reason="; ".join(one.reasons), not_before=undo_until))
        except (Refused, NotFound) as error:
            listener(Notice(level="info", code="not_expired", text=error.message))
    return verdicts


def _date(entry: BackupEntry) -> DatedBackup:
    known = know_announced(entry)
    assert entry.intent is not None
    return DatedBackup(
        backup=known, system_identifier=entry.intent.system_identifier, moment=known.started_at, follows=None
    )
