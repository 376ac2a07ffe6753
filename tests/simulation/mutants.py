"""Planted mistakes, put around or into the real code; most of them are what another tool did.

The one idea: a test that never found anything proves nothing, so the simulation must find each of these within a
bounded number of seeds; one that survives fails the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pghaven.backup.origin import Tries
from pghaven.errors import Cancelled, ObjectExists, PghavenError, StoreUnreachable
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector
from pghaven.repository.collectplan import Judgement, LabelReason
from pghaven.repository.compact import CompactionPlan, CompactionResult, Compactor
from pghaven.repository.entry import BackupEntry, BackupState, ManifestPlace
from pghaven.repository.liveness import seems_dead
from pghaven.repository.manifest import Manifest, render_manifest
from pghaven.repository.packtable import PackTable
from pghaven.repository.removal import Removal
from pghaven.repository.repository import Repository
from pghaven.repository.walcollect import WalCollector, WalNeed
from pghaven.repository.walstore import PutOutcome, WalArchive
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.store.api import Buffers, ObjectInfo, Store
from tests.simulation.content import CLUSTER, Places
from tests.simulation.engine import ActorStore, Rates
from tests.simulation.scenes import Scene
from tests.simulation.world import REAL, Parts
from tests.simulation.writer import BackupWriter

if TYPE_CHECKING:
    from pghaven.repository.large import Plain


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A mistake, where it was seen, and a scene in which it breaks one of these promises.

    ``first_seed`` saves time: it was found soon from there when it was planted.
    """

    name: str
    seen_in: str
    parts: Parts
    scene: Scene
    breaks: tuple[str, ...]
    first_seed: int = 0


# -- stores -------------------------------------------------------------------------------------------------------


class CheckThenPut(ActorStore):
    """``create`` of some names asks whether there is an object, and then writes over whatever there is by then."""

    what = ""

    def create(self, name: str, content: Buffers) -> None:
        if self.what not in name:
            super().create(name, content)
            return
        if self.find(name) is not None:
            raise ObjectExists(f'"{name}" exists already')
        data = b"".join(content)

        def effect() -> None:
            self._inner.delete(name)
            self._inner.create(name, [data])
            self._actor.simulation.witness.on_created(name, data)

        self._do(f"put {name}", effect)


class CheckThenPutWal(CheckThenPut):
    what = "/wal/"


class LeaseForDecision(CheckThenPut):
    """Whether the backup is still ours is asked just before the decision is written."""

    what = "/decision"


class FirstPageOnly(ActorStore):
    """A listing ends with its first page."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._do(f"list {prefix}", lambda: self._read_page(prefix, "")))


# -- writers ------------------------------------------------------------------------------------------------------


class DataLast(BackupWriter):
    """Packs are still on their way when the decision is written."""

    def write(self, tries: Tries) -> None:
        late: list[tuple[str, Buffers]] = []
        real = self.catalog.repository
        store: Any = _Postponing(self.actor.store, late)
        self.catalog = BackupCatalog(Repository(store, real.descriptor, clock=real.clock), CLUSTER)
        super().write(tries)
        for name, content in late:
            self.actor.store.create(name, content)


class _Postponing:
    def __init__(self, inner: Store, late: list[tuple[str, Buffers]]) -> None:
        self._inner = inner
        self._late = late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, name: str, content: Buffers) -> None:
        if "/packs/" in name:
            self._late.append((name, content))
        else:
            self._inner.create(name, content)


class FateBeforeIntent(BackupWriter):
    """The sources are judged before they are named."""

    def announce(self, tries: Tries) -> None:
        super().confirm(tries)
        super().announce(tries)

    def confirm(self, tries: Tries) -> None:
        pass


class NamesNoSources(BackupWriter):
    """The intent does not say what the backup goes on from."""

    def announce(self, tries: Tries) -> None:
        parent, self.origin.parent = self.origin.parent, None
        super().announce(Tries(labels=(), known=None))
        self.origin.parent = parent


class IntentLate(BackupWriter):
    """Data first; the others hear of this backup when it is nearly done."""

    def announce(self, tries: Tries) -> None:
        pass

    def store(self, tries: Tries) -> Places:
        places = super().store(tries)
        super().announce(tries)
        return places


class TidiesUp(BackupWriter):
    """Whoever gets no answer takes it for a refusal, and removes what it has stored."""

    def clean_up(self, error: BaseException) -> None:
        if isinstance(error, StoreUnreachable):
            store = self.actor.store
            for info in tuple(store.list(layout.packs_prefix(CLUSTER, self.label))):
                store.delete(info.name)
        super().clean_up(error)


# -- the catalog --------------------------------------------------------------------------------------------------


class DecisionFirst(BackupCatalog):
    """The decision is written before the manifest that it names."""

    def commit(self, label: str, manifest: Manifest, summary: Mapping[str, Any]) -> int:
        name = layout.backup_object_name(self.cluster, label, "manifest")
        repository = self.repository
        context = repository.context(name).encode()
        finished = render_manifest(manifest, context=context, keyring=repository.keyring)
        body = {"decision": "commit", "manifest": finished.hash.hex(), "manifest_bytes": 0, "summary": dict(summary)}
        self.decide(label, body)
        repository.create_container(name, finished)
        return finished.size_bytes


class IntentUnseen(BackupCatalog):
    """Whether the intent is still there after the decision is not asked."""

    def decide(self, label: str, body: Mapping[str, Any]) -> None:
        try:
            self.repository.create_document(layout.backup_object_name(self.cluster, label, "decision"), body)
        except ObjectExists:
            raise Cancelled("given up") from None


class UnreadableIsEmpty(BackupCatalog):
    """A manifest that cannot be read needs nothing."""

    def load_pack_table(self, entry: BackupEntry, place: ManifestPlace) -> PackTable:
        try:
            return super().load_pack_table(entry, place)
        except PghavenError:
            return PackTable.of(())


# -- WAL ----------------------------------------------------------------------------------------------------------


class WelcomesAnything(WalArchive):
    """What is there already is good, whatever it holds."""

    def put(self, file_name: str, content: Plain, facts: Mapping[str, Any]) -> PutOutcome:
        return PutOutcome.ALREADY if self.exists(file_name) else super().put(file_name, content, facts)


class AcknowledgesEarly(WalArchive):
    """No answer is taken for a good one."""

    def put(self, file_name: str, content: Plain, facts: Mapping[str, Any]) -> PutOutcome:
        try:
            return super().put(file_name, content, facts)
        except StoreUnreachable:
            return PutOutcome.STORED


class ForgetsRunning(WalCollector):
    """Only what is committed needs WAL."""

    def _read_entries(self, need: WalNeed) -> list[BackupEntry]:
        return [entry for entry in super()._read_entries(need) if entry.state is not BackupState.UNDECIDED]


class ForgetsSpans(WalCollector):
    """WAL goes by its place in order, whoever is held or about to be brought back."""

    def _read_entries(self, need: WalNeed) -> list[BackupEntry]:
        return [entry for entry in super()._read_entries(need) if entry.state is BackupState.UNDECIDED]


# -- removal ------------------------------------------------------------------------------------------------------


class IntentLast(Removal):
    """What was decided goes first, the intent at the end."""

    def remove(self, entry: BackupEntry) -> int:
        store = self._repository.store
        for part in sorted(
            entry.parts, key=lambda part: (part == "intent", not part.startswith(("decision", "fate/")))
        ):
            store.delete(self._name(entry.label, part))
        return len(entry.parts)


class HoldLooksFirst(Removal):
    """Holding looks whether the backup is expired, and then writes."""

    def hold(self, label: str, reason: str) -> None:
        entry = self._require(label, BackupState.COMMITTED, BackupState.RETIRED)
        if entry.state is BackupState.RETIRED:
            self.undo(label)
        number = entry.hold.number if entry.hold is not None else len(entry.parts) + 1
        self._note(label, f"hold/{number:08d}", reason)


class UndoRemoves(Removal):
    """An expiry is undone by removing its record."""

    def undo(self, label: str) -> None:
        entry = self._require(label, BackupState.RETIRED)
        assert entry.retirement is not None
        self._repository.store.delete(self._name(label, f"retire/{entry.retirement.number:08d}"))


# -- the collector ------------------------------------------------------------------------------------------------


Entries = dict[str, BackupEntry]
Stored = dict[str, dict[bytes, int]]
Labels = frozenset[str]


class BelievesListings(BackupCollector):
    """What a listing leaves out is taken for gone."""

    def _refuse_hidden(self, packs: Iterable[str], entries: Mapping[str, BackupEntry]) -> None:
        pass


class ReadsBeforeItLists(BelievesListings):
    """States first, packs afterwards."""

    def _judge(self, packs: Stored, entries: Entries, compactions: Labels) -> Judgement:
        return super()._judge(self._list_packs(), entries, compactions)


class IgnoresSources(BackupCollector):
    """What a backup that is being made goes on from does not count."""

    def _judge(self, packs: Stored, entries: Entries, compactions: Labels) -> Judgement:
        blind = {
            label: replace(entry, intent=entry.intent and replace(entry.intent, sources=(), parent=None))
            for label, entry in entries.items()
        }
        return super()._judge(packs, blind, compactions)


class SilentIsDead(BackupCollector):
    """What gives no sign for long is removed as it is, without a decision."""

    def _choose_dead(self, entries: Entries, now: datetime) -> list[LabelReason]:
        return []

    def _judge(self, packs: Stored, entries: Entries, compactions: Labels) -> Judgement:
        now = self._repository.clock.now()
        living = _replace_state(entries, BackupState.UNDECIDED, lambda one: seems_dead(one, now))
        return super()._judge(packs, living, compactions)


class ForgetsInterrupted(BackupCollector):
    """Packs of what was given up go at once, whoever may be about to go on from them."""

    def _judge(self, packs: Stored, entries: Entries, compactions: Labels) -> Judgement:
        return super()._judge(packs, _replace_state(entries, BackupState.ABANDONED, lambda _: True), compactions)


def _replace_state(entries: Entries, state: BackupState, chosen: Any) -> Entries:
    return {
        label: replace(entry, state=BackupState.GONE) if entry.state is state and chosen(entry) else entry
        for label, entry in entries.items()
    }


class TakesNoTurns(BackupCollector):
    """Any number of collectors are at work at once."""

    def _take_turn(self, who: ProcessIdentity) -> Any:
        return _NoTurn()


class _NoTurn:
    def sign_of_life(self) -> None:
        pass

    def decide(self) -> None:
        pass

    def give_up(self, reason: str) -> None:
        pass


class TrustsLateFates(TakesNoTurns):
    """What others have condemned while states were read is condemned; with turns that is hard to come by."""

    def _settle(self, abandoned: list[LabelReason], condemned: list[LabelReason]) -> Any:
        self.compactions = super()._settle(abandoned, condemned).compactions
        return self

    def distrust(self, entries: Entries) -> Entries:
        return entries


class TrustsLateCompactions(BackupCollector):
    """What a compaction has superseded while states were read is superseded."""

    def _judge(self, packs: Stored, entries: Entries, compactions: Labels) -> Judgement:
        late = {one.compaction for entry in entries.values() for one in self._places_of(entry)}
        return super()._judge(packs, entries, compactions | {one for one in late if one is not None})

    def _places_of(self, entry: BackupEntry) -> list[ManifestPlace]:
        return list(self._catalog.iter_manifests(entry)) if entry.manifest_hash else []


class SwitchesEarly(Compactor):
    """Backups refer to packs that are still on their way."""

    def run(self, plan: CompactionPlan, label: str, who: ProcessIdentity) -> CompactionResult:
        real, late = self._repository, list[tuple[str, Buffers]]()
        store: Any = _Postponing(real.store, late)
        self._catalog = BackupCatalog(Repository(store, real.descriptor, clock=real.clock), CLUSTER)
        result = super().run(plan, label, who)
        for name, content in late:
            real.store.create(name, content)
        return result


def expire_by_name(entries: Sequence[BackupEntry], keep: int) -> Sequence[BackupEntry]:
    """The last in the order of their names are kept."""
    return sorted(entries, key=lambda entry: entry.label)[:-keep]


def _scene(cast: AbstractSet[str], rates: Rates, rounds: int | None = 3, grace: timedelta = timedelta(0)) -> Scene:
    return Scene(cast=frozenset(cast), rates=rates, rounds=rounds, grace=grace)


_BACKUPS = {"backup-db1", "backup-db2"}
_COLLECTORS = {"collect-db1", "collect-ops"}
_EXPIRY = {"expire-db1", "expire-ops"}
_AXE = {"expire-newest"}
_WAL_ACTORS = {"load", "rival"}
_CALM = Rates(stay=0.3)
_PAUSES = Rates(pause=0.05, stay=0.8)
_LONG_PAUSES = Rates(pause=0.1, stay=0.9)
_FAILURES = Rates(fail=0.15, stay=0.5)
_LOST_ANSWERS = Rates(lose=0.1, stay=0.5)

_WHOLE = "backups stay whole"
_HELD = "holds outlive policy"
_WAL = "WAL is kept"
_SPAN = "backups keep their WAL"

MUTANTS = (
    Mutant(
        name="WAL by check-then-put",
        seen_in="pgBackRest, WAL-G, Barman: no atomic put of WAL on an object store",
        parts=replace(REAL, store=CheckThenPutWal),
        scene=_scene(_WAL_ACTORS, _PAUSES),
        breaks=("nothing is overwritten", _WAL),
    ),
    Mutant(
        name="lease instead of decision",
        seen_in="restic, kopia: a lock that is refreshed, looked at before the last write",
        parts=replace(REAL, store=LeaseForDecision),
        scene=_scene(_BACKUPS | _COLLECTORS, _PAUSES),
        breaks=("nothing is overwritten", _WHOLE),
    ),
    Mutant(
        name="first page of a listing",
        seen_in="Barman: deleting saw the first 1000 objects",
        parts=replace(REAL, store=FirstPageOnly, collector=BelievesListings),
        scene=_scene(_BACKUPS | _COLLECTORS, _CALM),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="manifest before data",
        seen_in="borg: an index that was stored before what it names",
        parts=replace(REAL, writer=DataLast),
        scene=_scene(_BACKUPS, _CALM),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="fate before intent",
        seen_in="kopia: contents that are judged unused while somebody begins to use them",
        parts=replace(REAL, writer=FateBeforeIntent),
        scene=_scene(_BACKUPS | _COLLECTORS | _AXE, _LONG_PAUSES, rounds=1),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="intent without sources",
        seen_in="any store of shared chunks: a chunk taken over while it is collected",
        parts=replace(REAL, writer=NamesNoSources),
        scene=_scene(_BACKUPS | _COLLECTORS | _AXE, _CALM),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="intent after data",
        seen_in="pgBackRest before 2.59: expire on another host removed a backup in progress",
        parts=replace(REAL, writer=IntentLate),
        scene=_scene(_BACKUPS | _COLLECTORS, _LONG_PAUSES),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="tidying up after a lost answer",
        seen_in="clients that take a time-out for a refusal",
        parts=replace(REAL, writer=TidiesUp),
        scene=_scene({"backup-db1"}, _LOST_ANSWERS),
        breaks=(_WHOLE,),
        first_seed=105,
    ),
    Mutant(
        name="decision before manifest",
        seen_in="pgmoneta: broken manifests of listed backups",
        parts=replace(REAL, catalog=DecisionFirst),
        scene=_scene(_BACKUPS, _CALM),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="intent not looked for after the decision",
        seen_in="this project's own draft",
        parts=replace(REAL, catalog=IntentUnseen),
        scene=_scene(_BACKUPS | _COLLECTORS, _LONG_PAUSES),
        breaks=("a commit is a commit", _WHOLE),
    ),
    Mutant(
        name="unreadable is empty",
        seen_in="collectors that log and go on",
        parts=replace(REAL, catalog=UnreadableIsEmpty),
        scene=_scene(_COLLECTORS | {"backup-db1"}, _FAILURES),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="exists is success",
        seen_in="pgBackRest: history files are taken without a comparison",
        parts=replace(REAL, archive=WelcomesAnything),
        scene=_scene(_WAL_ACTORS, _PAUSES),
        breaks=(_WAL,),
    ),
    Mutant(
        name="WAL acknowledged before it is there",
        seen_in="WAL-G: puts that were neither atomic nor durable",
        parts=replace(REAL, archive=AcknowledgesEarly),
        scene=_scene({"load"}, _FAILURES),
        breaks=(_WAL, _SPAN),
    ),
    Mutant(
        name="WAL of running backups",
        seen_in="pgBackRest before 2.15: expire removed WAL that backups needed",
        parts=replace(REAL, wal_collector=ForgetsRunning),
        scene=_scene(_BACKUPS | _EXPIRY | {"load"}, _PAUSES),
        breaks=(_SPAN,),
        first_seed=92,
    ),
    Mutant(
        name="WAL of backups that are held",
        seen_in="WAL-G: deleting before a target removed what permanent backups need",
        parts=replace(REAL, wal_collector=ForgetsSpans),
        scene=_scene(_BACKUPS | _EXPIRY | {"operator"}, _CALM),
        breaks=(_SPAN,),
    ),
    Mutant(
        name="intent removed last",
        seen_in="this project's own draft",
        parts=replace(REAL, removal=IntentLast),
        scene=_scene(_BACKUPS | _COLLECTORS, _LONG_PAUSES),
        breaks=("a commit is a commit", _WHOLE, "garbage goes"),
        first_seed=66,
    ),
    Mutant(
        name="hold that looks first",
        seen_in="WAL-G: permanent backups were deleted",
        parts=replace(REAL, removal=HoldLooksFirst),
        scene=_scene(_COLLECTORS | _AXE | {"hold-newest"}, _CALM, rounds=8),
        breaks=(_HELD,),
        first_seed=1180,
    ),
    Mutant(
        name="undo that leaves no trace",
        seen_in="tools that mark and unmark",
        parts=replace(REAL, removal=UndoRemoves),
        scene=_scene(_COLLECTORS | _AXE | {"undo-newest"}, _CALM),
        breaks=("only what is retired is condemned", "what is undone stays"),
    ),
    Mutant(
        name="states before packs",
        seen_in="restic before it listed packs first",
        parts=replace(REAL, collector=ReadsBeforeItLists),
        scene=_scene(_BACKUPS | _COLLECTORS, _PAUSES),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="sources ignored",
        seen_in="pgBackRest before 2.15: what differential backups go on from",
        parts=replace(REAL, collector=IgnoresSources),
        scene=_scene(_BACKUPS | _COLLECTORS | _AXE, _CALM),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="silent is dead",
        seen_in="kopia: safety by time",
        parts=replace(REAL, collector=SilentIsDead),
        scene=_scene(_BACKUPS | _COLLECTORS, _LONG_PAUSES),
        breaks=(_WHOLE, "garbage goes"),
        first_seed=37,
    ),
    Mutant(
        name="interrupted tries forgotten",
        seen_in="this project's own draft",
        parts=replace(REAL, collector=ForgetsInterrupted),
        scene=_scene(_BACKUPS | _COLLECTORS, _CALM),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="fates that come late",
        seen_in="this project: found by the simulation",
        parts=replace(REAL, collector=TrustsLateFates),
        scene=_scene(_COLLECTORS | {"backup-db1"}, _LONG_PAUSES, grace=timedelta(days=1)),
        breaks=(_WHOLE,),
        first_seed=478,
    ),
    Mutant(
        name="collectors at once",
        seen_in="this project: thought of, not met",
        parts=replace(REAL, collector=TakesNoTurns),
        scene=replace(
            _scene({"succession", "collect-ops"}, _CALM, rounds=16),
            slow=frozenset({"collect-ops"}),
            page=3,
            places={"prepare": "m", "succession": "az"},
        ),
        breaks=(_WHOLE,),
        first_seed=40,
    ),
    Mutant(
        name="compactions that come late",
        seen_in="this project: thought of, not met",
        parts=replace(REAL, collector=TrustsLateCompactions),
        scene=replace(
            _scene(_BACKUPS | {"load", "compact", "collect-ops", "expire-ops"}, _CALM, rounds=None),
            slow=frozenset({"collect-ops"}),
            page=6,
            places={"prepare": "m", "backup-db1": "am", "backup-db2": "am", "compact": "z"},
        ),
        breaks=(_WHOLE,),
        first_seed=43,
    ),
    Mutant(
        name="maps before the packs they are over",
        seen_in="borg: an interrupted compaction left references that led nowhere",
        parts=replace(REAL, compactor=SwitchesEarly),
        scene=_scene({"compact"}, _CALM),
        breaks=(_WHOLE,),
    ),
    Mutant(
        name="expiry by name",
        seen_in="WAL-G: after an upgrade the newest backups were deleted",
        parts=replace(REAL, choose_expired=expire_by_name),
        scene=_scene(_BACKUPS | _COLLECTORS | _EXPIRY, _CALM),
        breaks=("the newest backup stays",),
    ),
)
