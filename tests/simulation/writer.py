"""A backup's writer: what ``backup.session`` does, in its order, with a dozen pages for a server.

The one idea: each step is a method, so that a planted mistake is a writer with one step in another place.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pghaven.backup.archivewait import refuse_removed_wal
from pghaven.backup.origin import Origin, Tries, find_tries
from pghaven.backup.parent import ParentNeeds, choose_parent
from pghaven.backup.rivals import make_way
from pghaven.errors import CheckFailed, PghavenError
from pghaven.events import ignore
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.entry import BackupEntry, BackupState, Purpose, summarize
from pghaven.repository.liveness import SIGN_OF_LIFE_SECONDS
from pghaven.repository.manifest import Manifest
from tests.simulation.content import (
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    Places,
    Span,
    list_places,
    make_manifest,
    segment_name,
    store_pages,
)
from tests.simulation.engine import HOUR, MINUTE, Actor

if TYPE_CHECKING:
    from tests.simulation.world import World

# How long a server may take for the checkpoint with which a backup begins.
_CHECKPOINT_SECONDS = (0.0, 1.0, 20.0, 5 * MINUTE)
_WAL_PATIENCE_SECONDS = 6 * HOUR


class BackupWriter:
    """One backup, from looking around to its decision."""

    def __init__(self, world: World, actor: Actor) -> None:
        self.world = world
        self.actor = actor
        self.cluster = world.cluster
        self.catalog = world.catalog(actor)
        self.archive = world.archive(actor)
        self.label = world.draw_label(actor)
        self.origin = Origin(self.catalog, self.archive, "auto", ignore)
        self.signs = 0
        self.lag = 0

    def run(self) -> None:
        entries = make_way(self.catalog, None, ignore)
        self.started_at = self.actor.clock.now()
        tries = find_tries(self.catalog, entries, SYSTEM_IDENTIFIER, ignore)
        self.actor.clock.sleep(self.actor.random.choice(_CHECKPOINT_SECONDS))
        self.start_lsn = Lsn(max(self.cluster.lsn - self.lag * SEGMENT_SIZE, 2 * SEGMENT_SIZE + 40))
        self.choose_parent(entries)
        self.announce(tries)
        try:
            make_way(self.catalog, self.label, ignore)
            self.confirm(tries)
            self.write(tries)
        except BaseException as error:
            self.clean_up(error)
            raise
        self.world.oracle.acknowledge_commit(self.label)

    def write(self, tries: Tries) -> None:
        """Everything between the intent and the decision, which is the last of it."""
        places = self.store(tries)
        self.sign_of_life()
        span = self.stop()
        self.await_wal(span)
        parent = self.origin.parent
        self.commit(make_manifest(self.label, span, places, parent.label if parent else None))

    # -- steps ------------------------------------------------------------------------------------------------------

    def choose_parent(self, entries: Sequence[BackupEntry]) -> None:
        needs = ParentNeeds(
            system_identifier=SYSTEM_IDENTIFIER,
            major=17,
            wal_segment_size=SEGMENT_SIZE,
            data_checksums=True,
            history=History.root(Timeline(1)),
            start_lsn=self.start_lsn,
        )
        committed = [entry for entry in entries if entry.state is BackupState.COMMITTED]
        if self.actor.random.random() < 0.9:
            self.origin.parent = choose_parent(committed, needs).entry

    def announce(self, tries: Tries) -> None:
        parent = self.origin.parent.label if self.origin.parent else None
        intent = replace(
            self.world.make_intent(self.actor, Purpose.BACKUP),
            started_at=self.started_at,
            start_lsn=str(self.start_lsn),
            parent=parent,
            sources=(*((parent,) if parent else ()), *tries.labels),
        )
        self.catalog.announce(self.label, intent)

    def confirm(self, tries: Tries) -> None:
        """Whether what the intent names is there to stay, and the WAL from here on."""
        self.origin.confirm(tries)
        refuse_removed_wal(self.archive, Timeline(1), self.start_lsn)

    def store(self, tries: Tries) -> Places:
        """Keep what the parent has, and store what has changed since, but for what interrupted tries have stored."""
        pages = self.cluster.read_pages()
        self.world.oracle.expect(self.label, pages)
        places: Places = {}
        changed = set(pages)
        if self.origin.parent:
            changed = self.cluster.list_changed(Lsn.parse(self.origin.parent.summary["start_lsn"]) // SEGMENT_SIZE)
            places = list_places(self.catalog.load_manifest(self.origin.parent))
        stored = store_pages(self.catalog, self.label, {page: pages[page] for page in changed}, tries.known)
        return {**places, **stored}

    def stop(self) -> Span:
        stop_lsn = self.world.switch_segment()
        return Span(started_at=self.started_at, start_lsn=self.start_lsn, stop_lsn=stop_lsn)

    def await_wal(self, span: Span) -> None:
        clock = self.actor.clock
        deadline = clock.monotonic() + _WAL_PATIENCE_SECONDS
        for number in span.segments:
            while not self.archive.exists(str(segment_name(number))):
                if clock.monotonic() > deadline or self.cluster.is_fenced:
                    raise CheckFailed(f"segment {number} did not reach the archive")
                clock.sleep(SIGN_OF_LIFE_SECONDS)
                self.sign_of_life()

    def sign_of_life(self) -> None:
        self.signs += 1
        self.catalog.sign_of_life(self.label, self.signs)

    def commit(self, manifest: Manifest) -> None:
        facts = manifest.facts
        names = [str(segment_name(lsn // SEGMENT_SIZE)) for lsn in (facts.start_lsn, facts.stop_lsn)]
        self.catalog.commit(self.label, manifest, summarize(facts, *names))

    def clean_up(self, error: BaseException) -> None:
        with suppress(PghavenError):
            self.catalog.abandon(self.label, type(error).__name__)
