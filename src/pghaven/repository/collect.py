"""Collecting: removing from the repository what no backup needs any more, in the order of ``docs/design/removal.md``.

    turn → abandon, condemn → list packs → read labels and manifests → judge → decide the turn → remove

The one idea: fates are written before intents are read, and packs are listed before states are; so whoever else is at
work, one side sees the other, and what is removed cannot come to be needed. Collectors take turns, and what others
decide while this one reads is left for the next time. If one manifest that counts cannot be read, or a listing left out
what is there, nothing is removed at all. A preview sees what a run would see, with the steps that write thought to be
done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from pghaven.errors import Damaged, ObjectMissing, PghavenError
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collectplan import (
    Judgement,
    KeptLabel,
    LabelReason,
    ManifestUse,
    Needs,
    StoredPack,
    choose_condemned,
    counts,
    find_sources,
    judge,
    judge_manifests,
    list_compactions,
)
from pghaven.repository.entry import BackupEntry, BackupState, Purpose, parse_generation
from pghaven.repository.hidden import refuse_hidden
from pghaven.repository.liveness import is_over, seems_dead
from pghaven.repository.removal import Removal
from pghaven.repository.turns import Turn, TurnHolder, seems_over, take_turn
from pghaven.repository.unreadable import advise, interpret
from pghaven.runtime.whoami import ProcessIdentity, read_own_identity
from pghaven.store.metered import find_leftover_keeper

# How often everything is read anew because something went between its listing and its reading. Only another collector
# can be the cause, and it does not go on removing for ever.
_READINGS_MAX = 5
_HINT = (
    "What it needs is not known, so nothing can be removed. Bring the object back from a copy of the repository, "
    "or give that backup up for good: pghaven expire CLUSTER --give-up LABEL"
)

_Value = TypeVar("_Value")


@contextmanager
def _removing_nothing(hint: str) -> Iterator[None]:
    """Say of damage that it is why nothing was removed."""
    try:
        yield
    except Damaged as error:
        raise Damaged(f"nothing was removed: {error.message}", detail=error.detail, hint=hint) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRules:
    """``grace`` is how long what was given up or superseded stays, for whoever goes on with it or is reading it.

    ``is_dead`` judges the writer of an undecided label, ``has_ended`` who has the turn. ``leftover_age`` is how old a
    store's own temporary files must be: more than any living writer takes for one object.
    """

    grace: timedelta
    is_dead: Callable[[BackupEntry, datetime], bool] = seems_dead
    has_ended: Callable[[TurnHolder, datetime], bool] = seems_over
    leftover_age: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectResult:
    """What was removed, or would be. ``manifests`` are names of objects; ``labels`` went with all their objects."""

    is_done: bool
    abandoned: tuple[LabelReason, ...]
    condemned: tuple[LabelReason, ...]
    packs: tuple[StoredPack, ...]
    manifests: tuple[str, ...]
    labels: tuple[LabelReason, ...]
    kept: tuple[KeptLabel, ...]
    leftover_bytes: int

    @property
    def freed_bytes(self) -> int:
        """The size of the packs, and of what writers who died have left; documents and manifests are not counted."""
        return sum(pack.size_bytes for pack in self.packs) + self.leftover_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    """What was known before the intents are read: the labels that were ``seen``, those of them that were ``over``, and
    the ``compactions`` that had decided."""

    seen: frozenset[str]
    over: frozenset[str]
    compactions: frozenset[str]

    def distrust(self, entries: dict[str, BackupEntry]) -> dict[str, BackupEntry]:
        """The entries, in which what others have condemned since is as it was before. Raises ObjectMissing.

        Only whoever is condemned before the intents are read has no users but those that are read. What is condemned
        while they are may have one whose intent came after the listing had passed its name.
        """
        found = {}
        for label, entry in entries.items():
            state = entry.state
            if label in self.over:
                pass
            elif state is BackupState.CONDEMNED:
                state = BackupState.ABANDONED if entry.manifest_hash is None else BackupState.RETIRED
            elif state is BackupState.GONE and label in self.seen:
                raise ObjectMissing(f'"{label}" was removed while it was looked at')
            found[label] = replace(entry, state=state)
        if missing := self.seen - self.over - entries.keys():
            raise ObjectMissing(f'"{min(missing)}" was removed while it was looked at')
        return found


class BackupCollector:
    """Removes from one cluster's backups what nobody needs. Any number may come at once, and stop anywhere."""

    def __init__(self, catalog: BackupCatalog, rules: CollectRules) -> None:
        self._catalog = catalog
        self._repository = catalog.repository
        self._removal = Removal(catalog)
        self._rules = rules
        self._turn: Turn | None = None

    def preview(self) -> CollectResult:
        """What ``run`` would do at this moment; writes nothing. Raises Damaged when it would remove nothing."""
        packs = self._list_packs()
        now = self._repository.clock.now()
        dead: list[LabelReason] = []
        condemned: list[LabelReason] = []

        def foresee(entries: dict[str, BackupEntry]) -> dict[str, BackupEntry]:
            dead[:] = self._choose_dead(entries, now)
            for one in dead:
                state = BackupState.GONE if entries[one.label].intent is None else BackupState.ABANDONED
                given_up = replace(entries[one.label], state=state, reason=one.reason)
                entries = {**entries, one.label: given_up}
            condemned[:] = choose_condemned(entries, now, self._rules.grace)
            going = {one.label: replace(entries[one.label], state=BackupState.CONDEMNED) for one in condemned}
            return {**entries, **going}

        def read() -> Judgement:
            entries = foresee(self._read_entries())
            return self._judge(packs, entries, list_compactions(entries.values()))

        return self._result(self._read_again_if_missing(read), dead, condemned)

    def run(self, who: ProcessIdentity | None = None) -> CollectResult:
        """Remove what nobody needs, as this process if no other is named.

        Raises Damaged when what is needed is not known, Locked when another collector is at work, Cancelled when
        another took over because this one stood still for too long: then nothing is removed.
        """
        abandoned: list[LabelReason] = []
        condemned: list[LabelReason] = []

        def read() -> Judgement:
            settled = self._settle(abandoned, condemned)
            packs = self._list_packs()
            return self._judge(packs, settled.distrust(self._read_entries()), settled.compactions)

        with self._in_turn(who or read_own_identity()):
            judgement = self._read_again_if_missing(read)
        store, cluster = self._repository.store, self._catalog.cluster
        for pack in judgement.packs:
            store.delete(layout.pack_name(cluster, pack.label, pack.id))
        for label, part in judgement.manifests:
            store.delete(layout.backup_object_name(cluster, label, part))
        for one in judgement.labels:
            self._remove_label(one)
        leftover_bytes = 0
        if (keeper := find_leftover_keeper(store)) is not None:
            leftover_bytes = keeper.remove_leftovers(self._repository.clock.now() - self._rules.leftover_age)
        return replace(self._result(judgement, abandoned, condemned), is_done=True, leftover_bytes=leftover_bytes)

    def _result(
        self, judgement: Judgement, abandoned: Sequence[LabelReason], condemned: Sequence[LabelReason]
    ) -> CollectResult:
        cluster = self._catalog.cluster
        return CollectResult(
            is_done=False,
            abandoned=tuple(abandoned),
            condemned=tuple(condemned),
            packs=judgement.packs,
            manifests=tuple(layout.backup_object_name(cluster, *one) for one in judgement.manifests),
            labels=judgement.labels,
            kept=judgement.kept,
            leftover_bytes=0,
        )

    # -- what is decided --------------------------------------------------------------------------------------------

    @contextmanager
    def _in_turn(self, who: ProcessIdentity) -> Iterator[None]:
        """No other collector is at work; at the end it is decided that what was judged is removed."""
        self._turn = turn = self._take_turn(who)
        try:
            yield
            turn.decide()
        except BaseException as error:
            turn.give_up(error.message if isinstance(error, PghavenError) else f"interrupted ({type(error).__name__})")
            raise
        finally:
            self._turn = None

    def _take_turn(self, who: ProcessIdentity) -> Turn:
        return take_turn(self._repository, self._catalog.cluster, who, self._rules.has_ended)

    def _sign_of_life(self) -> None:
        if self._turn is not None:
            self._turn.sign_of_life()

    def _settle(self, abandoned: list[LabelReason], condemned: list[LabelReason]) -> _Settled:
        """Abandon what is dead, then condemn what is due; both are added to what was before."""
        now = self._repository.clock.now()
        entries = self._read_entries()
        for one in self._choose_dead(entries, now):
            with suppress(ObjectMissing):  # another collector has removed all of it by now
                if self._catalog.abandon(one.label, one.reason):
                    abandoned.append(one)
            entries[one.label] = interpret(self._catalog, self._catalog.read_entry(one.label))
        over = {label for label, entry in entries.items() if entry.state in (BackupState.CONDEMNED, BackupState.GONE)}
        for one in choose_condemned(entries, now, self._rules.grace):
            if self._removal.condemn(one.label, one.reason):
                condemned.append(one)
                over.add(one.label)
        return _Settled(seen=frozenset(entries), over=frozenset(over), compactions=list_compactions(entries.values()))

    def _choose_dead(self, entries: dict[str, BackupEntry], now: datetime) -> list[LabelReason]:
        found = []
        for entry in entries.values():
            if entry.state is BackupState.UNDECIDED and entry.intent is None:
                found.append(
                    LabelReason(label=entry.label, reason="its intent cannot be read, and it is silent for long")
                )
            elif entry.state is BackupState.UNDECIDED and entry.intent is not None and self._rules.is_dead(entry, now):
                reason = f'its process {entry.intent.who.pid} on host "{entry.intent.who.host}" is gone'
                found.append(LabelReason(label=entry.label, reason=reason))
        return found

    # -- what is read -----------------------------------------------------------------------------------------------

    def _list_packs(self) -> dict[str, dict[bytes, int]]:
        """What is stored, by label. Names that are no packs' are passed over."""
        packs: dict[str, dict[bytes, int]] = {}
        prefix = layout.packs_prefix(self._catalog.cluster)
        for info in self._repository.store.list(prefix):
            self._sign_of_life()
            if (found := layout.parse_pack_name(info.name.removeprefix(prefix))) is not None:
                packs.setdefault(found[0], {})[found[1]] = info.size_bytes
        return packs

    def _read_entries(self) -> dict[str, BackupEntry]:
        """All labels by name, oldest first. Raises Damaged when one of them cannot be read.

        A listing need not be of one moment: what it may have met at two of them is looked at once more.
        """
        entries = {entry.label: entry for entry in self._catalog.list_labels()}
        again = {label for label, entry in entries.items() if entry.state is BackupState.GONE}
        for entry in tuple(entries.values()):
            written = {found[1] for part in entry.parts if (found := parse_generation(part))}
            again |= {one for one in written if one not in entries}
            if entry.purpose is Purpose.COMPACTION:
                again |= {
                    label
                    for label in entry.generations
                    if label in entries
                    and not any(part.endswith(f"-{entry.label}/manifest") for part in entries[label].parts)
                }
        entries.update({label: self._catalog.read_entry(label) for label in sorted(again)})
        return {label: self._interpret(entry) for label, entry in entries.items()}

    def _interpret(self, entry: BackupEntry) -> BackupEntry:
        """What cannot be read as far as it is known. Raises Damaged where that is not far enough."""
        entry = interpret(self._catalog, entry)
        if entry.state is BackupState.DAMAGED:
            raise Damaged(f"nothing was removed: {entry.reason}", hint=advise(self._catalog, entry.label))
        if entry.state is BackupState.UNDECIDED and entry.intent is None:
            moment = self._repository.clock.now()
            if not is_over(None, entry.last_sign, moment):
                raise Damaged(
                    f"nothing was removed: {entry.reason}", hint="Its writer may be at work; try again later."
                )
        return entry

    def _refuse_hidden(self, packs: Iterable[str], entries: Mapping[str, BackupEntry]) -> None:
        """Raises Damaged where the listing of labels has left one out that has packs."""
        refuse_hidden(self._repository, self._catalog.cluster, packs, entries, "nothing was removed")

    def _judge(
        self, packs: dict[str, dict[bytes, int]], entries: dict[str, BackupEntry], compactions: frozenset[str]
    ) -> Judgement:
        self._refuse_hidden(packs, entries)
        sources = find_sources(entries.values())
        moment = self._repository.clock.now() - self._rules.grace
        uses: list[ManifestUse] = []
        ids: dict[str, set[bytes]] = {}
        users: dict[str, set[str]] = {}
        for entry in entries.values():
            if not counts(entry, sources):
                continue
            self._sign_of_life()
            with _removing_nothing(advise(self._catalog, entry.label)):
                found = judge_manifests(
                    entry,
                    self._catalog.iter_manifests(entry),
                    is_source=entry.label in sources,
                    moment=moment,
                    trusted=compactions,
                )
                for use in found:
                    if not use.is_needed:
                        continue
                    for pack in self._catalog.load_pack_table(entry, use.place):
                        ids.setdefault(pack.label, set()).add(pack.id)
                        users.setdefault(pack.label, set()).add(entry.label)
            uses.extend(found)
        return judge(packs, entries, uses, Needs(ids=ids, users=users))

    def _read_again_if_missing(self, read: Callable[[], _Value]) -> _Value:
        """Another collector may remove what was listed a moment ago; then its backup is no longer one that counts."""
        for _ in range(_READINGS_MAX - 1):
            try:
                return read()
            except ObjectMissing:
                continue
        try:
            return read()
        except ObjectMissing as error:
            raise Damaged(f"nothing was removed: {error.message}", hint=_HINT) from error

    # -- what is removed --------------------------------------------------------------------------------------------

    def _remove_label(self, one: LabelReason) -> None:
        entry = interpret(self._catalog, self._catalog.read_entry(one.label))
        if entry.state is BackupState.COMMITTED and entry.purpose is Purpose.COMPACTION:
            self._removal.condemn(one.label, one.reason)
            entry = self._catalog.read_entry(one.label)
        if entry.state in (BackupState.CONDEMNED, BackupState.GONE):
            self._removal.remove(entry)
