"""Which file of the parent each file of a listing goes on from: the one with its path. Pure.

The one idea: both are in the order of their names, directory by directory, so they are merged, and no names are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pghaven.backup.listing import Listing
from pghaven.repository.manifest import FileColumns
from pghaven.runtime.names import Names
from pghaven.runtime.spill import in_parts, let_go, make_column

_NAMES_AT_ONCE = 4096


def match_files(listing: Listing, parent: FileColumns) -> npt.NDArray[np.int64]:
    """For each file of the listing the number of the file of its path in a manifest, or -1. Both are in order."""
    their_ends = np.searchsorted(parent.directory, np.arange(len(parent.directories) + 1, dtype=np.uint32))
    our_ends = np.searchsorted(
        listing.directory.to_array(), np.arange(len(listing.directories) + 1, dtype=np.uint32)
    ).tolist()
    directories = {path: number for number, path in enumerate(parent.directories)}
    found = make_column(len(listing.names), np.int64)
    found[:] = -1
    for number, path in enumerate(listing.directories):
        there = directories.get(os.fsencode(path))
        if there is None:
            continue
        at, end = int(their_ends[there]), int(their_ends[there + 1])
        theirs = _iter_names(parent.names, at, end)
        name = next(theirs, None)
        for ours, wanted in enumerate(_iter_names(listing.names, *our_ends[number : number + 2]), our_ends[number]):
            while name is not None and name < wanted:
                name, at = next(theirs, None), at + 1
            if name == wanted:
                found[ours] = at
        let_go()
    return found


def _iter_names(names: Names, first: int, end: int) -> Iterator[bytes]:
    for start in range(first, end, _NAMES_AT_ONCE):
        yield from names[start : min(start + _NAMES_AT_ONCE, end)]


def iter_with_one(counterpart: npt.NDArray[np.int64]) -> Iterator[int]:
    """The files that have a counterpart."""
    for part in in_parts(len(counterpart)):
        yield from (np.flatnonzero(counterpart[part] >= 0) + part.start).tolist()
