"""Carrying out a restore's plan.

    plan file → what was there makes way → directories → files (workers) → configuration, signal, label
      → everything durable → pg_control

The one idea: ``global/pg_control`` comes last, after everything else has reached the disk (and where it was there, it
goes first), so a directory that a crash or a full disk left half done cannot be started; and the plan file, which
comes before all, says whose it is."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

import numpy as np

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import NotFound
from pghaven.events import Listener, Notice, Progress, Step
from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.repository.blockmap import (
    HOLE,
    BlockMap,
    PackRuns,
    PackSide,
    invert,
    invert_in_two,
    iter_holes,
    iter_map_parts,
)
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackPlace
from pghaven.restore.clearing import disarm, make_way
from pghaven.restore.existing import is_leftover
from pghaven.restore.fetch import (
    FetchJob,
    FetchResult,
    FetchSettings,
    FileSource,
    describe_means,
    open_fetcher,
)
from pghaven.restore.handover import Handover
from pghaven.restore.jobs import FILE_COST_BYTES, cut_jobs, find_job_bytes, mix, number_files
from pghaven.restore.request import RestorePlan, render_plan_file
from pghaven.restore.targetfiles import Directories, FileTarget
from pghaven.restore.writing import Disks, flushing, reported, reserved
from pghaven.runtime.columns import Column
from pghaven.runtime.crew import Crew
from pghaven.runtime.durable import OwnerOf, write_durably
from pghaven.runtime.pace import Pace
from pghaven.runtime.spill import PART_ROWS, let_go
from pghaven.store.metered import find_server_store
from pghaven.units import render_size

# Set-user-id bits and the like have no place in a data directory, and the world none either.
_FILE_MODE_MASK = 0o640
_DIRECTORY_MODE_MASK = 0o750
_EMPTY_FILES_PER_JOB = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSettings:
    """``restore_command`` is complete, as the server is to be given it; ``owner`` (uid, gid) is None when we are the
    owner ourselves; ``pace`` is for writing. ``source`` gives the files, by default the packs at ``place``."""

    place: PackPlace
    processes: int
    restore_command: str
    owner: tuple[int, int] | None
    pace: Pace | None = None
    source: FileSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """``written_bytes`` of files were written and ``proven_bytes`` were there already, of ``fetched_bytes`` of stored
    frames."""

    plan: RestorePlan
    written_bytes: int
    proven_bytes: int
    fetched_bytes: int
    fetch_seconds: float
    total_seconds: float


def run_restore(
    plan: RestorePlan, settings: RestoreSettings, listener: Listener, *, clock: Clock = SYSTEM_CLOCK
) -> RestoreResult:
    """Restore; the directory is ready to start when this returns, and durable.

    Raises StoreUnreachable for a full disk or a lost repository, Damaged naming the object; then the directory cannot
    be started, and the same plan can be run again."""
    began = clock.monotonic()
    for notice in plan.notices:
        listener(notice)
    with reserved(plan):
        writer = _Writer(plan, settings, listener)
        writer.prepare()
        with closing(writer.hold_disks()) as disks:
            writer.make_directories()
            with flushing(disks):
                fetch_began = clock.monotonic()
                done = writer.fetch(disks)
                fetch_seconds = clock.monotonic() - fetch_began
            writer.finish(disks)
    return RestoreResult(
        plan=plan,
        written_bytes=done.written_bytes,
        proven_bytes=done.proven_bytes,
        fetched_bytes=done.fetched_bytes,
        fetch_seconds=fetch_seconds,
        total_seconds=clock.monotonic() - began,
    )


def find_owner_ids(manifest: Manifest) -> tuple[int, int] | None:
    """Who is to own the restored files: as root the owner they had, by name; else None, ourselves.

    Raises NotFound when this host has no such user."""
    if os.geteuid() != 0 or not manifest.facts.owners:
        return None
    import grp
    import pwd

    # Some file of root's may lie about; this one is the server's own.
    files = manifest.files
    last = int(np.searchsorted(files.directory, np.uint32(1)))  # the data directory's own are the first
    own = [number for number, name in enumerate(files.names[:last]) if name == b"PG_VERSION"]
    user, group = manifest.facts.owners[files.owner[own[0]] if own else 0]
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        raise NotFound(
            f'the backup\'s files belong to "{user}:{group}", which this host does not have',
            hint="Create them, or run the restore as the user the server is to run as instead of root.",
        ) from None


class _Writer:
    def __init__(self, plan: RestorePlan, settings: RestoreSettings, listener: Listener) -> None:
        self._plan = plan
        self._settings = settings
        self._tell = listener
        self._target = plan.request.target_dir
        self._roots = tuple((root.prefix, root.path) for root in plan.roots)
        self._ids = settings.owner or (-1, -1)
        self._owner = OwnerOf(uid=self._ids[0], gid=self._ids[1]) if settings.owner else None
        self._in_parts = Column("I")

    # -- before -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The plan file, then room for the files."""
        plan = self._plan
        with reported(self._target):
            for root in plan.roots:
                os.makedirs(root.path, 0o700, exist_ok=True)
                os.chmod(root.path, 0o700)
            for name in filter(is_leftover, os.listdir(self._target)):
                os.unlink(f"{self._target}/{name}")
            text = json.dumps(render_plan_file(plan), indent=2) + "\n"
            write_durably(f"{self._target}/{RESTORE_PLAN_FILE}", text.encode(), 0o600, self._owner)
            if plan.existing is not None:
                disarm(self._target, self._owner)
                make_way(plan, plan.existing, self._owner, self._tell)

    def hold_disks(self) -> Disks:
        """What the files will lie on, held from before the first of them on."""
        with reported(self._target):
            return Disks(root.path for root in self._plan.roots)

    def make_directories(self) -> None:
        files = self._plan.manifest.files
        with reported(self._target), closing(Directories(self._roots)) as places:
            for path, mode in zip(files.directories, files.directory_mode.tolist(), strict=True):
                relative = os.fsdecode(path)
                places.make(relative, mode & _DIRECTORY_MODE_MASK | 0o700, self._ids, exist_ok=self._is_in_place)

    # -- files ------------------------------------------------------------------------------------------------------

    @property
    def _is_in_place(self) -> bool:
        return self._plan.existing is not None

    def fetch(self, disks: Disks) -> FetchResult:
        """All files but pg_control; returns the sums of what was done."""
        plan = self._plan
        if self._settings.source is not None:
            return self._settings.source.fill(plan, self._settings.owner, self._tell)
        total = plan.manifest.facts.total_bytes
        verb = "comparing and restoring" if self._is_in_place else "restoring"
        means = describe_means(self._settings.processes, self._settings.place.store, is_in_place=self._is_in_place)
        self._tell(Step(text=f"{verb} {render_size(total)} from {len(plan.manifest.packs)} packs, with {means}"))
        settings = FetchSettings(
            place=self._settings.place, roots=self._roots, in_place=self._is_in_place, pace=self._settings.pace
        )
        done = FetchResult()

        def take(result: FetchResult) -> None:
            nonlocal done
            done = FetchResult(
                new_files=done.new_files + result.new_files,
                written_bytes=done.written_bytes + result.written_bytes,
                proven_bytes=done.proven_bytes + result.proven_bytes,
                fetched_bytes=done.fetched_bytes + result.fetched_bytes,
            )
            if result.notice is not None:
                self._tell(result.notice)
            let_go()
            tell_progress()

        def tell_progress() -> None:
            with reported(self._target):
                disks.require_whole()
            done_bytes = min(done.written_bytes + done.proven_bytes, total)
            self._tell(Progress(phase="restoring", done_bytes=done_bytes, total_bytes=total, share=self._measure(done)))

        block_map = plan.manifest.block_map
        # Pages that lie right already must not be written over, so only new files are written in two passes.
        first, second = (invert(block_map), None) if self._is_in_place else invert_in_two(block_map)
        with self._crew(settings) as crew, self._crew(settings) if second is not None else nullcontext() as later:
            unstored = self._sort_out(block_map)
            jobs = self._iter_jobs(first, () if self._is_in_place else unstored)
            more = self._iter_holes(block_map) if self._is_in_place else ()
            crew.run(chain(jobs, more), take, tell_progress)
            if later is not None and second is not None:
                later.run(self._iter_jobs(second), take, tell_progress)
        self._settle_parts()
        return done

    def _measure(self, done: FetchResult) -> float | None:
        """How much of the work is done: to make a small file costs more than to write it."""
        facts = self._plan.manifest.facts
        if self._is_in_place:
            return None
        files = facts.file_count - len(self._in_parts)
        work = done.written_bytes + done.proven_bytes + FILE_COST_BYTES * min(done.new_files, files)
        return work / max(1, facts.total_bytes + FILE_COST_BYTES * files)

    def _crew(self, settings: FetchSettings) -> Crew[FetchJob, FetchResult]:
        return Crew(size=self._settings.processes, setup=open_fetcher, settings=settings)

    def _sort_out(self, block_map: BlockMap) -> Column:
        """The files that are nowhere stored: empty ones, and those that are all zero. Remembers those in parts."""
        sizes = self._plan.manifest.files.size
        unstored = Column("I")
        for first, part in iter_map_parts(block_map):
            runs = part.runs_of_file
            file = np.repeat(np.arange(len(runs)), runs)
            is_stored = np.bincount(file[part.pack != HOLE], minlength=len(runs)) > 0
            in_parts = is_stored & ((runs > 1) | (sizes[first : first + len(runs)] > FRAME_BYTES))
            self._in_parts.extend((np.flatnonzero(in_parts) + first).astype(np.uint32).tobytes())
            unstored.extend((np.flatnonzero(~is_stored) + first).astype(np.uint32).tobytes())
        self._in_parts.seal()
        unstored.seal()
        return unstored

    def _iter_jobs(self, packs: PackSide, unstored: Sequence[int] = ()) -> Iterator[FetchJob]:
        """Packs of large pieces and packs of many small ones, with the files that are nowhere stored, side by side."""
        plain = np.array(
            [self._plan.manifest.packs[number].plain_length for number in packs.numbers.tolist()], np.int64
        )
        files_cost = packs.run_counts * FILE_COST_BYTES
        are_many = files_cost > plain
        large = self._walk(packs, np.flatnonzero(~are_many).tolist())
        small = chain(self._walk(packs, np.flatnonzero(are_many).tolist()), self._iter_unstored(unstored))
        small_work = int((plain + files_cost)[are_many].sum()) + FILE_COST_BYTES * len(unstored)
        yield from mix(((large, int(plain[~are_many].sum())), (small, small_work)), _measure_job)

    def _walk(self, packs: PackSide, numbers: Sequence[int]) -> Iterator[FetchJob]:
        """From both ends in turn: neighbouring packs hold parts of the same big files, and the kernel lets only one
        process at a time write into a file."""
        waiting = deque(numbers)

        def walk(take: Callable[[], int]) -> Iterator[FetchJob]:
            while waiting:
                yield from self._iter_pack_jobs(packs[take()])

        for pair in zip_longest(walk(waiting.popleft), walk(waiting.pop)):
            yield from (job for job in pair if job is not None)

    def _iter_pack_jobs(self, part: PackRuns) -> Iterator[FetchJob]:
        pack = self._plan.manifest.packs[part.pack]
        columns = (part.file.tolist(), part.file_offset.tolist(), part.length.tolist(), part.pack_offset.tolist())
        is_served = find_server_store(self._settings.place.store) is not None
        # Behind a server each job is a request, however many files there are in it.
        is_whole = part.length == self._plan.manifest.files.size[part.file]
        costs = None if is_served else (is_whole * FILE_COST_BYTES).tolist()
        size = find_job_bytes(pack.plain_length, is_served=is_served)
        for runs in cut_jobs(zip(*columns, strict=True), size, costs):
            numbers, local = number_files([run[0] for run in runs])
            yield FetchJob(
                pack=pack,
                files=tuple(self._target_of(number) for number in numbers),
                runs=tuple((place, *run[1:]) for place, run in zip(local, runs, strict=True)),
            )

    def _iter_unstored(self, numbers: Sequence[int]) -> Iterator[FetchJob]:
        for start in range(0, len(numbers), _EMPTY_FILES_PER_JOB):
            files = tuple(self._target_of(number) for number in numbers[start : start + _EMPTY_FILES_PER_JOB])
            yield FetchJob(pack=None, files=files, runs=())

    def _iter_holes(self, block_map: BlockMap) -> Iterator[FetchJob]:
        """In files that are there already: all empty files, and each run of zeros."""
        sizes = self._plan.manifest.files.size
        empty = np.flatnonzero(sizes == 0).tolist()
        runs = iter_holes(block_map)
        yield from self._iter_unstored(empty)
        while part := list(islice(runs, _EMPTY_FILES_PER_JOB)):
            numbers, local = number_files([run[0] for run in part])
            yield FetchJob(
                pack=None,
                files=tuple(self._target_of(number) for number in numbers),
                runs=tuple((place, offset, length, 0) for place, (_, offset, length) in zip(local, part, strict=True)),
            )

    def _target_of(self, number: int) -> FileTarget:
        files = self._plan.manifest.files
        content_hash = files.content_hash[number].tobytes() if self._is_in_place else b""
        return FileTarget(
            directory=os.fsdecode(files.directories[files.directory[number]]),
            name=files.names[number],
            size=int(files.size[number]),
            mode=int(files.mode[number]) & _FILE_MODE_MASK | 0o600,
            mtime_ns=int(files.mtime_ns[number]),
            uid=self._ids[0],
            gid=self._ids[1],
            content_hash=content_hash if any(content_hash) else b"",
        )

    def _settle_parts(self) -> None:
        """The times of files that came in several pieces, perhaps from several workers."""
        with closing(Directories(self._roots)) as places:
            for done, number in enumerate(self._in_parts):
                if not done % PART_ROWS:
                    let_go()
                file = self._target_of(number)
                times = (file.mtime_ns, file.mtime_ns)
                os.utime(file.name, ns=times, dir_fd=places.open(file.directory), follow_symlinks=False)

    # -- after ------------------------------------------------------------------------------------------------------

    def finish(self, disks: Disks) -> None:
        """Everything that makes a server of the files; pg_control last."""
        plan = self._plan
        for path, leads_to in plan.manifest.facts.links:
            text = f'"{path}" was a symbolic link to "{leads_to}"; it is restored as what it led to'
            self._tell(Notice(level="info", code="link", text=text))
        with closing(Directories(self._roots)) as places, reported(self._target):
            self._link_tablespaces(places)
            handover = Handover(plan, places, self._owner)
            handover.write_label()
            handover.write_configuration(self._tell)
            handover.write_recovery(self._settings.restore_command)
            self._tell(Step(text="waiting until everything is on disk"))
            disks.sync()
            handover.write_control()

    def _link_tablespaces(self, places: Directories) -> None:
        for prefix, path in self._roots:
            if prefix:
                directory, _, name = prefix.rpartition("/")
                above = places.open(directory)
                if not self._is_in_place or not _leads_to(above, name, path):
                    os.symlink(path, name, dir_fd=above)
                if self._ids[0] >= 0:
                    os.chown(name, *self._ids, dir_fd=above, follow_symlinks=False)


def _measure_job(job: FetchJob) -> int:
    """How much work it is, as bytes."""
    return sum(run[2] for run in job.runs) + FILE_COST_BYTES * len(job.files)


def _leads_to(above: int, name: str, path: str) -> bool:
    try:
        return os.readlink(name, dir_fd=above) == path
    except FileNotFoundError:
        return False
