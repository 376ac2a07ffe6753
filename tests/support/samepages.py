"""Whether two copies of one cluster hold the same, page by page.

The one idea: a page and its copy that replayed WAL to the same point may differ only in what PostgreSQL's own
consistency check passes over (``pagemasks``). LSNs are not among that here: a page with an older one lacks a change,
whatever it looks like. Only a GiST index that 15 and 16 have built by sorting has none on disk, and has one after
replay. So both must have come to the same point of the WAL and not beyond it, since a server that is open writes hints,
each with an LSN of its own where they are in the WAL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pghaven.postgres.datadir import find_unlogged, is_relation_directory, is_unlogged_content
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.page import BLOCK_SIZE, BUILD_LSN, page_lsns, verify_pages
from pghaven.postgres.relfile import Fork, RelFile, parse_relfile
from tests.support.pagemasks import Owner, find_owner, mask_page, mask_unlogged

PAGE = BLOCK_SIZE
_SEGMENT_BLOCKS = 131072
_HEADER = 24
_ALL_VISIBLE = 0x0004
_SHOWN_MAX = 12

_OTHER_FILES = ("pg_filenode.map", "PG_VERSION")
_STATUS_DIRECTORIES = ("pg_xact", "pg_multixact/members", "pg_multixact/offsets", "pg_commit_ts", "pg_twophase")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``path`` within the data directory; ``block`` counts within the file, or is None where all of it is meant."""

    path: str
    block: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.path}" + (f" block {self.block}" if self.block is not None else "") + f": {self.what}"


def assert_same_pages(left: Path, right: Path, *, since: Lsn | None = None) -> None:
    """Both are whole: no server runs on them, or it has written everything out and nobody works with it.

    What transactions have come to must be the same too. A visibility map is held to be true, not to be the same:
    replay of CREATE DATABASE … STRATEGY wal_log leaves it empty, as images in the WAL are without the middle of pages.

    ``since`` is for a copy on the left that has replayed nothing, and its source. Pages that the source has changed
    from there on, as reading it may do, are left to the WAL; all other forks must be equal, free space too.
    """
    found = find_differences(left, right, since=since)
    if since is not None:
        found += _compare_others(left, right)
    else:
        found += _compare_named(left, right, _list_status(left) | _list_status(right))
    more = f"\n… and {len(found) - _SHOWN_MAX} more" if len(found) > _SHOWN_MAX else ""
    assert not found, f"{left} and {right} differ:\n" + "\n".join(map(str, found[:_SHOWN_MAX])) + more


def find_differences(left: Path, right: Path, *, since: Lsn | None = None) -> list[Difference]:
    """Main forks of permanent relations that differ, and visibility maps of either that are not true."""
    files = _list_main_forks(left), _list_main_forks(right)
    found: list[Difference] = []
    for path in sorted(files[0].keys() | files[1].keys()):
        missing = [side for side, known in zip((left, right), files, strict=True) if path not in known]
        if missing:
            found.append(Difference(path=path, block=None, what=f"is not in {missing[0]}"))
        else:
            found += _compare_file(left, right, path, files[0][path].first_block(_SEGMENT_BLOCKS), since)
    for side, known in zip((left, right), files, strict=True):
        found += _check_visibility(side, known)
    return found


def find_bad_checksums(root: Path) -> list[Difference]:
    """Pages of main forks that do not carry the checksum that belongs on them."""
    found = []
    for path, file in _list_main_forks(root).items():
        pages = _read_pages(root / path)
        first = file.first_block(_SEGMENT_BLOCKS)
        blocks = np.arange(first, first + len(pages), dtype=np.uint32)
        bad = verify_pages(pages.reshape(-1), blocks).tolist()
        found += [Difference(path=path, block=block, what="has a wrong checksum") for block in bad]
    return found


def _relation_directories(root: Path) -> Iterator[str]:
    for directory, _, _ in os.walk(root, followlinks=True):
        relative = os.path.relpath(directory, root)
        if is_relation_directory(relative):
            yield relative


def _list_main_forks(root: Path) -> dict[str, RelFile]:
    """The files of main forks of permanent relations, by path; those without a page tell nothing."""
    found: dict[str, RelFile] = {}
    for directory in _relation_directories(root):
        names = os.listdir(root / directory)
        unlogged = find_unlogged(names)
        for name in names:
            file = parse_relfile(name)
            if file is None or file.fork is not Fork.MAIN or is_unlogged_content(file, unlogged):
                continue
            if (root / directory / name).stat().st_size:
                found[f"{directory}/{name}"] = file
    return found


def _compare_others(left: Path, right: Path) -> list[Difference]:
    """Other forks, file maps, transaction status: everything that is not a main fork."""
    return _compare_named(left, right, _list_others(left) | _list_others(right))


def _compare_named(left: Path, right: Path, names: set[str]) -> list[Difference]:
    contents = ((name, [_read(side / name) for side in (left, right)]) for name in sorted(names))
    return [Difference(path=name, block=None, what="differs") for name, both in contents if both[0] != both[1]]


def _list_others(root: Path) -> set[str]:
    found = _list_status(root)
    for directory in _relation_directories(root):
        names = os.listdir(root / directory)
        unlogged = find_unlogged(names)
        for name in names:
            file = parse_relfile(name)
            if name in _OTHER_FILES or (
                file is not None and file.fork is not Fork.MAIN and not is_unlogged_content(file, unlogged)
            ):
                found.add(f"{directory}/{name}")
    return found


def _list_status(root: Path) -> set[str]:
    return {f"{directory}/{name}" for directory in _STATUS_DIRECTORIES for name in os.listdir(root / directory)}


def _compare_file(left: Path, right: Path, path: str, first_block: int, since: Lsn | None) -> list[Difference]:
    ours, theirs = _read_pages(left / path), _read_pages(right / path)
    both = min(len(ours), len(theirs))
    if not (_are_new(ours[both:]) and _are_new(theirs[both:])):
        return [Difference(path=path, block=None, what=f"has {len(ours)} pages, and {len(theirs)}")]
    ours, theirs = ours[:both], theirs[:both]
    changed = page_lsns(theirs.reshape(-1))
    found = []
    for block in np.flatnonzero((ours != theirs).any(axis=1)).tolist():
        if since is not None and changed[block] >= since:
            continue
        if _are_new(ours[block : block + 1]) and _are_new(theirs[block : block + 1]):
            continue
        what = find_page_difference(ours[block].tobytes(), theirs[block].tobytes(), first_block + block)
        if what is not None:
            found.append(Difference(path=path, block=block, what=what))
    return found


def find_page_difference(ours: bytes, theirs: bytes, block: int) -> str | None:
    """How two copies of a page differ, in words; None if they hold the same. ``block`` counts within the relation."""
    owner = find_owner(ours)
    lsns = tuple(page_lsns(ours + theirs).tolist())
    is_built = owner is Owner.GIST and BUILD_LSN in lsns
    if lsns[0] != lsns[1] and not is_built:
        return f"{owner} page with LSN {lsns[0]:X}, and {lsns[1]:X}"
    masked = [mask_unlogged(mask_page(page, block))[8:] for page in (ours, theirs)]
    if masked[0] == masked[1]:
        return None
    where = [8 + at for at in range(PAGE - 8) if masked[0][at] != masked[1][at]]
    return f"{owner} page with LSN {lsns[0]:X}, {len(where)} bytes differ, from {where[0]} to {where[-1]}"


def _are_new(pages: npt.NDArray[np.uint8]) -> bool:
    """Whether nothing was ever put on them: a relation is made longer by many pages at once, without a word in WAL."""
    return not pages[:, :8].any() and all(page[12] <= _HEADER for page in pages)


def _check_visibility(root: Path, files: dict[str, RelFile]) -> list[Difference]:
    """Each page that a map calls all-visible says so itself: the server clears the bit of such a page only."""
    found = []
    for path, file in files.items():
        if file.segment:
            continue
        visible = _read_visibility(root / f"{path}_vm")
        if visible is None:
            continue
        segments = [root / path]
        while (following := root / f"{path}.{len(segments)}").exists():
            segments.append(following)
        flags = np.concatenate([_read_pages(one)[:, 10:12].copy().view("<u2").reshape(-1) for one in segments])
        for block in np.flatnonzero(visible).tolist():
            if block >= len(flags):
                found.append(Difference(path=path, block=block, what=f"is past the end, but all-visible, in {root}"))
            elif not flags[block] & _ALL_VISIBLE:
                found.append(Difference(path=path, block=block, what=f"does not know it is all-visible, in {root}"))
    return found


def _read_visibility(path: Path) -> npt.NDArray[np.bool_] | None:
    """For each block whether the map calls it all-visible; None without a map."""
    if not path.exists():
        return None
    bits = _read_pages(path)[:, _HEADER:]
    return np.stack([bits >> shift & 1 for shift in (0, 2, 4, 6)], axis=2).reshape(-1).astype(bool)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _read_pages(path: Path) -> npt.NDArray[np.uint8]:
    content = path.read_bytes()
    whole = len(content) - len(content) % PAGE
    return np.frombuffer(content[:whole], np.uint8).reshape(-1, PAGE)
