"""How a repository is reached: the one value that says where it is, and the one way to open it.

The one idea: whoever opens a repository that is there goes through ``open_place``, so what a kind of store needs beside
its URL travels one way. Only ``setup.register`` has a store of its own, since it may have to make the repository.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.repository.repository import Repository, open_repository
from pghaven.store.metered import METERS
from pghaven.store.open import open_store
from pghaven.store.settings import StoreSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryPlace:
    """A repository as the configuration names it."""

    name: str
    store: StoreSettings

    @property
    def url(self) -> str:
        return self.store.url


def open_place(place: RepositoryPlace, *, clock: Clock = SYSTEM_CLOCK) -> Repository:
    """Raises NotFound, StoreUnreachable, NotPermitted, Damaged, Refused, UsageError."""
    return open_repository(METERS.meter(open_store(place.store)), clock=clock)
