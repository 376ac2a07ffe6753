"""How a repository is reached: the one value that says where it is and whose key opens it, and the one way to open it.

The one idea: whoever opens a repository that is there goes through ``open_place``, so what a kind of store needs beside
its URL travels one way. Only ``setup.register`` has a store of its own, since it may have to make the repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.light import dataclass
from pghaven.repository.keysource import NO_KEY, Ask, KeySource, read_material
from pghaven.repository.memory import HostMemory, check_key_set
from pghaven.repository.repository import Repository, open_repository
from pghaven.repository.seal import Keyring
from pghaven.runtime.coredump import forbid_core_dumps
from pghaven.store.metered import METERS
from pghaven.store.open import open_store
from pghaven.store.settings import StoreSettings

if TYPE_CHECKING:
    from pghaven.repository.keys import RepositoryKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryPlace:
    """A repository as the configuration names it, and where this host remembers what it has seen of it."""

    name: str
    store: StoreSettings
    key: KeySource = NO_KEY
    memory: HostMemory | None = None

    @property
    def url(self) -> str:
        return self.store.url


def open_place(place: RepositoryPlace, *, clock: Clock = SYSTEM_CLOCK, ask: Ask | None = None) -> Repository:
    """``ask`` asks a person for a passphrase, where no key is configured.

    Raises NotFound, StoreUnreachable, NotPermitted, Damaged, Refused, UsageError.
    """
    return open_repository(
        METERS.meter(open_store(place.store)),
        clock=clock,
        unlock=lambda keys: unlock(keys, place.key, ask, place.memory),
        must_be_sealed=place.key.is_expected,
    )


def prepare_for_keys() -> None:
    """Before a key is read into this process."""
    forbid_core_dumps()


def unlock(
    keys: RepositoryKeys, source: KeySource, ask: Ask | None = None, memory: HostMemory | None = None
) -> Keyring:
    """The data keys that a source opens; this process leaves no core dumps any more.

    Raises NotPermitted, Damaged, and Refused for keys in an older state than ``memory`` has seen.
    """
    prepare_for_keys()
    opened = keys.open(read_material(source, ask))
    if memory is not None:
        check_key_set(memory, keys.repository_id, opened.key_set, keys.url)
    return opened.keyring
