"""One lineage's archives in several repositories, read as one archive.

The one idea: a file of WAL is the same wherever it was archived, so whoever has it may give it. Absent is what each of
them has proven absent; a repository that cannot say so makes it unknown. That holds for one branch of a timeline: of a
later repository whose history differs, that timeline and what descends from it are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pghaven.errors import Damaged, NotPermitted, ObjectMissing, PghavenError, StoreUnreachable
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.branches import find_apart, timeline_of
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import StoredSegment, WalArchive
from pghaven.runtime.ranges import NumberRanges

_Value = TypeVar("_Value")


class JoinedArchive(WalArchive):
    """For reading; what is written goes into the first one. A file is read from the first archive that has it whole."""

    def __init__(self, first: Repository, others: Sequence[Repository], cluster: str, lineage: Lineage) -> None:
        super().__init__(first, cluster, lineage.system_identifier, lineage.wal_segment_size)
        size = lineage.wal_segment_size
        self._archives = [WalArchive(one, cluster, lineage.system_identifier, size) for one in (first, *others)]
        self._apart: dict[int, frozenset[Timeline]] = {}

    def get(self, file_name: str) -> bytes:
        return self._ask(file_name, lambda archive: archive.get(file_name))

    def read_facts(self, file_name: str) -> Mapping[str, Any]:
        return self._ask(file_name, lambda archive: archive.read_facts(file_name))

    def exists(self, file_name: str) -> bool:
        timeline = timeline_of(file_name)
        return any(self._each(lambda archive, apart: timeline not in apart and archive.exists(file_name)))

    def list_timelines(self) -> tuple[Timeline, ...]:
        listed = self._each(lambda archive, apart: set(archive.list_timelines()) - apart)
        return tuple(sorted({one for found in listed for one in found}))

    def list_segments(self, timeline: Timeline) -> Iterator[StoredSegment]:
        found: dict[SegmentName, StoredSegment] = {}
        for listed in self._each(
            lambda archive, apart: [] if timeline in apart else list(archive.list_segments(timeline))
        ):
            for one in listed:
                found.setdefault(one.name, one)
        return (found[name] for name in sorted(found))

    def list_numbers_of(self, timeline: Timeline) -> NumberRanges:
        joined = NumberRanges()
        for numbers in self._each(
            lambda archive, apart: NumberRanges() if timeline in apart else archive.list_numbers_of(timeline)
        ):
            joined |= numbers
        return joined

    def list_members(self, timeline: Timeline) -> Iterator[WalArchive]:
        return (one for one in self._each(lambda archive, apart: None if timeline in apart else archive) if one)

    def _each(self, read: Callable[[WalArchive, frozenset[Timeline]], _Value]) -> Iterator[_Value]:
        """What each of them answers; of those behind the first, one that has died meanwhile is passed over."""
        for number, archive in enumerate(self._archives):
            try:
                yield read(archive, self._find_apart(number))
            except (StoreUnreachable, NotPermitted):
                if not number:
                    raise

    def _ask(self, file_name: str, read: Callable[[WalArchive], _Value]) -> _Value:
        failure: PghavenError | None = None
        missing: ObjectMissing | None = None
        timeline = timeline_of(file_name)
        for number, archive in enumerate(self._archives):
            try:
                if timeline is None or timeline not in self._find_apart(number):
                    return read(archive)
            except ObjectMissing as error:
                missing = error
            except (Damaged, StoreUnreachable, NotPermitted) as error:
                failure = failure or error
        reason = failure or missing
        assert reason is not None
        raise reason

    def _find_apart(self, number: int) -> frozenset[Timeline]:
        """The timelines of which this archive has another branch than those before it that give them."""
        if number not in self._apart:
            archive = self._archives[number]
            earlier = [(one, self._find_apart(before)) for before, one in enumerate(self._archives[:number])]
            self._apart[number] = frozenset().union(*(find_apart(one, archive) - apart for one, apart in earlier))
        return self._apart[number]
