"""What an incremental backup reads and stores of each file: made-up data directories, real planner, real workers.

Each test restores what was stored: a page is the parent's or the new one, and which of the two it must be is the rule.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from pghaven.backup.changes import Rule
from pghaven.backup.listing import ListingRules, list_data_directory
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import EXTENT_BYTES, invert
from pghaven.repository.manifest import HASH_BYTES, BadPage, Manifest
from pghaven.repository.pack import load_pack_index
from pghaven.repository.repository import Repository
from pghaven.server.changed import ChangedBlocks, ChangedBlocksBuilder
from pghaven.store.memory import MemoryStore
from tests.support.increments import ALL_VISIBLE, build_on, make_page, put_pages, take_increment, write
from tests.support.synthetic import (
    PAGE,
    TABLESPACE_OID,
    BackupOrder,
    SourceTree,
    assert_restored,
    make_repository,
    make_source,
    read_tree,
    restore,
    take_backup,
)

FIRST, SECOND = BackupOrder(number=1), BackupOrder(number=2)
BEFORE, AFTER = FIRST.start_lsn - 8, FIRST.start_lsn + 8
TABLE = "base/5/16384"
GIB_BLOCKS = 131072


@dataclass
class Stage:
    """A directory with a first backup; ``step`` takes the second one of what it holds then."""

    root: Path
    source: SourceTree
    repository: Repository
    parent: Manifest

    def step(
        self,
        source: SourceTree,
        before_reading: Callable[[], None] = lambda: None,
        parent: Manifest | None = None,
        **ground: object,
    ) -> Manifest:
        self.source = source
        make_plan = build_on(parent or self.parent, **ground)  # type: ignore[arg-type]
        return take_increment(self.repository, source, SECOND, make_plan, before_reading)

    def restored(self) -> dict[str, bytes]:
        restore(self.repository, SECOND.label, self.root / "target")
        return read_tree(self.root / "target")[0]

    def assert_holds_all(self) -> None:
        restore(self.repository, SECOND.label, self.root / "target")
        assert_restored(self.source, self.root / "target")


@pytest.fixture
def make_stage(tmp_path: Path) -> Callable[..., Stage]:
    def make(pages: Mapping[str, Mapping[int, bytes]] | None = None, files: Mapping[str, bytes] | None = None) -> Stage:
        source = make_source(tmp_path)
        for name, some in (pages or {}).items():
            source = put_pages(source, name, some)
        for name, content in (files or {}).items():
            source = write(source, name, content)
        repository = make_repository(MemoryStore())
        return Stage(tmp_path, source, repository, take_backup(repository, source, FIRST))

    return make


MakeStage = Callable[..., Stage]


def table(count: int, lsn: int = BEFORE, body: bytes = b"before") -> dict[int, bytes]:
    return {block: make_page(block, lsn, body) for block in range(count)}


def rule_of(source: SourceTree, parent: Manifest, name: str, **ground: object) -> Rule:
    rules = ListingRules(tablespace_oids=frozenset({TABLESPACE_OID}), segment_blocks=GIB_BLOCKS)
    listing = list_data_directory(str(source.data_directory), rules)
    plan = build_on(parent, **ground)(listing)  # type: ignore[arg-type]
    names = [listing.relative_path(number) for number in range(len(listing.size))]
    return Rule(int(plan.rules[names.index(name)]))


def stored_pages(stage: Stage, manifest: Manifest) -> int:
    """How many pages the second backup stored itself, by the room they take in its own packs."""
    own = [number for number, pack in enumerate(manifest.packs) if pack.label == manifest.facts.label]
    runs = np.isin(manifest.block_map.pack, own)
    return int(manifest.block_map.length[runs].sum()) // PAGE


# -- by LSN -----------------------------------------------------------------------------------------------------------


def test_page_with_an_older_lsn_is_the_parents(make_stage: MakeStage) -> None:
    """A hint on it may have changed since; it is not stored for that."""
    stage = make_stage({TABLE: table(4)})
    stage.step(put_pages(stage.source, TABLE, {2: make_page(2, BEFORE, b"hinted")}))
    assert stage.restored()[TABLE] == b"".join(table(4).values())


@pytest.mark.parametrize("lsn", [FIRST.start_lsn, AFTER, 0])
def test_page_with_a_later_lsn_or_none_is_stored(make_stage: MakeStage, lsn: int) -> None:
    stage = make_stage({TABLE: table(4)})
    stage.step(put_pages(stage.source, TABLE, {2: make_page(2, lsn, b"new")}))
    stage.assert_holds_all()


def test_page_that_became_zeros_is_zeros(make_stage: MakeStage) -> None:
    stage = make_stage({TABLE: table(4)})
    manifest = stage.step(put_pages(stage.source, TABLE, {2: bytes(PAGE)}))
    stage.assert_holds_all()
    assert stored_pages(stage, manifest) == 0


def test_pages_beyond_the_parents_end_are_stored_whatever_their_lsn(make_stage: MakeStage) -> None:
    """A database is copied file by file, and its pages keep the LSNs of their template."""
    stage = make_stage({TABLE: table(4)})
    stage.step(put_pages(stage.source, TABLE, {block: make_page(block, BEFORE, b"new") for block in (4, 5, 6)}))
    stage.assert_holds_all()


def test_shorter_file_is_stored_whole(make_stage: MakeStage) -> None:
    stage = make_stage({TABLE: table(4)})
    stage.step(write(stage.source, TABLE, make_page(0, BEFORE, b"other")))
    stage.assert_holds_all()


@pytest.mark.parametrize("before", [4 * PAGE, 4 * PAGE + 100])
@pytest.mark.parametrize("after", [4 * PAGE + 100, 4 * PAGE + 200])
def test_file_with_an_odd_tail_is_stored_whole(make_stage: MakeStage, before: int, after: int) -> None:
    content = b"".join(table(5).values())
    other = b"".join(table(5, body=b"other").values())
    stage = make_stage(files={TABLE: content[:before]})
    stage.step(write(stage.source, TABLE, other[:after]))
    stage.assert_holds_all()


def test_root_of_a_sorted_gist_index_is_stored_although_its_lsn_is_none(make_stage: MakeStage) -> None:
    """Its pages are written in order, with LSN 1; the root comes last, and was zeros when the parent read it."""
    pages = {0: bytes(PAGE), **{block: make_page(block, 1, b"leaf") for block in range(1, 8)}}
    stage = make_stage({TABLE: pages})
    manifest = stage.step(put_pages(stage.source, TABLE, {0: make_page(0, 1, b"root")}))
    stage.assert_holds_all()
    assert stored_pages(stage, manifest) == 1


def test_page_marked_all_visible_without_a_new_lsn_is_stored(make_stage: MakeStage) -> None:
    pages = {TABLE: table(4), f"{TABLE}_vm": {0: make_page(0, BEFORE, b"\0")}}
    marked = {2: make_page(2, BEFORE, b"before", flags=ALL_VISIBLE)}
    stage = make_stage(pages)
    source = put_pages(stage.source, TABLE, marked)
    source = put_pages(source, f"{TABLE}_vm", {0: make_page(0, AFTER, b"\1")})
    manifest = stage.step(source, marks_logged=False)
    stage.assert_holds_all()
    assert stored_pages(stage, manifest) == 2


@pytest.mark.parametrize("ground", [{"marks_logged": True}, {"marks_logged": False, "untouched": (f"{TABLE}_vm",)}])
def test_marked_page_is_kept_where_marks_are_logged_or_its_map_is_untouched(
    make_stage: MakeStage, ground: dict[str, object]
) -> None:
    marked = {block: make_page(block, BEFORE, b"before", flags=ALL_VISIBLE) for block in range(4)}
    stage = make_stage({TABLE: marked, f"{TABLE}_vm": {0: make_page(0, BEFORE, b"\0")}})
    manifest = stage.step(stage.source, **ground)  # type: ignore[arg-type]
    stage.assert_holds_all()
    assert stored_pages(stage, manifest) == 0


def test_marks_in_every_file_of_a_relation_hang_on_its_one_map(make_stage: MakeStage) -> None:
    second = f"{TABLE}.1"
    stage = make_stage({second: {0: make_page(GIB_BLOCKS, BEFORE, b"before")}, f"{TABLE}_vm": {0: bytes(PAGE)}})
    source = put_pages(stage.source, second, {0: make_page(GIB_BLOCKS, BEFORE, b"before", flags=ALL_VISIBLE)})
    stage.step(source, marks_logged=False)
    stage.assert_holds_all()


@pytest.mark.parametrize("has_summaries", [False, True])
def test_extent_in_too_many_pieces_is_stored_whole(make_stage: MakeStage, has_summaries: bool) -> None:
    """Every other page of it was stored before; nothing of it has changed since."""
    stage = make_stage({TABLE: table(300)})
    scattered = put_pages(stage.source, TABLE, {block: make_page(block, AFTER, b"new") for block in range(0, 128, 2)})
    parent = stage.step(scattered)
    changed = changes({}) if has_summaries else None
    manifest = take_increment(stage.repository, scattered, BackupOrder(number=3), build_on(parent, changed=changed))
    assert stored_pages(stage, manifest) == EXTENT_BYTES // PAGE
    restore(stage.repository, manifest.facts.label, stage.root / "target")
    assert_restored(scattered, stage.root / "target")


@pytest.mark.parametrize("has_summaries", [False, True])
def test_many_pages_in_a_row_share_no_frame_with_single_ones(make_stage: MakeStage, has_summaries: bool) -> None:
    """A restore writes them at different times, and would have to unpack such a frame twice."""
    stage = make_stage({TABLE: table(300)})
    parent = stage.step(put_pages(stage.source, TABLE, {at: make_page(at, AFTER, b"new") for at in range(0, 128, 2)}))
    single = [*range(130, 290, 10)]
    source = put_pages(stage.source, TABLE, {at: make_page(at, SECOND.start_lsn + 8, b"new") for at in single})
    third = BackupOrder(number=3, workers=1)
    changed = changes({RELATION: single}) if has_summaries else None
    manifest = take_increment(stage.repository, source, third, build_on(parent, changed=changed))
    place = BackupCatalog(stage.repository, third.cluster).pack_place
    ends = {ref: load_pack_index(place, ref).plain_offsets for ref in manifest.packs if ref.label == third.label}
    sizes: dict[tuple[bytes, int], set[int]] = {}
    for side in invert(manifest.block_map):
        ref = manifest.packs[side.pack]
        for offset, length in zip(side.pack_offset.tolist(), side.length.tolist(), strict=True):
            if ref in ends:
                sizes.setdefault((ref.id, bisect_right(ends[ref], offset)), set()).add(length)
    assert sorted(map(sorted, sizes.values())) == [[PAGE], [EXTENT_BYTES]]


# -- by summaries -----------------------------------------------------------------------------------------------------


def changes(
    blocks: Mapping[tuple[int, int, int], list[int]], limits: Mapping[tuple[int, int, int], int] | None = None
) -> ChangedBlocks:
    builder = ChangedBlocksBuilder()
    for relation, some in blocks.items():
        builder.add_blocks(relation, np.array(some, np.uint32))
    for relation, limit in (limits or {}).items():
        builder.add_limit(relation, limit)
    return builder.finish()


RELATION = (1663, 5, 16384)


def test_only_named_blocks_are_read(make_stage: MakeStage) -> None:
    stage = make_stage({TABLE: table(6)})
    source = put_pages(stage.source, TABLE, {block: make_page(block, AFTER, b"new") for block in (1, 2, 4)})
    manifest = stage.step(source, changed=changes({RELATION: [1, 4, 400]}))
    expected = {**table(6), **{block: make_page(block, AFTER, b"new") for block in (1, 4)}}
    assert stage.restored()[TABLE] == b"".join(expected.values())
    assert stored_pages(stage, manifest) == 2


def test_everything_from_a_limit_on_is_read_and_what_is_new(make_stage: MakeStage) -> None:
    stage = make_stage({TABLE: table(6)})
    source = put_pages(stage.source, TABLE, {block: make_page(block, BEFORE, b"new") for block in range(3, 9)})
    stage.step(source, changed=changes({}, {RELATION: 3}))
    stage.assert_holds_all()


def test_new_pages_that_no_summary_names_are_read(make_stage: MakeStage) -> None:
    stage = make_stage({TABLE: table(6)})
    stage.step(put_pages(stage.source, TABLE, {6: make_page(6, BEFORE, b"new")}), changed=changes({}))
    stage.assert_holds_all()


def test_blocks_are_counted_through_all_files_of_a_relation(make_stage: MakeStage) -> None:
    second = f"{TABLE}.1"
    before = {block: make_page(GIB_BLOCKS + block, BEFORE, b"before") for block in range(3)}
    stage = make_stage({TABLE: table(3), second: before})
    new = {block: make_page(GIB_BLOCKS + block, AFTER, b"new") for block in (0, 2)}
    source = put_pages(stage.source, second, new)
    manifest = stage.step(source, changed=changes({RELATION: [GIB_BLOCKS, GIB_BLOCKS + 2, 2 * GIB_BLOCKS]}))
    stage.assert_holds_all()
    assert stored_pages(stage, manifest) == 2


def test_relation_in_a_tablespace_is_found_by_all_three_numbers(make_stage: MakeStage) -> None:
    name = f"pg_tblspc/{TABLESPACE_OID}/PG_17_202406281/5/16500"
    stage = make_stage({name: table(3)})
    source = put_pages(stage.source, name, {1: make_page(1, AFTER, b"new")})
    stage.step(source, changed=changes({(TABLESPACE_OID, 5, 16500): [1], (1663, 5, 16500): [0]}))
    stage.assert_holds_all()


# -- by contents and time stamps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"{TABLE}_fsm", f"{TABLE}_vm", "base/5/16600_init", "pg_xact/0000", "PG_VERSION"])
@pytest.mark.parametrize("changed", [None, changes({})])
def test_other_files_are_judged_by_their_contents(
    make_stage: MakeStage, name: str, changed: ChangedBlocks | None
) -> None:
    """The same size, an old LSN, and no word in any summary: clearing a bit of a visibility map is like that."""
    stage = make_stage({f"{TABLE}_vm": {0: make_page(0, BEFORE, b"\1")}})
    content = stage.source.files[name]
    other = make_page(0, BEFORE, b"other") if len(content) == PAGE else content[::-1]
    stage.step(write(stage.source, name, other), changed=changed)
    stage.assert_holds_all()


def test_other_files_that_hold_the_same_are_not_stored_again(make_stage: MakeStage) -> None:
    stage = make_stage({f"{TABLE}_vm": {0: make_page(0, BEFORE, b"\1")}})
    manifest = stage.step(stage.source)
    stage.assert_holds_all()
    assert stored_pages(stage, manifest) == 0
    assert manifest.files.content_hash.tobytes() == stage.parent.files.content_hash.tobytes()


def test_untouched_file_is_not_opened(make_stage: MakeStage) -> None:
    names = (TABLE, f"{TABLE}_fsm", "pg_xact/0000")
    stage = make_stage({TABLE: table(4)})

    def remove() -> None:
        for name in names:
            (stage.source.data_directory / name).unlink()

    stage.step(stage.source, remove, untouched=names)
    stage.assert_holds_all()


def test_file_of_another_size_is_not_untouched(make_stage: MakeStage) -> None:
    stage = make_stage({TABLE: table(4)})
    source = write(put_pages(stage.source, TABLE, {4: make_page(4, BEFORE, b"new")}), "pg_xact/0000", b"other")
    stage.step(source, untouched=(TABLE, "pg_xact/0000"))
    stage.assert_holds_all()


def test_hash_of_contents_is_of_all_of_them_or_missing(make_stage: MakeStage) -> None:
    """Files are read in ranges of 64 MiB, by whoever is free."""
    contents = {f"base/5/of {size} MiB": bytes([size]) * (size << 20) for size in (1, 63, 64, 65)}
    stage = make_stage(files=contents)
    files = stage.parent.files
    recorded = {os.fsdecode(files.path(at)): files.content_hash[at].tobytes() for at in range(len(files.size))}
    for name, content in contents.items():
        assert recorded[name] == (blake3(content).digest(HASH_BYTES) if len(content) < 64 << 20 else bytes(HASH_BYTES))


# -- databases and damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("then", "now"), [("731", "900"), (None, "731"), ("731", None), (None, None)])
@pytest.mark.parametrize("changed", [None, changes({})])
def test_files_of_a_database_made_since_are_all_stored(
    make_stage: MakeStage, then: str | None, now: str | None, changed: ChangedBlocks | None
) -> None:
    """It may have the number of another one, and its files the names of that one's, with pages older than the parent.

    A database that the parent did not know, or that is not known now, may have been being made, or removed, while its
    files were listed.
    """
    stage = make_stage({TABLE: table(4)})
    known = ((5, then),) if then is not None else ()
    parent = replace(stage.parent, facts=replace(stage.parent.facts, databases=known))
    source = put_pages(stage.source, TABLE, {block: make_page(block, BEFORE, b"copied") for block in range(4)})
    stage.step(source, parent=parent, changed=changed, databases={5: now} if now is not None else {})
    stage.assert_holds_all()


@pytest.mark.parametrize("changed", [None, changes({})])
@pytest.mark.parametrize("name", [TABLE, f"{TABLE}_fsm"])
def test_page_that_the_parent_has_damaged_is_looked_at_again(
    make_stage: MakeStage, changed: ChangedBlocks | None, name: str
) -> None:
    """Whoever mended it did so behind the server's back: its LSN and its file's time stamps may be what they were."""
    stage = make_stage({name: table(4)})
    bad = BadPage(path=name, block=2, lsn="0/1", relation=None)
    parent = replace(stage.parent, facts=replace(stage.parent.facts, bad_pages=(bad,)))
    source = put_pages(stage.source, name, {2: make_page(2, BEFORE, b"mended")})
    stage.step(source, parent=parent, changed=changed, untouched=(name,))
    stage.assert_holds_all()


# -- files that change meanwhile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [None, changes({RELATION: [0, 1, 2, 3]})])
def test_file_that_vanishes_before_it_is_read_is_in_no_backup(
    make_stage: MakeStage, changed: ChangedBlocks | None
) -> None:
    stage = make_stage({TABLE: table(4)})
    source = put_pages(stage.source, TABLE, {1: make_page(1, AFTER, b"new")})
    stage.step(source, (source.data_directory / TABLE).unlink, changed=changed)
    assert TABLE not in stage.restored()


@pytest.mark.parametrize("left", [0, 1, 3])
@pytest.mark.parametrize("changed", [None, changes({RELATION: [0, 2, 3]})])
def test_file_cut_short_before_it_is_read_keeps_its_length(
    make_stage: MakeStage, changed: ChangedBlocks | None, left: int
) -> None:
    """Replaying WAL cuts it again; what is there beyond is the parent's, or zeros."""
    stage = make_stage({TABLE: table(4)})
    new = {block: make_page(block, AFTER, b"new") for block in (0, 2, 3, 4)}
    source = put_pages(stage.source, TABLE, new)

    def cut() -> None:
        path = source.data_directory / TABLE
        path.write_bytes(path.read_bytes()[: left * PAGE])

    stage.step(source, cut, changed=changed)
    old = table(4)
    expected = [new.get(block, old.get(block)) if block < left else old.get(block, bytes(PAGE)) for block in range(5)]
    assert stage.restored()[TABLE] == b"".join(page for page in expected if page)


@pytest.mark.parametrize("changed", [None, changes({RELATION: [1]})])
def test_what_a_file_grows_by_after_it_was_listed_is_left_to_wal(
    make_stage: MakeStage, changed: ChangedBlocks | None
) -> None:
    stage = make_stage({TABLE: table(4)})
    source = put_pages(stage.source, TABLE, {1: make_page(1, AFTER, b"new")})

    def grow() -> None:
        put_pages(source, TABLE, {4: make_page(4, AFTER, b"grown")})

    stage.step(source, grow, changed=changed)
    stage.assert_holds_all()


def test_new_and_removed_files_come_and_go(make_stage: MakeStage) -> None:
    stage = make_stage({TABLE: table(4)})
    source = put_pages(stage.source, "base/5/20001", table(2))
    source = write(source, "base/5/16385", None)
    manifest = stage.step(source, changed=changes({}))
    stage.assert_holds_all()
    assert rule_of(source, stage.parent, "base/5/20001") is Rule.FULL
    assert stored_pages(stage, manifest) == 2
