"""Proving a whole pack: its end, its cells' hashes, every frame; and going on behind what is damaged.

The one idea: a reader stops at the first damage, because nothing behind it may be used for what it was going to do.
Here nobody uses anything, so each part is tried by itself, and the answer says which plain bytes are lost. What could
not be read at all counts as lost only if the store still answers for other objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pghaven.errors import Damaged, ObjectMissing, Refused, StoreUnreachable
from pghaven.repository import layout
from pghaven.repository.codec import Buffer
from pghaven.repository.container import HEADER_BYTES, Index, Kind, check_header
from pghaven.repository.pack import PackPlace, PackRef, load_pack_cells, load_pack_index
from pghaven.store.api import Store

# One request's bytes, and so what one pack's check holds in memory, besides one frame.
_RANGE_BYTES_MAX = 8 << 20

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFlaw:
    """What is wrong with a part of a pack. ``start`` and ``end`` are the plain bytes that cannot be had any more: none
    where only the cells' hashes are damaged, which nothing but a restore over an existing directory reads."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackCheck:
    """``read_bytes`` were asked of the store, ``proven_bytes`` are plain bytes that were found right."""

    flaws: tuple[PackFlaw, ...]
    frames: int
    read_bytes: int
    proven_bytes: int


def try_read(store: Store, read: Callable[[], Found]) -> Found | str:
    """What ``read`` gives, or the reason why this object cannot be had.

    Raises StoreUnreachable when it is the store that fails and not one object of it (a bad sector), and NotPermitted.
    """
    try:
        return read()
    except (Damaged, ObjectMissing, Refused) as error:
        return error.message
    except StoreUnreachable as error:
        store.find(layout.DESCRIPTOR)
        return error.message


def check_pack(place: PackPlace, ref: PackRef, *, contents: bool) -> PackCheck:
    """Prove the end of a pack by its name, and with ``contents`` all the rest. Raises what ``try_read`` raises."""
    index = try_read(place.store, lambda: load_pack_index(place, ref))
    if isinstance(index, str):
        flaw = PackFlaw(start=0, end=ref.plain_length, reason=index)
        return PackCheck(flaws=(flaw,), frames=0, read_bytes=0, proven_bytes=0)
    if not contents:
        return PackCheck(flaws=(), frames=0, read_bytes=ref.tail_bytes, proven_bytes=0)
    flaws = [*_check_frames(place, ref, index), *_check_cells(place, ref, index)]
    lost = sum(flaw.end - flaw.start for flaw in flaws)
    return PackCheck(
        flaws=tuple(flaws),
        frames=len(index.stored_lengths),
        read_bytes=ref.size_bytes,
        proven_bytes=index.plain_length - lost,
    )


def _check_frames(place: PackPlace, ref: PackRef, index: Index) -> Iterator[PackFlaw]:
    name = place.name(ref.label, ref.id)
    for first, after in _iter_ranges(index):
        data = _read_frames(place.store, name, index, (first, after))
        if not isinstance(data, str):
            yield from _check_range(index, (first, after), data)
            continue
        for number in range(first, after):  # which of them it is
            alone = _read_frames(place.store, name, index, (number, number + 1))
            if isinstance(alone, str):
                yield _flaw_of(index, number, alone)
            else:
                yield from _check_range(index, (number, number + 1), alone)


def _iter_ranges(index: Index) -> Iterator[tuple[int, int]]:
    """All frames, as ranges (first, the one behind the last) of not much more than one request each."""
    first = 0
    for number in range(1, len(index.stored_lengths) + 1):
        is_last = number == len(index.stored_lengths)
        if is_last or index.stored_offsets[number + 1] - index.stored_offsets[first] > _RANGE_BYTES_MAX:
            yield first, number
            first = number


def _read_frames(store: Store, name: str, index: Index, span: tuple[int, int]) -> memoryview | str:
    first, after = span
    start = index.stored_offsets[first] if first else 0  # with the first frame comes the header before it
    found = try_read(store, lambda: store.read_range(name, start, index.stored_offsets[after] - start))
    return found if isinstance(found, str) else memoryview(found)


def _check_range(index: Index, span: tuple[int, int], data: memoryview) -> Iterator[PackFlaw]:
    first, after = span
    start = index.stored_offsets[first] if first else 0
    for number in range(first, after):
        at = index.stored_offsets[number] - start
        try:
            _prove_frame(index, number, data[:HEADER_BYTES], data[at : at + index.stored_lengths[number]])
        except Damaged as error:
            yield _flaw_of(index, number, error.message)


def _prove_frame(index: Index, number: int, beginning: Buffer, stored: Buffer) -> None:
    if not number:
        check_header(beginning, Kind.PACK)
    index.open_frame(number, stored)


def _flaw_of(index: Index, number: int, reason: str) -> PackFlaw:
    return PackFlaw(start=index.plain_offsets[number], end=index.plain_offsets[number + 1], reason=reason)


def _check_cells(place: PackPlace, ref: PackRef, index: Index) -> Iterator[PackFlaw]:
    found = try_read(place.store, lambda: load_pack_cells(place, ref, index))
    if isinstance(found, str):
        yield PackFlaw(start=0, end=0, reason=found)
