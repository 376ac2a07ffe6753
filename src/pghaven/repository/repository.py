"""A repository: opened from a store, handing out its clusters' parts. The one place where objects get their context.

The one idea: every object is bound to this repository's id and to its own name, so this module is the only way in or
out for documents and containers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pghaven
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Conflict, Damaged, NotFound, NotPermitted, ObjectExists, ObjectMissing, Refused
from pghaven.light import dataclass, fields
from pghaven.repository import layout
from pghaven.repository.container import (
    FOOTER_BYTES,
    Container,
    FinishedContainer,
    Index,
    Kind,
    parse_tail,
    read_tail_length,
)
from pghaven.repository.descriptor import (
    FORMAT_VERSION,
    SEALED_FEATURE,
    Descriptor,
    parse_descriptor,
    render_descriptor,
)
from pghaven.repository.document import open_body, parse_document, render_document, seal_body
from pghaven.repository.large import read_in_parts
from pghaven.repository.seal import OPEN_KEYRING, Keyring, refuse_reading
from pghaven.store.api import Store
from pghaven.units import parse_time_utc, render_time_utc

if TYPE_CHECKING:
    from pghaven.repository.keys import RepositoryKeys

_DESCRIPTOR_CONTEXT = layout.DESCRIPTOR
# The end of an object that is fetched first: nearly every index but a large manifest's is in it.
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """One life of a cluster: what its WAL and backups belong to, and the sizes they are cut by."""

    system_identifier: int
    major: int
    block_size: int
    segment_blocks: int
    wal_segment_size: int
    registered_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """How a new repository gets its keys: ``prepare`` makes what is kept outside of it, before anything of it is
    written; ``found`` writes the first set, ``unlock`` opens it."""

    prepare: Callable[[], object]
    found: Callable[[RepositoryKeys], object]
    unlock: Callable[[RepositoryKeys], Keyring]


class Repository:
    """An open repository. Picklable when its store is, so worker processes can hold one."""

    def __init__(
        self, store: Store, descriptor: Descriptor, *, clock: Clock = SYSTEM_CLOCK, keyring: Keyring = OPEN_KEYRING
    ) -> None:
        self.store = store
        self.descriptor = descriptor
        self.clock = clock
        self.keyring = keyring

    @property
    def id(self) -> str:
        return self.descriptor.repository_id

    def context(self, name: str) -> str:
        """What an object is bound to."""
        return f"{self.id}/{name}"

    def create_document(self, name: str, body: Mapping[str, Any]) -> None:
        """Store a document under a free name. The same body again is success (a lost answer); raises ObjectExists
        when the name holds another body."""
        data = self.render_document(name, body)
        self._require_writable()
        try:
            self.store.create(name, [data])
        except ObjectExists as taken:
            try:
                # What is sealed twice differs in its bytes: what it says is compared.
                if not self._says(name, data):
                    raise
                self.store.confirm(name)
            except ObjectMissing:
                raise taken from None  # it was there, and has been removed meanwhile

    def _says(self, name: str, data: bytes) -> bool:
        """Whether the document that is there says what this one does."""
        there = self.store.read(name)
        if there == data or not self.keyring.is_sealing:
            return there == data
        return self.parse_document(name, there) == self.parse_document(name, data)

    def render_document(self, name: str, body: Mapping[str, Any]) -> bytes:
        """What a document's object holds."""
        context = self.context(name)
        return render_document(context, seal_body(context, body, self.keyring))

    def parse_document(self, name: str, data: bytes) -> dict[str, Any]:
        """The inverse. Raises Damaged naming the object, NotPermitted."""
        context = self.context(name)
        try:
            return open_body(context, parse_document(context, data), self.keyring)
        except (Damaged, NotPermitted) as error:
            what = "is damaged" if isinstance(error, Damaged) else "cannot be read"
            raise type(error)(f'"{name}" {what}: {error.message}', hint=error.hint) from error

    def read_document(self, name: str) -> dict[str, Any]:
        """Raises ObjectMissing, Damaged, NotPermitted."""
        return self.parse_document(name, self.store.read(name))

    def create_container(self, name: str, finished: FinishedContainer) -> None:
        """Store a container made with this name's context. Raises ObjectExists."""
        self._require_writable()
        self.store.create(name, finished.content)

    def read_container(self, name: str, kind: Kind, *, may_be_large: bool = False) -> Container:
        """Raises ObjectMissing, Damaged. What ``may_be_large`` costs one request more, and little memory if it is."""
        data = read_in_parts(self.store, name) if may_be_large else self.store.read(name)
        try:
            return Container(data, kind=kind, context=self.context(name).encode(), keyring=self.keyring)
        except Damaged as error:
            raise Damaged(f'"{name}" is damaged: {error.message}') from error

    def load_index(self, name: str, kind: Kind) -> Index:
        """The proven index of a container, from the end of its object alone. Raises ObjectMissing, Damaged."""
        store = self.store
        info = store.find(name)
        if info is None:
            raise ObjectMissing(f'"{name}" does not exist in {store.url}')
        size_bytes = info.size_bytes
        guess = min(size_bytes, _TAIL_BYTES)
        tail = store.read_range(name, size_bytes - guess, guess)
        try:
            needed = read_tail_length(tail[-FOOTER_BYTES:])
            if needed > size_bytes:
                raise Damaged("its index is larger than it is itself")  # noqa: TRY301
            if needed > guess:
                tail = store.read_range(name, size_bytes - needed, needed)
            context = self.context(name).encode()
            return parse_tail(tail, size_bytes=size_bytes, kind=kind, context=context, keyring=self.keyring)
        except Damaged as error:
            raise Damaged(f'"{name}" is damaged: {error.message}') from error

    def load_plain(self, name: str, index: Index, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The proven plain bytes of a container at some (offset, length); only the frames they lie in are fetched.

        Raises ObjectMissing, Damaged; the message does not name the object.
        """
        found = []
        for offset, length in spans:
            if offset < 0 or length < 0 or offset + length > index.plain_length:
                raise Damaged("a part of it lies outside of it")
            if not length:
                found.append(b"")
                continue
            first, last = index.frame_at(offset), index.frame_at(offset + length - 1)
            start, end = index.stored_offsets[first], index.stored_offsets[last + 1]
            stored = memoryview(self.store.read_range(name, start, end - start))
            frames = (
                index.open_frame(number, stored[index.stored_offsets[number] - start :][: index.stored_lengths[number]])
                for number in range(first, last + 1)
            )
            inside = offset - index.plain_offsets[first]
            found.append(b"".join(frames)[inside : inside + length])
        return found

    def _require_writable(self) -> None:
        """Raises Refused when a newer version reserved writing for itself. Every writer begins with one of these."""
        if self.descriptor.min_writer > FORMAT_VERSION:
            raise Refused(
                f"the repository has format version {self.descriptor.version}, which this pghaven cannot write",
                hint="Use the version of pghaven that wrote it, or a newer one.",
            )

    def require_readable(self, what: str) -> None:
        """Raises NotPermitted where the key only writes; ``what`` cannot be done then."""
        if not self.keyring.can_read:
            refusal = refuse_reading()
            raise NotPermitted(f"{what}: {refusal.message}", hint=refusal.hint)

    # -- clusters ---------------------------------------------------------------------------------------------------

    def list_clusters(self) -> tuple[str, ...]:
        return tuple(child.rstrip("/") for child in self.store.list_children(layout.CLUSTERS_PREFIX))

    def list_lineages(self, cluster: str) -> tuple[Lineage, ...]:
        """The lives this name has had, oldest first. Empty when the name is not registered."""
        prefix = layout.lineages_prefix(cluster)
        names = [prefix + child for child in self.store.list_children(prefix) if child.endswith(".json")]
        found = [self._read_lineage(name) for name in names]
        return tuple(sorted(found, key=lambda lineage: parse_time_utc(lineage.registered_at)))

    def find_lineage(self, cluster: str, system_identifier: int) -> Lineage | None:
        try:
            return self._read_lineage(layout.lineage_name(cluster, system_identifier))
        except ObjectMissing:
            return None

    def _read_lineage(self, name: str) -> Lineage:
        body = self.read_document(name)
        try:
            known = {field.name: body[field.name] for field in fields(Lineage)}
            known["system_identifier"] = int(known["system_identifier"])
            parse_time_utc(known["registered_at"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f'"{name}" is damaged: it is no lineage ({error!r})') from error
        return Lineage(**known)

    def require_lineage(self, cluster: str, system_identifier: int) -> Lineage:
        """The lineage a server or its WAL claims to be of; anything else is refused, naming both sides."""
        lineage = self.find_lineage(cluster, system_identifier)
        if lineage is not None:
            return lineage
        known = self.list_lineages(cluster)
        if not known:
            raise NotFound(
                f'cluster "{cluster}" is not registered in repository {self.store.url}',
                hint=f"Register it with: pghaven init {cluster}",
            )
        raise Conflict(
            f'system identifier {system_identifier} is not known under the name "{cluster}": '
            f"the repository knows {', '.join(str(one.system_identifier) for one in known)}",
            detail="This is another database cluster, or the same one after pg_upgrade or initdb.",
            hint=f"If it takes over this name, run: pghaven init {cluster} --new-lineage. "
            "Otherwise give it a name of its own in the configuration.",
        )

    def register_lineage(self, cluster: str, lineage: Lineage, *, new_lineage: bool) -> bool:
        """Claim the name for a cluster; False when it was claimed for the same one before.

        Raises Refused when the name belongs to another cluster and ``new_lineage`` does not say to take it over.
        """
        layout.check_cluster_name(cluster)
        if self.find_lineage(cluster, lineage.system_identifier) is not None:
            return False
        if self.list_lineages(cluster) and not new_lineage:
            self.require_lineage(cluster, lineage.system_identifier)
        body = {
            "system_identifier": str(lineage.system_identifier),
            "major": lineage.major,
            "block_size": lineage.block_size,
            "segment_blocks": lineage.segment_blocks,
            "wal_segment_size": lineage.wal_segment_size,
            "registered_at": lineage.registered_at,
        }
        try:
            self.create_document(layout.lineage_name(cluster, lineage.system_identifier), body)
        except ObjectExists:
            return False  # somebody registered the same cluster at the same moment
        return True


def create_repository(store: Store, *, clock: Clock = SYSTEM_CLOCK, sealing: Sealing | None = None) -> Repository:
    """Make a repository at this store, or open the one that is there. Refuses a place that holds other things.

    With ``sealing`` a new one is sealed, and one that is there must be.
    """
    unlock = sealing.unlock if sealing is not None else None
    try:
        return open_repository(store, clock=clock, unlock=unlock, must_be_sealed=sealing is not None)
    except NotFound:
        pass
    is_begun = store.find(layout.DESCRIPTOR) is not None
    if not is_begun:
        _refuse_foreign(store)
    if sealing is not None:
        sealing.prepare()
    data = store.read(layout.DESCRIPTOR) if is_begun else _create_descriptor(store, clock, sealing is not None)
    if sealing is not None and _parse(store, data).is_sealed:
        # Before the first key set there is nothing that would need an earlier one.
        sealing.found(_keys_of(store, data, clock))
    return open_repository(store, clock=clock, unlock=unlock, must_be_sealed=sealing is not None)


def _refuse_foreign(store: Store) -> None:
    if foreign := store.list_children(""):
        raise Refused(
            f"{store.url} is not empty and not a repository: it holds {', '.join(foreign[:3])}",
            hint="Choose an empty place for the repository.",
        )


def _create_descriptor(store: Store, clock: Clock, is_sealed: bool) -> bytes:
    descriptor = Descriptor(
        repository_id=os.urandom(16).hex(),
        created_at=render_time_utc(clock.now()),
        created_by=f"pghaven {pghaven.__version__}",
        required_features=(SEALED_FEATURE,) if is_sealed else (),
    )
    data = render_document(_DESCRIPTOR_CONTEXT, render_descriptor(descriptor))
    try:
        store.create(layout.DESCRIPTOR, [data])
    except ObjectExists:
        return store.read(layout.DESCRIPTOR)
    return data


def open_repository(
    store: Store,
    *,
    clock: Clock = SYSTEM_CLOCK,
    unlock: Callable[[RepositoryKeys], Keyring] | None = None,
    must_be_sealed: bool = False,
) -> Repository:
    """Open the repository at a store; ``unlock`` finds the keys of a sealed one.

    Raises NotFound when there is none, Damaged, Refused when it is too new, or in the open although it must not be, and
    NotPermitted without the right key.
    """
    data = _read_descriptor(store)
    descriptor = _parse(store, data)
    if not descriptor.is_sealed and must_be_sealed:
        raise Refused(
            f"this host has a key for the repository at {store.url}, but it says that nothing in it is sealed",
            detail="Somebody may have replaced what it says of itself, so that backups would be stored in the open.",
            hint="If it was made without encryption, take the key out of the configuration; where $PGHAVEN_PASSPHRASE "
            "is another repository's, write encryption = false into the section of this one.",
        )
    keyring = OPEN_KEYRING
    if descriptor.is_sealed:
        if unlock is None:
            from pghaven.repository.keysource import refuse_without_key

            raise refuse_without_key()
        keyring = unlock(_keys_of(store, data, clock))
    return Repository(store, descriptor, clock=clock, keyring=keyring)


def open_keys(store: Store, *, clock: Clock = SYSTEM_CLOCK) -> RepositoryKeys:
    """The keys of a sealed repository, not opened yet. Raises NotFound, Damaged, Refused for one in the open."""
    data = _read_descriptor(store)
    if not _parse(store, data).is_sealed:
        raise Refused(f"the repository at {store.url} is not sealed: it has no keys")
    return _keys_of(store, data, clock)


def _keys_of(store: Store, descriptor: bytes, clock: Clock) -> RepositoryKeys:
    from pghaven.repository.keys import RepositoryKeys  # here, as what is in the open needs nothing of it

    return RepositoryKeys(store, _parse(store, descriptor).repository_id, descriptor, clock)


def _read_descriptor(store: Store) -> bytes:
    try:
        return store.read(layout.DESCRIPTOR)
    except ObjectMissing:
        raise NotFound(f"there is no repository at {store.url}", hint="Create it with: pghaven init CLUSTER") from None


def _parse(store: Store, data: bytes) -> Descriptor:
    try:
        return parse_descriptor(parse_document(_DESCRIPTOR_CONTEXT, data))
    except Damaged as error:
        raise Damaged(f'"{layout.DESCRIPTOR}" at {store.url} is damaged: {error.message}') from error
