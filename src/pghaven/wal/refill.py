"""Filling in what a repository has missed, from ``pg_wal`` while it is there, else from another repository.

The one idea: what another repository holds is what counts as archived, so that decides: a file of ``pg_wal`` is taken
only when it has the hash that was archived. Histories go first, because a repository fences by those that it holds, and
nothing passes between two branches of one timeline.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import StrEnum
from typing import Any

from pghaven.errors import NotFound, ObjectMissing, Refused
from pghaven.light import dataclass, field
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.timeline import Timeline
from pghaven.repository.branches import APART_HINT, describe_apart, find_apart, timeline_of
from pghaven.repository.filehash import hash_file
from pghaven.repository.horizon import read_horizon
from pghaven.repository.walstore import WalArchive

_SEGMENT_NAME_LENGTH = 24
# What ``WalArchive.put`` writes by itself.
_OWN_FACTS = frozenset({"name", "hash", "size"})


class Filled(StrEnum):
    """What became of a file that a repository lacked."""

    FROM_WAL_DIRECTORY = "from pg_wal"
    FROM_REPOSITORY = "from a repository"
    QUARANTINED = "quarantined"
    GONE = "gone"
    """No repository has it any more: it has expired, and nothing needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refill:
    """``sources`` are the archives in the cluster's other repositories.

    ``wal_directory`` is the server's ``pg_wal``; None when it is not on this host.
    """

    target: WalArchive
    sources: Sequence[WalArchive]
    wal_directory: str | None
    _apart: dict[int, frozenset[Timeline]] = field(default_factory=dict, init=False)

    def fill(self, name: str) -> Filled:
        """Have the target hold this file as the others do. The same again is success.

        Raises Refused when the target holds other contents under the name or another branch of its timeline; NotFound
        when there is no source, or the target is gone; Damaged, StoreUnreachable, NotPermitted.
        """
        if not self.sources:
            raise NotFound(
                f'no other repository tells what was archived as "{name}"',
                hint="It is filled in from another repository of the cluster, when one can be opened.",
            )
        timeline = timeline_of(name)
        sources = [one for number, one in enumerate(self.sources) if timeline not in self.find_apart(number)]
        for source in sources:
            found = self._read(source, name)
            if found is not None:
                how, content, facts = found
                self.target.put(name, content, facts)
                if classify(name) is WalFileKind.HISTORY:
                    self._apart.clear()
                return how
        for source in sources:
            if self._copy_quarantined(source, name):
                return Filled.QUARANTINED
        for source in self.sources:
            if source not in sources and source.exists(name):
                raise refuse_apart(self.find_apart(self.sources.index(source)), source, self.target)
        return Filled.GONE

    def find_apart(self, number: int) -> frozenset[Timeline]:
        """The timelines of which the target holds another branch than this source, as ``branches.find_apart``."""
        if number not in self._apart:
            self._apart[number] = find_apart(self.sources[number], self.target)
        return self._apart[number]

    def _read(self, source: WalArchive, name: str) -> tuple[Filled, bytes, Mapping[str, Any]] | None:
        """Contents and facts as this source has them; None when it does not."""
        try:
            facts = source.read_facts(name)
            content = self._read_local(name, str(facts.get("hash")))
            how = Filled.FROM_REPOSITORY if content is None else Filled.FROM_WAL_DIRECTORY
            if content is None:
                content = source.get(name)
        except ObjectMissing:
            return None
        return how, content, {key: value for key, value in facts.items() if key not in _OWN_FACTS}

    def _read_local(self, name: str, wanted_hash: str) -> bytes | None:
        if self.wal_directory is None:
            return None
        try:
            descriptor = os.open(os.path.join(self.wal_directory, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as file:
                content = file.readall()
        except OSError:
            return None
        return content if hash_file(content) == wanted_hash else None

    def _copy_quarantined(self, source: WalArchive, name: str) -> bool:
        entries = source.list_quarantine(name)
        for entry in entries:
            facts = {key: told for key, told in source.read_quarantined_facts(entry).items() if key not in _OWN_FACTS}
            self.target.put_quarantine(name, source.get_quarantined(entry), facts)
        return bool(entries)


def refuse_apart(apart: Iterable[Timeline], source: WalArchive, target: WalArchive) -> Refused:
    """What to raise where the source has another branch of these timelines."""
    return Refused(describe_apart(apart, source, target), hint=APART_HINT)


def list_missing(source: WalArchive, target: WalArchive, apart: Set[Timeline] = frozenset()) -> Iterator[str]:
    """The files that the source holds and the target should, histories first, then in order; none of ``apart``.

    A repository that was added later need not have what is older than its own first segment, and what has expired in
    it is not brought back. Lists both archives whole.
    """
    timelines = [timeline for timeline in source.list_timelines() if timeline not in apart]
    held = {name for timeline in target.list_timelines() for name in target.list_files(timeline)}
    positions = read_horizon(target.repository, target.cluster, target.system_identifier).positions
    floor = min((_segment_of(name, target).number for name in held if _is_whole(name)), default=None)
    there = [(timeline, tuple(source.list_files(timeline))) for timeline in timelines]
    for _, names in there:
        yield from (name for name in names if classify(name) is WalFileKind.HISTORY and name not in held)
    if floor is None:
        return
    for timeline, names in there:
        expired = positions.get(timeline, 0)
        for name in names:
            if classify(name) is WalFileKind.HISTORY or name in held:
                continue
            segment = _segment_of(name, target)
            if segment.number >= floor and segment.end_lsn > expired:
                yield name


def _is_whole(name: str) -> bool:
    return classify(name) is WalFileKind.SEGMENT


def _segment_of(name: str, archive: WalArchive) -> SegmentName:
    return SegmentName.parse(name[:_SEGMENT_NAME_LENGTH], archive.segment_size)
