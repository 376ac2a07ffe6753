"""Backups that refer to packs of backups before them, made by the repository's own rules for writers.

The one idea: a writer says whose packs it may use, then reads what became of those, then their manifests; only what it
was given then goes into its own. What changed is replaced file by file, so what a backup must hold is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pghaven.errors import Cancelled
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import BlockMap
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackRef, PackWriter
from tests.support.synthetic import BackupOrder, SourceTree, commit, make_intent

USABLE = (BackupState.COMMITTED, BackupState.RETIRED)


@dataclass(frozen=True, kw_only=True)
class Descent:
    """A backup that builds on ``parent`` and holds other contents in some of its files.

    With ``is_careless`` the parent's state is never looked at.
    """

    order: BackupOrder
    parent: str
    changed: Mapping[str, bytes]
    is_careless: bool = False

    def expected(self, parent: SourceTree) -> SourceTree:
        """What a restore of it must give."""
        return replace(parent, files={**parent.files, **self.changed})

    def take(self, catalog: BackupCatalog) -> Manifest:
        """Announce, look, read, store, commit. Raises Cancelled when the parent or the backup itself was given up."""
        label = self.order.label
        intent = replace(make_intent(self.order), parent=self.parent, sources=(self.parent,))
        catalog.announce(label, intent)
        manifest = self.render(catalog, self._find_parent(catalog))
        return commit(catalog, manifest, self.order)

    def _find_parent(self, catalog: BackupCatalog) -> BackupEntry:
        entry = catalog.read_entry(self.parent)
        if entry.state not in USABLE and not self.is_careless:
            catalog.abandon(self.order.label, "its parent is going")
            raise Cancelled(f"the parent is {entry.state}")
        return entry

    def render(self, catalog: BackupCatalog, parent: BackupEntry) -> Manifest:
        """Store the changed files; a manifest over them and the parent's packs."""
        order, old = self.order, catalog.load_manifest(parent)
        writer = PackWriter(catalog.pack_place, order.label, level=3, in_background=False)
        places = {name: writer.append(content) for name, content in self.changed.items()}
        packs = [*old.packs, *writer.close()]
        sizes, columns = _replace_runs(old, places, self.changed)
        facts = replace(
            old.facts,
            label=order.label,
            parent=self.parent,
            changes="summaries",
            start_lsn=order.start_lsn,
            stop_lsn=order.stop_lsn,
            started_at=order.started_at,
            stopped_at=order.started_at,
            total_bytes=int(sizes.sum()),
        )
        block_map, kept = _drop_unused(columns, packs)
        return replace(old, facts=facts, files=replace(old.files, size=sizes), block_map=block_map, packs=kept)


def _replace_runs(
    old: Manifest, places: Mapping[str, tuple[int, int]], changed: Mapping[str, bytes]
) -> tuple[np.ndarray, BlockMap]:
    runs, lengths, pack, offset = [], [], [], []
    sizes = old.files.size.copy()
    block_map, at = old.block_map, 0
    for number, count in enumerate(block_map.runs_of_file.tolist()):
        name = old.files.path(number).decode("utf-8", "surrogateescape")
        if name in places:
            sizes[number] = len(changed[name])
            new = [(len(changed[name]), len(old.packs) + places[name][0], places[name][1])]
        else:
            part = slice(at, at + count)
            columns = (block_map.length[part], block_map.pack[part], block_map.offset[part])
            new = list(zip(*(column.tolist() for column in columns), strict=True))
        at += count
        runs.append(len(new))
        for one in new:
            lengths.append(one[0])
            pack.append(one[1])
            offset.append(one[2])
    return sizes, BlockMap(
        runs_of_file=np.array(runs, np.uint32),
        length=np.array(lengths, np.uint64),
        pack=np.array(pack, np.uint32),
        offset=np.array(offset, np.uint64),
    )


def _drop_unused(block_map: BlockMap, packs: list[PackRef]) -> tuple[BlockMap, tuple[PackRef, ...]]:
    used = sorted({one for one in block_map.pack.tolist() if one < len(packs)})
    numbers = {old: new for new, old in enumerate(used)}
    pack = np.array([numbers.get(one, one) for one in block_map.pack.tolist()], np.uint32)
    return replace(block_map, pack=pack), tuple(packs[one] for one in used)
