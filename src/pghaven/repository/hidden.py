"""Labels that a store's listing has left out although they are there.

The one idea: a listing that ended before its end looks like one of fewer backups, but packs lie elsewhere, and their
writer's intent was there before them. So where there are packs of a label and no intent is listed, the intent is asked
for by its name: only reading proves that something is absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pghaven.errors import Damaged
from pghaven.repository import layout
from pghaven.repository.entry import BackupEntry
from pghaven.repository.repository import Repository


def list_pack_labels(repository: Repository, cluster: str) -> tuple[str, ...]:
    """The labels below which there are packs; to be listed before the labels themselves are."""
    children = repository.store.list_children(layout.packs_prefix(cluster))
    return tuple(child.removesuffix("/") for child in children if child.endswith("/"))


def refuse_hidden(
    repository: Repository, cluster: str, labels: Iterable[str], entries: Mapping[str, BackupEntry], what: str
) -> None:
    """Raises Damaged, beginning with ``what``, when one of the ``labels`` of packs is there but not listed."""
    for label in sorted(labels):
        if label in entries and "intent" in entries[label].parts:
            continue
        name = layout.backup_object_name(cluster, label, "intent")
        if repository.store.find(name) is not None:
            raise Damaged(
                f'{what}: "{name}" is there, but the store left it out of its listing',
                detail="What a listing leaves out would be taken for removed, and what it needs with it.",
                hint="Run it again later. If this stays so, the store's listings cannot be relied upon.",
            )
