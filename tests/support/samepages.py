"""Whether two copies of one cluster hold the same, page by page.

The one idea: a page and its copy that replayed WAL to the same point may differ only in what PostgreSQL itself does not
write to WAL: checksums, hints and unused space. These are masked as the server's own consistency check does
(``wal_consistency_checking``; bufmask.c, heap_mask, btree_mask and their like). LSNs are not: a page with an older one
lacks a change, whatever it looks like. Only a GiST index that was built by sorting has none on disk, and has one after
replay.
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

PAGE = BLOCK_SIZE
_SEGMENT_BLOCKS = 131072
_HEADER = 24
_ALL_VISIBLE = 0x0004
_VM_BLOCKS_PER_PAGE = (PAGE - _HEADER) * 4
_SHOWN_MAX = 12

# Hints of PD_HAS_FREE_LINES and PD_PAGE_FULL.
_FLAG_HINTS = 0x0003
# t_infomask: HEAP_COMBOCID, the four of HEAP_XACT_MASK, and how xmin looks when it is frozen.
_COMBOCID, _XMIN_HINTS, _XMAX_HINTS = 0x0020, 0x0300, 0x0C00
# Flags of index pages, by the number of bytes from the page's end at which they lie, and those that are hints.
_BTREE_HINTS = 0x0040 | 0x0020  # BTP_HAS_GARBAGE, BTP_SPLIT_END
_BTREE_DELETED = 0x0004
_HASH_HINTS = 0x0080  # LH_PAGE_HAS_DEAD_TUPLES
_GIST_HINTS = 0x0004 | 0x0008 | 0x0010  # F_TUPLES_DELETED, F_FOLLOW_RIGHT, F_HAS_GARBAGE
_GIN_DELETED = 0x0004
_SPGIST_META = 0x0001
_SEQUENCE_MAGIC = 0x1717
_HASH_PAGE_ID, _GIST_PAGE_ID, _SPGIST_PAGE_ID = 0xFF80, 0xFF81, 0xFF82

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

    ``since`` is for a copy on the left that has replayed nothing, and its source. Pages that the source has changed
    from there on, as reading it may do, are left to the WAL; other forks and status files must be equal too.
    """
    found = find_differences(left, right, since=since)
    if since is not None:
        found += _compare_others(left, right)
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
            found += _compare_file(left, right, path, since)
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
    names = _list_others(left) | _list_others(right)
    contents = ((name, [_read(side / name) for side in (left, right)]) for name in sorted(names))
    return [Difference(path=name, block=None, what="differs") for name, both in contents if both[0] != both[1]]


def _list_others(root: Path) -> set[str]:
    found: set[str] = set()
    for directory in _relation_directories(root):
        names = os.listdir(root / directory)
        unlogged = find_unlogged(names)
        for name in names:
            file = parse_relfile(name)
            if name in _OTHER_FILES or (
                file is not None and file.fork is not Fork.MAIN and not is_unlogged_content(file, unlogged)
            ):
                found.add(f"{directory}/{name}")
    for directory in _STATUS_DIRECTORIES:
        found.update(f"{directory}/{name}" for name in os.listdir(root / directory))
    return found


def _compare_file(left: Path, right: Path, path: str, since: Lsn | None) -> list[Difference]:
    ours, theirs = _read_pages(left / path), _read_pages(right / path)
    both = min(len(ours), len(theirs))
    if not (_are_new(ours[both:]) and _are_new(theirs[both:])):
        return [Difference(path=path, block=None, what=f"has {len(ours)} pages, and {len(theirs)}")]
    ours, theirs = ours[:both], theirs[:both]
    lsns = page_lsns(ours.reshape(-1)), page_lsns(theirs.reshape(-1))
    found = []
    for block in np.flatnonzero((ours != theirs).any(axis=1)).tolist():
        if since is not None and lsns[1][block] >= since:
            continue
        if lsns[0][block] != lsns[1][block] and BUILD_LSN not in (lsns[0][block], lsns[1][block]):
            what = f"LSN {lsns[0][block]:X}, and {lsns[1][block]:X}"
            found.append(Difference(path=path, block=block, what=what))
            continue
        masked = mask_page(ours[block].tobytes())[8:], mask_page(theirs[block].tobytes())[8:]
        if masked[0] != masked[1]:
            where = [8 + at for at in range(PAGE - 8) if masked[0][at] != masked[1][at]]
            what = f"LSN {lsns[0][block]:X}, {len(where)} bytes differ, from {where[0]} to {where[-1]}"
            found.append(Difference(path=path, block=block, what=what))
    return found


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


# -- what may differ --------------------------------------------------------------------------------------------------


def mask_page(page: bytes) -> bytes:
    """The page without what WAL does not carry."""
    masked = bytearray(page)
    lower, upper, special = (_number(page, at) for at in (12, 14, 16))
    if not _HEADER <= lower <= upper <= special <= PAGE:
        return page
    masked[8:10] = bytes(2)
    _put(masked, 10, _number(page, 10) & ~_FLAG_HINTS)
    masked[20:24] = bytes(4)
    masked[lower:upper] = bytes(upper - lower)
    if special == PAGE:
        _mask_heap(masked, lower)
    else:
        _mask_index(masked, lower, special)
    return bytes(masked)


def _mask_heap(page: bytearray, lower: int) -> None:
    for at in range(_HEADER, lower, 4):
        offset, state, length = _line_pointer(page, at)
        if state != 1 or offset + 23 > PAGE:
            continue
        infomask = _number(page, offset + 20) & ~(_COMBOCID | _XMAX_HINTS)
        if infomask & _XMIN_HINTS != _XMIN_HINTS:
            infomask &= ~_XMIN_HINTS
        _put(page, offset + 20, infomask)
        page[offset + 8 : offset + 12] = bytes(4)  # the command's number, 0 after replay
        padding = -length % 8
        page[offset + length : offset + length + padding] = bytes(padding)


def _mask_index(page: bytearray, lower: int, special: int) -> None:
    page_id = _number(page, PAGE - 2)
    if PAGE - special != 16:
        # GIN, BRIN, SP-GiST: nothing but unused space, and where an SP-GiST index last had room.
        if page_id == _SPGIST_PAGE_ID and _number(page, special) & _SPGIST_META:
            page[_HEADER + 4 : special] = bytes(special - _HEADER - 4)
        elif _number(page, special) == _SEQUENCE_MAGIC:
            page[special - 24 : special] = bytes(24)  # how far it is: WAL has it up to 32 numbers ahead
        elif page_id & ~0x00FF == 0 and page_id & _GIN_DELETED:
            page[12 : PAGE - 2] = bytes(PAGE - 14)  # replay makes it anew, empty
        return
    for at in range(_HEADER, lower, 4):
        if _line_pointer(page, at)[1]:
            page[at + 1] &= 0x7F  # both bits of lp_flags: LP_DEAD is a hint
            page[at + 2] &= 0xFE
    flags = _number(page, special + 12)
    if page_id == _HASH_PAGE_ID:
        _put(page, special + 12, flags & ~_HASH_HINTS)
    elif page_id == _GIST_PAGE_ID:
        _put(page, special + 12, flags & ~_GIST_HINTS)
        page[special : special + 8] = bytes(8)  # the NSN
    else:
        _put(page, special + 12, flags & ~_BTREE_HINTS)
        page[special + 14 : special + 16] = bytes(2)  # the cycle of a vacuum
        if flags & _BTREE_DELETED:
            page[_HEADER:special] = bytes(special - _HEADER)


def _line_pointer(page: bytearray, at: int) -> tuple[int, int, int]:
    """Offset (15 bits), state (2) and length (15)."""
    word = int.from_bytes(page[at : at + 4], "little")
    return word & 0x7FFF, word >> 15 & 3, word >> 17


def _number(page: bytes | bytearray, at: int) -> int:
    return int.from_bytes(page[at : at + 2], "little")


def _put(page: bytearray, at: int, number: int) -> None:
    page[at : at + 2] = number.to_bytes(2, "little")
