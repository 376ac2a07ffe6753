"""What of a page may differ between a server that wrote it and one that replayed its WAL.

The one idea: PostgreSQL has that list itself, for ``wal_consistency_checking``: each resource manager masks what its
replay does not reproduce (``rm_mask``), and all else must be equal. Here are the same masks and no more, each with its
reason, under the names the server has for them; they have been the same from 14 on.

That check looks at the blocks of a record right after it, so it never meets what no record tells at all. Of main forks
there are two such things, and ``mask_unlogged`` says what is left of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum

from pghaven.postgres.page import BLOCK_SIZE

PAGE = BLOCK_SIZE
HEADER = 24

# PageHeaderData.
_CHECKSUM, _FLAGS, _LOWER, _UPPER, _SPECIAL, _PRUNE_XID = 8, 10, 12, 14, 16, 20
_HINT_FLAGS = 0x0001 | 0x0002 | 0x0004  # PD_HAS_FREE_LINES, PD_PAGE_FULL, PD_ALL_VISIBLE

# HeapTupleHeaderData, and its t_infomask.
_TUPLE_CID, _TUPLE_CTID, _TUPLE_INFOMASK, _TUPLE_HEADER = 8, 12, 20, 23
_HEAP_XACT_MASK, _XMIN_FROZEN, _XMAX_HINTS = 0xFFF0, 0x0300, 0x0400 | 0x0800
_SPECULATIVE_OFFSET = 0xFFFE

_LP_NORMAL = 1

_BTP_LEAF, _BTP_SPLIT_END, _BTP_HAS_GARBAGE = 0x0001, 0x0020, 0x0040
_LH_OVERFLOW_PAGE, _LH_BUCKET_PAGE, _LH_PAGE_TYPE, _LH_PAGE_HAS_DEAD_TUPLES = 0x0001, 0x0002, 0x000F, 0x0080
_GIST_LEAF, _GIST_FOLLOW_RIGHT, _GIST_HAS_GARBAGE = 0x0001, 0x0008, 0x0010
_GIN_DELETED = 0x0004
_BRIN_EVACUATE_PAGE, _BRIN_META, _BRIN_REVMAP, _BRIN_REGULAR = 0x0001, 0xF091, 0xF092, 0xF093
_SPGIST_META = 0x0001
_SEQUENCE_MAGIC = 0x1717
_HASH_PAGE_ID, _GIST_PAGE_ID, _SPGIST_PAGE_ID = 0xFF80, 0xFF81, 0xFF82
_LAST_OF_GIN = 0x00FF
_LONG_SPECIAL = 16


class Owner(StrEnum):
    """Whose page it is. What no access method of the server's own makes is generic, as for an extension's WAL."""

    HEAP = "heap"
    BTREE = "btree"
    HASH = "hash"
    GIST = "gist"
    GIN = "gin"
    SPGIST = "spgist"
    BRIN = "brin"
    SEQUENCE = "sequence"
    GENERIC = "generic"


def find_owner(page: bytes | bytearray) -> Owner:
    """By the size of its special space and the last two bytes, as pg_filedump and the server's own tools tell them."""
    special = _number(page, _SPECIAL)
    if special == PAGE:
        return Owner.HEAP
    mark = _number(page, PAGE - 2)
    if PAGE - special == _LONG_SPECIAL:
        return {_HASH_PAGE_ID: Owner.HASH, _GIST_PAGE_ID: Owner.GIST}.get(mark, Owner.BTREE)
    if int.from_bytes(page[special : special + 4], "little") == _SEQUENCE_MAGIC and not mark:
        return Owner.SEQUENCE
    if mark in (_BRIN_META, _BRIN_REVMAP, _BRIN_REGULAR):
        return Owner.BRIN
    if mark == _SPGIST_PAGE_ID:
        return Owner.SPGIST
    return Owner.GIN if mark <= _LAST_OF_GIN else Owner.GENERIC


def mask_page(page: bytes, block: int) -> bytes:
    """A page without what its replay need not reproduce. ``block`` counts within the relation.

    Its LSN stays: the server masks it because others go on writing while it looks, and here nobody does. A page without
    a header, such as a new one, is given back as it is.
    """
    lower, upper, special = (_number(page, at) for at in (_LOWER, _UPPER, _SPECIAL))
    if not HEADER <= lower <= upper <= special <= PAGE:
        return page
    masked = bytearray(page)
    # mask_page_lsn_and_checksum: whatever else differs has another checksum.
    _put(masked, _CHECKSUM, 0)
    owner = find_owner(page)
    if owner not in (Owner.SEQUENCE, Owner.GENERIC):
        _mask_page_hint_bits(masked)
    _MASKS[owner](masked, block)
    return bytes(masked)


def mask_unlogged(page: bytes) -> bytes:
    """A masked page without what no record tells, and no replay can know.

    A sequence: WAL has it up to 32 numbers ahead (SEQ_LOG_VALS), so a page that was written is behind one that was
    replayed. The root page of an SP-GiST index: which pages had room last, a cache that is written when it pleases
    (SpGistUpdateMetaPage).
    """
    owner = find_owner(page)
    if owner is Owner.SEQUENCE:
        (item,) = (offset for _, _, offset, _ in _iter_items(page))
        values = item + page[item + 22]  # t_hoff; last_value (8), log_cnt (8), is_called (1) follow
        return page[:values] + bytes(17) + page[values + 17 :]
    if owner is Owner.SPGIST and _number(page, _number(page, _SPECIAL)) & _SPGIST_META:
        return page[: HEADER + 4] + bytes(_number(page, _SPECIAL) - HEADER - 4) + page[_number(page, _SPECIAL) :]
    return page


# -- bufmask.c --------------------------------------------------------------------------------------------------------


def _mask_page_hint_bits(page: bytearray) -> None:
    """Set without WAL; all-visible is not set by a replay that comes late, which visibility maps are held to apart."""
    page[_PRUNE_XID : _PRUNE_XID + 4] = bytes(4)
    _clear(page, _FLAGS, _HINT_FLAGS)


def _mask_unused_space(page: bytearray) -> None:
    """What lies between has no meaning, and an image in the WAL leaves it out."""
    lower, upper = _number(page, _LOWER), _number(page, _UPPER)
    page[lower:upper] = bytes(upper - lower)


def _mask_lp_flags(page: bytearray) -> None:
    """An index scan marks dead what it found dead, without WAL."""
    for at, state, _, _ in list(_iter_items(page)):
        if state:
            word = int.from_bytes(page[at : at + 4], "little") & ~(3 << 15)
            page[at : at + 4] = word.to_bytes(4, "little")


def _mask_page_content(page: bytearray) -> None:
    """Everything, and the two that say what is in use."""
    page[HEADER:] = bytes(PAGE - HEADER)
    _put(page, _LOWER, 0)
    _put(page, _UPPER, 0)


# -- one for each resource manager ------------------------------------------------------------------------------------


def _heap_mask(page: bytearray, block: int) -> None:
    _mask_unused_space(page)
    for number, (_, state, offset, length) in enumerate(list(_iter_items(page)), start=1):
        if state == _LP_NORMAL and offset + _TUPLE_HEADER <= PAGE:
            _mask_tuple(page, offset, (block, number))
        if length:
            # Never written by anybody.
            padding = -length % 8
            page[offset + length : offset + length + padding] = bytes(padding)


def _mask_tuple(page: bytearray, offset: int, place: tuple[int, int]) -> None:
    # What is known of the transactions of a row is a hint. That xmin is frozen is not: WAL tells it.
    infomask = _number(page, offset + _TUPLE_INFOMASK)
    is_frozen = infomask & _XMIN_FROZEN == _XMIN_FROZEN
    _clear(page, offset + _TUPLE_INFOMASK, _XMAX_HINTS if is_frozen else _HEAP_XACT_MASK)
    # Replay makes it the first command of its transaction.
    page[offset + _TUPLE_CID : offset + _TUPLE_CID + 4] = bytes(4)
    # ON CONFLICT leaves a token where replay puts the row's own place.
    ctid = offset + _TUPLE_CTID
    if _number(page, ctid + 4) == _SPECULATIVE_OFFSET:
        block, number = place
        for at, value in ((ctid, block >> 16), (ctid + 2, block & 0xFFFF), (ctid + 4, number)):
            _put(page, at, value)


def _btree_mask(page: bytearray, _: int) -> None:
    _mask_unused_space(page)
    special = _number(page, _SPECIAL)
    if _number(page, special + 12) & _BTP_LEAF:
        _mask_lp_flags(page)
    # Garbage is a hint; replay of a split sets neither its end nor the number of the vacuum that goes on.
    _clear(page, special + 12, _BTP_HAS_GARBAGE | _BTP_SPLIT_END)
    _put(page, special + 14, 0)


def _hash_mask(page: bytearray, _: int) -> None:
    _mask_unused_space(page)
    flags_at = _number(page, _SPECIAL) + 12
    kind = _number(page, flags_at) & _LH_PAGE_TYPE
    # That there are dead ones is a hint. Masked before the rest, as an unused page has nothing left afterwards.
    _clear(page, flags_at, _LH_PAGE_HAS_DEAD_TUPLES)
    if not kind:
        _mask_page_content(page)
    elif kind in (_LH_BUCKET_PAGE, _LH_OVERFLOW_PAGE):
        _mask_lp_flags(page)


def _gist_mask(page: bytearray, _: int) -> None:
    _mask_unused_space(page)
    special = _number(page, _SPECIAL)
    page[special : special + 8] = bytes(8)  # the NSN, an LSN by another name
    if _number(page, special + 12) & _GIST_LEAF:
        _mask_lp_flags(page)
    # The first is set after the record is written, the second never by replay.
    _clear(page, special + 12, _GIST_FOLLOW_RIGHT | _GIST_HAS_GARBAGE)


def _gin_mask(page: bytearray, _: int) -> None:
    # Replay makes a deleted page anew, empty.
    if _number(page, PAGE - 2) & _GIN_DELETED:
        _mask_page_content(page)
    elif _number(page, _LOWER) > HEADER:  # else it may never have been set
        _mask_unused_space(page)


def _spgist_mask(page: bytearray, _: int) -> None:
    _mask_unused_space(page)


def _brin_mask(page: bytearray, _: int) -> None:
    kind = _number(page, PAGE - 2)
    if kind == _BRIN_REGULAR or (kind == _BRIN_META and _number(page, _LOWER) > HEADER):
        _mask_unused_space(page)
    # Means something only to those who are about to empty it.
    _clear(page, PAGE - 4, _BRIN_EVACUATE_PAGE)


def _plain_mask(page: bytearray, _: int) -> None:
    """seq_mask and generic_mask."""
    _mask_unused_space(page)


_MASKS: dict[Owner, Callable[[bytearray, int], None]] = {
    Owner.HEAP: _heap_mask,
    Owner.BTREE: _btree_mask,
    Owner.HASH: _hash_mask,
    Owner.GIST: _gist_mask,
    Owner.GIN: _gin_mask,
    Owner.SPGIST: _spgist_mask,
    Owner.BRIN: _brin_mask,
    Owner.SEQUENCE: _plain_mask,
    Owner.GENERIC: _plain_mask,
}


def _iter_items(page: bytes | bytearray) -> Iterator[tuple[int, int, int, int]]:
    """The line pointers: where each lies, its state (2 bits), and its offset and length (15 bits each)."""
    for at in range(HEADER, _number(page, _LOWER) & ~3, 4):
        word = int.from_bytes(page[at : at + 4], "little")
        yield at, word >> 15 & 3, word & 0x7FFF, word >> 17


def _number(page: bytes | bytearray, at: int) -> int:
    return int.from_bytes(page[at : at + 2], "little")


def _put(page: bytearray, at: int, number: int) -> None:
    page[at : at + 2] = number.to_bytes(2, "little")


def _clear(page: bytearray, at: int, bits: int) -> None:
    _put(page, at, _number(page, at) & ~bits & 0xFFFF)
