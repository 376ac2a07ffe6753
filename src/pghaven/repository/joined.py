"""One lineage's archives in several repositories, read as one archive.

The one idea: a file of WAL is the same wherever it was archived, so whoever has it may give it. Absent is what each of
them has proven absent; a repository that cannot say so makes it unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pghaven.errors import Damaged, NotPermitted, ObjectMissing, PghavenError, StoreUnreachable
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import StoredSegment, WalArchive

_Value = TypeVar("_Value")


class JoinedArchive(WalArchive):
    """For reading; what is written goes into the first one. A file is read from the first archive that has it whole."""

    def __init__(self, first: Repository, others: Sequence[Repository], cluster: str, lineage: Lineage) -> None:
        super().__init__(first, cluster, lineage.system_identifier, lineage.wal_segment_size)
        size = lineage.wal_segment_size
        self._archives = [WalArchive(one, cluster, lineage.system_identifier, size) for one in (first, *others)]

    def get(self, file_name: str) -> bytes:
        return self._ask(lambda archive: archive.get(file_name))

    def read_facts(self, file_name: str) -> Mapping[str, Any]:
        return self._ask(lambda archive: archive.read_facts(file_name))

    def exists(self, file_name: str) -> bool:
        return any(self._each(lambda archive: archive.exists(file_name)))

    def list_timelines(self) -> tuple[Timeline, ...]:
        return tuple(sorted({one for found in self._each(WalArchive.list_timelines) for one in found}))

    def list_segments(self, timeline: Timeline) -> Iterator[StoredSegment]:
        found: dict[SegmentName, StoredSegment] = {}
        for listed in self._each(lambda archive: list(archive.list_segments(timeline))):
            for one in listed:
                found.setdefault(one.name, one)
        return (found[name] for name in sorted(found))

    def _each(self, read: Callable[[WalArchive], _Value]) -> Iterator[_Value]:
        """What each of them answers; of those behind the first, one that has died meanwhile is passed over."""
        for number, archive in enumerate(self._archives):
            try:
                yield read(archive)
            except (StoreUnreachable, NotPermitted):
                if not number:
                    raise

    def _ask(self, read: Callable[[WalArchive], _Value]) -> _Value:
        failure: PghavenError | None = None
        missing: ObjectMissing | None = None
        for archive in self._archives:
            try:
                return read(archive)
            except ObjectMissing as error:
                missing = error
            except (Damaged, StoreUnreachable, NotPermitted) as error:
                failure = failure or error
        reason = failure or missing
        assert reason is not None
        raise reason
