"""How a manifest's columns lie in its plain bytes.

The one idea: a column is cut into planes, all lowest bytes first, because neighbouring numbers share their high bytes
and zstd likes that; it is written and read some rows at a time, so that no column is in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pghaven.repository.codec import Buffer
from pghaven.repository.container import FRAME_BYTES
from pghaven.runtime.spill import in_parts, make_column


def iter_byte_planes(column: npt.NDArray[Any], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """All lowest bytes, then all second ones, …, a frame's worth at a time."""
    frame = bytearray()
    for plane in range(dtype.itemsize):
        for part in in_parts(len(column)):
            numbers = column[part].astype(dtype, copy=False)
            frame += numbers.view(np.uint8)[plane :: dtype.itemsize].tobytes()
            if len(frame) >= FRAME_BYTES:
                yield bytes(frame[:FRAME_BYTES])
                del frame[:FRAME_BYTES]
    if frame:
        yield bytes(frame)


def read_column(plain: Buffer, place: tuple[int, int], dtype: str) -> npt.NDArray[Any]:
    """``place`` is where it begins and how many numbers it has. Raises ValueError."""
    offset, count = place
    width = np.dtype(dtype).itemsize
    if offset < 0 or count < 0 or offset + count * width > len(plain):
        raise ValueError("a column lies outside the manifest")
    planes = np.frombuffer(plain, np.uint8, count * width, offset).reshape(width, count)
    column = make_column(count, dtype)
    as_bytes = column.view(np.uint8).reshape(count, width)
    for part in in_parts(count):
        as_bytes[part] = planes[:, part].T
    return column


def read_blob(plain: memoryview, place: tuple[int, int]) -> memoryview:
    """``place`` is where it begins and how long it is. Raises ValueError."""
    offset, length = place
    if offset < 0 or length < 0 or offset + length > len(plain):
        raise ValueError("a column lies outside the manifest")
    return plain[offset : offset + length]


def iter_lines(relations: Buffer) -> Iterator[bytes]:
    """The lines of a manifest's relations, without their ends."""
    rest = b""
    for part in in_parts(len(relations), FRAME_BYTES):
        *lines, rest = (rest + bytes(relations[part])).split(b"\n")
        yield from lines
    if rest:
        yield rest
