"""The cast of a simulation: a cluster, those who archive, back up, expire, collect, restore and meddle.

The one idea: every actor does with real code what a command of pghaven does, in the same order, and knows only what it
read or was told; whatever it raises that a command would not is itself a broken promise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from pghaven.errors import Cancelled, CheckFailed, Damaged, Locked, NotFound, ObjectMissing, Refused, StoreUnreachable
from pghaven.events import ignore
from pghaven.postgres.lsn import Lsn
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectRules
from pghaven.repository.compact import CompactionRules, Compactor
from pghaven.repository.descriptor import Descriptor
from pghaven.repository.document import render_document
from pghaven.repository.entry import BackupEntry, BackupState, Intent, Purpose
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.walcollect import WalCollector, WalNeed
from pghaven.repository.walstore import WalArchive
from pghaven.retention.expire import Worker, run_expire
from pghaven.retention.policy import RetentionPolicy
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.units import render_time_utc
from tests.simulation.content import (
    CLUSTER,
    LINEAGE,
    PACK_BYTES,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    TinyCluster,
    make_wal,
    read_backup,
    segment_name,
)
from tests.simulation.engine import DAY, HOUR, MINUTE, START, Actor, ActorStore, Choice, Simulation
from tests.simulation.oracle import Oracle
from tests.simulation.writer import BackupWriter

DESCRIPTOR = Descriptor(repository_id="00" * 16, created_at=render_time_utc(START), created_by="pghaven tests")
# What a command may end with when the store, or somebody else, is in its way.
_EXPECTED = (StoreUnreachable, Cancelled, Locked, CheckFailed, Refused, NotFound)
_COMPACTION = CompactionRules(live_share_max=1.0, freed_bytes_min=1, pack_bytes=PACK_BYTES, level=1)
_DECIDED = (BackupState.COMMITTED, BackupState.RETIRED)


def expire_oldest(entries: Sequence[BackupEntry], keep: int) -> Sequence[BackupEntry]:
    """The policy: the last ones are kept."""
    return entries[:-keep]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the actors are made of. A planted mistake replaces one of them."""

    store: type[ActorStore] = ActorStore
    catalog: type[BackupCatalog] = BackupCatalog
    archive: type[WalArchive] = WalArchive
    removal: type[Removal] = Removal
    collector: type[BackupCollector] = BackupCollector
    compactor: type[Compactor] = Compactor
    wal_collector: type[WalCollector] = WalCollector
    writer: type[BackupWriter] = BackupWriter
    choose_expired: Callable[[Sequence[BackupEntry], int], Sequence[BackupEntry]] = expire_oldest


REAL = Parts()


class World:
    """One simulated repository with everybody who works on it.

    The slower its tempo, the fewer things happen at once; the higher its alertness, the more. In a ``rush`` everybody
    does what he does so many times, without a pause.
    """

    def __init__(self, seed: str, *, parts: Parts = REAL, script: Sequence[Choice] | None = None) -> None:
        self.simulation = Simulation(seed, script=script, store=parts.store)
        self.oracle = Oracle(self.simulation, DESCRIPTOR)
        self.parts = parts
        self.cluster = TinyCluster()
        source = random.Random(f"{seed}/world")
        self.grace = source.choice((timedelta(0), timedelta(0), timedelta(hours=1), timedelta(hours=24)))
        self.tempo = source.choice((0.001, 0.01, 0.1, 1.0))
        self.alertness = source.choice((0.0, 0.5, 0.9))
        self.keep = source.randrange(1, 4)
        self.rush: int | None = None
        self.places: Mapping[str, Sequence[str]] = {}
        self._workers: list[str] = []
        repository = self.oracle.repository()
        repository.store.create(layout.DESCRIPTOR, [render_document(layout.DESCRIPTOR, {"simulated": True})])
        repository.register_lineage(CLUSTER, LINEAGE, new_lineage=False)
        self.simulation.witness = self.oracle

    def repository(self, actor: Actor) -> Repository:
        return Repository(actor.store, DESCRIPTOR, clock=actor.clock)

    def catalog(self, actor: Actor) -> BackupCatalog:
        return self.parts.catalog(self.repository(actor), CLUSTER)

    def archive(self, actor: Actor) -> WalArchive:
        return self.parts.archive(self.repository(actor), CLUSTER, SYSTEM_IDENTIFIER, SEGMENT_SIZE)

    def removal(self, actor: Actor) -> Removal:
        return self.parts.removal(self.catalog(actor))

    def draw_label(self, actor: Actor) -> str:
        """A label whose place among others says nothing, unless the scene gives this actor's labels their places."""
        places = self.places.get(actor.name, ("",))
        return f"{places[actor.rounds % len(places)]}{actor.random.randrange(16**6):06x}-{actor.name}"

    def identify(self, actor: Actor) -> ProcessIdentity:
        return ProcessIdentity(host=actor.host, boot_id="simulated", pid=actor.number, start=actor.name)

    def make_intent(self, actor: Actor, purpose: Purpose) -> Intent:
        return Intent(
            who=self.identify(actor),
            started_at=actor.clock.now(),
            system_identifier=SYSTEM_IDENTIFIER,
            timeline=1,
            start_lsn=str(self.cluster.lsn),
            parent=None,
            purpose=purpose,
        )

    # -- who works --------------------------------------------------------------------------------------------------

    def work(self, name: str, host: str, program: Callable[[Actor], None]) -> None:
        """One who has something to finish; it is started again after a crash."""
        self._workers.append(name)
        self.simulation.spawn(name, host, program, restarts=3)

    def serve(self, name: str, host: str, program: Callable[[Actor], None]) -> None:
        """One that goes on for as long as anybody works."""
        self.simulation.spawn(name, host, program, restarts=1000)

    @property
    def is_busy(self) -> bool:
        return any(self.simulation.is_running(name) for name in self._workers)

    @contextmanager
    def command(self, actor: Actor) -> Iterator[None]:
        """One run of a command: it may be refused, or its store may not answer; anything else is a broken promise."""
        try:
            yield
        except _EXPECTED:
            pass
        except Exception as error:
            self.simulation.fail("commands end in order", f"{actor.name} ended with {error!r}")
            actor.die()

    def rounds(self, actor: Actor, *seconds: float) -> Iterator[None]:
        """When an actor does something: now and then for as long as anybody works, or in a rush a few times at once."""
        while self.is_busy if self.rush is None else actor.rounds < self.rush:
            self.idle(actor, *seconds)
            yield

    def idle(self, actor: Actor, *seconds: float) -> None:
        """Between two commands; the longer somebody else stands still, the longer."""
        actor.rounds += 1
        if self.rush is not None:
            actor.clock.sleep(actor.random.randrange(6))
            return
        pause = actor.random.choice(seconds) * min(1.0, self.tempo * 1.3 ** min(actor.rounds, 30))
        (actor.watch if actor.random.random() < self.alertness else actor.sleep)(pause)

    # -- a server and its rival -------------------------------------------------------------------------------------

    def load(self, actor: Actor, segments: int) -> None:
        """Users of the database."""
        while self.cluster.segment < segments:
            self.idle(actor, 5 * MINUTE, HOUR, 8 * HOUR)
            self.change(actor)

    def change(self, actor: Actor) -> None:
        self.cluster.write(actor.random.sample(sorted(self.cluster.page_segment), 2))
        self.switch_segment()

    def switch_segment(self) -> Lsn:
        """Complete the segment that is being written; the archiver hears of it at once."""
        self.simulation.wake("archiver")
        return self.cluster.switch_segment()

    def archiver(self, actor: Actor) -> None:
        """PostgreSQL's: one file after another, each until it was told that it is safe."""
        cluster = self.cluster
        while (cluster.ready or self.is_busy) and not cluster.is_fenced:
            if not cluster.ready:
                actor.watch(HOUR)
                continue
            number = cluster.ready[0]
            try:
                self._push(actor, number, make_wal(number))
            except StoreUnreachable:
                actor.clock.sleep(MINUTE)
            except Refused as error:
                cluster.is_fenced = True
                if not self.oracle.has_rival(number):
                    self.simulation.fail("the same WAL again is welcome", f"segment {number}: {error}")
            else:
                cluster.ready.pop(0)

    def rival(self, actor: Actor) -> None:
        """A second primary, or a copy that archives: it has other contents under the same names."""
        for _ in self.rounds(actor, MINUTE, 3 * HOUR, DAY):
            number = self.cluster.segment - actor.random.randrange(2)
            self.oracle.announce_rival(number)
            with self.command(actor):
                self._push(actor, number, make_wal(number, "of a rival"))

    def _push(self, actor: Actor, number: int, content: bytes) -> None:
        facts = {"host": actor.host, "pushed_at": render_time_utc(actor.clock.now())}
        self.archive(actor).put(str(segment_name(number)), content, facts)
        self.oracle.acknowledge_wal(number, content)

    # -- commands ---------------------------------------------------------------------------------------------------

    def back_up(self, actor: Actor, count: int) -> None:
        for _ in range(3 * count):
            self.idle(actor, 10 * MINUTE, 6 * HOUR, DAY)
            with self.command(actor):
                self.parts.writer(self, actor).run()
                count -= 1
            if not count:
                return

    def back_up_lagging(self, actor: Actor, count: int) -> None:
        """From a standby that is behind: its backups begin in WAL of which the others may need nothing any more."""
        for _ in range(3 * count):
            self.idle(actor, 10 * MINUTE, 6 * HOUR, DAY)
            with self.command(actor):
                writer = self.parts.writer(self, actor)
                writer.lag = actor.random.randrange(1, 6)
                writer.run()
                count -= 1
            if not count:
                return

    def expire(self, actor: Actor) -> None:
        """Retire what the policy drops, and remove WAL that it does not need."""
        for _ in self.rounds(actor, HOUR, 12 * HOUR, 2 * DAY):
            with self.command(actor):
                entries = self.catalog(actor).list_committed()
                for entry in self.parts.choose_expired(entries, self.keep):
                    with suppress(Refused):
                        order = RetireOrder(reason="policy", not_before=actor.clock.now() + self.grace)
                        self.removal(actor).retire(entry.label, order)
                if len(entries) >= self.keep:
                    first = min(Lsn.parse(entry.summary["start_lsn"]) for entry in entries[-self.keep :])
                    need = WalNeed(system_identifier=SYSTEM_IDENTIFIER, horizon=first)
                    self.parts.wal_collector(self.catalog(actor)).run(need)

    def retain(self, actor: Actor) -> None:
        """``pghaven expire``, whole: plan, retire, collect, WAL, compaction."""
        policy = RetentionPolicy(count=self.keep, grace=self.grace)
        for _ in self.rounds(actor, HOUR, 12 * HOUR, 2 * DAY):
            with self.command(actor):
                who = Worker(identity=self.identify(actor), new_label=lambda _: self.draw_label(actor))
                run_expire(self.catalog(actor), policy, ignore, compaction=_COMPACTION, who=who)

    def collect(self, actor: Actor) -> None:
        for _ in self.rounds(actor, HOUR, 12 * HOUR, 2 * DAY):
            with self.command(actor):
                self._collect_once(actor)

    def _collect_once(self, actor: Actor) -> None:
        collector = self.parts.collector(self.catalog(actor), CollectRules(grace=self.grace))
        collector._removal = self.removal(actor)
        collector.run(self.identify(actor))

    def succeed(self, actor: Actor) -> None:
        """One whole life after another: a backup that goes on from the last, which is expired and removed then."""
        for _ in self.rounds(actor, MINUTE, HOUR):
            with self.command(actor):
                self.parts.writer(self, actor).run()
                for entry in self.catalog(actor).list_committed()[:-1]:
                    order = RetireOrder(reason="succeeded", not_before=actor.clock.now())
                    self.removal(actor).retire(entry.label, order)
                self._collect_once(actor)

    def compact(self, actor: Actor) -> None:
        """Write anew whatever is not wholly in use."""
        for _ in self.rounds(actor, HOUR, 12 * HOUR, 2 * DAY):
            with self.command(actor):
                compactor = self.parts.compactor(self.catalog(actor), _COMPACTION)
                plan = compactor.plan()
                if plan.packs:
                    compactor.run(plan, self.draw_label(actor), self.identify(actor))

    def tidy(self, actor: Actor) -> None:
        """Time passes, and the collector comes again and again."""
        for _ in range(4):
            actor.clock.sleep(400 * DAY)
            self._collect_once(actor)

    def operate(self, actor: Actor) -> None:
        """Somebody who holds backups and lets them go, takes expiries back and expires by hand."""
        held: list[str] = []
        for _ in self.rounds(actor, MINUTE, 5 * HOUR, 2 * DAY):
            with self.command(actor):
                entries = [entry for entry in self.catalog(actor).list_entries() if entry.state in _DECIDED]
                if held and actor.random.random() < 0.4:
                    label = held.pop()
                    self.oracle.begin_release(label)
                    self.removal(actor).release(label)
                elif entries:
                    self._meddle(actor, entries, held)

    def _meddle(self, actor: Actor, entries: Sequence[BackupEntry], held: list[str]) -> None:
        removal, source = self.removal(actor), actor.random
        expired = [entry for entry in entries if entry.state is BackupState.RETIRED]
        label = source.choice(expired if expired and source.random() < 0.7 else entries).label
        what = source.random()
        if what < 0.4:
            removal.hold(label, "wanted")
            self.oracle.acknowledge_hold(label)
            held.append(label)
        elif what < 0.6:
            removal.undo(label)
            self.oracle.acknowledge_undo(label)
        else:
            self._expire_by_hand(actor, entries[-1])

    def expire_newest(self, actor: Actor) -> None:
        """Somebody who expires the newest backup by hand, again and again."""
        for _ in self.rounds(actor, HOUR, DAY):
            with self.command(actor):
                if entries := self.catalog(actor).list_committed():
                    self._expire_by_hand(actor, entries[-1])

    def hold_newest(self, actor: Actor) -> None:
        """Somebody who holds the newest backup for a while, again and again."""
        for _ in self.rounds(actor, HOUR, DAY):
            with self.command(actor):
                if entries := self.catalog(actor).list_committed():
                    label = entries[-1].label
                    self.removal(actor).hold(label, "wanted")
                    self.oracle.acknowledge_hold(label)
                    self.idle(actor, HOUR, DAY)
                    self.oracle.begin_release(label)
                    self.removal(actor).release(label)

    def undo_newest(self, actor: Actor) -> None:
        """Somebody who takes back whatever has expired last."""
        for _ in self.rounds(actor, HOUR, DAY):
            with self.command(actor):
                entries = self.catalog(actor).list_entries()
                if expired := [entry for entry in entries if entry.state is BackupState.RETIRED]:
                    self.removal(actor).undo(expired[-1].label)
                    self.oracle.acknowledge_undo(expired[-1].label)

    def _expire_by_hand(self, actor: Actor, entry: BackupEntry) -> None:
        self.oracle.allow_expiry_by_hand()
        order = RetireOrder(reason="by hand", not_before=actor.clock.now() + self.grace)
        self.removal(actor).retire(entry.label, order)

    def restore(self, actor: Actor) -> None:
        """Reads whole backups: the newest, or any."""
        for _ in self.rounds(actor, MINUTE, 4 * HOUR, DAY):
            with self.command(actor):
                self._restore_one(actor)

    def _restore_one(self, actor: Actor) -> None:
        catalog = self.catalog(actor)
        began, manifests = self.simulation.now, self.oracle.list_current()
        everything = catalog.list_entries()
        if damaged := [entry for entry in everything if entry.state is BackupState.DAMAGED]:
            self.simulation.fail("listing never fails", f"{damaged[0].label}: {damaged[0].reason}")
        entries = [entry for entry in everything if entry.state is BackupState.COMMITTED]
        if not entries:
            return
        entry = entries[-1] if actor.random.random() < 0.6 else actor.random.choice(entries)
        try:
            pages = read_backup(catalog, entry)
        except (ObjectMissing, Damaged) as error:
            kept = manifests.get(entry.label) == self.oracle.list_current().get(entry.label)
            in_time = self.simulation.now - began < self.grace.total_seconds() and not self.simulation.is_skewed
            if self.oracle.is_protected(entry.label) and (kept or in_time):
                self.simulation.fail("backups stay whole", f"{entry.label} could not be restored: {error}")
        else:
            self.oracle.judge_read(entry.label, pages)
