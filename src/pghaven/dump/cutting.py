"""Where the data of a table is cut into frames: at the beginnings of rows that the rows themselves choose.

The one idea: from the last cut on some bytes are passed over, and the next cut is before the first row behind them that
chooses itself, by nothing but its first bytes and the length of the row before it. So after rows came or went the cuts
fall into step again, and the frames that follow are those that are stored already; and only some of the rows are looked
at. The chance is in proportion to a row's length, so frames are equally large for long and short rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pghaven.repository.codec import Buffer
from pghaven.repository.container import FRAME_BYTES

MIN_BYTES = 384 << 10
# How far behind these the next cut is in the mean.
_FURTHER_BYTES = 96 << 10
# So many bytes of a row must be there for a cut before it; by these it is known again.
LOOK_BYTES = 128
_WINDOW_BYTES = 64 << 10
_NEWLINE = 10
# Odd numbers without meaning; they must stay as they are, or nothing that is stored is found again.
_FIRST, _SECOND, _THIRD = (np.uint64(one) for one in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_SHIFT = np.uint64(29)
_CHANCE = np.uint64(2**64 // _FURTHER_BYTES)

U1 = npt.NDArray[np.uint8]
U8 = npt.NDArray[np.uint64]


def cut_rows(data: Buffer, cuts: Sequence[int] | None = None) -> Iterator[tuple[int, int]]:
    """The frames of some of a table's data, as (begin, end): of 384 KiB to 1 MiB, the last one of any size.

    ``cuts`` are the data's, where they are known already.
    """
    begin = 0
    for cut in [*(find_cuts(data) if cuts is None else cuts), len(data)]:
        while cut - begin > FRAME_BYTES:
            yield begin, begin + FRAME_BYTES
            begin += FRAME_BYTES
        if cut > begin:
            yield begin, cut
            begin = cut


def find_cuts(data: Buffer) -> list[int]:
    """Where frames begin but the first, in order: rows that are known again, or a MiB behind the cut before."""
    size = len(data)
    if size < MIN_BYTES + LOOK_BYTES:
        return []
    content = np.frombuffer(data, np.uint8)
    # Each eight bytes, from wherever they begin.
    words = np.ndarray((size - 7,), "<u8", buffer=data, strides=(1,))
    found: list[int] = []
    begin = 0
    while (begin := _find_cut(content, words, begin, size - LOOK_BYTES)) < size - LOOK_BYTES:
        found.append(begin)
    return found


def _find_cut(content: U1, words: U8, begin: int, end: int) -> int:
    """The next cut behind one; ``end`` without one."""
    last = min(begin + FRAME_BYTES, end)
    at, window = begin + MIN_BYTES, _WINDOW_BYTES
    while at < last:
        rows = np.flatnonzero(content[at : min(at + window, last)] == _NEWLINE)
        if len(rows) < 2:  # of no row both ends
            if at + window >= last:
                break
            window *= 2
            continue
        rows += at + 1
        chosen = _choose(words, rows[1:], np.diff(rows).astype(np.uint64))
        if len(chosen):
            return int(chosen[0])
        at, window = int(rows[-1]) - 1, _WINDOW_BYTES
    return last


def _choose(words: U8, begins: npt.NDArray[np.int64], lengths: U8) -> npt.NDArray[np.int64]:
    """Which of these rows choose themselves."""
    mixed = (words[begins] * _FIRST) ^ (words[begins + 8] * _SECOND) ^ lengths
    mixed = (mixed ^ (mixed >> _SHIFT)) * _THIRD
    return begins[mixed < lengths * _CHANCE]


def count_rows(data: Buffer) -> int:
    """How many rows end in the data."""
    content = np.frombuffer(data, np.uint8)
    return sum(
        int(np.count_nonzero(content[at : at + _WINDOW_BYTES] == _NEWLINE)) for at in range(0, len(data), _WINDOW_BYTES)
    )
