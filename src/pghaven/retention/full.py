"""Expiring on a store that is full.

The one idea: what retention writes are records of a few hundred bytes, and these alone may use the reserve
(``store.reserve``); nothing else of pghaven draws on it, so it is there when somebody has to remove things.
"""

from __future__ import annotations

from pghaven.events import Listener, Notice
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.repository import Repository
from pghaven.store.reserve import ReservedStore


def draw_on_reserve(catalog: BackupCatalog, listener: Listener) -> BackupCatalog:
    """The same catalog, of which records find room also on a full store. The first time that is told."""
    repository = catalog.repository
    if isinstance(repository.store, ReservedStore):
        return catalog

    def tell() -> None:
        listener(
            Notice(
                level="warning",
                code="store_full",
                text=f"{repository.store.url} is full: room kept in reserve is used to say what is removed",
                hint="The reserve is made anew by the next pghaven expire that finds room.",
            )
        )

    store = ReservedStore(repository.store, layout.RESERVE_PREFIX, repository.clock, tell)
    opened = Repository(store, repository.descriptor, clock=repository.clock, keyring=repository.keyring)
    return BackupCatalog(opened, catalog.cluster)
