"""Large free-space and visibility maps: of what was touched, the pages that have changed are stored and no others.

Each test restores what was stored. The maps' LSNs are old throughout, as where a bit of a visibility map was cleared.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from pghaven.backup.parentpages import hash_parent_pages
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import EXTENT_BYTES
from pghaven.repository.keytext import Access
from pghaven.repository.manifest import HASH_BYTES, BadPage, Manifest
from pghaven.repository.pack import load_pack_index
from pghaven.store.memory import MemoryStore
from tests.support.increments import build_on, make_page, put_pages, take_increment, write
from tests.support.keys import make_sealed
from tests.support.synthetic import (
    PAGE,
    BackupOrder,
    SourceTree,
    assert_restored,
    make_pages,
    make_repository,
    make_source,
    restore,
    take_backup,
)

FIRST, SECOND, THIRD = (BackupOrder(number=number, workers=1) for number in (1, 2, 3))
MAP = "base/5/16384_vm"
COUNT = 300
OLD = FIRST.start_lsn - 8


def page(block: int, body: bytes) -> bytes:
    return make_page(block, OLD, body + b" %d " % block)


class Line:
    """A directory with a map of ``count`` pages, and backups of it one after another."""

    def __init__(self, root: Path, count: int = COUNT) -> None:
        self.root = root
        self.source = write(make_source(root), MAP, make_pages(count, 1))
        self.store = MemoryStore()
        self.repository = make_repository(self.store)
        self.newest = take_backup(self.repository, self.source, FIRST)

    def step(self, source: SourceTree, order: BackupOrder = SECOND) -> int:
        """The next backup; how many pages of the map it has stored itself."""
        self.source = source
        place = BackupCatalog(self.repository, order.cluster).pack_place
        self.newest = take_increment(self.repository, source, order, build_on(self.newest, place=place))
        return count_stored(self.newest)

    def change(self, *blocks: int, body: bytes = b"after") -> SourceTree:
        return put_pages(self.source, MAP, {block: page(block, body) for block in blocks})

    def assert_holds_all(self) -> None:
        label = self.newest.facts.label
        restore(self.repository, label, self.root / label)
        assert_restored(self.source, self.root / label)
        number = find_file(self.newest)
        content = self.source.files[MAP]
        expected = blake3(content).digest(HASH_BYTES) if len(content) < 64 << 20 else bytes(HASH_BYTES)
        assert self.newest.files.content_hash[number].tobytes() == expected


def find_file(manifest: Manifest) -> int:
    files = manifest.files
    (number,) = [at for at in range(len(files.size)) if os.fsdecode(files.path(at)) == MAP]
    return number


def count_stored(manifest: Manifest) -> int:
    """Pages of the map that lie in packs of the backup itself."""
    own = [number for number, pack in enumerate(manifest.packs) if pack.label == manifest.facts.label]
    block_map = manifest.block_map
    file = np.repeat(np.arange(len(block_map.runs_of_file)), block_map.runs_of_file)
    mine = np.isin(block_map.pack, own) & (file == find_file(manifest))
    return int(block_map.length[mine].sum()) // PAGE


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_only_changed_pages_of_a_map_are_stored(line: Line) -> None:
    assert line.step(line.change(7, 8, 200)) == 3
    line.assert_holds_all()


def test_pages_that_earlier_backups_stored_are_known_too(line: Line) -> None:
    """As far as it is worth asking: of the second backup's one page nobody asks, so it is stored again."""
    line.step(line.change(*range(100, 140)))
    assert line.step(line.change(5), THIRD) == 1
    fourth = BackupOrder(number=4, workers=1)
    assert line.step(line.change(250), fourth) == 2
    line.assert_holds_all()


def test_a_map_of_several_ranges_and_frames_is_compared(tmp_path: Path) -> None:
    """Each range of 64 MiB is somebody's job; a map of that size has no hash of its own."""
    line = Line(tmp_path, 8192 + 100)
    assert line.step(line.change(0, 127, 128, 8191, 8192, 8291)) == 6
    line.assert_holds_all()


def test_a_map_that_has_grown_keeps_what_it_had(line: Line) -> None:
    assert line.step(line.change(3, *range(COUNT, COUNT + 5))) == 6
    line.assert_holds_all()


def test_a_map_that_was_cut_is_stored_whole(line: Line) -> None:
    assert line.step(write(line.source, MAP, line.source.files[MAP][: 100 * PAGE])) == 100
    line.assert_holds_all()


def test_pages_that_became_zeros_or_were_are_right(line: Line) -> None:
    zeros = put_pages(line.source, MAP, {block: bytes(PAGE) for block in (4, 5)})
    assert line.step(zeros) == 0
    line.assert_holds_all()
    assert line.step(line.change(5, body=b"again"), THIRD) == 1
    line.assert_holds_all()


def test_a_small_map_is_stored_whole_if_it_has_changed(tmp_path: Path) -> None:
    line = Line(tmp_path, 20)
    assert line.step(line.change(3)) == 20
    line.assert_holds_all()


def test_a_map_that_holds_the_same_is_not_stored_again(line: Line) -> None:
    assert line.step(line.source) == 0
    line.assert_holds_all()


def test_an_extent_in_too_many_pieces_is_stored_whole(line: Line) -> None:
    """Every fourth page of the first MiB has changed: 64 pieces."""
    line.step(line.change(*range(0, 128, 4)))
    assert line.step(line.change(200), THIRD) == EXTENT_BYTES // PAGE + 1
    line.assert_holds_all()


def test_a_map_with_damaged_pages_is_looked_at_as_a_whole(line: Line) -> None:
    bad = BadPage(path=MAP, block=9, lsn=str(FIRST.start_lsn), relation=None)
    line.newest = replace(line.newest, facts=replace(line.newest.facts, bad_pages=(bad,)))
    assert line.step(line.change(1)) == COUNT
    line.assert_holds_all()


def test_packs_that_cannot_tell_cost_room_and_nothing_else(line: Line) -> None:
    place = BackupCatalog(line.repository, FIRST.cluster).pack_place
    (ref,) = line.newest.packs
    name, index = place.name(ref.label, ref.id), load_pack_index(place, ref)
    good, at = line.store.read(name), index.stored_offsets[-1]
    line.store.delete(name)
    line.store.create(name, [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]])
    assert line.step(line.change(1)) == COUNT
    line.assert_holds_all()


def test_a_host_that_only_writes_knows_of_no_page(tmp_path: Path) -> None:
    site = make_sealed(MemoryStore())
    writer = BackupCatalog(site.open(site.add("host", Access.WRITER)), FIRST.cluster)
    source = write(make_source(tmp_path), MAP, make_pages(COUNT, 1))
    manifest = take_backup(site.open(), source, FIRST)
    reader = BackupCatalog(site.open(), FIRST.cluster)
    assert hash_parent_pages(reader.pack_place, manifest, [find_file(manifest)])
    assert hash_parent_pages(writer.pack_place, manifest, [find_file(manifest)]) == {}


def test_pages_that_lie_across_cells_are_not_known(line: Line) -> None:
    """As none of this writer's do: here the map's places in the pack are moved by half a page."""
    place = BackupCatalog(line.repository, FIRST.cluster).pack_place
    number, block_map = find_file(line.newest), line.newest.block_map
    first = int(block_map.runs_of_file[:number].sum())
    runs = np.arange(first, first + int(block_map.runs_of_file[number]))
    offset = block_map.offset.copy()
    offset[runs] += np.uint64(PAGE // 2)
    moved = replace(line.newest, block_map=replace(block_map, offset=offset))
    assert hash_parent_pages(place, line.newest, [number])
    assert hash_parent_pages(place, moved, [number]) == {}
