"""What a backup in a repository holds, read without restoring it.

The one idea: every frame of every pack it names is fetched and proven, so what was removed too early is missed here.
"""

from __future__ import annotations

from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import HOLE
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import iter_pack_frames, load_pack_index
from tests.support.synthetic import SourceTree


def read_files(catalog: BackupCatalog, manifest: Manifest) -> dict[str, bytes]:
    """The contents of all files. Raises Damaged, ObjectMissing."""
    place = catalog.pack_place
    packs = []
    for ref in manifest.packs:
        index = load_pack_index(place, ref)
        frames = iter_pack_frames(place, ref, index, range(len(index.plain_lengths)))
        packs.append(b"".join(plain for _, plain in frames))
    block_map = manifest.block_map
    runs = zip(block_map.length.tolist(), block_map.pack.tolist(), block_map.offset.tolist(), strict=True)
    files = {}
    for number, count in enumerate(block_map.runs_of_file.tolist()):
        parts = []
        for _ in range(count):
            length, pack, offset = next(runs)
            parts.append(bytes(length) if pack == HOLE else packs[pack][offset : offset + length])
        files[manifest.files.path(number).decode("utf-8", "surrogateescape")] = b"".join(parts)
    return files


def assert_whole(catalog: BackupCatalog, sources: dict[str, SourceTree]) -> list[str]:
    """Every committed backup holds what its source did; gives their labels, oldest first."""
    labels = []
    for entry in catalog.list_committed():
        assert read_files(catalog, catalog.load_manifest(entry)) == sources[entry.label].files
        labels.append(entry.label)
    return labels
