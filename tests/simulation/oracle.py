"""What must hold, judged by what has taken effect in the store and by what the actors were told.

The one idea: this reads the stored objects by the rules of ``docs/design/removal.md`` and by nothing of ``repository``
but the parsing of a manifest, and it looks at the very moment at which an object comes or goes, so that a promise that
is broken for an instant is seen as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pghaven.errors import PghavenError
from pghaven.postgres.lsn import Lsn
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.container import Container, Kind
from pghaven.repository.descriptor import Descriptor
from pghaven.repository.manifest import Manifest, parse_manifest
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.repository.walstore import WalArchive
from tests.simulation.content import CLUSTER, SEGMENT_SIZE, SYSTEM_IDENTIFIER, Pages, read_backup, segment_name
from tests.simulation.engine import Simulation, Witness

_BACKUPS = layout.backups_prefix(CLUSTER)
_PACKS = layout.packs_prefix(CLUSTER)
_WAL = layout.wal_prefix(CLUSTER, SYSTEM_IDENTIFIER)


@dataclass
class _Label:
    """The objects below one label, documents with their bodies, manifests with what they need."""

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    needs: dict[str, frozenset[str]] = field(default_factory=dict)
    segments: dict[str, range] = field(default_factory=dict)

    @property
    def decision(self) -> str | None:
        return self.parts.get("decision", {}).get("decision")

    @property
    def is_condemned(self) -> bool:
        return any(body.get("fate") == "collect" for part, body in self.parts.items() if part.startswith("fate/"))

    @property
    def is_protected(self) -> bool:
        """A backup that users have: committed, and nobody decided to remove it."""
        return "intent" in self.parts and self.decision == "commit" and not self.is_condemned

    @property
    def is_backup(self) -> bool:
        return self.parts.get("intent", {}).get("purpose") == "backup"


def compaction_of(part: str) -> str | None:
    """The label of the compaction that wrote this manifest, None for a backup's own."""
    return part.split("/")[1].partition("-")[2] if part.startswith("generations/") else None


class Oracle(Witness):
    """Judges one simulation. What actors are told they tell on: ``acknowledge_…``."""

    def __init__(self, simulation: Simulation, descriptor: Descriptor) -> None:
        self._simulation = simulation
        self._descriptor = descriptor
        self._labels: dict[str, _Label] = {}
        self._expected: dict[str, Pages] = {}
        self._was_backup: set[str] = set()
        self._committed: set[str] = set()
        self._retired: set[str] = set()
        self._holds: Counter[str] = Counter()
        self._wal: dict[str, bytes] = {}
        self._removed_wal: set[str] = set()
        self._keep = 1
        self._wanted_from = ""
        self._is_expired_by_hand = False
        self._lone_wal_goes = False
        self.removed_lone_wal = 0
        self._rivals: set[int] = set()
        self._content: dict[str, bytes] = {}

    def repository(self) -> Repository:
        """The repository without faults, for reading."""
        return Repository(self._simulation.inner, self._descriptor)

    @property
    def committed_count(self) -> int:
        return len(self._committed)

    # -- what actors say --------------------------------------------------------------------------------------------

    def expect_lone_wal_to_go(self) -> None:
        """While there is no backup, WAL may go however new it is."""
        self._lone_wal_goes = True

    def expect_policy(self, keep: int) -> None:
        """So many backups are kept, and all WAL from the start of the oldest of them."""
        self._keep = keep

    def expect(self, label: str, pages: Pages) -> None:
        """What a backup must hold if it comes to be."""
        self._expected[label] = dict(pages)

    def acknowledge_commit(self, label: str) -> None:
        """The writer was told that its backup is there."""
        self._committed.add(label)
        if label not in self._was_backup:
            self._fail("a commit is a commit", f"the writer of {label} was told so, and it never was a backup")

    def acknowledge_wal(self, number: int, content: bytes) -> None:
        name = layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, str(segment_name(number)))
        if name in self._removed_wal:
            self._removed_wal.discard(name)
            self._wal.pop(name, None)
        if self._wal.setdefault(name, content) != content:
            self._fail("WAL is kept", f"two contents of {name} were acknowledged")

    def acknowledge_hold(self, label: str) -> None:
        self._holds[label] += 1
        if self._labels[label].is_condemned:
            self._fail("holds outlive policy", f"{label} was held and is condemned")

    def acknowledge_undo(self, label: str) -> None:
        if self._labels[label].is_condemned:
            self._fail("what is undone stays", f"the expiry of {label} was undone and it is condemned")

    def allow_expiry_by_hand(self) -> None:
        """Somebody expires backups whatever the policy wants."""
        self._is_expired_by_hand = True

    def begin_release(self, label: str) -> None:
        """From now on the hold may end at any moment."""
        self._holds[label] = 0

    def announce_rival(self, number: int) -> None:
        """Somebody is about to archive other contents under this segment's name."""
        self._rivals.add(number)

    def has_rival(self, number: int) -> bool:
        return number in self._rivals

    def judge_read(self, label: str, pages: Pages) -> None:
        """Somebody has read a whole backup."""
        if pages != self._expected[label]:
            wrong = sorted(page for page in pages.keys() | self._expected[label] if not self._same(label, pages, page))
            self._fail("no wrong data", f"{label} was read with other contents: {wrong}")

    def _same(self, label: str, pages: Pages, page: tuple[str, int]) -> bool:
        return pages.get(page) == self._expected[label].get(page)

    def is_protected(self, label: str) -> bool:
        return label in self._labels and self._labels[label].is_protected

    def list_current(self) -> dict[str, str]:
        """For each backup there is the part that is its newest manifest that counts."""
        return {label: self.current_manifest(label) for label in self.protected()}

    def current_manifest(self, label: str) -> str:
        generations = [part for part in self._labels[label].needs if part.startswith("generations/")]
        for part in sorted(generations, reverse=True):
            compaction = self._labels.get(str(compaction_of(part)))
            if compaction is not None and compaction.decision == "commit" and "intent" in compaction.parts:
                return part
        return "manifest"

    def protected(self) -> Iterator[str]:
        return (label for label, one in self._labels.items() if one.is_protected and one.is_backup)

    # -- what takes effect ------------------------------------------------------------------------------------------

    def on_created(self, name: str, data: bytes) -> None:
        if self._content.setdefault(name, data) != data:
            self._fail("nothing is overwritten", name)
        if name.startswith(_BACKUPS):
            label, _, part = name.removeprefix(_BACKUPS).partition("/")
            self._take(label, part, data)

    def _take(self, label: str, part: str, data: bytes) -> None:
        one = self._labels.setdefault(label, _Label())
        if part.endswith("manifest"):
            one.parts[part] = {}
            manifest = self._parse(label, part, data)
            one.needs[part] = frozenset(layout.pack_name(CLUSTER, pack.label, pack.id) for pack in manifest.packs)
            facts = manifest.facts
            one.segments[part] = range(facts.start_lsn // SEGMENT_SIZE, Lsn(facts.stop_lsn - 1) // SEGMENT_SIZE + 1)
            return
        one.parts[part] = json.loads(data.partition(b"\n")[0])
        if part == "decision" and one.decision == "commit":
            for backup in self.protected():
                self._was_backup.add(backup)
                self._check_whole(backup)
            self._note_policy()
        elif part.startswith("retire/"):
            self._judge_expiry(label, str(one.parts[part].get("reason")))
            self._retired.add(label)
        elif part.startswith("fate/"):
            self._note_policy()
            if one.parts[part].get("fate") == "collect":
                self._judge_condemning(label, part)

    def _parse(self, label: str, part: str, data: bytes) -> Manifest:
        context = f"{self._descriptor.repository_id}/{_BACKUPS}{label}/{part}".encode()
        return parse_manifest(Container(data, kind=Kind.MANIFEST, context=context, keyring=OPEN_KEYRING))

    def _judge_condemning(self, label: str, part: str) -> None:
        if self._holds[label] > 0:
            self._fail("holds outlive policy", f"{label} is condemned while it is held")
        one = self._labels[label]
        parts = one.parts
        newer = [other for other in self.protected() if self._started(other) > self._started(label)]
        by_policy = one.is_backup and one.decision == "commit" and not self._is_expired_by_hand
        if by_policy and not newer and not self._simulation.is_skewed:
            self._fail("the newest backup stays", label)
        if "intent" in parts and f"retire/{part.partition('/')[2]}" not in parts:
            self._fail("only what is retired is condemned", label)

    def _judge_expiry(self, label: str, reason: str) -> None:
        """What a real policy drops has as many after it as the policy wants."""
        if "newest" not in reason or self._is_expired_by_hand or self._simulation.is_skewed:
            return
        newer = [
            other
            for other in self.protected()
            if self._started(other) > self._started(label) and not self._is_retired(other)
        ]
        if len(newer) < self._keep:
            self._fail("the policy's backups stay", f"{label} is expired and {len(newer)} are newer: {reason}")

    def _started(self, label: str) -> str:
        return str(self._labels[label].parts.get("intent", {}).get("started_at", ""))

    def on_deleting(self, name: str) -> None:
        self._content.pop(name, None)
        if name.startswith(_PACKS):
            for label in self.protected():
                if name in self._needs_of(label):
                    self._fail("backups stay whole", f"a pack of {label} is removed")
        elif name.startswith(_WAL):
            self._judge_wal_removal(name)
        elif name.startswith(_BACKUPS):
            label, _, part = name.removeprefix(_BACKUPS).partition("/")
            self._judge_part_removal(label, part)

    def _judge_part_removal(self, label: str, part: str) -> None:
        one = self._labels[label]
        if one.is_protected and part in ("intent", "decision", self.current_manifest(label)):
            self._fail("backups stay whole", f"{part} of {label} is removed")
        before = {backup: self._needs_of(backup) for backup in self.protected() if backup != label}
        one.parts.pop(part)
        one.needs.pop(part, None)
        if part in ("intent", "decision"):
            for backup, needs in before.items():
                if self._needs_of(backup) != needs:
                    self._check_whole(backup)

    def _judge_wal_removal(self, name: str) -> None:
        for label in self.protected():
            for number in self._labels[label].segments[self.current_manifest(label)]:
                if layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, str(segment_name(number))) == name:
                    self._fail("backups keep their WAL", f"{name} of {label} is removed")
        if not self._simulation.is_skewed and name >= self._find_wanted():
            self._fail("the policy's WAL stays", name)
        self._removed_wal.add(name)
        self.removed_lone_wal += next(iter(self.protected()), None) is None

    def _find_wanted(self) -> str:
        """From where on no WAL may go; behind everything while there is no backup, where it goes then."""
        if not self._lone_wal_goes:
            return self._wanted_from
        starts = [self._labels[label].segments[self.current_manifest(label)].start for label in self.protected()]
        return min(map(self._name_wal, starts), default="~")

    @staticmethod
    def _name_wal(number: int) -> str:
        return layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, str(segment_name(number)))

    def _note_policy(self) -> None:
        """From where on all WAL is wanted: the start of the oldest of the backups that count, or ever counted."""
        wanted = [label for label in self.protected() if not self._is_retired(label)]
        starts = sorted(self._labels[label].segments[self.current_manifest(label)].start for label in wanted)
        if len(starts) >= self._keep:
            first = layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, str(segment_name(starts[-self._keep])))
            self._wanted_from = max(self._wanted_from, first)

    def _is_retired(self, label: str) -> bool:
        parts = self._labels[label].parts
        return any(part.startswith("retire/") and f"fate/{part.partition('/')[2]}" not in parts for part in parts)

    def _needs_of(self, label: str) -> frozenset[str]:
        return self._labels[label].needs.get(self.current_manifest(label), frozenset())

    def _check_whole(self, label: str) -> None:
        one, part, inner = self._labels[label], self.current_manifest(label), self._simulation.inner
        if part not in one.needs:
            self._fail("backups stay whole", f"{label} is committed without a manifest")
            return
        if missing := [name for name in one.needs[part] if inner.find(name) is None]:
            self._fail("backups stay whole", f"{label} is committed and {len(missing)} of its packs are missing")
        for number in one.segments[part]:
            name = layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, str(segment_name(number)))
            if inner.find(name) is None:
                self._fail("backups keep their WAL", f"{label} is committed and segment {number} is missing")

    def _fail(self, rule: str, text: str) -> None:
        self._simulation.fail(rule, text)

    # -- at the end -------------------------------------------------------------------------------------------------

    def judge_end(self) -> None:
        """When all is quiet: what is there is whole and right, and nothing that was acknowledged is missing."""
        repository = self.repository()
        catalog = BackupCatalog(repository, CLUSTER)
        offered = {entry.label: entry for entry in catalog.list_committed()}
        for label in self.protected():
            self._check_whole(label)
            try:
                entry = offered.get(label) or catalog.read_entry(label)
                self.judge_read(label, read_backup(catalog, entry))
            except PghavenError as error:
                self._fail("backups stay whole", f"{label} cannot be read: {error}")
        for label in offered.keys() - set(self.protected()):
            self._fail("only backups are offered", label)
        for label in self._committed - set(self.protected()):
            if label not in self._retired:
                self._fail("a commit is a commit", f"{label} is no backup any more and nobody retired it")
        self._judge_wal(WalArchive(repository, CLUSTER, SYSTEM_IDENTIFIER, SEGMENT_SIZE))

    def _judge_wal(self, archive: WalArchive) -> None:
        for name, content in self._wal.items():
            file_name = name.rpartition("/")[2]
            if name in self._removed_wal:
                continue
            try:
                if archive.get(file_name) != content:
                    self._fail("WAL is kept", f"{file_name} holds other contents than were acknowledged")
            except PghavenError as error:
                self._fail("WAL is kept", f"{file_name} cannot be read: {error}")

    def judge_garbage(self) -> None:
        """After the collector had all the time it wants: what nobody needs is gone."""
        needed = {name for label in self.protected() for name in self._needs_of(label)}
        packs = {info.name for info in self._simulation.inner.list(_PACKS)}
        if left := packs - needed:
            self._fail("garbage goes", f"{len(left)} packs that nobody needs are left: {sorted(left)[:3]}")
        compactions = {compaction_of(self.current_manifest(label)) for label in self.protected()}
        for label, one in self._labels.items():
            if one.parts and not (one.is_protected and (one.is_backup or label in compactions)):
                self._fail("garbage goes", f"of {label} there is left: {sorted(one.parts)}")
        for label in self.protected():
            if left := self._labels[label].needs.keys() - {self.current_manifest(label)}:
                self._fail("garbage goes", f"manifests that nobody reads are left of {label}: {sorted(left)}")
