"""Where the data of a table is cut into frames: at the beginnings of rows that the rows themselves choose.

The one idea: whether a frame ends before a row depends on nothing but that row's first bytes and the length of the row
before it, so that after rows came or went the cuts fall into step again, and the frames that follow are those that are
stored already. The chance is in proportion to a row's length, so frames are equally large for long and short rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pghaven.repository.codec import Buffer
from pghaven.repository.container import FRAME_BYTES

MEAN_BYTES = 256 << 10
MIN_BYTES = 64 << 10
_LOOK_BYTES = 16
# So much at once stays in a processor's own memory.
_SCAN_BYTES = 512 << 10
_NEWLINE = 10
# Odd numbers without meaning; they must stay as they are, or nothing that is stored is found again.
_FIRST, _SECOND, _THIRD = (np.uint64(one) for one in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_SHIFT = np.uint64(29)
_CHANCE = np.uint64(2**64 // MEAN_BYTES)

U8 = npt.NDArray[np.uint64]


def cut_rows(data: Buffer, landmarks: Sequence[int] | None = None) -> Iterator[tuple[int, int]]:
    """The frames of some of a table's data, as (begin, end): of 64 KiB to 1 MiB, the last one of any size.

    ``landmarks`` are the data's, where they are known already.
    """
    begin = 0
    for cut in [*(find_landmarks(data) if landmarks is None else landmarks), len(data)]:
        if cut != len(data) and cut - begin < MIN_BYTES:
            continue
        while cut - begin > FRAME_BYTES:
            yield begin, begin + FRAME_BYTES
            begin += FRAME_BYTES
        if cut - begin >= MIN_BYTES or (cut == len(data) and cut > begin):
            yield begin, cut
            begin = cut


def find_landmarks(data: Buffer) -> list[int]:
    """Where rows begin that choose themselves, some four in a MiB, in order: cuts may be there, and places are known
    again by them."""
    return scan_rows(data)[0]


def scan_rows(data: Buffer) -> tuple[list[int], int]:
    """The landmarks, and how many rows end in the data."""
    size = len(data)
    if not size:
        return [], 0
    content = np.frombuffer(data, np.uint8)
    # Each eight bytes, from wherever they begin.
    words = np.ndarray((max(size - 7, 0),), "<u8", buffer=data, strides=(1,))
    found: list[int] = []
    count, last = 0, 0
    for at in range(0, size, _SCAN_BYTES):
        begins = np.flatnonzero(content[at : at + _SCAN_BYTES] == _NEWLINE)
        if not len(begins):
            continue
        begins += at + 1
        lengths = np.diff(begins, prepend=last).astype(np.uint64)
        count, last = count + len(begins), int(begins[-1])
        if last > size - _LOOK_BYTES:
            inside = begins <= size - _LOOK_BYTES
            begins, lengths = begins[inside], lengths[inside]
        found += _choose(words, begins, lengths)
    return found, count


def _choose(words: U8, begins: npt.NDArray[np.int64], lengths: U8) -> list[int]:
    """Which of these rows choose themselves."""
    if not len(begins):
        return []
    mixed = (words[begins] * _FIRST) ^ (words[begins + 8] * _SECOND) ^ lengths
    mixed = (mixed ^ (mixed >> _SHIFT)) * _THIRD
    chosen: list[int] = begins[mixed < lengths * _CHANCE].tolist()
    return chosen
