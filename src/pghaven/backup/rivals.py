"""Two backups, or two dumps, of one cluster at once: who goes on, and who is told about whom.

The one idea: this only saves work. Each writer announces itself before it stores anything and then looks around; of
those that live the first one goes on. A backup that is copied from another repository is nobody's rival. Should two go
on all the same, both backups are good: the decision key sees to it.
"""

from __future__ import annotations

from dataclasses import replace

from pghaven.errors import Locked
from pghaven.events import Listener, Notice
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.liveness import seems_dead
from pghaven.units import render_time


def make_way(
    catalog: BackupCatalog, own_label: str | None, listener: Listener, purpose: Purpose = Purpose.BACKUP
) -> tuple[BackupEntry, ...]:
    """Give up what dead writers left, and raise Locked when a living one was there before ``own_label``.

    With None every living one was there before. Returns all entries as they are then.
    """
    entries = list(catalog.list_entries(purpose))
    for number, entry in enumerate(entries):
        if entry.label == own_label:
            break  # entries are in the order they began: those after us yield to us
        if entry.state is not BackupState.UNDECIDED or entry.intent is None:
            continue
        if seems_dead(entry, catalog.repository.clock.now()):
            reason = f'its process {entry.intent.who.pid} on host "{entry.intent.who.host}" is gone'
            if catalog.abandon(entry.label, reason):
                entries[number] = replace(entry, state=BackupState.ABANDONED, reason=reason)
                text = f'{purpose} "{entry.label}" was never finished and is given up: {reason}'
                listener(Notice(level="info", code="abandoned", text=text))
            continue
        if entry.intent.copy_of is not None:
            continue  # it reads another repository, and no server
        raise Locked(
            f'a {purpose} of "{catalog.cluster}" is running: process {entry.intent.who.pid} on host '
            f'"{entry.intent.who.host}", since {render_time(entry.intent.started_at)}',
            hint="Wait until it is done, or end that process.",
        )
    return tuple(entries)
