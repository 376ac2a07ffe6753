"""A lineage's WAL archive: one object for each file PostgreSQL archives.

The one idea: a name is written once. The same content again is success, because PostgreSQL archives again after a
crash; other content under a taken name means two servers write one history, and is refused with both sides named
(basic_archive.c in PostgreSQL's contrib is the contract's reference). Reads prove absence or contents, nothing between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pghaven.clock import Clock
from pghaven.errors import Conflict, Damaged, ObjectExists, ObjectMissing, Refused
from pghaven.light import dataclass
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.postgres.version import MajorVersion
from pghaven.postgres.waldata import check_segment
from pghaven.repository import layout
from pghaven.repository.codec import WalCompressor
from pghaven.repository.container import FRAME_BYTES, Container, ContainerWriter, FinishedContainer, Kind
from pghaven.repository.filehash import hash_file, hash_of, join_hashes
from pghaven.repository.large import LARGE_BYTES, are_frames_of, read_plain
from pghaven.repository.repository import Repository
from pghaven.repository.walfill import fill_by_one, fill_by_two
from pghaven.runtime.ranges import NumberRanges
from pghaven.store.api import Store

if TYPE_CHECKING:
    from pghaven.repository.large import Plain


class PutOutcome(StrEnum):
    STORED = "stored"
    ALREADY = "already there"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSegment:
    """A segment the archive holds; ``modified`` is when the store got it."""

    name: SegmentName
    size_bytes: int
    modified: datetime


class WalArchive:
    """The WAL of one system identifier under one cluster name."""

    def __init__(self, repository: Repository, cluster: str, system_identifier: int, segment_size: int) -> None:
        self._repository = repository
        self.cluster = cluster
        self.system_identifier = system_identifier
        self.segment_size = segment_size
        self.uses_two_cores = False
        """Whether a file is stored in half the time by two threads; not where others use the cores already."""
        self.turn: AbstractContextManager[object] = nullcontext()
        """Held while a file is compressed: what shares it takes one core at a time."""

    @property
    def repository(self) -> Repository:
        return self._repository

    @property
    def clock(self) -> Clock:
        return self._repository.clock

    @property
    def store(self) -> Store:
        return self._repository.store

    def _name(self, file_name: str) -> str:
        return layout.wal_object_name(self.cluster, self.system_identifier, file_name)

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, file_name: str, content: Plain, facts: Mapping[str, Any]) -> PutOutcome:
        """Store a file; durable when it returns. ``facts`` (JSON-able) are kept beside it: source, times.

        Raises Conflict when the name holds other content, naming both hashes.
        """
        return self.put_at(self._name(file_name), file_name, content, facts)

    def put_quarantine(self, file_name: str, content: Plain, facts: Mapping[str, Any]) -> PutOutcome:
        """Keep a file that history has left behind where no restore looks for it."""
        content = read_plain(content)
        name = layout.quarantine_name(self.cluster, self.system_identifier, file_name, hash_file(content))
        self.put_at(name, file_name, content, facts)
        return PutOutcome.QUARANTINED

    def list_quarantine(self, file_name: str = "") -> tuple[str, ...]:
        """All entries, or those of one file."""
        prefix = f"{layout.quarantine_prefix(self.cluster)}{self.system_identifier}/"
        entries = (info.name.removeprefix(prefix) for info in self._repository.store.list(prefix))
        return tuple(entry for entry in entries if file_name in ("", entry.rpartition("-")[0]))

    def put_at(self, name: str, file_name: str, content: Plain, facts: Mapping[str, Any]) -> PutOutcome:
        """As ``put``, under an object's name of its own."""
        repository = self._repository
        with self.turn:
            finished = self._render(name, file_name, content, facts)
        try:
            repository.create_container(name, finished)
        except ObjectExists:
            self._require_same(name, file_name, content, facts)
            repository.store.confirm(name)
            return PutOutcome.ALREADY
        return PutOutcome.STORED

    def _require_same(self, name: str, file_name: str, content: Plain, facts: Mapping[str, Any]) -> None:
        """Raises Conflict when the object under a name holds anything else, Damaged when it does not hold what it says.

        A host that cannot read it goes by the hash among its facts, which was sealed with it.
        """
        repository, content = self._repository, read_plain(content)
        if repository.keyring.can_read or is_for_every_host(file_name):
            there = self._read(name)
            stored, is_same = there.meta, _holds(there, name, file_name, content)
        else:
            stored = repository.load_index(name, Kind.WAL).meta
            is_same = (stored.get("name"), stored.get("hash")) == (file_name, hash_file(content))
        if not is_same:
            raise Conflict(
                f'"{file_name}" is in the archive with other contents',
                detail=f"Archived: hash {stored.get('hash')} from {describe_writer(stored)}; "
                f"refused: hash {hash_file(content)} from {describe_writer(facts)}.",
                hint="Two servers write the same timeline of one cluster (split brain, or a copy that archives), "
                "or this file has changed since it was archived. Find out which server is the right one.",
            ) from None

    def _render(self, name: str, file_name: str, content: Plain, facts: Mapping[str, Any]) -> FinishedContainer:
        repository = self._repository
        writer = ContainerWriter(
            Kind.WAL,
            repository.context(name).encode(),
            repository.keyring,
            WalCompressor(),
            for_hosts=is_for_every_host(file_name),
        )
        fill = fill_by_two if self.uses_two_cores and len(content) > FRAME_BYTES else fill_by_one
        fill(writer, content)
        facts = {**facts, "name": file_name, "hash": join_hashes(writer.frame_hashes), "size": len(content)}
        return writer.finish(facts)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, file_name: str) -> bytes:
        """The proven contents. Raises ObjectMissing (proven absent), Damaged naming the object."""
        return self.get_at(self._name(file_name), file_name)

    def get_at(self, name: str, file_name: str) -> bytes:
        """As ``get``, of what ``put_at`` stored."""
        return _prove(self._read(name), name, file_name)

    def _read(self, name: str) -> Container:
        """Memory: what it holds, and LARGE_BYTES at most."""
        return self._repository.read_container(name, Kind.WAL, may_be_large=self.segment_size > LARGE_BYTES)

    def require_whole(self, segment: SegmentName, version: MajorVersion | None = None) -> None:
        """Prove that a segment is archived whole; a host that cannot read it proves what stands beside its contents.

        Raises ObjectMissing (proven absent), Damaged naming it.
        """
        if self._repository.keyring.can_read:
            check_segment(self.get(str(segment)), segment, self.system_identifier, version)
            return
        index = self._repository.load_index(self._name(str(segment)), Kind.WAL)
        if index.meta.get("name") != str(segment) or index.plain_length != self.segment_size:
            raise Damaged(f'"{self._name(str(segment))}" is damaged: it is not the segment it is named as')

    def read_quarantined_facts(self, entry: str) -> Mapping[str, Any]:
        """As ``read_facts``, of what ``list_quarantine`` lists."""
        name = f"{layout.quarantine_prefix(self.cluster)}{self.system_identifier}/{entry}"
        return self._repository.load_index(name, Kind.WAL).meta

    def get_quarantined(self, entry: str) -> bytes:
        """The proven contents of what ``list_quarantine`` lists. Raises ObjectMissing, Damaged naming the object."""
        name = f"{layout.quarantine_prefix(self.cluster)}{self.system_identifier}/{entry}"
        file_name = entry.rpartition("-")[0]
        content = _prove(self._read(name), name, file_name)
        if layout.quarantine_name(self.cluster, self.system_identifier, file_name, hash_file(content)) != name:
            raise Damaged(f'"{name}" is damaged: its name is not that of its contents')
        return content

    def holds(self, file_name: str, content: Plain) -> bool:
        """Whether just this file is archived under its name; where it cannot be read, its hash tells."""
        try:
            self._require_same(self._name(file_name), file_name, content, {})
        except (Refused, ObjectMissing, Damaged):
            return False
        return True

    def exists(self, file_name: str) -> bool:
        """Whether the name is taken; False is a proof of absence."""
        return self._repository.store.find(self._name(file_name)) is not None

    def read_facts(self, file_name: str) -> Mapping[str, Any]:
        """What was kept beside a file, from the end of its object alone. Raises ObjectMissing, Damaged."""
        return self.read_facts_at(self._name(file_name))

    def read_facts_at(self, name: str) -> Mapping[str, Any]:
        """As ``read_facts``, of what ``put_at`` stored."""
        return self._repository.load_index(name, Kind.WAL).meta

    def list_members(self, timeline: Timeline) -> Iterator[WalArchive]:  # noqa: ARG002
        """The archives whose WAL of a timeline may be read here: this one."""
        yield self

    def list_timelines(self) -> tuple[Timeline, ...]:
        """Every timeline that has any object here, in increasing order."""
        children = self._repository.store.list_children(layout.wal_prefix(self.cluster, self.system_identifier))
        return tuple(Timeline(int(child[:8], 16)) for child in children if layout.TIMELINE_FOLDER.fullmatch(child))

    def list_segments(self, timeline: Timeline) -> Iterator[StoredSegment]:
        """The complete segments held of one timeline, in order."""
        prefix = layout.wal_timeline_prefix(self.cluster, self.system_identifier, timeline.hex8)
        for info in self._repository.store.list(prefix):
            file_name = info.name.rpartition("/")[2]
            if classify(file_name) is WalFileKind.SEGMENT:
                yield StoredSegment(
                    name=SegmentName.parse(file_name, self.segment_size),
                    size_bytes=info.size_bytes,
                    modified=info.modified,
                )

    def list_numbers(self) -> dict[Timeline, NumberRanges]:
        """The numbers of the complete segments held of each timeline."""
        return {timeline: self.list_numbers_of(timeline) for timeline in self.list_timelines()}

    def list_numbers_of(self, timeline: Timeline) -> NumberRanges:
        return NumberRanges(segment.name.number for segment in self.list_segments(timeline))

    def find_newest_segment(self, timeline: Timeline) -> SegmentName | None:
        """The last complete segment held of one timeline; only its newest 4 GiB of WAL are listed."""
        store = self._repository.store
        prefix = layout.wal_timeline_prefix(self.cluster, self.system_identifier, timeline.hex8)
        for folder in sorted((child for child in store.list_children(prefix) if child.endswith("/")), reverse=True):
            names = [info.name.rpartition("/")[2] for info in store.list(prefix + folder)]
            if segments := [name for name in names if classify(name) is WalFileKind.SEGMENT]:
                return SegmentName.parse(segments[-1], self.segment_size)
        return None

    def list_files(self, timeline: Timeline) -> Iterator[str]:
        """Everything held of one timeline by the names PostgreSQL gave: segments, what belongs to one, its history."""
        prefix = layout.wal_timeline_prefix(self.cluster, self.system_identifier, timeline.hex8)
        for info in self._repository.store.list(prefix):
            file_name = info.name.rpartition("/")[2]
            if classify(file_name) is not WalFileKind.OTHER:
                yield file_name

    def find_last_sign(self, timeline: Timeline) -> datetime | None:
        """When something of this timeline was last stored: of its newest 4 GiB of WAL, or its history file.

        By the store's clock. None when nothing of it is there.
        """
        store = self._repository.store
        prefix = layout.wal_timeline_prefix(self.cluster, self.system_identifier, timeline.hex8)
        history = store.find(prefix + timeline.history_name)
        folders = sorted(child for child in store.list_children(prefix) if child.endswith("/"))
        times = [info.modified for info in store.list(prefix + folders[-1])] if folders else []
        return max([*times, *([history.modified] if history else [])], default=None)

    def read_history(self, timeline: Timeline) -> History:
        """The history of a timeline; the first has none and needs none. Raises ObjectMissing, Damaged."""
        if timeline == 1:
            return History.root(timeline)
        text = self.get(timeline.history_name).decode("utf-8", "replace")
        return parse_history(text, timeline)


def is_for_every_host(file_name: str) -> bool:
    """Whether a host that only writes must be able to read a file of the archive.

    Every writer must know how timelines follow one another; positions and a reason are all that a history says.
    """
    return classify(file_name) is WalFileKind.HISTORY


def _prove(container: Container, name: str, file_name: str) -> bytes:
    try:
        content = container.read_all()
        if container.meta.get("name") != file_name or container.meta.get("hash") != hash_of(container.index):
            raise Damaged("its contents are not what was archived under this name")  # noqa: TRY301
    except Damaged as error:
        raise Damaged(f'"{name}" is damaged: {error.message}') from error
    return content


def _holds(container: Container, name: str, file_name: str, content: bytes) -> bool:
    """Whether an object holds this file; what is there is proven, and not held beside it. Raises Damaged."""
    try:
        if container.meta.get("name") != file_name:
            raise Damaged("its contents are not what was archived under this name")  # noqa: TRY301
        is_same = are_frames_of(container.iter_frames(), content)
        if is_same and container.meta.get("hash") != hash_of(container.index):
            raise Damaged("its contents are not what was archived under this name")  # noqa: TRY301
    except Damaged as error:
        raise Damaged(f'"{name}" is damaged: {error.message}') from error
    return is_same


def describe_writer(facts: Mapping[str, Any]) -> str:
    """Who stored a file, and when, as far as it is known."""
    directory, identifier = facts.get("data_directory"), facts.get("system_identifier")
    return (
        f'host "{facts.get("host", "unknown")}"'
        + (f', data directory "{directory}"' if directory else "")
        + (f", system identifier {identifier}" if identifier else "")
        + f", at {facts.get('pushed_at', 'an unknown time')}"
    )
