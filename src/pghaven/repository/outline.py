"""Outlines: many small documents of a cluster's backups in one object, so that listing them takes few requests.

The one idea: a document never changes, so a copy of it is as good as itself while a listing shows that it is there.
Copies are whole documents and proven by their own hashes; an outline that is missing, old or damaged costs requests and
nothing else. What decides about removal, and what verifies, never looks at one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pghaven.errors import Damaged, NotPermitted, ObjectExists, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.document import parse_document
from pghaven.repository.entry import BackupState
from pghaven.repository.repository import Repository
from pghaven.runtime.durable import Buffer
from pghaven.store.api import Buffers, ObjectInfo, Store

# An outline is written when so many documents are in none: a listing reads at most these one by one.
UNTOLD_MAX = 8
# What one outline holds at the most, with room for what JSON adds: a document has at most 4 MiB.
OUTLINE_BYTES_MAX = 3 << 20
_STAMP = "%Y%m%dT%H%M%S%fZ"
_DOCUMENTS = "documents"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """``documents`` are stored bytes by the names of the objects that they are copies of."""

    name: str
    documents: Mapping[str, bytes]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.documents.values()))


class OutlinedStore:
    """A store as it was when the backups of a cluster were listed through it, with the documents of its outlines.

    Read only, and for one look: what comes later is not seen in what was listed. ``untold`` are the documents that were
    read and are in no outline.
    """

    def __init__(self, inner: Store, told: Mapping[str, bytes], prefix: str) -> None:
        self._inner = inner
        self._told = told
        self._prefix = prefix
        self._listed: dict[str, ObjectInfo] | None = None
        self.untold: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return self._inner.url

    def read(self, name: str) -> bytes:
        if name in self._told and (self._listed is None or name in self._listed):
            return self._told[name]
        data = self._inner.read(name)
        if name.startswith(self._prefix):
            self.untold[name] = data
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if prefix != self._prefix:
            return self._inner.list(prefix)
        self._listed = {info.name: info for info in self._inner.list(prefix)}
        return iter(self._listed.values())

    def find(self, name: str) -> ObjectInfo | None:
        if self._listed is not None and name.startswith(self._prefix):
            return self._listed.get(name)
        return self._inner.find(name)

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        return self._inner.read_range(name, offset, length)

    def list_children(self, prefix: str) -> tuple[str, ...]:
        return self._inner.list_children(prefix)

    def confirm(self, name: str) -> None:
        self._inner.confirm(name)

    def create(self, name: str, content: Buffers) -> None:  # noqa: ARG002
        raise NotPermitted(f'"{name}" is not written to what is only looked at')

    def delete(self, name: str) -> None:
        raise NotPermitted(f'"{name}" is not deleted from what is only looked at')

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()


def load_outlines(repository: Repository, cluster: str) -> tuple[Outline, ...]:
    """All that can be read, the oldest first. Raises StoreUnreachable, NotPermitted."""
    prefix = layout.outlines_prefix(cluster)
    found = []
    for child in sorted(repository.store.list_children(prefix)):
        try:
            documents = repository.read_document(prefix + child).get(_DOCUMENTS)
        except (ObjectMissing, Damaged):
            continue
        if isinstance(documents, dict):
            copies = {str(name): text.encode() for name, text in documents.items() if isinstance(text, str)}
            proven = {name: data for name, data in copies.items() if _is_proven(repository, name, data)}
            found.append(Outline(name=prefix + child, documents=proven))
    return tuple(found)


def _is_proven(repository: Repository, name: str, data: bytes) -> bool:
    try:
        parse_document(repository.context(name), data)
    except Damaged:
        return False
    return True


def open_outlined(repository: Repository, cluster: str) -> BackupCatalog:
    """A cluster's backups for one look at all of them."""
    return _open(repository, cluster, load_outlines(repository, cluster))[0]


def _open(repository: Repository, cluster: str, outlines: tuple[Outline, ...]) -> tuple[BackupCatalog, OutlinedStore]:
    told = {name: data for outline in outlines for name, data in outline.documents.items()}
    store = OutlinedStore(repository.store, told, layout.backups_prefix(cluster))
    view = Repository(store, repository.descriptor, clock=repository.clock, keyring=repository.keyring)
    return BackupCatalog(view, cluster), store


def refresh_outlines(repository: Repository, cluster: str) -> str | None:
    """Write an outline if there is enough that is in none; gives its name.

    It takes up those that are not much larger than itself, which are then deleted where that is permitted; so there are
    never many. Raises StoreUnreachable, NotPermitted, Refused.
    """
    outlines = load_outlines(repository, cluster)
    catalog, store = _open(repository, cluster, outlines)
    entries = catalog.list_labels()
    # What is not decided yet is not needed once it is, and what is damaged is not to be copied.
    passed_over = (BackupState.UNDECIDED, BackupState.DAMAGED, BackupState.GONE)
    lasting = {entry.label: entry.parts for entry in entries if entry.state not in passed_over}
    alive = {f"{layout.backups_prefix(cluster)}{label}/{part}" for label, parts in lasting.items() for part in parts}
    told = {name: data for name, data in store.untold.items() if name in alive}
    if len(told) < UNTOLD_MAX:
        return None
    taken = []
    for outline in sorted(outlines, key=lambda one: one.size_bytes):
        size = sum(map(len, told.values()))
        if outline.size_bytes > 2 * size or outline.size_bytes + size > OUTLINE_BYTES_MAX:
            break
        told.update((name, data) for name, data in outline.documents.items() if name in alive)
        taken.append(outline.name)
    stamp = f"{repository.clock.now():{_STAMP}}-{os.urandom(2).hex()}"
    name = layout.outlines_prefix(cluster) + stamp
    try:
        repository.create_document(name, {_DOCUMENTS: {one: data.decode("ascii") for one, data in told.items()}})
    except ObjectExists:
        return None
    try:
        for one in taken:
            repository.store.delete(one)
    except NotPermitted:
        pass  # under write-once credentials there are more of them
    return name
