"""Which packs the target has already, under which names.

The one idea: a pack has another name in each repository, since its name binds it to its place. Two things tell that one
is the copy of another: a backup that was copied lists its packs in the order of the manifest that it was copied from,
which its decision names by hash; and two packs hold the same if their proven indexes give the same hashes. Nothing is
taken over on the strength of names, sizes or times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.container import Index
from pghaven.repository.entry import BackupEntry
from pghaven.repository.pack import PackPlace, PackRef, find_pack, load_pack_index

COPIED_FROM = "copied_from"
"""In the summary of a copy: ``repository``, ``label`` and ``manifest`` (its hash) of what was copied."""


class KnownPacks:
    """The packs of the target that may be referred to, found by what they are copies of. ``held`` has the size in
    bytes of every pack that is stored there, by its name."""

    def __init__(self, source: PackPlace, target: PackPlace, held: Mapping[str, int]) -> None:
        self._source = source
        self._target = target
        self._held = held
        self._copies: dict[bytes, PackRef] = {}
        self._candidates: dict[int, list[tuple[PackRef, Index | None]]] = {}

    def add_copies(self, copies: Mapping[bytes, PackRef]) -> None:
        """What is known to be a copy: ids in the source, packs of the target."""
        self._copies.update((pack_id, ref) for pack_id, ref in copies.items() if self._is_held(ref))

    def add_candidates(self, packs: Iterable[PackRef]) -> None:
        """Packs of the target that may hold anything."""
        for ref in packs:
            if self._is_held(ref):
                self._candidates.setdefault(ref.plain_length, []).append((ref, None))

    def add_try(self, label: str) -> None:
        """The packs that a copying which was given up has stored. What is damaged is passed over."""
        for info in self._target.store.list(layout.packs_prefix(self._target.cluster, label)):
            try:
                ref, index = find_pack(self._target, label, info)
                self._target.store.confirm(info.name)  # its writer may have died before it knew that
            except (Damaged, ObjectMissing):
                continue
            self._candidates.setdefault(ref.plain_length, []).append((ref, index))

    def find(self, pack: PackRef) -> PackRef | None:
        """The target's pack that holds what this one of the source does. Raises what reading the source raises."""
        known = self._copies.get(pack.id)
        if known is not None:
            return known
        candidates = self._candidates.get(pack.plain_length)
        if not candidates:
            return None
        wanted = load_pack_index(self._source, pack)
        for number, (ref, index) in enumerate(candidates):
            if index is None:
                try:
                    index = load_pack_index(self._target, ref)  # noqa: PLW2901  read once, when it is first asked for
                except (Damaged, ObjectMissing):
                    continue
                candidates[number] = (ref, index)
            if index.plain_lengths == wanted.plain_lengths and index.plain_hashes == wanted.plain_hashes:
                return ref
        return None

    def _is_held(self, ref: PackRef) -> bool:
        """A backup may have lost a pack; nothing new is to be built on that."""
        return self._held.get(self._target.name(ref.label, ref.id)) == ref.size_bytes


def list_held(place: PackPlace) -> dict[str, int]:
    """Every pack that is stored for a cluster, with its size in bytes."""
    return {info.name: info.size_bytes for info in place.store.list(layout.packs_prefix(place.cluster))}


def match_packs(
    source: BackupCatalog, target: BackupCatalog, copy: BackupEntry
) -> tuple[dict[bytes, PackRef], Sequence[PackRef]]:
    """What a backup in the target tells of its packs: which are copies of which of the source's, and all there are.

    Raises Damaged, ObjectMissing when the target's own records cannot be read.
    """
    places = list(target.iter_manifests(copy))
    newest = target.load_pack_table(copy, places[0])
    own = next((place for place in places if place.compaction is None), None)
    copied_from = copy.summary.get(COPIED_FROM)
    if own is None or not isinstance(copied_from, dict) or copied_from.get("repository") != source.repository.id:
        return {}, newest
    try:
        table = newest if own is places[0] else target.load_pack_table(copy, own)
        original = source.read_entry(layout.check_label(copied_from.get("label")))
        place = next(one for one in source.iter_manifests(original) if one.hash == copied_from.get("manifest"))
        theirs = source.load_pack_table(original, place)
    except (StopIteration, Damaged, ObjectMissing):
        return {}, newest
    still = {(ref.label, ref.id) for ref in newest}
    if [one.plain_length for one in theirs] != [one.plain_length for one in table]:
        return {}, newest
    pairs = zip(theirs, table, strict=True)
    return {one.id: ref for one, ref in pairs if (ref.label, ref.id) in still}, newest
