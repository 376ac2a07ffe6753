"""How the parts that grow with a cluster grow: a million files and ten terabytes, in memory, without the data.

    python -m bench.scale [--files 1000000] [--terabytes 10] [--changed 0.001] [--pages]

Makes the listing that a walk of such a data directory would give and the results that workers would send, then runs the
real code over them: jobs, collector, block map, manifest written and read, and a restore's jobs; then a second backup
on top, of which ``--changed`` is the share of pages that changed, each by itself at a random place; what a verification
keeps of such backups; and the long lists of ``scale_lists``. Each part is timed and its peak of memory taken.
``--pages`` adds the worst a block map may become: a file every 8 KiB of which lies somewhere else.

The one idea: what a coordinator holds must be columns, so that a file costs bytes, not objects.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.common import MIB, describe_machine, render_table, save
from bench.memory import Rows
from bench.scale_lists import SIDES
from pghaven.backup.changes import Ground, plan_changes
from pghaven.backup.collect import Collector
from pghaven.backup.counterparts import match_files
from pghaven.backup.jobs import BlocksJob, Job, iter_jobs
from pghaven.backup.listing import Listing
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.proof.verify_records import read_records
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import BlockMap, invert, invert_in_two
from pghaven.repository.container import Container, FinishedContainer, Kind
from pghaven.repository.entry import Intent, summarize
from pghaven.repository.manifest import (
    BackupFacts,
    Manifest,
    Tablespace,
    parse_manifest,
    render_manifest,
    render_relation,
)
from pghaven.repository.pack import PACK_BYTES, PackRef
from pghaven.repository.packtable import PackTable
from pghaven.repository.repository import create_repository
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.runtime.spill import PART_ROWS, Spool, let_go
from pghaven.runtime.whoami import read_own_identity
from pghaven.server.changed import ChangedBlocks, ChangedBlocksBuilder
from pghaven.store.api import ObjectInfo
from pghaven.store.posix import PosixStore

GIB = 1 << 30
_PACK_PLAIN = PACK_BYTES * 4
_CONTEXT = b"scale"
CLUSTER = "scale"
_JOBS_BETWEEN = 16
_WORKERS = 2
# What WAL summaries name when a twentieth of a database has changed.
_MANY_CHANGED = 0.05


# -- what a cluster of that size looks like ----------------------------------------------------------------------------


def make_listing(files: int, total_bytes: int) -> Listing:
    """The listing of a cluster with this many files; what small ones do not fill lies in files of 1 GiB."""
    listing = Listing(data_directory="/data")
    databases = max(files // 20_000, 1)
    for path in ("", "global", "base"):
        listing.directories.append(path)
        listing.directory_mode.append(0o700)
    for number in range(databases):
        listing.directories.append(f"base/{16384 + number}")
        listing.directory_mode.append(0o700)
    listing.owners.append((100, 100))
    big = max((total_bytes - files * 16384) // GIB, 0)
    every = max(files // max(big, 1), 1)
    mtime = 1_700_000_000_000_000_000
    per_database = -(-files // databases)
    for number in range(files):
        inside = number % per_database
        kind = (b"", b"_fsm", b"_vm", b"")[inside % 4]
        listing.names.append(b"%d%s" % (20_000 + inside // 4 * 4 + (3 if inside % 4 == 3 else 0), kind))
        listing.directory.append(3 + number // per_database)
        listing.size.append(GIB if big and number % every == 0 and number // every < big else 8192 * (1 + number % 3))
        listing.mode.append(0o600)
        listing.mtime_ns.append(mtime + number * 1_000_003)
        listing.changed_ns.append(mtime + number * 1_000_003)
        listing.is_main.append(not kind)
        listing.first_block.append(0)
        listing.owner.append(0)
        if not number % PART_ROWS:
            listing.settle()
    listing.seal()
    return listing


class Workers:
    """Answers jobs as two workers would whose packs hold so many plain bytes."""

    def __init__(self, pack_plain: int) -> None:
        self._pack_plain = pack_plain
        self._plain = [0] * _WORKERS
        self._told = [0] * _WORKERS
        self._turn = 0

    def answer(self, job: Job) -> ReadResult:
        worker = self._turn = (self._turn + 1) % _WORKERS
        columns = array("I"), array("Q"), array("Q"), array("I"), array("Q")
        for number, start, length in _list_parts(job):
            done = 0
            while done < length:
                pack, offset = divmod(self._plain[worker], self._pack_plain)
                size = min(length - done, self._pack_plain - offset)
                for column, value in zip(columns, (number, start + done, size, pack, offset), strict=True):
                    column.append(value)
                done += size
                self._plain[worker] += size
        return ReadResult(
            worker=worker,
            read_bytes=job.size_bytes,
            pieces=tuple(column.tobytes() for column in columns),  # type: ignore[arg-type]
            vanished=(),
            suspects=(),
            hashes=tuple((part.number, os.urandom(16)) for part in job.files if not part.is_main),
            packs=self._take_packs(worker, self._plain[worker] // self._pack_plain),
        )

    def close(self) -> Iterator[WorkerPacks]:
        for worker, plain in enumerate(self._plain):
            packs = self._take_packs(worker, -(-plain // self._pack_plain))
            yield WorkerPacks(worker=worker, packs=packs, pieces=(b"", b"", b"", b"", b""))

    def _take_packs(self, worker: int, count: int) -> tuple[PackRef, ...]:
        """Those up to this number that were not told yet."""
        begin, self._told[worker] = self._told[worker], count
        return tuple(_make_pack(number, self._pack_plain) for number in range(begin, count))


def _list_parts(job: Job) -> Iterator[tuple[int, int, int]]:
    """The files' ranges that a job has stored: (file, offset, length)."""
    if not isinstance(job, BlocksJob):
        yield from ((part.number, part.offset, part.length) for part in job.files)
        return
    for part, column in zip(job.files, job.blocks, strict=True):
        yield from ((part.number, block * 8192, 8192) for block in np.frombuffer(column, np.uint32).tolist())


def _make_pack(number: int, plain: int) -> PackRef:
    return PackRef(
        label="20260301T130000Z-0001",
        id=os.urandom(32),
        size_bytes=PACK_BYTES + number % 1000,
        tail_bytes=8000 + number % 100,
        plain_length=plain,
    )


def make_relations(files: int) -> Spool:
    spool = Spool()
    for number in range(files // 4):
        spool.write(render_relation((16384, "tenants", 1663, number, "public", f"t{number}_pkey", "i")))
    return spool


def make_facts(files: int, total: int) -> BackupFacts:
    now = datetime.now(UTC)
    return BackupFacts(
        label="scale",
        cluster=CLUSTER,
        system_identifier=1,
        server_version_num=170000,
        catalog_version=1,
        control_version=1300,
        block_size=8192,
        segment_blocks=131072,
        wal_segment_size=16 * MIB,
        data_checksums=True,
        timeline=Timeline(1),
        start_lsn=Lsn(1),
        stop_lsn=Lsn(2),
        started_at=now,
        stopped_at=now,
        from_standby=False,
        method="local",
        changes="full",
        parent=None,
        host="host",
        data_directory="/data",
        written_by="bench",
        backup_label="",
        tablespace_map=None,
        tablespaces=(Tablespace(oid=1, name="t", path="/t"),),
        databases=tuple((16384 + number, str(number)) for number in range(max(files // 20_000, 1))),
        owners=(("postgres", "postgres"),),
        links=(),
        bad_pages=(),
        file_count=files,
        total_bytes=total,
        stored_bytes=total // 4,
    )


# -- the two sides -----------------------------------------------------------------------------------------------------


def run_backup_side(files: int, total_bytes: int, ratio: float, path: Path) -> list[dict[str, Any]]:
    rows = Rows()
    with rows.part("listing (columns only, no walk)") as remarks:
        listing = make_listing(files, total_bytes)
        total = listing.total_bytes
        remarks.append(f"{total / 1e12:.1f} TB")
    collector, workers = Collector(len(listing.size)), Workers(int(PACK_BYTES * ratio))
    with rows.part("jobs made, results collected") as remarks:
        jobs = 0
        for job in iter_jobs(listing, 8192):
            collector.take(workers.answer(job))
            jobs += 1
        for last in workers.close():
            collector.take(last)
        remarks.append(f"{jobs} jobs")
    with rows.part("relation names"):
        relations = make_relations(files).view()
    with rows.part("block map") as remarks:
        collected = collector.finish(listing, verified=True)
        remarks.append(f"{len(collected.block_map.length)} runs in {len(collected.packs)} packs")
    manifest = Manifest(
        facts=make_facts(files, total),
        files=collected.files,
        block_map=collected.block_map,
        packs=collected.packs,
        relations=relations,
        config_files=(),
        control=b"",
    )
    with rows.part("manifest written") as remarks:
        finished = write_manifest(manifest, path)
        remarks.append(f"{finished.size_bytes / MIB:.1f} MiB, {finished.size_bytes / files:.1f} bytes a file")
    return rows.rows


def run_incremental_side(files: int, total_bytes: int, ratio: float, share: float, path: Path) -> list[dict[str, Any]]:
    rows = Rows()
    with rows.part("parent's manifest read") as remarks:
        parent = parse_manifest(
            Container(path.read_bytes(), kind=Kind.MANIFEST, context=_CONTEXT, keyring=OPEN_KEYRING)
        )
    with rows.part("listing (columns only, no walk)"):
        listing = make_listing(files, total_bytes)
    with rows.part("changed blocks, as summaries would give them") as remarks:
        changed = make_changes(listing, share)
        remarks.append(f"{changed.block_count} blocks")
    with rows.part("what to read") as remarks:
        counterpart = match_files(listing, parent.files)
        ground = Ground(
            parent=parent,
            since=Lsn(1),
            changed=changed,
            counterpart=counterpart,
            untouched=listing.is_main.to_array() == 0,
            databases=dict(parent.facts.databases),
            marks_logged=True,
            hash_pages=lambda _: {},
        )
        plan = plan_changes(listing, ground)
        remarks.append(f"{plan.read_bytes / 1e9:.1f} GB")
    collector, workers = Collector(len(listing.size)), Workers(int(PACK_BYTES * ratio))
    with rows.part("results collected"):
        for job in plan.jobs:
            collector.take(workers.answer(job))
        for last in workers.close():
            collector.take(last)
    with rows.part("block map over the parent's") as remarks:
        collected = collector.finish(listing, verified=True, parentage=plan.parentage)
        remarks.append(f"{len(collected.block_map.length)} runs in {len(collected.packs)} packs")
    manifest = Manifest(
        facts=make_facts(files, int(collected.files.size.sum())),
        files=collected.files,
        block_map=collected.block_map,
        packs=collected.packs,
        relations=parent.relations,
        config_files=(),
        control=b"",
    )
    with rows.part("manifest written") as remarks:
        finished = write_manifest(manifest, path)
        remarks.append(f"{finished.size_bytes / MIB:.1f} MiB")
    return rows.rows


def write_manifest(manifest: Manifest, path: Path) -> FinishedContainer:
    finished = render_manifest(manifest, context=_CONTEXT, keyring=OPEN_KEYRING)
    with path.open("wb") as file:
        file.writelines(finished.content)
    return finished


def make_changes(listing: Listing, share: float) -> ChangedBlocks:
    """This share of the pages of every main fork of some size, at random."""
    random = np.random.default_rng(1)
    builder = ChangedBlocksBuilder()
    for number in range(len(listing.size)):
        count = listing.size[number] // 8192
        if listing.is_main[number] and count > 1000:
            database = int(listing.directories[listing.directory[number]].rpartition("/")[2])
            blocks = random.integers(0, count, int(count * share), np.uint32)
            builder.add_blocks((1663, database, int(listing.names[number])), blocks)
    return builder.finish()


def run_restore_side(path: Path) -> list[dict[str, Any]]:
    rows = Rows()
    with rows.part("manifest read and checked") as remarks:
        manifest = parse_manifest(
            Container(path.read_bytes(), kind=Kind.MANIFEST, context=_CONTEXT, keyring=OPEN_KEYRING)
        )
        remarks.append(f"{len(manifest.files.size)} files")
    with rows.part("inverted to packs") as remarks:
        first, second = invert_in_two(manifest.block_map)
        remarks.append(f"{len(first)} packs, {len(second) if second is not None else 0} of them twice")
    with rows.part("a restore's jobs") as remarks:
        count = 0
        for number, side in enumerate(chain(first, second or ())):
            count += len(side.file)
            assert manifest.packs[side.pack].plain_length
            if not number % _JOBS_BETWEEN:
                let_go()
        remarks.append(f"{count} runs")
    return rows.rows


def make_intent(facts: BackupFacts) -> Intent:
    return Intent(
        who=read_own_identity(),
        started_at=facts.started_at,
        system_identifier=facts.system_identifier,
        timeline=facts.timeline,
        start_lsn=str(facts.start_lsn),
        parent=None,
    )


class ListedPacks(PosixStore):
    """A directory beside which a listing tells of packs that are not there."""

    packs: ClassVar[PackTable]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if prefix != layout.packs_prefix(CLUSTER):
            yield from super().list(prefix)
            return
        for pack in self.packs:
            yield ObjectInfo(
                name=layout.pack_name(CLUSTER, pack.label, pack.id),
                size_bytes=pack.size_bytes,
                modified=datetime.now(UTC),
            )


def run_verify_side(path: Path, manifests: int = 3) -> list[dict[str, Any]]:
    """What a verification knows of backups that need the same packs, but for reading these."""
    rows = Rows()
    with tempfile.TemporaryDirectory(dir=path.parent) as root:
        store = ListedPacks.open(f"file://{root}", root)
        catalog = BackupCatalog(create_repository(store), CLUSTER)
        manifest = parse_manifest(
            Container(path.read_bytes(), kind=Kind.MANIFEST, context=_CONTEXT, keyring=OPEN_KEYRING)
        )
        ListedPacks.packs = PackTable.of(manifest.packs)
        for number in range(manifests):
            label = f"20260301T13000{number}Z-0001"
            facts = replace(manifest.facts, label=label)
            catalog.announce(label, make_intent(facts))
            catalog.commit(label, replace(manifest, facts=facts), summarize(facts, "", ""))
        del manifest
        let_go()
        with rows.part(f"{manifests} manifests and a list of packs read") as remarks:
            records = read_records(catalog.repository, CLUSTER, None, {})
            remarks.append(f"{len(records.packs)} packs")
        with rows.part("what is stored of what is needed") as remarks:
            found = records.stored_packs.find_all(records.packs.table)
            remarks.append(f"{int((found >= 0).sum())} packs")
        with rows.part("a verification's jobs") as remarks:
            remarks.append(f"{sum(1 for _ in records.packs.table)} packs")
    return rows.rows


def run_pages_side(gibibytes: int) -> list[dict[str, Any]]:
    """A block map without two pages that follow one another."""
    runs = gibibytes * GIB // 8192
    rows = Rows()
    random = np.random.default_rng(1)
    with rows.part(f"{gibibytes} GiB in runs of one page: made"):
        block_map = BlockMap(
            runs_of_file=np.full(gibibytes, GIB // 8192, np.uint32),
            length=np.full(runs, 8192, np.uint64),
            pack=random.integers(0, 1000, runs, np.uint32),
            offset=random.integers(0, _PACK_PLAIN // 8192 - 1, runs, np.uint64) * np.uint64(8192),
        )
    with rows.part("inverted to packs"):
        invert(block_map)
    return rows.rows


def run_side(name: str, *arguments: object) -> list[dict[str, Any]]:
    """Each side in a process of its own, so that no memory of the other is counted."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale", "--side", name, *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    rows: list[dict[str, Any]] = eval(done.stdout)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what grows with a cluster.")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--terabytes", type=float, default=10)
    parser.add_argument("--changed", type=float, default=0.001, help="share of pages; default: %(default)s")
    parser.add_argument(
        "--ratio", type=float, default=4, help="of compression: with 1 there are four times as many packs"
    )
    parser.add_argument("--pages", type=int, default=0, metavar="GIB")
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        name, *rest = options.side
        sides: dict[str, Any] = {
            "backup": lambda: run_backup_side(int(rest[0]), int(float(rest[1])), float(rest[2]), Path(rest[3])),
            "incremental": lambda: run_incremental_side(
                int(rest[0]), int(float(rest[1])), float(rest[2]), float(rest[3]), Path(rest[4])
            ),
            "restore": lambda: run_restore_side(Path(rest[0])),
            "verify": lambda: run_verify_side(Path(rest[0])),
            "pages": lambda: run_pages_side(int(rest[0])),
        }
        print(SIDES[name](*rest) if name in SIDES else sides[name]())
        return
    with tempfile.TemporaryDirectory(prefix="pghaven-scale-") as directory:
        path = Path(directory) / "manifest"
        order = (options.files, options.terabytes * 1e12, options.ratio)
        rows = [("backup", row) for row in run_side("backup", *order, path)]
        rows += [("restore", row) for row in run_side("restore", path)]
        rows += [("incremental", row) for row in run_side("incremental", *order, options.changed, path)]
        rows += [("its restore", row) for row in run_side("restore", path)]
        rows += [("verify", row) for row in run_side("verify", path)]
        blocks = int(options.terabytes * 1e12 / 8192 * _MANY_CHANGED)
        rows += [("summaries", row) for row in run_side("summaries", blocks, options.files // 4)]
        rows += [("interrupted", row) for row in run_side("interrupted", options.files, directory)]
        rows += [("archive", row) for row in run_side("archive", options.files, directory)]
        rows += [("delta", row) for row in run_side("delta", path, options.files, directory)]
    if options.pages:
        rows += [("pages", row) for row in run_side("pages", options.pages)]
    table = render_table(
        ["side", "part", "seconds", "peak MiB", "process MiB", ""],
        [
            [side, *(str(row[name]) for name in ("part", "seconds", "peak_mib", "process_mib", "remark"))]
            for side, row in rows
        ],
    )
    result = {
        "machine": describe_machine(),
        "files": options.files,
        "terabytes": options.terabytes,
        "changed": options.changed,
        "ratio": options.ratio,
        "rows": rows,
    }
    save("scale", result, table)


if __name__ == "__main__":
    main()
