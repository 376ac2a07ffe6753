"""A small but complete repository, and everything a reader does with each kind of its objects.

The one idea: damage is done to one object of a store that is otherwise whole, the reader of that kind of object runs
to its end, and what it came to is compared with what it should have come to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.audits import Audit, keep_audit
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import invert
from pghaven.repository.collect import BackupCollector, CollectRules
from pghaven.repository.drills import store_drill
from pghaven.repository.evidence import store_evidence
from pghaven.repository.horizon import raise_horizon
from pghaven.repository.incidents import Incident, IncidentKind, record_incident
from pghaven.repository.kept import KeptSnapshot, name_snapshot, record_snapshot
from pghaven.repository.manifest import Manifest
from pghaven.repository.markers import Marker, store_marker
from pghaven.repository.pack import load_pack_cells, load_pack_index
from pghaven.repository.partials import Piece, parse_piece, prove_piece, put_piece
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.rescuekit import read_kit, write_kit
from pghaven.repository.seal import Keyring
from pghaven.restore.fetch import FetchJob, FetchSettings, open_fetcher
from pghaven.restore.targetfiles import FileTarget
from pghaven.snapshot.driver import Volume
from pghaven.store.memory import MemoryStore
from pghaven.units import render_time_utc
from tests.support.synthetic import (
    CLUSTER,
    GENERATED,
    START,
    SYSTEM_IDENTIFIER,
    BackupOrder,
    SourceTree,
    make_lineage,
    make_repository,
    make_segment,
    make_source,
    open_archive,
    read_tree,
    remove_target,
    reopen,
    restore,
    take_backup,
)

OTHER_CLUSTER = "other"
FORMER = BackupOrder(number=0, workers=1)
"""Expired and collected before the others were verified."""
FIRST, SECOND = BackupOrder(number=1), BackupOrder(number=2, workers=1)
ELSEWHERE = replace(FIRST, cluster=OTHER_CLUSTER)
HISTORY = b"1\t0/600000\tno recovery target specified\n"
LEFT_BEHIND = "000000010000000000000007"


class ObjectKind(StrEnum):
    DESCRIPTOR = "descriptor"
    LINEAGE = "lineage"
    INTENT = "intent"
    DECISION = "decision"
    SIGN = "alive"
    MANIFEST = "manifest"
    PACK = "pack"
    WAL = "wal"
    QUARANTINE = "quarantine"
    PIECE = "piece"
    HOLD = "hold"
    HORIZON = "horizon"
    TURN = "turn"
    INCIDENT = "incident"
    AUDIT = "audit"
    MARKER = "marker"
    OUTLINE = "outline"
    EVIDENCE = "evidence"
    SNAPSHOT = "snapshot"
    KIT = "kit"


_FOLDERS = {
    "lineages": ObjectKind.LINEAGE,
    "packs": ObjectKind.PACK,
    "partials": ObjectKind.PIECE,
    "collections": ObjectKind.TURN,
    "horizons": ObjectKind.HORIZON,
    "incidents": ObjectKind.INCIDENT,
    "audits": ObjectKind.AUDIT,
    "markers": ObjectKind.MARKER,
    "outlines": ObjectKind.OUTLINE,
    "snapshots": ObjectKind.SNAPSHOT,
}


def kind_of(name: str) -> ObjectKind:
    parts = name.split("/")
    if len(parts) == 1:
        return ObjectKind.KIT if name in read_kit() else ObjectKind.DESCRIPTOR
    if parts[2] == "backups":
        return ObjectKind(parts[4])
    return _FOLDERS.get(parts[2]) or ObjectKind(parts[2])


Found = dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The repository in memory; ``content`` is every object as it should be, ``former`` are those that were removed,
    ``states`` all objects after each step of what happened, the last of them as now."""

    store: MemoryStore
    keyring: Keyring
    sources: dict[str, SourceTree]
    content: dict[str, bytes]
    former: dict[str, bytes]
    states: list[dict[str, bytes]]
    jobs: dict[str, FetchJob]
    scratch: Path

    def names(self, *kinds: ObjectKind) -> list[str]:
        return [name for name in self.content if not kinds or kind_of(name) in kinds]

    @contextmanager
    def holding(self, name: str, content: bytes | None) -> Iterator[None]:
        """With other bytes under this name, or none."""
        self.store.delete(name)
        if content is not None:
            self.store.create(name, [content])
        try:
            yield
        finally:
            self.store.delete(name)
            self.store.create(name, [self.content[name]])

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Without an object that was added later."""
        kept = self.store.read(name)
        self.store.delete(name)
        try:
            yield
        finally:
            self.store.create(name, [kept])

    @contextmanager
    def with_more(self, objects: dict[str, bytes]) -> Iterator[None]:
        """With objects that are not there."""
        for name, content in objects.items():
            self.store.create(name, [content])
        try:
            yield
        finally:
            for name in objects:
                self.store.delete(name)

    def at(self, state: dict[str, bytes]) -> Reference:
        """The repository as it was, in a store of its own."""
        store = MemoryStore()
        for name, content in state.items():
            store.create(name, [content])
        return replace(self, store=store, content=state)

    def open(self) -> Repository:
        return reopen(self.store, keyring=self.keyring)

    # -- readers --------------------------------------------------------------------------------------------------

    def read(self, name: str) -> Found:
        """Everything a reader would make of this object, in its cluster. Raises what the reader raises."""
        kind = kind_of(name)
        if kind is ObjectKind.WAL:
            return self.read_wal(name)
        if kind is ObjectKind.PACK:
            return self.fetch(name)
        if kind is ObjectKind.PIECE:
            archive = open_archive(self.open(), name.split("/")[1])
            piece = parse_piece(archive, name)
            assert piece is not None
            return {name: str(prove_piece(archive, piece, contents=True)).encode()}
        if kind is ObjectKind.QUARANTINE:
            return {name: open_archive(self.open(), name.split("/")[1]).get_quarantined(name.rpartition("/")[2])}
        is_of_backup = kind in (ObjectKind.INTENT, ObjectKind.DECISION, ObjectKind.MANIFEST, ObjectKind.HOLD)
        return self.restore(name.split("/")[3] if is_of_backup else None)

    def fetch(self, name: str) -> Found:
        """What a restore's worker makes of a pack: the parts of files that lie in it. Reads the cells' hashes too."""
        root = self.scratch / "fetch"
        settings = FetchSettings(place=BackupCatalog(self.open(), CLUSTER).pack_place, roots=(("", str(root)),))
        job = self.jobs[name]
        for file in job.files:
            (root / file.directory).mkdir(parents=True, exist_ok=True)
        worker = open_fetcher(settings)
        try:
            worker(job)
            assert job.pack is not None
            load_pack_cells(settings.place, job.pack, load_pack_index(settings.place, job.pack))
            return {f"{file.directory}/{os.fsdecode(file.name)}": _path(root, file).read_bytes() for file in job.files}
        finally:
            worker.close()
            for file in job.files:
                _path(root, file).unlink(missing_ok=True)

    def read_wal(self, name: str) -> Found:
        repository = self.open()
        archive = open_archive(repository, name.split("/")[1])
        file_name = name.rpartition("/")[2]
        facts = archive.read_facts(file_name)
        content = archive.get(file_name)
        if file_name.endswith(".history"):
            archive.read_history(Timeline.parse_history_name(file_name))
        return {file_name: content, "facts": repr(sorted(facts.items())).encode()}

    def restore(self, label: str | None) -> Found:
        """Restore the backups of the first cluster (or one of them); every file by label and path."""
        repository = self.open()
        repository.require_lineage(CLUSTER, SYSTEM_IDENTIFIER)
        found: Found = {}
        labels = [label] if label else [one.label for one in BackupCatalog(repository, CLUSTER).list_committed()]
        for one in labels:
            target = self.scratch / "target"
            before = set(os.listdir("/proc/self/fd"))
            try:
                restore(repository, one, target)
                files, _ = read_tree(target)
            except Exception:
                assert not (target / "global" / "pg_control").exists(), "what was not restored could be started"
                # A worker process that fails ends; one that works in this process leaves what it had open.
                for descriptor in set(os.listdir("/proc/self/fd")) - before:
                    with suppress(OSError):
                        os.close(int(descriptor))
                raise
            finally:
                remove_target(target)
            found.update({f"{one}/{path}": content for path, content in files.items() if path not in GENERATED})
        return found


def make_reference(root: Path, keyring: Keyring) -> Reference:
    """Two backups and WAL of one cluster, one backup of another that looks the same, and what history left behind."""
    store = MemoryStore()
    states: list[dict[str, bytes]] = []

    def remember() -> None:
        states.append({info.name: store.read(info.name) for info in store.list("")})

    repository = make_repository(store, keyring=keyring)
    repository.register_lineage(OTHER_CLUSTER, make_lineage(), new_lineage=False)
    write_kit(repository)
    remember()
    sources = {}
    for order in (FORMER, FIRST, SECOND):
        directory = root / order.label
        directory.mkdir(parents=True)
        sources[order.label] = make_source(directory, salt=order.number, tablespaces=order is FIRST)
        take_backup(repository, sources[order.label], order)
        remember()
    collect(repository, FORMER, remember)
    BackupCatalog(repository, CLUSTER).sign_of_life(FIRST.label, 1)
    take_backup(repository, sources[FIRST.label], ELSEWHERE)
    remember()
    archive = open_archive(repository)
    archive.put("00000002.history", HISTORY, {"host": "db2"})
    archive.put("000000020000000000000006", make_segment(6), {"host": "db2"})
    archive.put_quarantine(LEFT_BEHIND, make_segment(7), {"host": "db1"})
    archive.put_quarantine(LEFT_BEHIND, make_segment(77), {"host": "db1"})
    remember()
    add_rest(repository)
    remember()
    scratch = root / "scratch"
    scratch.mkdir()
    catalog = BackupCatalog(repository, CLUSTER)
    return Reference(
        store=store,
        keyring=keyring,
        sources=sources,
        content=states[-1],
        former={name: content for state in states for name, content in state.items() if name not in states[-1]},
        states=states,
        jobs={
            name: job
            for entry in catalog.list_committed()
            for name, job in _jobs(catalog, catalog.load_manifest(entry))
        },
        scratch=scratch,
    )


def add_rest(repository: Repository) -> None:
    """What else a repository may hold: pieces of an unfinished segment, a hold, and what no restore reads."""
    archive = open_archive(repository)
    catalog = BackupCatalog(repository, CLUSTER)
    segment = SegmentName(timeline=Timeline(2), number=7, segment_size=archive.segment_size)
    content = make_segment(7)
    for begin, end in ((0, 3000), (3000, 5000)):
        put_piece(archive, Piece(segment=segment, receiver="0123abcd", begin=begin, end=end), content[begin:end], {})
    for order in (FIRST, SECOND):
        Removal(catalog).hold(order.label, "for the auditors")
    raise_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(1 << 20)})
    entries = catalog.list_committed()
    for number, entry in enumerate(entries):
        moment = START + timedelta(hours=number)
        refused = {"hash": f"{number:016x}".ljust(64, "0")}
        incident = Incident(
            kind=IncidentKind.TWO_WRITERS, subject=str(segment), seen_at=moment, archived={"host": "a"}, refused=refused
        )
        record_incident(repository, CLUSTER, SYSTEM_IDENTIFIER, incident)
        audit = Audit(
            began_at=moment, written_at=moment, next_segment=None, segments=number, read_bytes=0, flaws=(), gaps=()
        )
        keep_audit(repository, CLUSTER, SYSTEM_IDENTIFIER, audit)
        marker = Marker(name="", written_at=moment, timeline=Timeline(1), lsn=Lsn(5 << 20), tables=(), passed_over=())
        store_marker(repository, CLUSTER, SYSTEM_IDENTIFIER, marker)
        decision = layout.backup_object_name(CLUSTER, entry.label, "decision")
        copies = {decision: repository.store.read(decision).decode()}
        repository.create_document(layout.outlines_prefix(CLUSTER) + entry.label, {"documents": copies})
        body: dict[str, object] = {
            "scope": "quick",
            "only": None,
            "began_at": render_time_utc(moment),
            "backups": [],
            "archive_ends": [],
        }
        store_evidence(repository, CLUSTER, {**body, "damage_count": 0})
        store_drill(repository, CLUSTER, {"passed": True, "began_at": render_time_utc(moment), "backup": entry.label})
        manifest = catalog.load_manifest(entry)
        record_snapshot(repository, _as_snapshot(manifest, f"snapshot-{number}"))


def _as_snapshot(manifest: Manifest, label: str) -> KeptSnapshot:
    return KeptSnapshot(
        facts=replace(manifest.facts, cluster=CLUSTER, label=label),
        name=name_snapshot(CLUSTER, label),
        volumes=(Volume(kind="zfs", source="tank/pg", root="/srv/pg"),),
        home="/srv/pg/main",
        elsewhere={},
        control=b"\x01\x02",
        config_files=(),
        first_segment="000000010000000000000001",
        last_segment="000000010000000000000002",
    )


def collect(repository: Repository, order: BackupOrder, remember: Callable[[], None]) -> None:
    """Expire a backup and remove it, with the WAL before the next one's start."""
    catalog = BackupCatalog(repository, CLUSTER)
    Removal(catalog).retire(order.label, RetireOrder(reason="by hand: not needed", not_before=START))
    remember()
    for _ in range(2):
        run_collector(repository)
        remember()
    repository.store.delete(layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, "000000010000000000000002"))
    remember()


def run_collector(repository: Repository) -> None:
    """Whoever had the turn before is gone."""
    rules = CollectRules(grace=timedelta(0), has_ended=lambda *_: True)
    BackupCollector(BackupCatalog(repository, CLUSTER), rules).run()


def _jobs(catalog: BackupCatalog, manifest: Manifest) -> Iterator[tuple[str, FetchJob]]:
    """A worker's job for each pack of a backup."""
    files = manifest.files
    targets = [
        FileTarget(
            os.fsdecode(files.directories[files.directory[number]]), name, int(files.size[number]), 0o600, 0, -1, -1
        )
        for number, name in enumerate(files.names)
    ]
    for part in invert(manifest.block_map):
        ref = manifest.packs[part.pack]
        numbers = sorted(set(part.file.tolist()))
        local = [numbers.index(number) for number in part.file.tolist()]
        columns = (local, part.file_offset.tolist(), part.length.tolist(), part.pack_offset.tolist())
        runs = tuple(zip(*columns, strict=True))
        yield (
            catalog.pack_place.name(ref.label, ref.id),
            FetchJob(pack=ref, files=tuple(targets[number] for number in numbers), runs=runs),
        )


def _path(root: Path, file: FileTarget) -> Path:
    return root / file.directory / os.fsdecode(file.name)
