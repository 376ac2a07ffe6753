"""The keys of one repository: reading its newest key set, and writing the next.

The one idea: each change is one put-if-absent of the set with the next number, made of the newest one; who loses the
race has changed nothing. A second copy of each set is stored beside it, since whoever loses the set loses everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pghaven.clock import Clock
from pghaven.errors import (
    Damaged,
    Locked,
    NotFound,
    NotPermitted,
    ObjectExists,
    ObjectMissing,
    Refused,
    StoreUnreachable,
)
from pghaven.repository import layout
from pghaven.repository.document import parse_document, render_document
from pghaven.repository.keyset import (
    KeySet,
    OpenedKeys,
    Secrets,
    new_generation,
    open_key_set,
    parse_key_set,
    render_key_set,
)
from pghaven.repository.keyslot import Slot, SlotKind, public_of
from pghaven.repository.keysource import KeyMaterial, find_key
from pghaven.repository.keytext import Access, KeyText
from pghaven.store.api import Store
from pghaven.units import render_time_utc

_SLOTS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSlot:
    """A slot to be made. ``carry`` gives what it carries of its key; None for a key that is kept elsewhere."""

    name: str
    kind: SlotKind
    access: Access
    key: KeyText
    carried: Mapping[str, object] = field(default_factory=dict, repr=False)

    def to_slot(self, added_at: str) -> Slot:
        return Slot(
            name=self.name,
            kind=self.kind,
            access=self.access,
            public=public_of(self.key),
            added_at=added_at,
            carried=self.carried,
        )


def list_key_sets(store: Store) -> tuple[int, ...]:
    """The numbers of all key sets in a store, the one in force last. One request; needs no key, and proves nothing."""
    names = [name.partition(".")[0] for name in store.list_children(layout.KEYS_PREFIX)]
    return tuple(sorted({int(name) for name in names if len(name) == 8 and name.isdecimal()}))


class RepositoryKeys:
    """The key sets in one store. ``descriptor`` are the bytes of the repository's, which a key set proves too."""

    def __init__(self, store: Store, repository_id: str, descriptor: bytes, clock: Clock) -> None:
        self._store = store
        self._id = repository_id
        self._descriptor = descriptor
        self._clock = clock

    @property
    def repository_id(self) -> str:
        return self._id

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def clock(self) -> Clock:
        return self._clock

    # -- reading ----------------------------------------------------------------------------------------------------

    def list_numbers(self) -> tuple[int, ...]:
        """The numbers of all sets there are, the one in force last."""
        return list_key_sets(self._store)

    def load(self) -> KeySet:
        """The newest set, not opened yet. Raises NotFound when there never was one, Damaged when no copy is whole."""
        numbers = self.list_numbers()
        if not numbers:
            self._refuse_lost()
            raise NotFound(
                f"the repository at {self._store.url} is sealed, but has no keys: making it was interrupted",
                hint="Complete it with: pghaven init CLUSTER",
            )
        return self._read(numbers[-1])

    def _refuse_lost(self) -> None:
        """Keys come before everything that they seal; new ones would open none of it."""
        if self._store.list_children(layout.CLUSTERS_PREFIX):
            raise Damaged(
                f'the repository at {self._store.url} holds sealed data, but all of its "{layout.KEYS_PREFIX}" is lost',
                detail="Without the key sets that lay there no key opens anything, the recovery key neither.",
                hint=f'Bring "{layout.KEYS_PREFIX}" back from an earlier version of its objects, where the store keeps '
                "versions or snapshots, or from a copy of the repository; then try again.",
            )

    def _read(self, number: int) -> KeySet:
        first: Damaged | ObjectMissing | None = None
        for name in (layout.key_set_name(number), layout.key_set_copy_name(number)):
            try:
                return self._read_one(name, number)
            except (Damaged, ObjectMissing) as error:
                first = first or error
        assert first is not None
        raise first

    def _read_one(self, name: str, number: int) -> KeySet:
        data = self._store.read(name)
        try:
            key_set = parse_key_set(parse_document(self._document_context(number), data))
            if key_set.number != number:
                raise Damaged("it is another one")  # noqa: TRY301
        except Damaged as error:
            raise Damaged(f'"{name}" is damaged: {error.message}') from error
        return key_set

    def open(self, material: KeyMaterial, key_set: KeySet | None = None) -> OpenedKeys:
        """What this material opens. Raises NotPermitted when it opens nothing, Damaged, NotFound."""
        key_set = key_set or self.load()
        return self.open_with(key_set, find_key(key_set, material))

    def open_with(self, key_set: KeySet, key: KeyText) -> OpenedKeys:
        """What this key opens of a set. Raises NotPermitted, Damaged."""
        try:
            return open_key_set(self._context(key_set.number), key_set, key)
        except Damaged as error:
            name = layout.key_set_name(key_set.number)
            raise Damaged(f'"{name}" is damaged: {error.message}') from error

    def find_flaws(self, number: int) -> dict[str, str]:
        """What is wrong with the two copies of a set, by their names."""
        flaws: dict[str, str] = {}
        bodies = []
        for name in (layout.key_set_name(number), layout.key_set_copy_name(number)):
            try:
                bodies.append(self._read_one(name, number).body)
            except ObjectMissing:
                flaws[name] = "it is missing"
            except Damaged as error:
                flaws[name] = error.message
        if bodies[1:] and bodies[0] != bodies[1]:
            flaws[layout.key_set_copy_name(number)] = "it says something else than the one that it is a copy of"
        return flaws

    # -- writing ----------------------------------------------------------------------------------------------------

    def found(self, secrets: Secrets, slots: Sequence[NewSlot]) -> KeySet:
        """Write the first set. Raises Locked when there is one already."""
        now = render_time_utc(self._clock.now())
        return self._write(1, secrets, tuple(slot.to_slot(now) for slot in slots), slots[0].key)

    def add(self, opened: OpenedKeys, key: KeyText, slot: NewSlot) -> KeySet:
        """Give the keys one more slot. ``key`` is what opened them. Raises NotPermitted, Refused, Locked."""
        slots = opened.key_set.slots
        if any(one.name == slot.name for one in slots):
            raise Refused(f'there is a slot "{slot.name}" already', hint="Choose another name, or remove it first.")
        if len(slots) >= _SLOTS_MAX:
            raise Refused(f"there are {len(slots)} slots already", hint="Remove those that nobody uses.")
        new = slot.to_slot(render_time_utc(self._clock.now()))
        return self._write_next(opened, key, lambda secrets: secrets, (*slots, new))

    def remove(self, opened: OpenedKeys, key: KeyText, name: str) -> tuple[KeySet, bool]:
        """Take a slot away, and the older sets that still have it: False when those cannot be removed.

        One that was interrupted between the two is gone on with. Raises Refused for the last slot that reads, NotFound,
        NotPermitted, Locked.
        """
        slots = opened.key_set.slots
        if all(one.name != name for one in slots):
            if opened.secrets is not None and self._is_in_older(opened.key_set.number, name):
                return opened.key_set, self._remove_older(opened.key_set.number)
            there = ", ".join(f'"{one.name}"' for one in slots)
            raise NotFound(f'there is no slot "{name}"', hint=f"There are: {there}.")
        rest = tuple(one for one in slots if one.name != name)
        if all(one.access is not Access.READER for one in rest):
            raise Refused(
                f'"{name}" is the last slot that reads: without it everything in the repository would be lost',
                hint="Add another one first: pghaven repo key add",
            )
        if opened.slot.name == name:
            raise Refused(
                f'"{name}" is the slot of the key that is configured here: this host could not go on',
                hint="Configure the key of another slot first, or run this where one is.",
            )
        key_set = self._write_next(opened, key, lambda secrets: secrets, rest)
        return key_set, self._remove_older(key_set.number)

    def rotate(self, opened: OpenedKeys, key: KeyText) -> KeySet:
        """Make a new data key, which seals everything from now on; older ones stay to read what they sealed."""
        now = render_time_utc(self._clock.now())

        def grow(secrets: Secrets) -> Secrets:
            return replace(secrets, generations=(*secrets.generations, new_generation(now)))

        return self._write_next(opened, key, grow, opened.key_set.slots)

    def _write_next(
        self, opened: OpenedKeys, key: KeyText, change: Callable[[Secrets], Secrets], slots: Sequence[Slot]
    ) -> KeySet:
        if opened.secrets is None:
            raise NotPermitted(
                "the key that is configured here only writes: it cannot change the repository's keys",
                hint="Run this where a key that reads is configured.",
            )
        return self._write(opened.key_set.number + 1, change(opened.secrets), tuple(slots), key)

    def _write(self, number: int, secrets: Secrets, slots: tuple[Slot, ...], key: KeyText) -> KeySet:
        body = render_key_set(self._context(number), number, secrets, slots, render_time_utc(self._clock.now()))
        # It must open before anything depends on it.
        self.open_with(parse_key_set(body), key)
        data = render_document(self._document_context(number), body)
        for name in (layout.key_set_name(number), layout.key_set_copy_name(number)):
            try:
                self._store.create(name, [data])
            except ObjectExists:
                if self._store.read(name) != data:
                    raise Locked(
                        "somebody else changed the repository's keys at the same time", hint="Run the command again."
                    ) from None
                self._store.confirm(name)
        return self._read(number)

    def _is_in_older(self, number: int, name: str) -> bool:
        """Whether a slot of this name is in a set before this one."""
        for older in self.list_numbers():
            with suppress(Damaged, ObjectMissing):
                if older < number and any(slot.name == name for slot in self._read(older).slots):
                    return True
        return False

    def _remove_older(self, number: int) -> bool:
        try:
            for older in self.list_numbers():
                if older < number:
                    self._store.delete(layout.key_set_name(older))
                    self._store.delete(layout.key_set_copy_name(older))
        except (NotPermitted, Refused, StoreUnreachable):
            return False  # write-once for us too: the slot is gone from the set that counts
        return True

    def _document_context(self, number: int) -> str:
        return f"{self._id}/{layout.key_set_name(number)}"

    def _context(self, number: int) -> str:
        from blake3 import blake3

        return f"{self._document_context(number)}\0{blake3(self._descriptor).hexdigest()}"
