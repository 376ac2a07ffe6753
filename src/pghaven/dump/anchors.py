"""Rows by which places in a table's data are known again in the next dump: those before which its frames are cut.

The one idea: a hash of a row's beginning and how far it lies behind the last such row take eight bytes in half a MiB,
and need not be more, for nothing is believed that they say: what lies at both places is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_HASH_BYTES = 4
_STORED = np.dtype([("hash", ">u4"), ("step", ">u4")])

Anchor = tuple[int, int]
"""A row's hash, and where the row begins."""


def hash_anchor(row: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(row, digest_size=_HASH_BYTES).digest(), "big")


def render_anchors(anchors: Sequence[Anchor]) -> str:
    """Anchors of a file, in order, less than 4 GiB from one another (a row is never larger), in hexadecimal."""
    stored = np.zeros(len(anchors), _STORED)
    stored["hash"] = [one for one, _ in anchors]
    stored["step"] = np.diff(np.array([at for _, at in anchors], np.int64), prepend=0)
    return stored.tobytes().hex()


def parse_anchors(text: str) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Hashes and places. Raises ValueError for anything else."""
    stored = np.frombuffer(bytes.fromhex(text), _STORED)
    return stored["hash"].astype(np.uint32), np.cumsum(stored["step"].astype(np.int64))


class AnchorTable:
    """The anchors of all files of a dump. Memory: 16 bytes each."""

    def __init__(self, files: Sequence[tuple[int, str]]) -> None:
        """``files`` are numbers, each with what ``render_anchors`` gave. Raises ValueError."""
        parsed = [(number, *parse_anchors(text)) for number, text in files]
        hashes = np.concatenate([np.zeros(0, np.uint32), *(hashed for _, hashed, _ in parsed)])
        order = np.argsort(hashes, kind="stable")
        self._hash = hashes[order]
        self._file = np.repeat(
            np.array([number for number, _, _ in parsed], np.uint32), [len(places) for _, _, places in parsed]
        )[order]
        self._at = np.concatenate([np.zeros(0, np.int64), *(places for _, _, places in parsed)])[order]

    def find(self, wanted: int) -> list[tuple[int, int]]:
        """The files that have an anchor with this hash, each with where."""
        first = np.searchsorted(self._hash, np.uint32(wanted), "left")
        last = np.searchsorted(self._hash, np.uint32(wanted), "right")
        return list(zip(self._file[first:last].tolist(), self._at[first:last].tolist(), strict=True))
