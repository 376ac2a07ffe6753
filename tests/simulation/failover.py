"""Servers that archive, are promoted, passed over and upgraded, all into one archive, with the code of ``wal push``.

The one idea: each server knows only its own history and pushes one file after another, as PostgreSQL does; what may
enter the archive, and what must, is judged by the histories that were there when a push began.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pghaven.errors import Conflict, PghavenError, StoreUnreachable
from pghaven.events import ignore
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import WalFileKind
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.document import render_document
from pghaven.repository.large import read_plain
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import PutOutcome, WalArchive
from pghaven.units import render_time_utc
from pghaven.wal import archives, push
from pghaven.wal.push import WalFile, read_wal_file
from tests.simulation.content import CLUSTER, SEGMENT_SIZE, SYSTEM_IDENTIFIER
from tests.simulation.engine import MINUTE, START, Actor, Choice, Rates, Simulation, Witness, draw_rates
from tests.simulation.world import DESCRIPTOR
from tests.support.walfile import make_segment, render_history, segment_name

UPGRADED = SYSTEM_IDENTIFIER + 1
_SEGMENTS = 4
_HALF = SEGMENT_SIZE // 2


@dataclass(frozen=True, kw_only=True)
class Life:
    """What one server writes: of its timeline all from the segment in which that begins. ``forks`` are its ancestors:
    (timeline, segment in whose middle it was left). It is there when the archive has come to ``after`` files.

    A ``timeline`` of which there is no history file yet may be chosen, so each is written once.
    """

    host: str
    timeline: int
    first: int
    last: int
    after: int = 0
    forks: tuple[tuple[int, int], ...] = ()
    system_identifier: int = SYSTEM_IDENTIFIER


def draw_lives(source: random.Random) -> list[Life]:
    """A primary that goes on after it was passed over; two promotions, from either or from the past; an upgrade."""
    fork = source.randrange(2, 2 + _SEGMENTS)
    # Sooner, when the first one's archiving was behind.
    after = source.choice((0, fork - 1))
    second = Life(host="db2", timeline=2, first=fork, last=fork + _SEGMENTS, after=after, forks=((1, fork),))
    lives = [Life(host="db1", timeline=1, first=1, last=fork + _SEGMENTS), second]
    if source.random() < 0.7:
        at = source.randrange(1, fork + 1) if source.random() < 0.5 else source.randrange(fork + 1, fork + _SEGMENTS)
        forks = ((1, at),) if at <= fork else ((1, fork), (2, at))
        after = source.choice((0, fork + 1))
        lives.append(Life(host="db3", timeline=3, first=at, last=at + _SEGMENTS, after=after, forks=forks))
    if source.random() < 0.5:
        upgraded = Life(host="db4", timeline=1, first=1, last=_SEGMENTS, after=fork, system_identifier=UPGRADED)
        lives.append(upgraded)
    return lives


@lru_cache(maxsize=256)
def make_file(system_identifier: int, timeline: int, number: int) -> WalFile:
    """A segment is read from where it is, so there is one: the same in every history."""
    name = segment_name(number, timeline)
    path = Path(_make_directory().name, str(system_identifier), str(name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(make_segment(name, system_identifier=system_identifier))
    os.utime(path, ns=(0, 0))
    return read_wal_file(str(path), claim=system_identifier)


@cache
def _make_directory() -> TemporaryDirectory[str]:
    """It goes with the process."""
    return TemporaryDirectory(prefix="pghaven-simulation-")


def make_history(life: Life) -> WalFile:
    forks = [(timeline, Lsn(segment * SEGMENT_SIZE + _HALF)) for timeline, segment in life.forks]
    return WalFile(
        name=Timeline(life.timeline).history_name,
        kind=WalFileKind.HISTORY,
        content=render_history(*forks),
        claim=life.system_identifier,
        mtime_ns=0,
    )


@dataclass
class FailoverOracle(Witness):
    """Judges what comes into the archive. It reads no history: it knows the lives."""

    simulation: Simulation
    lives: Sequence[Life]
    pushed: dict[str, tuple[Life, WalFile, frozenset[int]]] = field(default_factory=dict)
    histories: set[tuple[int, int]] = field(default_factory=set)
    acknowledged: list[tuple[WalFile, PutOutcome]] = field(default_factory=list)
    content: dict[str, bytes] = field(default_factory=dict)

    def begin(self, actor: str, life: Life, file: WalFile) -> None:
        """A push begins; whatever history is there by now, it must see."""
        seen = frozenset(one for system, one in self.histories if system == life.system_identifier)
        self.pushed[actor] = (life, file, seen)

    def on_created(self, name: str, data: bytes) -> None:
        if self.content.setdefault(name, data) != data:
            self.simulation.fail("nothing is overwritten", name)
        actor = self.simulation.past.choices[-1].actor
        if not name.startswith(layout.wal_prefix(CLUSTER, SYSTEM_IDENTIFIER).partition(str(SYSTEM_IDENTIFIER))[0]):
            return
        life, file, seen = self.pushed[actor]
        if not name.startswith(layout.wal_prefix(CLUSTER, life.system_identifier)):
            self.simulation.fail("lineages are apart", f"{actor} of system {life.system_identifier} stored {name}")
        if file.kind is WalFileKind.HISTORY:
            self.histories.add((life.system_identifier, life.timeline))
        elif self._is_left_behind(life, file, seen):
            self.simulation.fail("what was left behind is fenced", f"{actor} stored {name}")

    def acknowledge(self, actor: str, outcome: PutOutcome) -> None:
        life, file, _ = self.pushed[actor]
        self.acknowledged.append((file, outcome))
        now = frozenset(one for system, one in self.histories if system == life.system_identifier)
        if outcome is PutOutcome.QUARANTINED and not self._is_left_behind(life, file, now):
            self.simulation.fail("what is somebody's past is archived", f"{file.name} of {actor} is in quarantine")

    def _is_left_behind(self, life: Life, file: WalFile, seen: frozenset[int]) -> bool:
        """Whether the last of the later timelines that leave this one does so before the file begins."""
        forks = [
            segment
            for other in self.lives
            if other.system_identifier == life.system_identifier and other.timeline in seen
            for timeline, segment in other.forks
            if timeline == life.timeline and other.timeline > life.timeline
        ]
        return bool(forks) and int(file.name[16:24], 16) > max(forks)

    def judge_end(self, repository: Repository) -> None:
        for file, outcome in self.acknowledged:
            archive = WalArchive(repository, CLUSTER, file.claim, SEGMENT_SIZE)
            try:
                if outcome is PutOutcome.QUARANTINED:
                    is_kept = bool(archive.list_quarantine(file.name))
                else:
                    is_kept = archive.get(file.name) == read_plain(file.content)
            except PghavenError as error:
                self.simulation.fail("WAL is kept", f"{file.name} of {file.claim}: {error}")
            else:
                if not is_kept:
                    self.simulation.fail("WAL is kept", f"{file.name} of {file.claim} is not what was acknowledged")


class Failover:
    """One history of servers that take over from one another."""

    def __init__(self, seed: str, script: Sequence[Choice] | None = None) -> None:
        self.simulation = Simulation(seed, script=script)
        self.lives = draw_lives(random.Random(f"{seed}/lives"))
        self.oracle = FailoverOracle(self.simulation, self.lives)
        inner = Repository(self.simulation.inner, DESCRIPTOR)
        inner.store.create(layout.DESCRIPTOR, [render_document(layout.DESCRIPTOR, {"simulated": True})])
        inner.register_lineage(CLUSTER, _make_lineage(SYSTEM_IDENTIFIER), new_lineage=False)
        self.simulation.witness = self.oracle

    def run(self, rates: Rates | None = None) -> None:
        """Raises Violation."""
        self.simulation.rates = draw_rates(self.simulation.seed) if rates is None else rates
        for life in self.lives:
            self.simulation.spawn(life.host, life.host, self._serve(life), restarts=1000)
        self.simulation.run()
        self.oracle.judge_end(Repository(self.simulation.inner, DESCRIPTOR))
        if self.simulation.violation is not None:
            raise self.simulation.violation

    def _serve(self, life: Life) -> Callable[[Actor], None]:
        done: set[str] = set()

        def archive(actor: Actor) -> None:
            while len(self.oracle.acknowledged) < life.after and len(self.simulation.past.choices) < 20_000:
                actor.sleep(MINUTE)
            for file in list_files(life):
                while file.name not in done:
                    if self._push(actor, life, file):
                        done.add(file.name)
                    else:
                        actor.sleep(MINUTE)

        return archive

    def _push(self, actor: Actor, life: Life, file: WalFile) -> bool:
        """As ``archive_command`` does; False: again. A sound server is never refused, whoever else there is."""
        repository = Repository(actor.store, DESCRIPTOR, clock=actor.clock)
        self.oracle.begin(actor.name, life, file)
        try:
            if life.system_identifier != SYSTEM_IDENTIFIER:
                repository.register_lineage(CLUSTER, _make_lineage(life.system_identifier), new_lineage=True)
            opened = archives.open_archive(repository, CLUSTER, file.claim)
            outcome = push.push_into(opened, file, actor.clock, ignore)
        except StoreUnreachable:
            return False
        except Conflict as error:
            self.simulation.fail("a sound server is welcome", f"{file.name} of {actor.name}: {error}")
            actor.die()
        self.oracle.acknowledge(actor.name, outcome)
        return True


def list_files(life: Life) -> Iterator[WalFile]:
    if life.forks:
        yield make_history(life)
    for number in range(life.first, life.last + 1):
        yield make_file(life.system_identifier, life.timeline, number)


def _make_lineage(system_identifier: int) -> Lineage:
    return Lineage(
        system_identifier=system_identifier,
        major=17,
        block_size=8192,
        segment_blocks=131072,
        wal_segment_size=SEGMENT_SIZE,
        registered_at=render_time_utc(START),
    )


def play_failover(seed: str, rates: Rates | None = None) -> Failover:
    """One history. Raises Violation."""
    made = Failover(seed)
    made.run(rates)
    return made
