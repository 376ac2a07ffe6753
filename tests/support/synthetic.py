"""A whole repository of a made-up data directory, by the real pipeline and without a server.

The one idea: what a backup must hold is written down where the files are made, by nobody's rules but this module's, so
that listing, reading, storing, fetching and restoring are all judged by it.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from pghaven.backup.changes import ChangePlan
from pghaven.backup.checks import read_control
from pghaven.backup.collect import Collector
from pghaven.backup.jobs import ReadJob, iter_jobs
from pghaven.backup.listing import Listing, ListingRules, list_data_directory, name_owner
from pghaven.backup.pipeline import WorkerSettings, open_worker
from pghaven.backup.rivals import make_way
from pghaven.clock import Clock, ManualClock
from pghaven.events import ignore
from pghaven.postgres.control import parse_control
from pghaven.postgres.datadir import CONFIG_COPY_DIRECTORY, RESTORE_PLAN_FILE
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.page import checksums
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.version import find_by_major
from pghaven.postgres.waldata import LONG_HEADER, SHORT_HEADER
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, Intent, summarize
from pghaven.repository.manifest import BackupFacts, ConfigFile, Manifest, Tablespace, render_relation
from pghaven.repository.repository import Lineage, Repository, create_repository, open_repository
from pghaven.repository.seal import OPEN_KEYRING, DataKey, Keyring
from pghaven.repository.walstore import WalArchive
from pghaven.restore.execute import RestoreSettings, run_restore
from pghaven.restore.plan import plan_restore
from pghaven.restore.request import RestorePlan, RestoreRequest
from pghaven.runtime.whoami import ProcessIdentity, read_own_identity
from pghaven.store.api import Store
from pghaven.units import render_time_utc

CLUSTER = "shop"
SEGMENT_SIZE = 1 << 20
PAGE = 8192
TABLESPACE_OID = 16400
CONTROL = (Path(__file__).parents[1] / "golden" / "control" / "17-in-production.bin").read_bytes()
SYSTEM_IDENTIFIER = parse_control(CONTROL).system_identifier
SEALED = Keyring(keys={bytes(range(16)): DataKey.from_root(bytes(range(100, 132)))}, current_key_id=bytes(range(16)))
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
_OLD_NS = 1_700_000_000_123_456_789

# What a restore makes itself, or makes over.
GENERATED = frozenset(
    {RESTORE_PLAN_FILE, "backup_label", "recovery.signal", "postgresql.auto.conf", "global/pg_control"}
)


@dataclass(frozen=True, kw_only=True)
class SourceTree:
    """A data directory as a server would leave it. ``files`` and ``directories`` are what a backup must hold.

    ``block_size`` is what its server was built with; a file of a relation has a GiB in any case.
    """

    data_directory: Path
    tablespaces: tuple[Tablespace, ...]
    files: Mapping[str, bytes]
    directories: frozenset[str]
    block_size: int = PAGE

    @property
    def segment_blocks(self) -> int:
        return (1 << 30) // self.block_size


def make_source(root: Path, *, salt: int = 0, big: bool = False, tablespaces: bool = True) -> SourceTree:
    """Write a data directory below ``root``; ``salt`` makes its contents differ, ``big`` adds a file with holes."""
    data = root / "data"
    tree = _Tree(data)
    tree.add("PG_VERSION", b"17\n")
    tree.add("postgresql.conf", b"# salt %d\n" % salt)
    tree.add("empty", b"")
    tree.add(os.fsdecode(b"odd \xff name"), b"not UTF-8")
    tree.add("base/5/PG_VERSION", b"17\n")
    tree.add("base/5/16384", make_pages(3, salt))
    tree.add("base/5/16384.1", make_pages(1, salt + 1, first=131072))
    tree.add("base/5/16384_fsm", make_pages(1, salt + 2))
    tree.add("base/5/16385", bytes(PAGE))
    tree.add("base/5/16390", b"")
    tree.add("base/5/16600_init", make_pages(1, salt + 3))
    tree.add("global/1262", make_pages(1, salt + 4))
    tree.add("global/pg_filenode.map", b"map" * 11)
    tree.add("pg_xact/0000", bytes(range(256)) + bytes([salt % 251]))
    for name in ("pg_wal/archive_status", "pg_stat_tmp", "pg_replslot", "pg_tblspc"):
        tree.make_directory(name)
    if big:
        content = bytearray(6 << 20)
        content[:PAGE] = make_pages(1, salt + 5)
        content[(5 << 20) + PAGE : (5 << 20) + 2 * PAGE] = make_pages(1, salt + 6, first=(5 << 20) // PAGE + 1)
        tree.add("base/5/20000", bytes(content))
    if tablespaces:
        space = root / "space"
        space.mkdir()
        (data / f"pg_tblspc/{TABLESPACE_OID}").symlink_to(space)
        tree.make_directory(f"pg_tblspc/{TABLESPACE_OID}")
        tree.add(f"pg_tblspc/{TABLESPACE_OID}/PG_17_202406281/5/16500", make_pages(2, salt + 7))
    kept = dict(tree.files), frozenset(tree.directories)
    for name in (
        "postmaster.pid",
        "backup_label",
        "recovery.signal",
        "pg_wal/000000010000000000000003",
        "pg_stat_tmp/global.stat",
        "base/5/16600",
        "base/5/t3_16700",
        "base/5/pg_internal.init",
        "base/pgsql_tmp/pgsql_tmp1.0",
    ):
        tree.add(name, b"not in a backup")
    tree.add("global/pg_control", CONTROL)
    found = tuple([Tablespace(oid=TABLESPACE_OID, name="space", path=str(root / "space"))] if tablespaces else [])
    return SourceTree(data_directory=data, tablespaces=found, files=kept[0], directories=kept[1])


class _Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, bytes] = {}
        self.directories: set[str] = {""}
        root.mkdir()

    def make_directory(self, name: str) -> None:
        (self.root / name).mkdir(parents=True, exist_ok=True)
        parts = name.split("/")
        self.directories.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))

    def add(self, name: str, content: bytes) -> None:
        directory = name.rpartition("/")[0]
        if directory:
            self.make_directory(directory)
        path = self.root / name
        path.write_bytes(content)
        os.utime(path, ns=(_OLD_NS, _OLD_NS))
        self.files[name] = content


def make_pages(count: int, salt: int, first: int = 0) -> bytes:
    """Pages with right checksums and an LSN before every backup; they compress well."""
    pages = np.zeros((count, PAGE), np.uint8)
    words = pages.view("<u2")
    words[:, 2] = 0x0010
    words[:, 6:10] = [40, 8000, PAGE, PAGE | 4]
    pages[:, 8000:] = (np.arange(192) * (salt + 3)) % 251
    words[:, 4] = checksums(pages, np.arange(first, first + count, dtype=np.uint32))
    return pages.tobytes()


@dataclass(frozen=True, kw_only=True)
class BackupOrder:
    """How to make a backup. ``workers`` packs are written; with ``one_by_one`` every file is a frame of its own."""

    cluster: str = CLUSTER
    number: int = 1
    workers: int = 2
    one_by_one: bool = True
    identity: ProcessIdentity | None = None
    config_files: tuple[ConfigFile, ...] = ()
    parent_directory: str = field(default="/srv/data", repr=False)

    @property
    def started_at(self) -> datetime:
        return START + timedelta(hours=self.number)

    @property
    def label(self) -> str:
        return f"{self.started_at:%Y%m%dT%H%M%SZ}-{self.number:04x}"

    @property
    def start_lsn(self) -> Lsn:
        return Lsn((self.number + 2) * SEGMENT_SIZE + 0x28)

    @property
    def stop_lsn(self) -> Lsn:
        return Lsn((self.number + 3) * SEGMENT_SIZE + 0x120)


def make_repository(store: Store, *, keyring: Keyring = OPEN_KEYRING, clock: Clock | None = None) -> Repository:
    """A new repository, or the one that is there, with the cluster registered."""
    create_repository(store, clock=clock or ManualClock(START))
    repository = reopen(store, keyring=keyring, clock=clock)
    repository.register_lineage(CLUSTER, make_lineage(), new_lineage=False)
    return repository


def reopen(store: Store, *, keyring: Keyring = OPEN_KEYRING, clock: Clock | None = None) -> Repository:
    opened = open_repository(store)
    return Repository(store, opened.descriptor, clock=clock or ManualClock(START), keyring=keyring)


def make_lineage(system_identifier: int = SYSTEM_IDENTIFIER) -> Lineage:
    return Lineage(
        system_identifier=system_identifier,
        major=17,
        block_size=PAGE,
        segment_blocks=131072,
        wal_segment_size=SEGMENT_SIZE,
        registered_at=render_time_utc(START),
    )


def open_archive(repository: Repository, cluster: str = CLUSTER) -> WalArchive:
    return WalArchive(repository, cluster, SYSTEM_IDENTIFIER, SEGMENT_SIZE)


def dead_process() -> ProcessIdentity:
    """A process of this host and boot that is gone: its number has been given to another one."""
    return replace(read_own_identity(), start="0")


def make_intent(order: BackupOrder) -> Intent:
    return Intent(
        who=order.identity or dead_process(),
        started_at=order.started_at,
        system_identifier=SYSTEM_IDENTIFIER,
        timeline=1,
        start_lsn=str(order.start_lsn),
        parent=None,
    )


def take_backup(repository: Repository, source: SourceTree, order: BackupOrder) -> Manifest:
    """A backup in the order of ``backup.session``: intent, packs, WAL, manifest, decision."""
    catalog = BackupCatalog(repository, order.cluster)
    make_way(catalog, None, ignore)
    catalog.announce(order.label, make_intent(order))
    make_way(catalog, order.label, ignore)
    manifest = store_files(catalog, source, order)
    archive_wal(repository, order)
    return commit(catalog, manifest, order)


def commit(catalog: BackupCatalog, manifest: Manifest, order: BackupOrder) -> Manifest:
    first = SegmentName.containing(Timeline(1), order.start_lsn, SEGMENT_SIZE)
    catalog.commit(order.label, manifest, summarize(manifest.facts, str(first), str(first.next())))
    return manifest


def archive_wal(repository: Repository, order: BackupOrder) -> None:
    archive = open_archive(repository, order.cluster)
    for number in range(order.start_lsn // SEGMENT_SIZE, order.stop_lsn // SEGMENT_SIZE + 1):
        segment = SegmentName(timeline=Timeline(1), number=number, segment_size=SEGMENT_SIZE)
        archive.put(str(segment), make_segment(number), {"host": "db1", "pushed_at": render_time_utc(START)})


def make_segment(number: int) -> bytes:
    """A segment of timeline 1 by its first page's header, with no WAL in it; it compresses well."""
    version = find_by_major(17)
    assert version is not None
    header = SHORT_HEADER.pack(version.wal_magic, LONG_HEADER, 1, number * SEGMENT_SIZE, 0)
    header += struct.pack("<QII", SYSTEM_IDENTIFIER, SEGMENT_SIZE, PAGE)
    return header + ((b"segment %7d " % number) * (SEGMENT_SIZE // 16))[len(header) :]


MakePlan = Callable[[Listing], ChangePlan]


def store_files(
    catalog: BackupCatalog,
    source: SourceTree,
    order: BackupOrder,
    before_reading: Callable[[], None] = lambda: None,
    make_plan: MakePlan | None = None,
) -> Manifest:
    """Read with ``order.workers`` workers, in this process; returns the manifest that describes what there is.

    ``before_reading`` is called when all is listed and nothing is read. ``make_plan`` says what is read and stored:
    everything, unless it goes on from a parent.
    """
    oids, block_size = frozenset(one.oid for one in source.tablespaces), source.block_size
    rules = ListingRules(tablespace_oids=oids, segment_blocks=source.segment_blocks)
    listing = list_data_directory(str(source.data_directory), rules)
    settings = WorkerSettings(place=catalog.pack_place, label=order.label, level=3, block_size=block_size, verify=True)
    workers = [open_worker(settings) for _ in range(order.workers)]
    collector = Collector(len(listing.size))
    for number, worker in enumerate(workers):
        worker.worker = number
    made = make_plan(listing) if make_plan is not None else None
    before_reading()
    for number, job in enumerate(_split_jobs(listing, order, block_size) if made is None else made.jobs):
        collector.take(workers[number % len(workers)](job))
    for worker in workers:
        collector.take(worker.close())
    parentage = made.parentage if made is not None else None
    collected = collector.finish(listing, verified=True, parentage=parentage)
    files = collected.files
    assert not collector.suspects
    control = read_control(str(source.data_directory), SYSTEM_IDENTIFIER)
    facts = make_facts(source, listing, order)
    if parentage is not None:
        facts = replace(facts, changes="lsn", parent=parentage.parent.facts.label)
    return Manifest(
        facts=replace(
            facts,
            file_count=len(files.size),
            total_bytes=int(files.size.sum()),
            stored_bytes=collector.stored_bytes,
        ),
        files=files,
        block_map=collected.block_map,
        packs=collected.packs,
        relations=render_relation((5, "shop", 1663, 16384, "public", "orders", "r")),
        config_files=order.config_files,
        control=control,
    )


def _split_jobs(listing: Listing, order: BackupOrder, block_size: int) -> Iterator[ReadJob]:
    for job in iter_jobs(listing, block_size):
        if order.one_by_one and not job.is_range:
            yield from (ReadJob((file,), file.length, is_range=False) for file in job.files)
        else:
            yield job


def make_facts(source: SourceTree, listing: Listing, order: BackupOrder) -> BackupFacts:
    return BackupFacts(
        label=order.label,
        cluster=order.cluster,
        system_identifier=SYSTEM_IDENTIFIER,
        server_version_num=170006,
        catalog_version=202406281,
        control_version=1700,
        block_size=source.block_size,
        segment_blocks=source.segment_blocks,
        wal_segment_size=SEGMENT_SIZE,
        data_checksums=True,
        timeline=Timeline(1),
        start_lsn=order.start_lsn,
        stop_lsn=order.stop_lsn,
        started_at=order.started_at,
        stopped_at=order.started_at + timedelta(minutes=1),
        from_standby=False,
        method="local",
        changes="full",
        parent=None,
        host="db1",
        data_directory=order.parent_directory,
        written_by="pghaven tests",
        backup_label=f"START WAL LOCATION: {order.start_lsn}\n",
        tablespace_map=None,
        tablespaces=source.tablespaces,
        databases=((5, "731"),),
        owners=tuple(name_owner(uid, gid) for uid, gid in listing.owners),
        links=tuple(listing.links),
        bad_pages=(),
        file_count=0,
        total_bytes=0,
        stored_bytes=0,
    )


# -- back again ---------------------------------------------------------------------------------------------------


def plan(repository: Repository, label: str, target: Path, **options: bool) -> RestorePlan:
    """Restore one backup as it is, its tablespaces beside the target; ``options`` are a request's."""
    catalog = BackupCatalog(repository, CLUSTER)
    manifest = catalog.load_manifest(catalog.find_entry(label))
    request = RestoreRequest(
        cluster=CLUSTER,
        target_dir=str(target),
        target=RecoveryTarget(kind=TargetKind.IMMEDIATE),
        backup_label=label,
        tablespace_mapping={one.path: f"{target}-{one.oid}" for one in manifest.facts.tablespaces},
    )
    return plan_restore(repository, replace(request, **options))  # type: ignore[arg-type]


def restore(repository: Repository, label: str, target: Path) -> RestorePlan:
    """Plan and carry out a restore in this process."""
    made = plan(repository, label, target)
    run_restore(made, make_settings(repository), ignore)
    return made


def make_settings(repository: Repository) -> RestoreSettings:
    place = BackupCatalog(repository, CLUSTER).pack_place
    return RestoreSettings(place=place, processes=0, restore_command="false", owner=None)


def remove_target(target: Path) -> None:
    for path in (target, *target.parent.glob(f"{target.name}-*")):
        shutil.rmtree(path, ignore_errors=True)


def read_tree(root: Path) -> tuple[dict[str, bytes], set[str]]:
    """All files and directories below a restored data directory, its tablespaces where they are linked."""
    files: dict[str, bytes] = {}
    directories = {""}
    for directory, names, others in os.walk(root, followlinks=True):
        relative = os.path.relpath(directory, root)
        prefix = "" if relative == "." else relative + "/"
        directories.update(prefix + name for name in names)
        for name in others:
            files[prefix + name] = Path(directory, name).read_bytes()
    return files, directories


def assert_restored(source: SourceTree, target: Path) -> None:
    """The target holds what the source held, byte for byte, and nothing that was not to be kept."""
    files, directories = read_tree(target)
    ours = {name for name in files if name in GENERATED or name.startswith(CONFIG_COPY_DIRECTORY + "/")}
    assert {name: content for name, content in files.items() if name not in ours} == source.files
    assert directories - {CONFIG_COPY_DIRECTORY} == source.directories
    assert files["global/pg_control"] == CONTROL


def list_committed(repository: Repository, cluster: str = CLUSTER) -> tuple[BackupEntry, ...]:
    return BackupCatalog(repository, cluster).list_committed()
