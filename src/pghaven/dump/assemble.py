"""From what workers report and the files there were to the columns of a manifest.

The one idea: files are numbered as they appear, in whatever order pg_dump writes them, and put in a manifest's order
once all are known.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pghaven.backup.gather import KNOWN_PACKS
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.repository.blockmap import HOLE, BlockMap, Placements, used_packs
from pghaven.repository.manifest import HASH_BYTES, FileColumns
from pghaven.repository.mapmaking import build_block_map
from pghaven.repository.pack import PackRef
from pghaven.runtime.names import Names

_TYPES = "IQQIQ"
_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """The files of a dump, where their bytes lie, the packs these need; ``written_bytes`` are those of new packs."""

    files: FileColumns
    block_map: BlockMap
    packs: tuple[PackRef, ...]
    written_bytes: int


class Assembly:
    """Takes files and results in any order; ``finish`` is called once, after all workers have closed.

    ``known`` are the packs of an earlier dump, ``moment`` what the files are given as their time.
    """

    def __init__(self, known: Sequence[PackRef], moment: datetime) -> None:
        self._moment = moment
        self._known = known
        self._paths: list[str] = []
        self._hashes: dict[int, bytes] = {}
        self._columns: dict[int, tuple[array[int], ...]] = {}
        self._packs: dict[int, list[PackRef]] = {}

    def add_file(self, path: str) -> int:
        """A file's number, by which pieces name it; ``path`` is relative to the dump."""
        self._paths.append(path)
        return len(self._paths) - 1

    def note_hash(self, number: int, content_hash: bytes) -> None:
        self._hashes[number] = content_hash

    def take(self, result: ReadResult | WorkerPacks) -> None:
        columns = self._columns.setdefault(result.worker, tuple(array(kind) for kind in _TYPES))
        for column, data in zip(columns, result.pieces, strict=True):
            column.frombytes(data)
        self._packs.setdefault(result.worker, []).extend(result.packs)

    def finish(self) -> Assembled:
        above = {os.fsencode(parent) for path in self._paths for parent in _above(path)}
        directories = sorted({b"", b"global"} | above)
        numbers = {directory: number for number, directory in enumerate(directories)}
        places = [os.path.split(os.fsencode(path)) for path in self._paths]
        order = sorted(range(len(places)), key=lambda at: (numbers[places[at][0]], places[at][1]))
        position = np.empty(len(order), np.uint32)
        position[order] = np.arange(len(order), dtype=np.uint32)
        written = tuple(pack for worker in sorted(self._packs) for pack in self._packs[worker])
        block_map, sizes = build_block_map(self._pieces(position, len(written)), len(order))
        packs = (*written, *self._known)
        block_map, used = used_packs(block_map, len(packs))
        count = len(order)
        hashes = b"".join(self._hashes.get(at, bytes(HASH_BYTES)) for at in order)
        files = FileColumns(
            directories=directories,
            directory_mode=np.full(len(directories), _DIRECTORY_MODE, np.uint16),
            names=Names(places[at][1] for at in order),
            directory=np.array([numbers[places[at][0]] for at in order], np.uint32),
            size=sizes,
            mode=np.full(count, _FILE_MODE, np.uint16),
            mtime_ns=np.full(count, int(self._moment.timestamp()) * 10**9, np.int64),
            owner=np.zeros(count, np.uint16),
            flags=np.zeros(count, np.uint8),
            content_hash=np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
        )
        return Assembled(
            files=files,
            block_map=block_map,
            packs=tuple(packs[number] for number in used.tolist()),
            written_bytes=sum(pack.size_bytes for pack in written),
        )

    def _pieces(self, position: npt.NDArray[np.uint32], written: int) -> Placements:
        """All pieces, with files in a manifest's order and packs counted through: new ones, then known ones."""
        parts: list[list[npt.NDArray[Any]]] = [[] for _ in _TYPES]
        base = 0
        for worker in sorted(self._columns):
            columns = [_to_numbers(one) for one in self._columns[worker]]
            pack = columns[3].astype(np.uint32)
            is_known = (pack >= KNOWN_PACKS) & (pack != HOLE)
            pack[pack < KNOWN_PACKS] += np.uint32(base)
            pack[is_known] = pack[is_known] - np.uint32(KNOWN_PACKS) + np.uint32(written)
            columns[0], columns[3] = position[columns[0]], pack
            for part, column in zip(parts, columns, strict=True):
                part.append(column)
            base += len(self._packs.get(worker, ()))
        joined = [np.concatenate(part) if part else np.zeros(0, kind) for kind, part in zip(_TYPES, parts, strict=True)]
        file, offset, length, pack_column, pack_offset = joined
        return Placements(
            file=file.astype(np.uint32),
            file_offset=offset.astype(np.uint64),
            length=length.astype(np.uint64),
            pack=pack_column.astype(np.uint32),
            pack_offset=pack_offset.astype(np.uint64),
        )


def _to_numbers(column: array[int]) -> npt.NDArray[Any]:
    return np.frombuffer(column, column.typecode) if len(column) else np.zeros(0, column.typecode)


def _above(path: str) -> list[str]:
    """All directories above a path, the dump itself not."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: at + 1]) for at in range(len(parts))]
