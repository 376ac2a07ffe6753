"""A cluster of a dozen pages that hold next to nothing, and its backups in the repository's real form.

The one idea: the protocol does not know how much there is, so there is very little; packs, frames, block maps and
manifests are made and read by the real code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import HOLE, Placements
from pghaven.repository.container import hash_cells
from pghaven.repository.entry import BackupEntry
from pghaven.repository.known import KnownFrames
from pghaven.repository.manifest import HASH_BYTES, BackupFacts, FileColumns, Manifest
from pghaven.repository.mapmaking import build_block_map
from pghaven.repository.pack import PackRef, PackWriter, iter_pack_frames, load_pack_index
from pghaven.repository.repository import Lineage
from pghaven.runtime.names import Names
from pghaven.units import render_time_utc
from tests.simulation.engine import START

CLUSTER = "shop"
SYSTEM_IDENTIFIER = 7_300_000_000_000_000_001
SEGMENT_SIZE = 1 << 20
PAGE = 8192
FILES = ("base/1", "base/2", "global/3")
PAGES_OF_FILE = 4
_FRAME_PAGES = 3
PACK_BYTES = 150
_DIRECTORIES = (b"", b"base", b"global")

Pages = Mapping[tuple[str, int], bytes]
Places = dict[tuple[str, int], tuple[PackRef, int]]
"""For each page the pack that holds it, and where in its plain bytes."""

LINEAGE = Lineage(
    system_identifier=SYSTEM_IDENTIFIER,
    major=17,
    block_size=8192,
    segment_blocks=131072,
    wal_segment_size=SEGMENT_SIZE,
    registered_at=render_time_utc(START),
)
_FACTS = BackupFacts(
    label="",
    cluster=CLUSTER,
    system_identifier=SYSTEM_IDENTIFIER,
    server_version_num=170006,
    catalog_version=202406281,
    control_version=1700,
    block_size=8192,
    segment_blocks=131072,
    wal_segment_size=SEGMENT_SIZE,
    data_checksums=True,
    timeline=Timeline(1),
    start_lsn=Lsn(0),
    stop_lsn=Lsn(0),
    started_at=START,
    stopped_at=START,
    from_standby=False,
    method="local",
    changes="full",
    parent=None,
    host="db1",
    data_directory="/srv/data",
    written_by="pghaven tests",
    backup_label="",
    tablespace_map=None,
    tablespaces=(),
    databases=(),
    owners=(("postgres", "postgres"),),
    links=(),
    bad_pages=(),
    file_count=len(FILES),
    total_bytes=len(FILES) * PAGES_OF_FILE * PAGE,
    stored_bytes=0,
)


class TinyCluster:
    """What a server has: pages, the position its WAL has reached, and segments it has not archived yet."""

    def __init__(self) -> None:
        self.segment = 2
        self.page_segment = {(name, number): 1 for name in FILES for number in range(PAGES_OF_FILE)}
        self.ready: list[int] = []
        self.is_fenced = False

    @property
    def lsn(self) -> Lsn:
        return Lsn(self.segment * SEGMENT_SIZE + 40)

    def switch_segment(self) -> Lsn:
        """Complete the segment that is being written; returns the position reached in it."""
        reached = Lsn(self.lsn + 80)
        self.ready.append(self.segment)
        self.segment += 1
        return reached

    def write(self, places: Sequence[tuple[str, int]]) -> None:
        for place in places:
            self.page_segment[place] = self.segment

    def read_pages(self) -> dict[tuple[str, int], bytes]:
        return {place: make_page(place, segment) for place, segment in self.page_segment.items()}

    def list_changed(self, since: int) -> set[tuple[str, int]]:
        """The pages that were changed in this segment or a later one."""
        return {place for place, segment in self.page_segment.items() if segment >= since}


def make_page(place: tuple[str, int], segment: int) -> bytes:
    return f"{place[0]}:{place[1]}@{segment}".encode().ljust(PAGE, b"\0")


def segment_name(number: int) -> SegmentName:
    return SegmentName(timeline=Timeline(1), number=number, segment_size=SEGMENT_SIZE)


def make_wal(number: int, writer: str = "") -> bytes:
    """A segment's contents; a rival ``writer`` makes other ones."""
    return f"WAL {number} {writer}".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When and from where to where a backup was made."""

    started_at: datetime
    start_lsn: Lsn
    stop_lsn: Lsn

    @property
    def segments(self) -> range:
        return range(self.start_lsn // SEGMENT_SIZE, self.stop_lsn // SEGMENT_SIZE + 1)


def store_pages(catalog: BackupCatalog, label: str, pages: Pages, known: KnownFrames | None) -> Places:
    """Store pages in packs of this label, but for frames that are known; all packs are durable when it returns."""
    writer = PackWriter(catalog.pack_place, label, level=1, pack_bytes=PACK_BYTES, in_background=False)
    places: Places = {}
    stored: list[tuple[list[tuple[str, int]], int, int]] = []
    ordered = sorted(pages)
    for start in range(0, len(ordered), _FRAME_PAGES):
        group = ordered[start : start + _FRAME_PAGES]
        frame = b"".join(pages[place] for place in group)
        found = known.find(hash_cells(frame), len(frame)) if known is not None else None
        if known is not None and found is not None:
            places.update(_places_of(group, known.packs[found[0]], found[1]))
        else:
            stored.append((group, *writer.append(frame)))
    packs = writer.close()
    for group, number, offset in stored:
        places.update(_places_of(group, packs[number], offset))
    return places


def _places_of(group: Sequence[tuple[str, int]], pack: PackRef, offset: int) -> Places:
    return {place: (pack, offset + PAGE * number) for number, place in enumerate(group)}


def list_places(manifest: Manifest) -> Places:
    """Where each page of a backup lies."""
    places: Places = {}
    block_map, files = manifest.block_map, manifest.files
    run = 0
    for number, runs in enumerate(block_map.runs_of_file.tolist()):
        page = 0
        for _ in range(runs):
            pack, offset = int(block_map.pack[run]), int(block_map.offset[run])
            for at in range(0, int(block_map.length[run]), PAGE):
                assert pack != HOLE
                places[files.path(number).decode(), page] = (manifest.packs[pack], offset + at)
                page += 1
            run += 1
    return places


def make_manifest(label: str, span: Span, places: Places, parent: str | None) -> Manifest:
    """The manifest of a backup whose pages lie there."""
    packs = tuple(dict.fromkeys(places[place][0] for place in sorted(places)))
    numbers = {pack: number for number, pack in enumerate(packs)}
    rows = [(FILES.index(n), p * PAGE, PAGE, numbers[ref], at) for (n, p), (ref, at) in sorted(places.items())]
    file, offset, length, pack, pack_offset = np.array(rows, np.uint64).T
    block_map, sizes = build_block_map(
        Placements(
            file=file.astype(np.uint32),
            file_offset=offset,
            length=length,
            pack=pack.astype(np.uint32),
            pack_offset=pack_offset,
        ),
        len(FILES),
    )
    count = len(FILES)
    return Manifest(
        facts=replace(
            _FACTS,
            label=label,
            start_lsn=span.start_lsn,
            stop_lsn=span.stop_lsn,
            started_at=span.started_at,
            stopped_at=span.started_at,
            changes="full" if parent is None else "pages",
            parent=parent,
        ),
        files=FileColumns(
            directories=list(_DIRECTORIES),
            directory_mode=np.full(len(_DIRECTORIES), 0o700, np.uint16),
            names=Names([name.rpartition("/")[2].encode() for name in FILES]),
            directory=np.array([_DIRECTORIES.index(name.rpartition("/")[0].encode()) for name in FILES], np.uint32),
            size=sizes,
            mode=np.full(count, 0o600, np.uint16),
            mtime_ns=np.zeros(count, np.int64),
            owner=np.zeros(count, np.uint16),
            flags=np.zeros(count, np.uint8),
            content_hash=np.zeros((count, HASH_BYTES), np.uint8),
        ),
        block_map=block_map,
        packs=packs,
        relations=b"",
        config_files=(),
        control=b"control",
    )


def read_backup(catalog: BackupCatalog, entry: BackupEntry) -> dict[tuple[str, int], bytes]:
    """All pages of a backup, as a restore reads them: manifest, then each pack's index and frames."""
    return read_places(catalog, list_places(catalog.load_manifest(entry)))


def read_places(catalog: BackupCatalog, places: Places) -> dict[tuple[str, int], bytes]:
    place_of_packs = catalog.pack_place
    pages: dict[tuple[str, int], bytes] = {}
    wanted: dict[PackRef, list[tuple[tuple[str, int], int]]] = {}
    for page, (ref, offset) in sorted(places.items()):
        wanted.setdefault(ref, []).append((page, offset))
    for ref, rows in wanted.items():
        index = load_pack_index(place_of_packs, ref)
        frames = sorted({index.frame_at(offset) for _, offset in rows})
        plain = dict(iter_pack_frames(place_of_packs, ref, index, frames))
        for page, offset in rows:
            number = index.frame_at(offset)
            at = offset - index.plain_offsets[number]
            pages[page] = bytes(plain[number][at : at + PAGE])
            if len(pages[page]) != PAGE:
                raise Damaged(f"page {page} reaches beyond its frame")
    return pages
