"""The one object format of the repository: packs, manifests and WAL segments are all containers.

The one idea: a container is a plain address space (bytes 0 … plain_length) cut into frames of at most 1 MiB, each
compressed and sealed by itself and carrying the BLAKE3 hash of its plain bytes. An index at the end says where the
frames lie; a footer of fixed size says where the index lies, and its hash covers the index and what the object is.
So a reader needs the last bytes of an object to prove any part of it. ``docs/format.md`` gives every byte.

A pack's frames are hashed in two steps, by cells of 8 KiB whose own hashes the pack keeps: so a page that is already
somewhere can be proven to be the stored one without fetching its frame.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from enum import IntEnum
from itertools import accumulate
from typing import Any

from pghaven.errors import Damaged, Refused
from pghaven.light import dataclass
from pghaven.repository.codec import Buffer, Compressor, decompress
from pghaven.repository.large import StoredParts, join_frames
from pghaven.repository.seal import TAG_BYTES, Keyring, PartSealer, Sealer

FRAME_BYTES = 1 << 20
FORMAT_VERSION = 1
CELL_BYTES = 8192
CELL_HASH_BYTES = 16

_HEADER = struct.Struct("<8sHB5s")
_MAGIC = b"pghaven\x01"
_FOOTER = struct.Struct("<QIIQBB6s16s32s")
_END_MAGIC = b"\x01nevahgp"
HEADER_BYTES = _HEADER.size
FOOTER_BYTES = _FOOTER.size + 32 + len(_END_MAGIC)
# So that a damaged footer cannot make a reader allocate without bound.
_FRAMES_MAX = 1 << 20
_META_BYTES_MAX = 64 << 20
_INDEX_POSITION = (1 << 96) - 1  # the index's place among the parts that are sealed
_CELLS_POSITION = (1 << 96) - 2
_FRAME_COLUMNS_BYTES = 4 + 4 + 1 + 4 + 32


class Kind(IntEnum):
    """What a container holds; the numbers are part of the format."""

    PACK = 1
    MANIFEST = 2
    WAL = 3


# What is read whole into memory holds no more than this: a manifest of 200 million runs, the largest WAL segment.
_PLAIN_BYTES_MAX = {Kind.MANIFEST: 4 << 30, Kind.WAL: 1 << 30}


def _blake3(data: Buffer) -> bytes:
    import blake3

    return blake3.blake3(data).digest()


def hash_cells(plain: Buffer) -> bytes:
    """The hashes of a frame's cells, CELL_HASH_BYTES each; the last cell may be short."""
    from blake3 import blake3

    view, cells = memoryview(plain), range(0, len(plain), CELL_BYTES)
    return b"".join([blake3(view[at : at + CELL_BYTES]).digest(CELL_HASH_BYTES) for at in cells])


def count_cells(plain_length: int) -> int:
    return -(-plain_length // CELL_BYTES)


def _crc32c(data: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(data))


def _header(kind: Kind) -> bytes:
    return _HEADER.pack(_MAGIC, FORMAT_VERSION, kind, bytes(5))


def _tail_hash(context: bytes, kind: Kind, index_stored: Buffer, footer_head: bytes) -> bytes:
    import blake3

    hasher = blake3.blake3(len(context).to_bytes(4, "little"))
    hasher.update(context)
    hasher.update(_header(kind))
    hasher.update(index_stored)
    hasher.update(footer_head)
    return hasher.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What the end of a container says of it. Columns have one entry a frame.

    ``hash`` is the footer's: it covers this index, the kind and the context, and through the frames' hashes
    everything the container holds. A pack is named by it.
    """

    hash: bytes
    meta: Mapping[str, Any]
    stored_lengths: tuple[int, ...]
    plain_lengths: tuple[int, ...]
    codecs: bytes
    crcs: tuple[int, ...]
    plain_hashes: bytes
    stored_offsets: tuple[int, ...]  # from the object's start; one more than frames: where they end
    plain_offsets: tuple[int, ...]  # one more than frames: the last is plain_length
    cells_length: int  # stored bytes between the frames and the index; 0 where frames are hashed in one step
    sealer: Sealer
    associated: bytes

    @property
    def plain_length(self) -> int:
        return self.plain_offsets[-1]

    def frame_at(self, plain_offset: int) -> int:
        """The number of the frame that holds this plain byte."""
        return bisect_right(self.plain_offsets, plain_offset) - 1

    def plain_hash(self, number: int) -> bytes:
        return self.plain_hashes[32 * number : 32 * number + 32]

    def open_cells(self, stored: Buffer) -> tuple[bytes, ...]:
        """For each frame the hashes of its cells, from the ``cells_length`` bytes behind the last frame.

        Raises Damaged.
        """
        cells = bytes(self.sealer.unseal(_CELLS_POSITION, stored, self.associated)) if self.cells_length else b""
        lengths = [CELL_HASH_BYTES * count_cells(length) for length in self.plain_lengths]
        if len(cells) != sum(lengths):
            raise Damaged(f"it has {len(cells)} bytes of cell hashes where its frames have {sum(lengths)}")
        found, at = [], 0
        for number, length in enumerate(lengths):
            part = cells[at : at + length]
            if _blake3(part) != self.plain_hash(number):
                raise Damaged(f"the cell hashes of frame {number} are not its own")
            found.append(part)
            at += length
        return tuple(found)

    def open_frame(self, number: int, stored: Buffer, *, is_compared: bool = False) -> Buffer:
        """The plain bytes of one frame. Raises Damaged, naming it. Bytes that are compared need no proof by a hash."""
        try:
            if len(stored) != self.stored_lengths[number]:
                raise Damaged(f"{len(stored)} of {self.stored_lengths[number]} bytes are there")  # noqa: TRY301
            if _crc32c(bytes(stored)) != self.crcs[number]:
                raise Damaged("its stored bytes have changed (CRC-32C)")  # noqa: TRY301
            packed = self.sealer.unseal(number, stored, self.associated)
            plain = decompress(self.codecs[number], packed, self.plain_lengths[number])
            two_steps, wanted = self.cells_length, self.plain_hash(number)
            if not is_compared and _blake3(hash_cells(plain) if two_steps else plain) != wanted:
                raise Damaged("its contents do not have the hash they were stored with")  # noqa: TRY301
        except Damaged as error:
            raise Damaged(f"frame {number} is damaged: {error.message}") from error
        return plain


class ContainerWriter:
    """Builds one container, frame by frame; ``finish`` gives what to store. Memory: the container, 64 MiB at most.
    ``context`` names what the object is (repository, cluster, kind, name) and is needed again to open it.
    ``for_hosts``: every host that writes may read all of it, and not only who holds the key that reads.
    ``frame_hashes``: of the frames so far, joined."""

    def __init__(
        self, kind: Kind, context: bytes, keyring: Keyring, compressor: Compressor, *, for_hosts: bool = False
    ) -> None:
        self._kind = kind
        self._context = context
        self._compressor = compressor
        self._sealer = keyring.new_sealer(for_hosts=for_hosts)
        self._associated = _header(kind) + context
        self._parts = StoredParts(_header(kind))
        self._stored_lengths: list[int] = []
        self._plain_lengths: list[int] = []
        self._codecs = bytearray()
        self._crcs: list[int] = []
        self.frame_hashes = bytearray()
        self._cells: list[bytes] | None = [] if kind == Kind.PACK else None
        self.plain_length = 0
        self.stored_length = HEADER_BYTES

    def add(self, plain: Buffer) -> None:
        """Add bytes at the end of the plain address space, cut into frames."""
        view = memoryview(plain)
        for start in range(0, len(view), FRAME_BYTES):
            self.add_frame(view[start : start + FRAME_BYTES])

    def add_frame(self, plain: Buffer, cells: bytes | None = None, compressor: Compressor | None = None) -> None:
        """Add one frame of 1 … FRAME_BYTES bytes; ``cells`` are its cells' hashes, ``compressor`` is not our own."""
        if not 0 < len(plain) <= FRAME_BYTES:
            raise ValueError(f"a frame of {len(plain)} bytes")
        codec, packed = (compressor or self._compressor).compress(plain)
        stored = self._sealer.seal(len(self._crcs), packed, self._associated)
        self._parts.append(stored)
        self._stored_lengths.append(len(stored))
        self._plain_lengths.append(len(plain))
        self._codecs.append(codec)
        self._crcs.append(_crc32c(stored))
        if self._cells is None:
            self.frame_hashes += _blake3(plain)
        else:
            cells = hash_cells(plain) if cells is None else cells
            self._cells.append(cells)
            self.frame_hashes += _blake3(cells)
        self.plain_length += len(plain)
        self.stored_length += len(stored)

    def finish(self, meta: Mapping[str, Any]) -> FinishedContainer:
        """Close the container. ``meta`` is JSON-able and is covered by the hash.

        Raises Refused when it has become larger than readers take.
        """
        count = len(self._crcs)
        meta_text = json.dumps(meta, separators=(",", ":"), sort_keys=True).encode("ascii")
        too_large = self.plain_length > _PLAIN_BYTES_MAX.get(self._kind, self.plain_length)
        if too_large or count > _FRAMES_MAX or len(meta_text) > _META_BYTES_MAX:
            sizes = f"{self.plain_length} bytes in {count} frames, with {len(meta_text)} bytes of facts"
            raise Refused(f"an object of {sizes} is more than any reader takes")
        index = b"".join(
            (
                struct.pack("<I", len(meta_text)),
                meta_text,
                struct.pack(f"<{count}I", *self._stored_lengths),
                struct.pack(f"<{count}I", *self._plain_lengths),
                self._codecs,
                struct.pack(f"<{count}I", *self._crcs),
                self.frame_hashes,
            )
        )
        index_stored = _index_sealer(self._sealer, self._kind).seal(_INDEX_POSITION, index, self._associated)
        cells = self._sealer.seal(_CELLS_POSITION, b"".join(self._cells), self._associated) if self._cells else b""
        head = _FOOTER.pack(
            self.stored_length + len(cells),
            len(index_stored),
            count,
            self.plain_length,
            self._kind,
            self._sealer.kind,
            bytes(6),
            self._sealer.key_id,
            self._sealer.salt,
        )
        digest = _tail_hash(self._context, self._kind, index_stored, head)
        return FinishedContainer(
            content=self._parts.join((cells, index_stored, head, digest, _END_MAGIC)),
            hash=digest,
            size_bytes=self.stored_length + len(cells) + len(index_stored) + FOOTER_BYTES,
            tail_bytes=len(index_stored) + FOOTER_BYTES,
            plain_length=self.plain_length,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedContainer:
    """A whole object, ready to be stored. ``tail_bytes`` is what a reader fetches first: index and footer."""

    content: tuple[Buffer, ...]
    hash: bytes
    size_bytes: int
    tail_bytes: int
    plain_length: int

    def to_bytes(self) -> bytes:
        return b"".join(self.content)


def _index_sealer(sealer: Sealer, kind: Kind) -> PartSealer:
    """Of WAL every host reads the index, to learn whether a file that it is to store again is the one that is there."""
    return sealer.outline if kind == Kind.WAL else sealer


def read_tail_length(footer: Buffer) -> int:
    """How many bytes at the end of the object hold its index and footer, from its last FOOTER_BYTES.

    Raises Damaged when these are not the end of a container. Nothing is proven yet: ``parse_tail`` does that.
    """
    if len(footer) < FOOTER_BYTES or bytes(footer[-8:]) != _END_MAGIC:
        raise Damaged("it does not end as an object of this repository does (truncated?)")
    _, index_length, frames, *_ = _FOOTER.unpack_from(footer, len(footer) - FOOTER_BYTES)
    if frames > _FRAMES_MAX or index_length > _META_BYTES_MAX + frames * _FRAME_COLUMNS_BYTES + 1024:
        raise Damaged("its footer is out of bounds")
    return int(index_length) + FOOTER_BYTES


def read_claims(footer: Buffer) -> tuple[bytes, int, int]:
    """What the last FOOTER_BYTES say, unproven: the container hash, ``read_tail_length``, the plain length."""
    plain_length = _FOOTER.unpack_from(footer, len(footer) - FOOTER_BYTES)[3]
    return bytes(footer[-40:-8]), read_tail_length(footer), int(plain_length)


def parse_tail(tail: Buffer, *, size_bytes: int, kind: Kind, context: bytes, keyring: Keyring) -> Index:
    """The proven index of a container from its last bytes.

    ``size_bytes`` is the whole object's size, ``context`` what the reader believes the object to be. Raises Damaged
    when anything disagrees, NotPermitted without the key.
    """
    view = memoryview(tail)
    tail_length = read_tail_length(view[-FOOTER_BYTES:])
    if tail_length > len(view) or tail_length + HEADER_BYTES > size_bytes:
        raise Damaged("its index is larger than it is itself")
    footer = view[-FOOTER_BYTES:]
    index_stored = view[len(view) - tail_length : len(view) - FOOTER_BYTES]
    head = bytes(footer[: _FOOTER.size])
    digest = bytes(footer[_FOOTER.size : _FOOTER.size + 32])
    if _tail_hash(context, kind, index_stored, head) != digest:
        raise Damaged("its index does not have the hash it was stored with, or it is not the object it is named as")
    offset, _, count, plain_length, stored_kind, seal_kind, zero, key_id, salt = _FOOTER.unpack(head)
    if stored_kind != kind or zero != bytes(6) or offset + tail_length != size_bytes:
        raise Damaged("its footer does not agree with its size or kind")
    sealer = keyring.sealer_for(seal_kind, key_id, salt)
    associated = _header(kind) + context
    index = bytes(_index_sealer(sealer, kind).unseal(_INDEX_POSITION, index_stored, associated))
    result = _parse_index(index, count, offset, digest, (sealer, associated))
    cells = CELL_HASH_BYTES * sum(map(count_cells, result.plain_lengths)) if kind == Kind.PACK and count else 0
    room = 0 <= result.cells_length - cells <= TAG_BYTES if cells else result.cells_length == 0
    if result.plain_length != plain_length or not room:
        raise Damaged("its frames do not fill it")
    return result


def _parse_index(index: bytes, count: int, end: int, digest: bytes, seal: tuple[Sealer, bytes]) -> Index:
    """``end`` is where the index begins in the object."""
    try:
        (meta_length,) = struct.unpack_from("<I", index)
        meta = json.loads(index[4 : 4 + meta_length])
        at = 4 + meta_length
        if not isinstance(meta, dict) or len(index) != at + count * _FRAME_COLUMNS_BYTES:
            raise Damaged("its index has the wrong size")
        stored_lengths = struct.unpack_from(f"<{count}I", index, at)
        plain_lengths = struct.unpack_from(f"<{count}I", index, at + 4 * count)
        crcs = struct.unpack_from(f"<{count}I", index, at + 9 * count)
    except (struct.error, ValueError, RecursionError) as error:
        raise Damaged(f"its index cannot be read: {error}") from error
    for stored, plain in zip(stored_lengths, plain_lengths, strict=True):
        if not 0 < plain <= FRAME_BYTES or not 0 < stored <= plain + TAG_BYTES:
            raise Damaged("its index has frames out of bounds")
    stored_offsets = tuple(accumulate(stored_lengths, initial=HEADER_BYTES))
    return Index(
        hash=digest,
        meta=meta,
        stored_lengths=stored_lengths,
        plain_lengths=plain_lengths,
        codecs=index[at + 8 * count : at + 9 * count],
        crcs=crcs,
        plain_hashes=index[at + 13 * count :],
        stored_offsets=stored_offsets,
        plain_offsets=tuple(accumulate(plain_lengths, initial=0)),
        cells_length=end - stored_offsets[-1],
        sealer=seal[0],
        associated=seal[1],
    )


def check_header(data: Buffer, kind: Kind) -> None:
    """Raises Damaged unless these are the first bytes of a container of this kind."""
    if bytes(data[:HEADER_BYTES]) != _header(kind):
        raise Damaged("it does not begin as an object of this repository does")


class Container:
    """A whole container in memory, proven as far as it is read."""

    def __init__(self, data: Buffer, *, kind: Kind, context: bytes, keyring: Keyring) -> None:
        self._data = memoryview(data)
        if len(self._data) < HEADER_BYTES + FOOTER_BYTES:
            raise Damaged(f"it has only {len(self._data)} bytes")
        self.index = parse_tail(data, size_bytes=len(self._data), kind=kind, context=context, keyring=keyring)
        check_header(self._data, kind)
        if self.index.plain_length > _PLAIN_BYTES_MAX.get(kind, self.index.plain_length):
            raise Damaged(f"it would unpack to {self.index.plain_length} bytes")

    @property
    def size_bytes(self) -> int:
        """The stored size of the whole object."""
        return len(self._data)

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.index.meta

    def stored(self, offset: int, length: int) -> Buffer:
        """Stored bytes, at an offset from the object's start."""
        return self._data[offset : offset + length]

    def iter_frames(self) -> Iterator[Buffer]:
        """The plain bytes, a frame at a time. Raises Damaged."""
        index = self.index
        for number, length in enumerate(index.stored_lengths):
            yield index.open_frame(number, self.stored(index.stored_offsets[number], length))

    def read_all(self) -> bytes:
        """All plain bytes. Raises Damaged."""
        return join_frames(self.iter_frames(), self.index.plain_length)
