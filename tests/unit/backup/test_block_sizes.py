"""Backups and restores with every size of page that PostgreSQL can be built with; no server here is, so all is made up.

A relation's file has a GiB whatever its pages have, so other sizes mean other block numbers, in summaries as in
checksums, and pages that do not fill a frame's cells, or fill several.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pghaven.events import ignore
from pghaven.repository.manifest import Manifest
from pghaven.repository.repository import Repository
from pghaven.restore.execute import run_restore
from pghaven.server.changed import ChangedBlocks, ChangedBlocksBuilder
from pghaven.store.memory import MemoryStore
from tests.support.increments import ALL_VISIBLE, build_on, make_page, put_pages, take_increment, write
from tests.support.synthetic import (
    CONTROL,
    BackupOrder,
    SourceTree,
    assert_restored,
    make_repository,
    make_settings,
    plan,
    restore,
    take_backup,
)

FIRST, SECOND, THIRD = (BackupOrder(number=number) for number in (1, 2, 3))
BEFORE, AFTER = FIRST.start_lsn - 8, FIRST.start_lsn + 8
TABLE, NEXT, MAP, SPACE = (f"base/5/16384{suffix}" for suffix in ("", ".1", "_vm", "_fsm"))
BIG = "base/5/16390"
RELATION, BIG_RELATION = (1663, 5, 16384), (1663, 5, 16390)
BIG_BYTES = 5 << 20

every_size = pytest.mark.parametrize("size", [1024, 2048, 4096, 16384, 32768])


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore())


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[[int], SourceTree]:
    def make(size: int) -> SourceTree:
        data = tmp_path / "data"
        for directory in ("global", "base/5", "pg_tblspc"):
            (data / directory).mkdir(parents=True)
        (data / "global/pg_control").write_bytes(CONTROL)
        directories = frozenset({"", "global", "base", "base/5", "pg_tblspc"})
        source = SourceTree(data_directory=data, tablespaces=(), files={}, directories=directories, block_size=size)
        source = write(source, "PG_VERSION", b"17\n")
        for name, count, first in ((TABLE, 9, 0), (NEXT, 3, source.segment_blocks), (MAP, 1, 0), (SPACE, 3, 0)):
            source = put_pages(source, name, pages(source, range(count), first=first))
        return put_pages(source, BIG, pages(source, range(BIG_BYTES // size)))

    return make


def pages(
    source: SourceTree, blocks: range | list[int], lsn: int = BEFORE, body: bytes = b"before", first: int = 0
) -> dict[int, bytes]:
    return {block: make_page(first + block, lsn, body, size=source.block_size) for block in blocks}


def own_bytes(manifest: Manifest) -> int:
    own = [number for number, pack in enumerate(manifest.packs) if pack.label == manifest.facts.label]
    return int(manifest.block_map.length[np.isin(manifest.block_map.pack, own)].sum())


def assert_holds(repository: Repository, source: SourceTree, order: BackupOrder) -> None:
    target = source.data_directory.parent / order.label
    restore(repository, order.label, target)
    assert_restored(source, target)


def change(source: SourceTree, body: bytes, lsn: int) -> tuple[SourceTree, dict[str, list[int]]]:
    """Pages at all borders there are: of files, extents, and cells of frames; and which these are."""
    size = source.block_size
    per_extent = (1 << 20) // size
    changed = {
        TABLE: [0, 3, 8],
        NEXT: [0, 2],
        BIG: [0, per_extent - 1, per_extent, 3 * per_extent + 1, BIG_BYTES // size - 1],
    }
    for name, blocks in changed.items():
        first = source.segment_blocks if name == NEXT else 0
        source = put_pages(source, name, pages(source, blocks, lsn, body, first))
    return source, changed


def summarize(source: SourceTree, changed: dict[str, list[int]]) -> ChangedBlocks:
    builder = ChangedBlocksBuilder()
    second = [source.segment_blocks + block for block in changed[NEXT]]
    builder.add_blocks(RELATION, np.array([*changed[TABLE], *second], np.uint32))
    builder.add_blocks(BIG_RELATION, np.array(changed[BIG], np.uint32))
    return builder.finish()


@every_size
@pytest.mark.parametrize("has_summaries", [False, True])
def test_only_pages_that_changed_are_stored(
    make_source: Callable[[int], SourceTree], repository: Repository, size: int, has_summaries: bool
) -> None:
    source = make_source(size)
    parent = take_backup(repository, source, FIRST)
    source, changed = change(source, b"after", AFTER)
    summaries = summarize(source, changed) if has_summaries else None
    manifest = take_increment(repository, source, SECOND, build_on(parent, changed=summaries))
    assert own_bytes(manifest) == sum(map(len, changed.values())) * size
    assert_holds(repository, source, SECOND)
    source, changed = change(source, b"once more", SECOND.start_lsn + 8)
    summaries = summarize(source, changed) if has_summaries else None
    third = take_increment(repository, source, THIRD, build_on(manifest, changed=summaries))
    assert own_bytes(third) == sum(map(len, changed.values())) * size
    assert_holds(repository, source, THIRD)


@every_size
def test_growth_zeros_and_tails_are_followed(
    make_source: Callable[[int], SourceTree], repository: Repository, size: int
) -> None:
    source = make_source(size)
    parent = take_backup(repository, source, FIRST)
    source = put_pages(source, TABLE, {2: bytes(size), **pages(source, [9, 10])})
    source = write(source, NEXT, source.files[NEXT][:size])
    source = write(source, SPACE, source.files[SPACE] + bytes(100))
    take_increment(repository, source, SECOND, build_on(parent))
    assert_holds(repository, source, SECOND)


@every_size
def test_marks_without_an_lsn_are_found(
    make_source: Callable[[int], SourceTree], repository: Repository, size: int
) -> None:
    source = make_source(size)
    parent = take_backup(repository, source, FIRST)
    marked = make_page(source.segment_blocks + 1, BEFORE, b"before", flags=ALL_VISIBLE, size=size)
    source = put_pages(source, NEXT, {1: marked})
    manifest = take_increment(repository, source, SECOND, build_on(parent, marks_logged=False))
    assert own_bytes(manifest) == size
    assert_holds(repository, source, SECOND)


@every_size
def test_limits_count_in_blocks_of_the_relation(
    make_source: Callable[[int], SourceTree], repository: Repository, size: int
) -> None:
    source = make_source(size)
    parent = take_backup(repository, source, FIRST)
    builder = ChangedBlocksBuilder()
    builder.add_limit(RELATION, source.segment_blocks + 1)
    source = put_pages(source, NEXT, pages(source, [1, 2], BEFORE, b"cut and grown", source.segment_blocks))
    manifest = take_increment(repository, source, SECOND, build_on(parent, changed=builder.finish()))
    assert own_bytes(manifest) == 2 * size
    assert_holds(repository, source, SECOND)


@every_size
def test_extent_in_too_many_pieces_is_stored_whole(
    make_source: Callable[[int], SourceTree], repository: Repository, size: int
) -> None:
    source = make_source(size)
    parent = take_backup(repository, source, FIRST)
    # Of 32 KiB pages an extent has too few to come to so many pieces.
    scattered = list(range(0, (1 << 20) // size, 2))
    source = put_pages(source, BIG, pages(source, scattered, AFTER, b"after"))
    second = take_increment(repository, source, SECOND, build_on(parent))
    third = take_increment(repository, source, THIRD, build_on(second))
    assert own_bytes(third) == (1 << 20 if len(scattered) > 16 else 0)
    assert_holds(repository, source, THIRD)


@every_size
def test_a_restore_over_an_older_directory_brings_every_page(
    make_source: Callable[[int], SourceTree], repository: Repository, size: int
) -> None:
    source = make_source(size)
    parent = take_backup(repository, source, FIRST)
    target = source.data_directory.parent / FIRST.label
    restore(repository, FIRST.label, target)
    source, changed = change(source, b"after", AFTER)
    take_increment(repository, source, SECOND, build_on(parent))
    result = run_restore(plan(repository, SECOND.label, target, delta=True), make_settings(repository), ignore)
    assert_restored(source, target)
    assert sum(map(len, changed.values())) * size <= result.written_bytes < BIG_BYTES // 2
