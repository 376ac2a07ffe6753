"""Sealed repositories for tests: founded with a key that the test holds, with slots that cost little to open."""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.clock import Clock, ManualClock
from pghaven.repository.keys import NewSlot, RepositoryKeys
from pghaven.repository.keyset import OpenedKeys, found_secrets, make_first_key
from pghaven.repository.keyslot import Argon2Cost, SlotKind, carry_under_passphrase, make_key
from pghaven.repository.keysource import KeyMaterial
from pghaven.repository.keytext import Access, KeyText
from pghaven.repository.repository import Repository, Sealing, create_repository, open_keys, open_repository
from pghaven.store.api import Store
from pghaven.units import render_time_utc
from tests.support.synthetic import CLUSTER, START, make_lineage

CHEAP = Argon2Cost(iterations=1, lanes=1, memory_kib=64)


@dataclass(frozen=True, kw_only=True)
class SealedSite:
    """A store with a sealed repository, and the key it was founded with."""

    store: Store
    key: KeyText

    def keys(self) -> RepositoryKeys:
        return open_keys(self.store, clock=ManualClock(START))

    def open_keys(self, key: KeyText | None = None) -> OpenedKeys:
        return self.keys().open(material_of(key or self.key))

    def open(self, key: KeyText | None = None) -> Repository:
        return open_with(self.store, key or self.key)

    def add(self, name: str, access: Access = Access.READER) -> KeyText:
        """One more slot for a key, which it returns."""
        opened = self.open_keys()
        key = make_key(access, self.key.anchor)
        self.keys().add(opened, self.key, NewSlot(name=name, kind=SlotKind.KEY, access=access, key=key))
        return key

    def add_passphrase(self, name: str, passphrase: str) -> None:
        key = make_key(Access.READER, self.key.anchor)
        carried = carry_under_passphrase(key, passphrase, CHEAP)
        slot = NewSlot(name=name, kind=SlotKind.PASSPHRASE, access=Access.READER, key=key, carried=carried)
        self.keys().add(self.open_keys(), self.key, slot)

    def remove(self, name: str) -> bool:
        return self.keys().remove(self.open_keys(), self.key, name)[1]

    def rotate(self) -> None:
        self.keys().rotate(self.open_keys(), self.key)


def material_of(key: KeyText) -> KeyMaterial:
    return KeyMaterial(place="a test", key=key)


def open_with(store: Store, key: KeyText, clock: Clock | None = None) -> Repository:
    return open_repository(
        store, clock=clock or ManualClock(START), unlock=lambda keys: keys.open(material_of(key)).keyring
    )


def sealing_with(key: KeyText) -> Sealing:
    slot = NewSlot(name="first", kind=SlotKind.KEY, access=Access.READER, key=key)
    return Sealing(
        prepare=lambda: None,
        found=lambda keys: keys.found(found_secrets(key, render_time_utc(START)), [slot]),
        unlock=lambda keys: keys.open(material_of(key)).keyring,
    )


def make_sealed(store: Store) -> SealedSite:
    """A new sealed repository with the tests' cluster registered."""
    key = make_first_key()
    repository = create_repository(store, clock=ManualClock(START), sealing=sealing_with(key))
    repository.register_lineage(CLUSTER, make_lineage(), new_lineage=False)
    return SealedSite(store=store, key=key)
