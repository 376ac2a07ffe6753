"""What a backup reads of each file, and what it keeps of its parent's. Pure.

The one idea: each file has one rule. By default everything of it is read and stored; every other rule rests on a proof
that what is not read, or not stored, is what the parent holds:

    KEEP     nothing is read: the file is as it was (its time stamps, or no WAL summary names it)
    BLOCKS   only blocks that WAL summaries name are read and stored
    SCAN     every page is read; those whose LSN says that they may have changed are stored
    PAGES    all is read; pages are stored unless their hashes are those that the parent's packs keep
    COMPARE  all is read; it is stored unless its hash is the one the parent recorded
    FULL     all is read and stored

LSNs and summaries are believed of main forks alone. Free-space and visibility maps, SLRUs and everything else are
judged by their contents, because they change without moving an LSN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from pghaven.backup.chosen import BlocksToRead, ExtentsToRead, Ruled
from pghaven.backup.collect import Parentage
from pghaven.backup.counterparts import iter_with_one
from pghaven.backup.damage import relation_key
from pghaven.backup.jobs import (
    SMALL_FILE_BYTES,
    Job,
    PagesJob,
    Part,
    ReadJob,
    ScanJob,
    iter_batches,
    iter_block_jobs,
    iter_jobs,
    iter_ranges,
    part_of,
)
from pghaven.backup.listing import Listing
from pghaven.backup.parentpages import PAGES_MIN_BYTES
from pghaven.postgres.datadir import is_relation_directory
from pghaven.postgres.lsn import Lsn
from pghaven.repository.blockmap import EXTENT_BYTES, find_fragmented, sort_unique
from pghaven.repository.container import CELL_BYTES, CELL_HASH_BYTES
from pghaven.repository.manifest import Manifest
from pghaven.runtime.spill import in_parts, make_column
from pghaven.server.changed import ChangedBlocks

# What relation files that all databases share have for a database.
_NO_DATABASE = 0
_EXTENT_HASH_BYTES = EXTENT_BYTES // CELL_BYTES * CELL_HASH_BYTES


class Rule(IntEnum):
    FULL = 0
    KEEP = 1
    BLOCKS = 2
    SCAN = 3
    COMPARE = 4
    PAGES = 5


# What is read from its beginning to its end.
_WHOLE = (Rule.FULL, Rule.SCAN, Rule.COMPARE, Rule.PAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a backup with a parent goes on from. ``changed`` is None where pages are to be judged by their LSN.

    ``untouched`` says for each file of the listing whether nobody can have written to it since (``backup.untouched``);
    ``counterpart`` is each one's number in the parent's manifest, or -1. ``databases`` tell apart databases that have
    had one number: from OIDs to what identifies the row of ``pg_database`` now. ``marks_logged`` is whether every page
    that was marked all-visible since has a later LSN: only where hints are in the WAL, by data checksums or
    wal_log_hints, all the time. ``hash_pages`` gives what ``backup.parentpages`` knows of files of the parent.
    """

    parent: Manifest
    since: Lsn
    changed: ChangedBlocks | None
    counterpart: npt.NDArray[np.int64]
    untouched: npt.NDArray[np.bool_]
    databases: Mapping[int, str]
    marks_logged: bool
    hash_pages: Callable[[Sequence[int]], Mapping[int, bytes]]


@dataclass(slots=True, kw_only=True)
class ChangePlan:
    """``rules`` has one a file of the listing. ``read_bytes`` is what the jobs will read."""

    rules: npt.NDArray[np.uint8]
    parentage: Parentage | None
    jobs: Iterator[Job]
    read_bytes: int
    counts: Mapping[Rule, int] = field(default_factory=dict)


def plan_full(listing: Listing, block_size: int) -> ChangePlan:
    """Read and store everything."""
    return ChangePlan(
        rules=make_column(len(listing.size), np.uint8),
        parentage=None,
        jobs=iter(iter_jobs(listing, block_size)),
        read_bytes=listing.total_bytes,
    )


def plan_changes(listing: Listing, ground: Ground) -> ChangePlan:
    """Read what may have changed since the parent, and store what has."""
    return _Planner(listing, ground).plan()


class _Planner:
    def __init__(self, listing: Listing, ground: Ground) -> None:
        self._listing = listing
        self._ground = ground
        facts = ground.parent.facts
        self._block_size = facts.block_size
        self._segment_blocks = facts.segment_blocks
        files = ground.parent.files
        self._size = listing.size.to_array()
        self._known = make_column(len(self._size), np.uint64)
        for part in in_parts(len(self._size)):
            has_one = np.flatnonzero(ground.counterpart[part] >= 0)
            self._known[part][has_one] = files.size[ground.counterpart[part][has_one]]
        self._blocks = BlocksToRead()
        self._damage = self._find_damage()
        self._marked = frozenset() if ground.changed is not None else self._find_unlogged_marks()
        self._extents = self._find_extents()
        self._keys: dict[int, tuple[int, int]] = {}
        self._pages: dict[int, bytes] = {}

    def plan(self) -> ChangePlan:
        rules = self._rule_all()
        source = make_column(len(rules), np.int64)
        compared, rehashed = make_column(len(rules), np.bool_), make_column(len(rules), np.bool_)
        read_bytes = self._blocks.count * self._block_size
        counts = np.zeros(len(Rule), np.int64)
        for part in in_parts(len(rules)):
            counts += np.bincount(rules[part], minlength=len(Rule))
            compared[part], rehashed[part] = rules[part] == Rule.COMPARE, rules[part] == Rule.PAGES
            source[part] = np.where(rules[part] == Rule.FULL, -1, self._ground.counterpart[part])
            read_bytes += int(self._size[part][np.isin(rules[part], _WHOLE)].sum())
        return ChangePlan(
            rules=rules,
            parentage=Parentage(parent=self._ground.parent, source=source, compared=compared, rehashed=rehashed),
            jobs=self._iter_jobs({rule: Ruled(rules, rule) for rule in Rule}),
            read_bytes=read_bytes,
            counts={rule: int(counts[rule]) for rule in Rule},
        )

    # -- rules ------------------------------------------------------------------------------------------------------

    def _rule_all(self) -> npt.NDArray[np.uint8]:
        ground, listing = self._ground, self._listing
        rules = make_column(len(self._size), np.uint8)  # FULL
        is_main = listing.is_main.to_array()
        for part in in_parts(len(rules)):
            counterpart, size = ground.counterpart[part], self._size[part]
            may_be_same = (counterpart >= 0) & (size == self._known[part])
            rules[part][may_be_same & ground.untouched[part]] = Rule.KEEP
            by_content = may_be_same & (rules[part] == Rule.FULL) & (is_main[part] == 0)
            by_content &= (size > 0) & (size <= SMALL_FILE_BYTES)
            compared = np.flatnonzero(by_content)
            has_hash = ground.parent.files.content_hash[counterpart[compared]].any(axis=1)
            rules[part][compared[has_hash]] = Rule.COMPARE
        rules[list(self._damage)] = Rule.FULL
        self._rule_pages(rules)
        made_anew = self._find_new_databases()
        for part in in_parts(len(rules)):
            judged = rules[part] != Rule.KEEP if not made_anew else np.ones(part.stop - part.start, np.bool_)
            judged[self._extents.list_files(part.start, part.stop) - part.start] = True
            judged &= (is_main[part] == 1) & (ground.counterpart[part] >= 0)
            for number in (np.flatnonzero(judged) + part.start).tolist():
                rules[number] = self._rule_main(number, Rule(int(rules[number])), made_anew)
        return rules

    def _rule_pages(self, rules: npt.NDArray[np.uint8]) -> None:
        """Large free-space and visibility maps, of which mostly a few pages have changed."""
        if self._block_size != CELL_BYTES:
            return
        counterparts: dict[int, int] = {}
        is_main, first_block = self._listing.is_main.to_array(), self._listing.first_block.to_array()
        for part in in_parts(len(rules)):
            size, known = self._size[part], self._known[part]
            wanted = (self._ground.counterpart[part] >= 0) & (rules[part] != Rule.KEEP) & (is_main[part] == 0)
            wanted &= first_block[part] >= 0
            wanted &= (known >= PAGES_MIN_BYTES) & (size >= known)
            wanted &= (size % CELL_BYTES == 0) & (known % CELL_BYTES == 0)
            for number in (np.flatnonzero(wanted) + part.start).tolist():
                if number not in self._damage:
                    counterparts[int(self._ground.counterpart[number])] = number
        for theirs, hashes in self._ground.hash_pages(list(counterparts)).items():
            number = counterparts[theirs]
            expected = bytearray(hashes)
            for extent in self._extents.list_of(number):
                piece = slice(extent * _EXTENT_HASH_BYTES, (extent + 1) * _EXTENT_HASH_BYTES)
                expected[piece] = bytes(len(expected[piece]))
            self._pages[number] = bytes(expected)
            rules[number] = Rule.PAGES

    def _recorded_hash(self, number: int) -> npt.NDArray[np.uint8]:
        recorded: npt.NDArray[np.uint8] = self._ground.parent.files.content_hash[self._ground.counterpart[number]]
        return recorded

    def _rule_main(self, number: int, so_far: Rule, made_anew: frozenset[int]) -> Rule:
        """A main fork. Shorter than in the parent, or with an odd tail, it is stored whole."""
        size, known = int(self._size[number]), int(self._known[number])
        key = self._find_key(number)
        whole_blocks = size % self._block_size == 0 and known % self._block_size == 0
        if size < known or not whole_blocks or key[1] in made_anew:
            return Rule.FULL
        if not size:
            return Rule.KEEP
        if so_far is not Rule.KEEP and self._ground.changed is None:
            return Rule.SCAN
        blocks = self._find_blocks(number, key, is_untouched=so_far is Rule.KEEP)
        if not len(blocks):
            return Rule.KEEP
        self._blocks.add(number, blocks)
        return Rule.BLOCKS

    def _find_key(self, number: int) -> tuple[int, int, int]:
        """Tablespace, database and file node; the first two are a directory's."""
        directory = self._listing.directory[number]
        above = self._keys.get(directory)
        if above is None:
            above = self._keys[directory] = relation_key(self._listing.relative_path(number))[:2]
        return *above, int(self._listing.names[number].partition(b".")[0])

    def _find_blocks(self, number: int, key: tuple[int, int, int], *, is_untouched: bool) -> npt.NDArray[np.uint32]:
        """The blocks within the file that are to be read: changed ones, new ones, those of fragmented extents."""
        count, known = (int(sizes[number]) // self._block_size for sizes in (self._size, self._known))
        first = self._listing.first_block[number]
        parts = [np.arange(known, count, dtype=np.uint32)]
        if self._ground.changed is not None and not is_untouched:
            changes = self._ground.changed.find(*key)
            if changes is not None:
                parts.append(changes.select(first, first + count) - np.uint32(first))
        per_extent = max(EXTENT_BYTES // self._block_size, 1)
        for extent in self._extents.list_of(number):
            start = extent * per_extent
            parts.append(np.arange(min(start, count), min(start + per_extent, count), dtype=np.uint32))
        return sort_unique(np.concatenate(parts).astype(np.uint32))

    def _find_new_databases(self) -> frozenset[int]:
        """Databases that were made since, maybe under another's number: copied files keep their template's LSNs.

        One with files here or there that is not among the databases was being made, or removed, at that moment: what
        is known of it says nothing of the one that has its number now.
        """
        then, now = dict(self._ground.parent.facts.databases), self._ground.databases
        settled = {_NO_DATABASE, *(oid for oid, row in now.items() if then.get(oid) == row)}
        directories = filter(is_relation_directory, self._listing.directories)
        return frozenset(relation_key(f"{directory}/0")[1] for directory in directories) - settled

    def _find_damage(self) -> dict[int, list[int]]:
        """For each file the blocks in it that the parent has damaged: to be looked at again, whatever WAL says of them.

        They may have been mended meanwhile, which moves no LSN; and if not, this backup is to name them as well.
        """
        blocks: dict[str, list[int]] = {}
        for page in self._ground.parent.facts.bad_pages:
            blocks.setdefault(page.path, []).append(page.block)
        if not blocks:
            return {}
        listing = self._listing
        paths = ((number, listing.relative_path(number)) for number in iter_with_one(self._ground.counterpart))
        return {
            number: [block - listing.first_block[number] for block in blocks[path]]
            for number, path in paths
            if path in blocks
        }

    def _find_extents(self) -> ExtentsToRead:
        """The extents that the parent's map has in too many pieces, or with damaged pages in them."""
        damaged = [
            (number, block * self._block_size // EXTENT_BYTES)
            for number, blocks in self._damage.items()
            for block in blocks
        ]
        return ExtentsToRead(find_fragmented(self._ground.parent.block_map), self._ground.counterpart, damaged)

    def _find_unlogged_marks(self) -> frozenset[tuple[int, bytes]]:
        """Relations, as directory and file name, with pages that may have been marked all-visible without a new LSN.

        Such a mark goes with a bit of the visibility map: a map that nobody has written to since has seen none.
        """
        listing = self._listing
        if self._ground.marks_logged:
            return frozenset()
        found: set[tuple[int, bytes]] = set()
        for number, name in enumerate(listing.names):
            node, is_map, _ = name.partition(b"_vm")
            if is_map and listing.first_block[number] >= 0 and not self._ground.untouched[number]:
                found.add((listing.directory[number], node))
        return frozenset(found)

    # -- jobs -------------------------------------------------------------------------------------------------------

    def _iter_jobs(self, numbers: Mapping[Rule, Iterable[int]]) -> Iterator[Job]:
        """The large ones first, so that all workers are busy to the end."""
        listing, block_size = self._listing, self._block_size
        for part in iter_ranges(listing, numbers[Rule.SCAN], block_size):
            yield self._scan_job((part,), is_range=True)
        for part in iter_ranges(listing, numbers[Rule.PAGES], block_size):
            yield self._pages_job((part,))
        yield from iter_jobs(listing, block_size, numbers[Rule.FULL])
        for batch in iter_batches(listing, numbers[Rule.SCAN], block_size):
            yield self._scan_job(batch, is_range=False)
        for batch in iter_batches(listing, numbers[Rule.PAGES], block_size):
            yield self._pages_job(batch)
        for batch in iter_batches(listing, numbers[Rule.COMPARE], block_size):
            expected = tuple(self._recorded_hash(part.number).tobytes() for part in batch)
            yield ReadJob(batch, sum(part.length for part in batch), is_range=False, expected=expected)
        blocks = ((part_of(listing, number), column) for number, column in self._blocks)
        yield from iter_block_jobs(blocks, block_size)

    def _scan_job(self, parts: tuple[Part, ...], *, is_range: bool) -> ScanJob:
        return ScanJob(
            files=parts,
            size_bytes=sum(part.length for part in parts),
            is_range=is_range,
            since=self._ground.since,
            known_bytes=tuple(int(self._known[part.number]) for part in parts),
            extents=tuple(tuple(self._extents.list_of(part.number)) for part in parts),
            unlogged_marks=tuple(self._is_marked(part.number) for part in parts),
        )

    def _pages_job(self, parts: tuple[Part, ...]) -> PagesJob:
        def find(part: Part) -> bytes:
            first, count = part.offset // CELL_BYTES, part.length // CELL_BYTES
            return self._pages[part.number][first * CELL_HASH_BYTES : (first + count) * CELL_HASH_BYTES]

        size = sum(part.length for part in parts)
        return PagesJob(files=parts, known=tuple(map(find, parts)), size_bytes=size)

    def _is_marked(self, number: int) -> bool:
        node = self._listing.names[number].partition(b".")[0]
        return (self._listing.directory[number], node) in self._marked
