"""Long lists beside a cluster's files: changed blocks, frames of an interrupted backup, WAL, files to remove.

The one idea: the real code over made-up lists, each in a process of its own (``bench.scale`` runs them).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.memory import Rows
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.proof.verify_records import WalNeed
from pghaven.proof.verify_wal import iter_wal_jobs, judge_wal, list_wal
from pghaven.repository import layout
from pghaven.repository.container import CELL_BYTES, Container, Kind
from pghaven.repository.known import load_known_frames
from pghaven.repository.manifest import parse_manifest
from pghaven.repository.pack import PackPlace, PackWriter
from pghaven.repository.repository import Lineage, create_repository
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.restore.existing import find_existing
from pghaven.runtime.spill import let_go
from pghaven.server.changed import ChangedBlocksBuilder
from pghaven.store.api import ObjectInfo
from pghaven.store.posix import PosixStore

CLUSTER = "scale"
LABEL = "20260301T130000Z-0001"
SEGMENT_BYTES = 16 << 20
_SUMMARIES = 2
_GAP_AT = 7 / 8


def run_summaries(blocks: str, relations: str) -> list[dict[str, Any]]:
    """As many different blocks as that, or somewhat fewer, half of them in each of two summaries."""
    rows, random = Rows(), np.random.default_rng(1)
    builder, each = ChangedBlocksBuilder(), int(blocks) // int(relations) // _SUMMARIES
    with rows.part("blocks of all summaries taken") as remarks:
        for summary in range(_SUMMARIES):
            for number in range(int(relations)):
                builder.add_blocks((1663, 5, number + 16384), random.integers(0, each * 20, each, np.uint32))
                if not number % 1000:
                    builder.add_limit((1663, 5, number + 16384), each * 20 + summary)
        remarks.append(f"{int(relations) * each * _SUMMARIES} blocks")
    with rows.part("joined") as remarks:
        changes = builder.finish()
        remarks.append(f"{changes.block_count} blocks of {changes.relation_count} relations")
    with rows.part("asked for") as remarks:
        found = 0
        for number in range(int(relations)):
            relation = changes.find(1663, 5, number + 16384)
            assert relation is not None
            found += len(relation.select(0, each * 20))
            if not number % 1000:
                let_go()
        remarks.append(f"{found} blocks")
    return rows.rows


def run_interrupted(frames: str, directory: str) -> list[dict[str, Any]]:
    """Frames of one page each, which is as many as these can hold."""
    root = Path(directory, "interrupted")
    root.mkdir()
    store = PosixStore.open(f"file://{root}", str(root))
    place = PackPlace(store=store, repository_id="0" * 32, cluster=CLUSTER, keyring=OPEN_KEYRING)
    writer = PackWriter(place, LABEL, level=1, pack_bytes=1 << 16)
    for number in range(int(frames)):
        writer.append(number.to_bytes(8, "little") * (CELL_BYTES // 8))
        if not number % 1000:
            writer.take_stored()
    writer.close()
    rows = Rows()
    with rows.part("frames and pages of an interrupted backup") as remarks:
        known = load_known_frames(place, [LABEL])
        assert known is not None
        let_go()
        remarks.append(f"{frames} frames in {len(known.packs)} packs")
    with rows.part("looked for") as remarks:
        found = 0
        for number in range(0, int(frames), 100):
            found += known.pages.find(memoryview(number.to_bytes(8, "little") * (CELL_BYTES // 8))) is not None
        remarks.append(f"{found} pages")
    return rows.rows


class ListedWal(PosixStore):
    """A directory beside which a listing tells of segments that are not there."""

    segments: ClassVar[int]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if prefix != layout.wal_prefix(CLUSTER, 1):
            yield from super().list(prefix)
            return
        for number in range(1, self.segments + 1):
            if number == int(self.segments * _GAP_AT):
                continue
            name = str(SegmentName(timeline=Timeline(1), number=number, segment_size=SEGMENT_BYTES))
            yield ObjectInfo(
                name=layout.wal_object_name(CLUSTER, 1, name), size_bytes=SEGMENT_BYTES // 3, modified=datetime.now(UTC)
            )


def run_archive(segments: str, directory: str) -> list[dict[str, Any]]:
    """An archive with a backup every 4096 segments, and one segment missing."""
    root = Path(directory, "archive")
    root.mkdir()
    ListedWal.segments = int(segments)
    repository = create_repository(ListedWal.open(f"file://{root}", str(root)))
    lineage = Lineage(
        system_identifier=1,
        major=17,
        block_size=8192,
        segment_blocks=131072,
        wal_segment_size=SEGMENT_BYTES,
        registered_at="2026-03-01T13:00:00Z",
    )
    needs = [
        WalNeed(
            label=f"20260301T{number // 4096:06d}Z-0001",
            system_identifier=1,
            timeline=Timeline(1),
            start_lsn=Lsn(number * SEGMENT_BYTES + 40),
            stop_lsn=Lsn((number + 2) * SEGMENT_BYTES),
        )
        for number in range(1, int(segments), 4096)
    ]
    rows = Rows()
    with rows.part("archive listed") as remarks:
        wal = list_wal(repository, CLUSTER, lineage, needs)
        remarks.append(f"{segments} segments")
    with rows.part("a verification's jobs") as remarks:
        remarks.append(f"{sum(1 for _ in iter_wal_jobs(wal, only_needed=True))} jobs")
    with rows.part("judged") as remarks:
        remarks.append(f"{len(judge_wal(wal, {}))} gap")
    return rows.rows


def run_delta(manifest: str, files: str, directory: str) -> list[dict[str, Any]]:
    """A directory with so many files of PostgreSQL's that a backup does not have."""
    root = Path(directory, "delta")
    other = root / "base" / "5"
    other.mkdir(parents=True)
    for number in range(int(files)):
        (other / str(number + 16384)).touch()
    rows = Rows()
    container = Container(Path(manifest).read_bytes(), kind=Kind.MANIFEST, context=b"scale", keyring=OPEN_KEYRING)
    with rows.part("what is to be removed") as remarks:
        found = find_existing({"": os.fspath(root)}, {}, parse_manifest(container))
        remarks.append(f"{len(found.removed)} files and directories")
    return rows.rows


SIDES: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "summaries": run_summaries,
    "interrupted": run_interrupted,
    "archive": run_archive,
    "delta": run_delta,
}
