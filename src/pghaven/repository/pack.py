"""Packs: immutable containers of data, named by their own hash below the label that wrote them.

The one idea: a writer appends frames and learns at once where they lie (pack number, offset in the pack's plain
bytes); the pack's name exists only when it is finished. A reader proves the pack's index from the name alone, then
fetches just the frames it needs, in few large ranges. The label is part of what a pack's hash covers, so no two backups
ever make the same pack, and it is always known whose a pack is (``docs/design/removal.md``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pghaven.errors import Damaged, ObjectExists
from pghaven.repository import layout
from pghaven.repository.codec import Buffer, Compressor
from pghaven.repository.container import (
    FOOTER_BYTES,
    FRAME_BYTES,
    ContainerWriter,
    FinishedContainer,
    Index,
    Kind,
    check_header,
    parse_tail,
    read_claims,
)
from pghaven.repository.seal import Keyring
from pghaven.store.api import ObjectInfo, Store
from pghaven.store.metered import find_server_store

# Large enough that an object store is asked once in 32 MiB, small enough that two (one being filled, one being
# stored) fit in each worker's memory.
PACK_BYTES = 32 << 20
# Frames nearer than this to each other are fetched in one range: below it a request costs more than the bytes.
_GAP_BYTES_MAX = 256 << 10
# A directory's ranges cost memory alone, while behind a network each is a request: there two hold a whole pack.
_RANGE_BYTES_MAX = 8 << 20
_SERVER_RANGE_BYTES_MAX = PACK_BYTES // 2 + FRAME_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRef:
    """What a manifest knows of a pack: enough to fetch and prove its index in one request. ``label`` wrote it."""

    label: str
    id: bytes
    size_bytes: int
    tail_bytes: int
    plain_length: int


def count_reads(pack_bytes: int) -> int:
    """The requests that read all of a pack from a server: its end, which is the index, and ranges."""
    return 1 + -(-pack_bytes // _SERVER_RANGE_BYTES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlace:
    """Where packs of one cluster go to and come from."""

    store: Store
    repository_id: str
    cluster: str
    keyring: Keyring

    def context(self, label: str) -> bytes:
        # A pack's name follows from its contents, so the context holds all of the name but that.
        return f"{self.repository_id}/{layout.packs_prefix(self.cluster, label)}".encode()

    def name(self, label: str, pack_id: bytes) -> str:
        return layout.pack_name(self.cluster, label, pack_id)


class PackWriter:
    """Fills packs one after another and stores each in the background while the next is filled.

    Memory: twice ``pack_bytes``. Leave by ``close``, which returns when all packs are durable, or by ``abort``. Not
    ``in_background``, no thread is started, and each is durable before the next is begun.
    """

    def __init__(
        self, place: PackPlace, label: str, *, level: int, pack_bytes: int = PACK_BYTES, in_background: bool = True
    ) -> None:
        self._place = place
        self._label = label
        self._pack_bytes = pack_bytes
        self._compressor = Compressor(level)
        self._container: ContainerWriter | None = None
        self._stored: list[PackRef] = []
        self._thread = ThreadPoolExecutor(1, "pack") if in_background else None
        self._pending: Future[PackRef] | None = None
        self._sequence = 0

    def append(
        self, frame: Buffer, cells: bytes | None = None, compressor: Compressor | None = None
    ) -> tuple[int, int]:
        """Add one frame (1 … 1 MiB); returns (number of the pack, offset in its plain bytes).

        ``cells`` are its cells' hashes, where they are known; ``compressor`` is taken instead of the writer's own.
        """
        container = self._container
        if container is not None and container.stored_length >= self._pack_bytes:
            self._finish()
            container = None
        if container is None:
            place = self._place
            container = ContainerWriter(Kind.PACK, place.context(self._label), place.keyring, self._compressor)
            self._container = container
        offset = container.plain_length
        container.add_frame(frame, cells, compressor)
        return self._sequence, offset

    def take_stored(self) -> tuple[PackRef, ...]:
        """The packs that have become durable since the last time, in the order of their numbers."""
        stored, self._stored = tuple(self._stored), []
        return stored

    def close(self) -> tuple[PackRef, ...]:
        """Store what is left; returns all packs that were not taken, in the order of their numbers, all durable."""
        if self._container is not None:
            self._finish()
        self._collect()
        if self._thread is not None:
            self._thread.shutdown()
        return self.take_stored()

    def abort(self) -> None:
        """Stop without storing what is left; packs already stored stay, for a collector."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _finish(self) -> None:
        assert self._container is not None
        finished = self._container.finish({})
        self._container = None
        self._sequence += 1
        self._collect()
        if self._thread is None:
            self._stored.append(store_pack(self._place, self._label, finished))
            return
        self._pending = self._thread.submit(store_pack, self._place, self._label, finished)

    def _collect(self) -> None:
        if self._pending is not None:
            self._stored.append(self._pending.result())
            self._pending = None


def store_pack(place: PackPlace, label: str, finished: FinishedContainer) -> PackRef:
    """Store a finished pack of this label; durable when it returns. The same one again is success. Raises Damaged."""
    name = place.name(label, finished.hash)
    try:
        place.store.create(name, finished.content)
    except ObjectExists:
        # The name is the hash of what it holds: the same pack is there already, from a lost answer. It must be whole
        # and durable before anything may rely on it.
        if place.store.read(name) != finished.to_bytes():
            raise Damaged(f'pack "{name}" is in the store with other contents') from None
        place.store.confirm(name)
    return PackRef(
        label=label,
        id=finished.hash,
        size_bytes=finished.size_bytes,
        tail_bytes=finished.tail_bytes,
        plain_length=finished.plain_length,
    )


def load_pack_index(place: PackPlace, ref: PackRef) -> Index:
    """The proven index of a pack, in one request. Raises Damaged naming the pack, ObjectMissing."""
    name = place.name(ref.label, ref.id)
    tail = place.store.read_range(name, ref.size_bytes - ref.tail_bytes, ref.tail_bytes)
    try:
        index = parse_tail(
            tail,
            size_bytes=ref.size_bytes,
            kind=Kind.PACK,
            context=place.context(ref.label),
            keyring=place.keyring,
        )
        if index.hash != ref.id:
            raise Damaged("its contents belong to another pack")  # noqa: TRY301
        if index.plain_length != ref.plain_length:
            raise Damaged(f"it has {index.plain_length} plain bytes, not {ref.plain_length}")  # noqa: TRY301
    except Damaged as error:
        raise Damaged(f'pack "{name}" is damaged: {error.message}') from error
    return index


def find_pack(place: PackPlace, label: str, info: ObjectInfo) -> tuple[PackRef, Index]:
    """A pack that no manifest tells of, from its name and size in a listing, and its proven index: two requests.

    Raises Damaged naming it, ObjectMissing.
    """
    size = min(info.size_bytes, FOOTER_BYTES)
    footer = place.store.read_range(info.name, info.size_bytes - size, size)
    try:
        pack_id, tail, plain = read_claims(footer) if size == FOOTER_BYTES else (b"", 0, 0)
        if place.name(label, pack_id) != info.name:
            raise Damaged("its contents belong to another pack")  # noqa: TRY301
        ref = PackRef(label=label, id=pack_id, size_bytes=info.size_bytes, tail_bytes=tail, plain_length=plain)
        if ref.tail_bytes > info.size_bytes:
            raise Damaged("its index is larger than it is itself")  # noqa: TRY301
    except Damaged as error:
        raise Damaged(f'pack "{info.name}" is damaged: {error.message}') from error
    return ref, load_pack_index(place, ref)


def load_pack_cells(place: PackPlace, ref: PackRef, index: Index) -> tuple[bytes, ...]:
    """For each frame the proven hashes of its cells, in one request. Raises Damaged naming the pack."""
    name = place.name(ref.label, ref.id)
    stored = place.store.read_range(name, index.stored_offsets[-1], index.cells_length)
    try:
        return index.open_cells(stored)
    except Damaged as error:
        raise Damaged(f'pack "{name}" is damaged: {error.message}') from error


def iter_pack_frames(
    place: PackPlace, ref: PackRef, index: Index, frames: Iterable[int], *, is_compared: bool = False
) -> Iterator[tuple[int, Buffer]]:
    """The plain bytes of these frames (numbers in increasing order), each proven, fetched in large ranges.

    ``is_compared``: the caller uses only what equals, byte for byte, what it has; that needs no proof by a hash, which
    takes half of the time. Over a network the next range is on its way while one is used. Raises Damaged naming the
    pack and the frame.
    """
    for span, content in _fetch(place.store, place.name(ref.label, ref.id), list_spans(place.store, index, frames)):
        yield from open_span(place, ref, index, span, content, is_compared=is_compared)


def open_span(
    place: PackPlace, ref: PackRef, index: Index, span: Span, content: Buffer, *, is_compared: bool = False
) -> Iterator[tuple[int, Buffer]]:
    """The proven frames of a range that was fetched. Raises Damaged naming the pack and the frame."""
    data = memoryview(content)
    for number in span.frames:
        at = index.stored_offsets[number] - span.start
        try:
            if not number:
                check_header(data, Kind.PACK)
            stored = data[at : at + index.stored_lengths[number]]
            plain = index.open_frame(number, stored, is_compared=is_compared)
        except Damaged as error:
            raise Damaged(f'pack "{place.name(ref.label, ref.id)}": {error.message}') from error
        yield number, plain


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a pack and the frames in it that are wanted."""

    start: int
    length: int
    frames: list[int]

    @classmethod
    def of(cls, index: Index, first: int, last: int, frames: list[int]) -> Span:
        start = index.stored_offsets[first] if first else 0  # with the first frame comes the header before it
        return cls(start, index.stored_offsets[last] + index.stored_lengths[last] - start, frames)


def list_spans(store: Store, index: Index, frames: Iterable[int]) -> list[Span]:
    """The ranges in which these frames (in increasing order) are fetched from such a store."""
    size = _RANGE_BYTES_MAX if find_server_store(store) is None else _SERVER_RANGE_BYTES_MAX
    return [Span.of(index, *one) for one in _coalesce(index, frames, size)]


def _fetch(store: Store, name: str, spans: list[Span]) -> Iterator[tuple[Span, Buffer]]:
    if len(spans) < 2 or find_server_store(store) is None:
        for span in spans:
            yield span, store.read_range(name, span.start, span.length)
        return
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        ahead = thread.submit(store.read_range, name, spans[0].start, spans[0].length)
        for span, following in zip(spans, [*spans[1:], None], strict=True):
            content = ahead.result()
            if following is not None:
                ahead = thread.submit(store.read_range, name, following.start, following.length)
            yield span, content


def _coalesce(index: Index, frames: Iterable[int], size: int) -> Iterator[tuple[int, int, list[int]]]:
    wanted: list[int] = []
    for number in frames:
        if wanted:
            end = index.stored_offsets[wanted[-1]] + index.stored_lengths[wanted[-1]]
            gap = index.stored_offsets[number] - end
            span = index.stored_offsets[number] + index.stored_lengths[number] - index.stored_offsets[wanted[0]]
            if gap > _GAP_BYTES_MAX or span > size:
                yield wanted[0], wanted[-1], wanted
                wanted = []
        wanted.append(number)
    if wanted:
        yield wanted[0], wanted[-1], wanted
