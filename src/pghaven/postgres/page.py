"""Data pages: their checksums, their LSNs and whether they may have changed, computed over many pages at once.

The one idea: PostgreSQL's checksum is 32 sums that run down a page side by side, so NumPy runs them down hundreds of
pages side by side. A call makes some 260 array operations for one page as for 256 pages, so callers gather pages of
many files into batches of 2 MiB or more and say which block each page is.

Follows checksum_impl.h, and PageIsVerified in bufpage.c for pages that were never written. Pages are taken to be
little-endian, as on every machine pghaven runs on.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pghaven.postgres.lsn import Lsn

BLOCK_SIZE: Final = 8192
"""What PostgreSQL is built with unless somebody chose otherwise; ``pg_control`` has the truth."""

BUILD_LSN: Final = 1
"""On every page of a GiST index that was built by sorting on 15 and 16 (GistBuildLSN, gist.h): no position in WAL."""

Pages = bytes | bytearray | memoryview | NDArray[np.uint8]
"""Whole pages one after another, contiguous in memory."""

# 256 pages make scratch arrays of 32 KiB. They and the rows they meet stay in the second-level cache, and the array
# operations are long enough to hide the cost of calling them: 128 pages were 10 % slower, 1024 pages 15 %.
_PART_PAGES: Final = 256

# checksum_impl.h: N_SUMS, FNV_PRIME, the shift of CHECKSUM_COMP and checksumBaseOffsets. The single numbers are
# arrays because NumPy would convert anything else in every operation.
_SUMS: Final = 32
_ROW_BYTES: Final = _SUMS * 4
_FNV_PRIME: Final = np.array(16777619, np.uint32)
_SHIFT: Final = np.array(17, np.uint32)
_BASE_OFFSETS: Final = np.array(
    [
        *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C),
        *(0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB),
        *(0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4),
        *(0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
    ],
    np.uint32,
)

# PageHeaderData in bufpage.h. pd_checksum is the low half of the third 32-bit word.
_CHECKSUM_COLUMN: Final = 2
_CHECKSUM_WORD: Final = 4
_FLAGS_WORD: Final = 5
_LOWER_WORD: Final = 6
_UPPER_WORD: Final = 7
_SPECIAL_WORD: Final = 8
_SIZE_VERSION_WORD: Final = 9
_HEADER_BYTES: Final = 24
_VALID_FLAGS: Final = 0x0007
_ALL_VISIBLE: Final = 0x0004
_LAYOUT_VERSION: Final = 4


class ChecksumWork:
    """Scratch memory of about 64 KiB that calls reuse: any block size, one thread at a time."""

    __slots__ = ("shifted", "sums")

    def __init__(self) -> None:
        self.sums: NDArray[np.uint32] = np.empty((_PART_PAGES, _SUMS), np.uint32)
        self.shifted: NDArray[np.uint32] = np.empty((_PART_PAGES, _SUMS), np.uint32)


def checksums(
    pages: Pages,
    block_numbers: NDArray[np.uint32],
    work: ChecksumWork | None = None,
    *,
    block_size: int = BLOCK_SIZE,
) -> NDArray[np.uint16]:
    """The checksum that belongs on each page (pg_checksum_page), whatever is stored there now.

    ``block_numbers[i]`` is page *i*'s block in its relation fork: segment number × blocks a segment + block in the
    file. ``pages`` is not modified. Pages that were never written (all zero) have no checksum; what is returned for
    them means nothing. ValueError if there is not one block number for each page, or no such block size.
    """
    words = _split(pages, block_size, np.dtype("<u4")).reshape(-1, block_size // _ROW_BYTES, _SUMS)
    if len(words) != len(block_numbers):
        raise ValueError(f"{len(words)} pages of {block_size} bytes, but {len(block_numbers)} block numbers")
    work = work or ChecksumWork()
    result = np.empty(len(words), np.uint16)
    for start, end in _parts(len(words)):
        sums = _sum_pages(words[start:end], work)
        np.bitwise_xor(sums, block_numbers[start:end], out=sums)
        np.remainder(sums, 65535, out=sums)
        np.add(sums, 1, out=sums)
        result[start:end] = sums
    return result


def verify_pages(
    pages: Pages,
    block_numbers: NDArray[np.uint32],
    work: ChecksumWork | None = None,
    *,
    block_size: int = BLOCK_SIZE,
) -> NDArray[np.intp]:
    """The indices, ascending, of pages that are not what PostgreSQL wrote there.

    A page is good if its stored checksum is right, or if it is new (pd_upper is 0) and all zero; a new page with
    anything on it is bad, as for PageIsVerified. A page that is being written while it is read may be torn and so
    appear here. Arguments and errors as for ``checksums``.
    """
    expected = checksums(pages, block_numbers, work, block_size=block_size)
    headers = _split(pages, block_size, np.dtype("<u2"))
    bad = headers[:, _CHECKSUM_WORD] != expected
    (new,) = np.nonzero(headers[:, _UPPER_WORD] == 0)
    if len(new):
        bad[new] = _find_written(_split(pages, block_size, np.dtype("<u8")), new)
    return np.nonzero(bad)[0]


def page_lsns(pages: Pages, *, block_size: int = BLOCK_SIZE) -> NDArray[np.uint64]:
    """The LSN in each page's header (pd_lsn), as PostgreSQL last set it; 0 for new pages.

    ValueError if ``pages`` are not whole pages of this size.
    """
    # pd_lsn is two 32-bit numbers, the high one first (PageXLogRecPtr).
    halves = _split(pages, block_size, np.dtype("<u4"))
    lsns = halves[:, 0].astype(np.uint64)
    np.left_shift(lsns, 32, out=lsns)
    np.bitwise_or(lsns, halves[:, 1], out=lsns)
    return lsns


def pages_to_store(pages: Pages, *, since: Lsn, block_size: int = BLOCK_SIZE) -> NDArray[np.bool_]:
    """For each page whether it may differ from what a backup that started at ``since`` holds of it.

    Only for main forks of permanent relations: other files change without moving an LSN. A page is left out on proof
    alone: its LSN is that of a record before ``since`` (a page's LSN is its last record's end, so one at ``since`` was
    written before; it is stored all the same), and its header is one that PostgreSQL writes. So new pages, pages that
    never had a record (LSN 0), and pages whose header is damaged are all to be stored. ValueError as for ``page_lsns``.
    """
    # Three words of a page are all that is looked at. Taken out in one go, each page costs one line of the cache.
    headers = _split(pages, block_size, np.dtype("<u8"))[:, : _HEADER_BYTES // 8].copy()
    halves, words = headers.view("<u4"), headers.view("<u2")
    lsns = np.left_shift(halves[:, 0], 32, dtype=np.uint64)
    np.bitwise_or(lsns, halves[:, 1], out=lsns)
    # LSN 0 becomes the largest number there is.
    np.subtract(lsns, 1, out=lsns)
    store: NDArray[np.bool_] = np.greater_equal(lsns, np.uint64(max(since, 1) - 1))
    lower, upper, special = words[:, _LOWER_WORD], words[:, _UPPER_WORD], words[:, _SPECIAL_WORD]
    for is_insane in (
        lower < _HEADER_BYTES,
        lower > upper,
        upper > special,
        special > block_size,
        special & 7,
        words[:, _FLAGS_WORD] & ~np.uint16(_VALID_FLAGS),
        words[:, _SIZE_VERSION_WORD] != block_size | _LAYOUT_VERSION,
    ):
        np.logical_or(store, is_insane, out=store)
    return store


def all_visible(pages: Pages, *, block_size: int = BLOCK_SIZE) -> NDArray[np.bool_]:
    """For each page whether it says that all its rows are visible to everybody (PD_ALL_VISIBLE).

    Where hints are not in the WAL, the server sets this together with a bit of the visibility map and moves the LSN of
    the map's page only (visibilitymap_set). ValueError as for ``page_lsns``.
    """
    flags = _split(pages, block_size, np.dtype("<u2"))[:, _FLAGS_WORD]
    return (flags & np.uint16(_ALL_VISIBLE)).astype(np.bool_)


def _sum_pages(words: NDArray[np.uint32], work: ChecksumWork) -> NDArray[np.uint32]:
    """pg_checksum_block of each page; ``words`` has the shape (pages, rows, 32)."""
    sums, shifted = work.sums[: len(words)], work.shifted[: len(words)]
    # Short names and positional ``out``: these lines run 260 times for 256 pages and calling is a third of the cost.
    xor, shift, multiply = np.bitwise_xor, np.right_shift, np.multiply
    rows = iter(words.transpose(1, 0, 2))
    np.copyto(sums, next(rows))
    sums[:, _CHECKSUM_COLUMN] &= 0xFFFF0000  # the checksum counts its own field as zero
    xor(sums, _BASE_OFFSETS, sums)
    for row in rows:
        shift(sums, _SHIFT, shifted)
        multiply(sums, _FNV_PRIME, sums)
        xor(sums, shifted, sums)
        xor(sums, row, sums)
    # The last row's own round, then two rounds of zeroes.
    for _ in range(3):
        shift(sums, _SHIFT, shifted)
        multiply(sums, _FNV_PRIME, sums)
        xor(sums, shifted, sums)
    folded: NDArray[np.uint32] = xor.reduce(sums, axis=1)
    return folded


def _find_written(words: NDArray[np.uint64], candidates: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of the candidate pages have anything on them; ``words`` has the shape (pages, words)."""
    written = np.empty(len(candidates), np.bool_)
    # In parts, because choosing pages copies them.
    for start, end in _parts(len(candidates)):
        np.any(words[candidates[start:end]], axis=1, out=written[start:end])
    return written


def _parts(count: int) -> list[tuple[int, int]]:
    """Ranges of nearly equal length, none above ``_PART_PAGES``: a short rest would cost as much as a full part."""
    parts = -(-count // _PART_PAGES)
    return list(pairwise(count * part // parts for part in range(parts + 1))) if parts else []


def _split(pages: Pages, block_size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """``pages`` as (pages, words), a view."""
    if not 1024 <= block_size <= 32768 or block_size & (block_size - 1):
        raise ValueError(f"PostgreSQL has no pages of {block_size} bytes")
    size_bytes = pages.nbytes if isinstance(pages, (memoryview, np.ndarray)) else len(pages)
    if size_bytes % block_size:
        raise ValueError(f"{size_bytes} bytes are not whole pages of {block_size} bytes")
    if not size_bytes:
        return np.empty((0, block_size // dtype.itemsize), dtype)
    return np.frombuffer(pages, dtype).reshape(-1, block_size // dtype.itemsize)
