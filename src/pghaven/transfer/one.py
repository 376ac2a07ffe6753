"""One backup's way into another repository.

The one idea: its manifest goes over as it is but for its packs, each of which has become another one in the same place
of the table; so the block map, which counts on that place alone, is taken over unread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from pghaven.errors import Damaged, ObjectMissing, PghavenError
from pghaven.events import Listener, Progress, Step
from pghaven.postgres.timeline import Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collectplan import LIVE
from pghaven.repository.entry import BackupEntry, BackupState, Intent, ManifestPlace, Purpose
from pghaven.repository.evidence import Verdict, judge_backup, load_evidence
from pghaven.repository.horizon import read_horizon
from pghaven.repository.liveness import SIGN_OF_LIFE_SECONDS, clear_signs
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackRef
from pghaven.runtime.crew import Crew
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.transfer.carrier import Carried, CarrierSettings, CarryResult, PackJob, WalJob, open_carrier
from pghaven.transfer.choose import choose_neighbours, choose_tries, find_system, judge_age
from pghaven.transfer.known import COPIED_FROM, KnownPacks, match_packs
from pghaven.transfer.request import BackupFate, BackupOutcome
from pghaven.transfer.walfiles import find_own_missing
from pghaven.units import render_time_utc

# Below this many objects, and so much, they are copied before worker processes have started.
_OBJECTS_MIN = 4
_LITTLE_BYTES = 4 << 20


class Meter:
    """Adds up what has been copied, and tells it."""

    def __init__(self, listener: Listener, total_bytes: int) -> None:
        self._tell = listener
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def add(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self.tell()

    def tell(self) -> None:
        done = min(self._done_bytes, self._total_bytes)
        self._tell(Progress(phase="copying", done_bytes=done, total_bytes=self._total_bytes))


@dataclass(kw_only=True)
class Scene:
    """What the copies of one run share. ``there`` are the target's backups, ``held`` its packs with their sizes; both
    grow as backups are copied. ``who`` is the process that copies."""

    source: BackupCatalog
    target: BackupCatalog
    processes: int
    meter: Meter
    listener: Listener
    there: list[BackupEntry]
    held: dict[str, int]
    who: ProcessIdentity
    wal_count: int = 0
    wal_bytes: int = 0


class NotCopied(Exception):
    """Why this backup is not copied, although the repositories answer."""

    def __init__(self, fate: BackupFate, reason: str) -> None:
        super().__init__(reason)
        self.fate = fate
        self.reason = reason


class BackupCopy:
    """One attempt at one backup, under a label of its own."""

    def __init__(self, scene: Scene, entry: BackupEntry) -> None:
        self._scene = scene
        self._entry = entry
        self._source, self._target = scene.source, scene.target
        self._clock = self._target.repository.clock
        self._label = f"{entry.original}-{os.urandom(2).hex()}"
        self._signs = 0
        self._next_sign = 0.0

    def run(self) -> BackupOutcome:
        """Raises NotCopied, Damaged, and what concerns all backups: StoreUnreachable, NotPermitted, Cancelled."""
        scene, entry = self._scene, self._entry
        scene.listener(Step(text=f"copying backup {entry.label}"))
        neighbours = choose_neighbours(entry, scene.there)
        tries = self._give_up_dead(choose_tries(entry, scene.there, self._clock.now()))
        self._announce([one.label for one in (*neighbours, *tries)])
        with self._abandoned_on_failure():
            horizon = read_horizon(self._target.repository, self._target.cluster, find_system(entry))
            if (too_old := judge_age(entry, horizon)) is not None:
                raise NotCopied(BackupFate.TOO_OLD, str(too_old.reason))
            place, manifest = self._load_manifest()
            found = self._find(self._learn(neighbours, tries), manifest.packs)
            stored = self._carry([pack for pack in manifest.packs if pack.id not in found])
            packs = tuple(found.get(pack.id) or stored[pack.id] for pack in manifest.packs)
            stored_bytes = sum(pack.size_bytes for pack in stored.values())
            self._commit(place, manifest, packs, stored_bytes)
        self._keep_in_mind(list(stored.values()))
        return BackupOutcome(
            label=entry.label,
            fate=BackupFate.COPIED,
            copy=self._label,
            total_bytes=manifest.facts.total_bytes,
            copied_packs=len(stored),
            copied_bytes=stored_bytes,
            present_packs=len(manifest.packs) - len(stored),
        )

    # -- before -----------------------------------------------------------------------------------------------------

    def _give_up_dead(self, tries: Sequence[BackupEntry]) -> list[BackupEntry]:
        """Copies that nobody goes on with any more; not those that have got through after all."""
        found = []
        for one in tries:
            if one.state is BackupState.UNDECIDED and not self._target.abandon(one.label, "its process is gone"):
                continue
            found.append(one)
        return found

    def _announce(self, sources: Sequence[str]) -> None:
        summary = self._entry.summary
        assert self._entry.intent is not None
        intent = Intent(
            who=self._scene.who,
            started_at=self._entry.intent.started_at,
            system_identifier=find_system(self._entry),
            timeline=Timeline(int(summary["timeline"])),
            start_lsn=str(summary["start_lsn"]),
            parent=None,
            sources=tuple(sources),
            purpose=self._entry.purpose,
            copy_of=self._entry.original,
        )
        self._target.announce(self._label, intent)
        self._next_sign = self._clock.monotonic() + SIGN_OF_LIFE_SECONDS

    @contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        """Say in the target that this copy will not be, so that nobody has to find out."""
        try:
            yield
        except BaseException as error:
            reason = f"interrupted ({type(error).__name__})"
            if isinstance(error, PghavenError | NotCopied):
                reason = error.message if isinstance(error, PghavenError) else error.reason
            with suppress(PghavenError):
                self._target.abandon(self._label, reason)
            raise

    def _load_manifest(self) -> tuple[ManifestPlace, Manifest]:
        try:
            place = next(self._source.iter_manifests(self._entry))
            return place, self._source.load_manifest(self._entry, place)
        except ObjectMissing as error:
            raise NotCopied(BackupFate.GONE, error.message) from error

    def _learn(self, neighbours: Sequence[BackupEntry], tries: Sequence[BackupEntry]) -> KnownPacks:
        """What may be referred to: of those that were named, what nobody has given up since."""
        scene = self._scene
        known = KnownPacks(self._source.pack_place, self._target.pack_place, scene.held)
        results = load_evidence(self._target.repository, self._target.cluster).results if neighbours else ()
        for one in neighbours:
            now = self._target.read_entry(one.label)
            if now.state not in LIVE:
                continue
            with suppress(Damaged, ObjectMissing):  # then its packs are copied once more
                _, manifest_hash = self._target.find_manifest(now)
                if judge_backup(results, now.label, manifest_hash).verdict is not Verdict.DAMAGED:
                    copies, packs = match_packs(self._source, self._target, now)
                    known.add_copies(copies)
                    matched = set(copies.values())
                    known.add_candidates(pack for pack in packs if pack not in matched)
        for one in tries:
            if self._target.read_entry(one.label).state is BackupState.ABANDONED:
                known.add_try(one.label)
        return known

    def _find(self, known: KnownPacks, packs: Sequence[PackRef]) -> dict[bytes, PackRef]:
        """Those of the source's packs that are there, by their ids, with what they are there."""
        found = {}
        for pack in packs:
            try:
                there = known.find(pack)
            except ObjectMissing as error:
                raise NotCopied(BackupFate.GONE, error.message) from error
            if there is not None:
                found[pack.id] = there
            self._sign_of_life()
        return found

    # -- copying ----------------------------------------------------------------------------------------------------

    def _carry(self, packs: Sequence[PackRef]) -> dict[bytes, PackRef]:
        """Copy these packs, and what the archive lacks of the backup's own WAL; by id what the packs have become."""
        scene = self._scene
        source, target = self._source.repository, self._target.repository
        files: list[WalJob] | str = []
        if self._entry.purpose is Purpose.BACKUP:
            files = find_own_missing(source, target, self._source.cluster, self._entry)
        if isinstance(files, str):
            raise NotCopied(BackupFate.FAILED, files)
        stored: dict[bytes, PackRef] = {}

        def take(result: CarryResult) -> None:
            job = result.job
            if result.outcome is Carried.GONE and isinstance(job, PackJob):
                raise NotCopied(BackupFate.GONE, str(result.reason))
            if result.outcome not in (Carried.STORED, Carried.PRESENT):
                raise NotCopied(BackupFate.FAILED, str(result.reason))
            if isinstance(job, PackJob):
                assert result.pack is not None
                stored[job.pack.id] = result.pack
                scene.meter.add(job.pack.size_bytes)
            else:
                scene.wal_count += result.outcome is Carried.STORED
                scene.wal_bytes += result.stored_bytes
                scene.meter.add(job.size_bytes)
            self._sign_of_life()

        def look_around() -> None:  # over a slow line one object takes as long as a writer may be silent
            scene.meter.tell()
            self._sign_of_life()

        jobs: list[PackJob | WalJob] = [*files, *(PackJob(pack=pack) for pack in packs)]
        settings = CarrierSettings(source=source, target=target, cluster=self._source.cluster, label=self._label)
        is_little = len(jobs) < _OBJECTS_MIN and sum(pack.size_bytes for pack in packs) < _LITTLE_BYTES
        size = 0 if is_little else scene.processes
        with Crew(size=size, setup=open_carrier, settings=settings) as crew:
            crew.run(iter(jobs), take, look_around)
        return stored

    def _commit(self, place: ManifestPlace, manifest: Manifest, packs: tuple[PackRef, ...], stored_bytes: int) -> None:
        facts = replace(manifest.facts, label=self._label, stored_bytes=stored_bytes)
        copied_from = {
            "repository": self._source.repository.id,
            "label": self._entry.label,
            "manifest": place.hash,
        }
        summary = {**self._entry.summary, "stored_bytes": stored_bytes, COPIED_FROM: copied_from}
        self._sign_of_life()
        self._target.commit(self._label, replace(manifest, facts=facts, packs=packs), summary)
        clear_signs(self._target.repository.store, self._target.cluster, self._label, self._signs)

    def _sign_of_life(self) -> None:
        if self._clock.monotonic() >= self._next_sign:
            self._signs += 1
            self._target.sign_of_life(self._label, self._signs)
            self._next_sign = self._clock.monotonic() + SIGN_OF_LIFE_SECONDS

    def _keep_in_mind(self, stored: Sequence[PackRef]) -> None:
        """The next backup may build on this one."""
        scene = self._scene
        place = self._target.pack_place
        scene.held.update({place.name(pack.label, pack.id): pack.size_bytes for pack in stored})
        scene.there.append(self._target.read_entry(self._label))
        scene.there.sort(key=order_of)


def order_of(entry: BackupEntry) -> tuple[str, str]:
    """Oldest first, as a catalog lists them."""
    return (render_time_utc(entry.intent.started_at) if entry.intent else "", entry.label)
