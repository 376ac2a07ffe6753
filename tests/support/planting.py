"""A repository in a directory, forged: contents changed and every hash above them made anew.

The one idea: what is planted here is whole by all that a repository says of itself, so only what is restored of it, and
asked, can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from pghaven.postgres.segment import SegmentName
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import used_packs
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackWriter, iter_pack_frames, load_pack_index
from pghaven.repository.repository import Repository, open_repository
from pghaven.repository.walstore import WalArchive
from pghaven.store.open import open_store
from tests.support.places import own

Edit = Callable[[bytearray], None]
_HOLE = 0xFFFFFFFF


def open_forgeable(directory: Path) -> Repository:
    return open_repository(open_store(f"file://{directory}"))


def forge_file(directory: Path, cluster: str, label: str, path: str, edit: Edit) -> None:
    """Change a file's contents in a backup: a new pack, a block map that leads there, a manifest, a decision."""
    repository = open_forgeable(directory)
    catalog = BackupCatalog(repository, cluster)
    manifest = catalog.load_manifest(catalog.find_entry(label))
    number = _find_file(manifest, path)
    content = bytearray(_read_file(catalog, manifest, number))
    edit(content)
    writer = PackWriter(catalog.pack_place, label, level=3, in_background=False)
    _, begin = writer.append(memoryview(content))
    forged = _replace_file(manifest, number, bytes(content), begin)
    (pack,) = writer.close()
    block_map, kept = used_packs(forged.block_map, len(manifest.packs) + 1)
    packs = (*manifest.packs, pack)
    forged = replace(forged, block_map=block_map, packs=tuple(packs[one] for one in kept.tolist()))
    decision_name = layout.backup_object_name(cluster, label, "decision")
    decision = dict(repository.read_document(decision_name))
    for part in ("manifest", "decision"):
        repository.store.delete(layout.backup_object_name(cluster, label, part))
    for name in [info.name for info in repository.store.list(layout.outlines_prefix(cluster))]:
        repository.store.delete(name)
    decision["manifest"], _ = catalog.store_manifest(label, "manifest", forged)
    repository.create_document(decision_name, {key: decision[key] for key in decision if key != "schema"})
    _own_all(directory)


def _find_file(manifest: Manifest, path: str) -> int:
    files = manifest.files
    directory, _, name = path.encode().rpartition(b"/")
    for number, found in enumerate(files.names):
        if found == name and files.directories[int(files.directory[number])] == directory:
            return number
    raise AssertionError(f"{path} is not in the backup")


def _runs(manifest: Manifest, number: int) -> slice:
    runs = manifest.block_map.runs_of_file
    first = int(runs[:number].sum())
    return slice(first, first + int(runs[number]))


def _read_file(catalog: BackupCatalog, manifest: Manifest, number: int) -> bytes:
    block_map, place = manifest.block_map, catalog.pack_place
    content = b""
    for run in range(*_runs(manifest, number).indices(len(block_map.pack))):
        length, pack = int(block_map.length[run]), int(block_map.pack[run])
        if pack == _HOLE:
            content += bytes(length)
            continue
        ref = manifest.packs[pack]
        index = load_pack_index(place, ref)
        frames = range(len(index.stored_lengths))
        plain = b"".join(bytes(part) for _, part in iter_pack_frames(place, ref, index, frames))
        content += plain[int(block_map.offset[run]) :][:length]
    return content


def _replace_file(manifest: Manifest, number: int, content: bytes, begin: int) -> Manifest:
    block_map, files, runs = manifest.block_map, manifest.files, _runs(manifest, number)
    pack, offset = block_map.pack.copy(), block_map.offset.copy()
    pack[runs] = len(manifest.packs)
    lengths = block_map.length[runs]
    offset[runs] = np.uint64(begin) + np.cumsum(lengths) - lengths
    hashes = files.content_hash.copy()
    if hashes[number].any():
        hashes[number] = np.frombuffer(blake3(content).digest(hashes.shape[1]), np.uint8)
    return replace(
        manifest,
        block_map=replace(block_map, pack=pack, offset=offset),
        files=replace(files, content_hash=hashes),
    )


def forge_segment(directory: Path, cluster: str, path: Path, edit: Edit) -> None:
    """Change an archived segment's contents; ``path`` is its object."""
    repository = open_forgeable(directory)
    (lineage,) = repository.list_lineages(cluster)
    archive = WalArchive(repository, cluster, lineage.system_identifier, lineage.wal_segment_size)
    name = str(SegmentName.parse(path.name, lineage.wal_segment_size))
    content, facts = bytearray(archive.get(name)), dict(archive.read_facts(name))
    edit(content)
    repository.store.delete(layout.wal_object_name(cluster, lineage.system_identifier, name))
    archive.put(name, bytes(content), facts)
    _own_all(directory)


def _own_all(directory: Path) -> None:
    for path in directory.rglob("*"):
        own(path)
