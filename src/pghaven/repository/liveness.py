"""Whether the writer of an undecided label still lives.

The one idea: this only saves work. Who is taken for dead while alive learns so when it decides; who is taken for alive
while dead keeps others waiting, and what it stored, until its silence is long enough.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from pghaven.errors import NotPermitted
from pghaven.repository import layout
from pghaven.repository.entry import BackupEntry
from pghaven.runtime.whoami import ProcessIdentity, is_alive
from pghaven.store.api import Store

SIGN_OF_LIFE_SECONDS = 60.0
# A writer on another host that has given no sign for so long is taken for dead; it learns so when it tries to commit.
_SILENCE = timedelta(minutes=10)


def seems_dead(entry: BackupEntry, now: datetime) -> bool:
    """Whether the writer of an undecided backup is gone."""
    intent = entry.intent
    if intent is None:
        return True
    return is_over(intent.who, entry.last_sign, now)


def is_over(identity: ProcessIdentity | None, last_sign: datetime | None, now: datetime) -> bool:
    """Whether a process is gone: known for this host, judged by its silence for others, and where it is not known."""
    alive = None if identity is None else is_alive(identity)
    if alive is not None:
        return not alive
    return last_sign is None or now - last_sign > _SILENCE


def clear_signs(store: Store, cluster: str, label: str, count: int) -> None:
    """Delete the signs of life 1 to ``count`` of a label that has decided: they would only make listings longer.

    Where deleting is not permitted, they stay.
    """
    with suppress(NotPermitted):
        for number in range(1, count + 1):
            store.delete(layout.backup_object_name(cluster, label, f"alive/{number:08d}"))
