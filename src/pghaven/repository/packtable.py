"""The packs of a manifest as columns, and the packs of many manifests by their number.

The one idea: a pack is 56 bytes of columns that are not in memory where they are long (``spill``); a ``PackRef`` is
made of them when one is asked for. Packs are found by a key of label and id that sorts as bytes, so many are looked up
by one search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pghaven.repository import layout
from pghaven.repository.blockmap import U4, U8
from pghaven.repository.pack import PackPlace, PackRef
from pghaven.runtime.columns import Column
from pghaven.runtime.spill import Spool, in_parts, make_column

ID_BYTES = 32
_COLUMNS = {"writer": "u4", "size_bytes": "u8", "tail_bytes": "u4", "plain_length": "u8"}
_NOT_THERE = -1
_REFS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackTable(Sequence[PackRef]):
    """Packs in order. ``writer`` has for each the place of its label in ``labels``, ``ids`` a row of bytes.

    Equal to any sequence of the same packs.
    """

    labels: tuple[str, ...]
    writer: U4
    ids: npt.NDArray[np.uint8]
    size_bytes: U8
    tail_bytes: U4
    plain_length: U8

    @classmethod
    def of(cls, packs: Iterable[PackRef]) -> PackTable:
        if isinstance(packs, PackTable):
            return packs
        rows = PackRows()
        rows.extend(packs)
        return rows.finish()

    def __len__(self) -> int:
        return len(self.writer)

    @overload
    def __getitem__(self, at: int) -> PackRef: ...
    @overload
    def __getitem__(self, at: slice) -> PackTable: ...
    def __getitem__(self, at: int | slice) -> PackRef | PackTable:
        if isinstance(at, slice):
            return self.choose(np.arange(len(self))[at])
        number = range(len(self))[at]
        return PackRef(
            label=self.labels[self.writer[number]],
            id=self.ids[number].tobytes(),
            size_bytes=int(self.size_bytes[number]),
            tail_bytes=int(self.tail_bytes[number]),
            plain_length=int(self.plain_length[number]),
        )

    def __iter__(self) -> Iterator[PackRef]:
        for part in in_parts(len(self), _REFS_AT_ONCE):
            ids = self.ids[part].tobytes()
            columns = (self.writer, self.size_bytes, self.tail_bytes, self.plain_length)
            rows = zip(*(column[part].tolist() for column in columns), strict=True)
            for number, (writer, size, tail, plain) in enumerate(rows):
                pack_id = ids[ID_BYTES * number : ID_BYTES * (number + 1)]
                yield PackRef(
                    label=self.labels[writer], id=pack_id, size_bytes=size, tail_bytes=tail, plain_length=plain
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @property
    def total_bytes(self) -> int:
        """What all of them take in the store."""
        return int(self.size_bytes.sum())

    def choose(self, numbers: npt.NDArray[Any]) -> PackTable:
        """The packs of these numbers, in this order."""
        rows = PackRows()
        for part in in_parts(len(numbers)):
            rows.take(self, numbers[part])
        return rows.finish()

    def keys(self, labels: dict[str, int]) -> npt.NDArray[np.bytes_]:
        """What each is found by: the number of its label among ``labels``, which are added to, and its id."""
        numbers = np.array([labels.setdefault(label, len(labels)) for label in self.labels], ">u4")
        made = make_column(len(self), _KEY)
        rows = made.view(np.uint8).reshape(len(self), _KEY_BYTES)
        for part in in_parts(len(self)):
            rows[part, :4] = numbers[self.writer[part]].view(np.uint8).reshape(-1, 4)
            rows[part, 4:] = self.ids[part]
        return made


_KEY_BYTES = 4 + ID_BYTES
# Of one length, so that numpy's padding of byte strings with zeros changes no comparison.
_KEY = np.dtype(f"S{_KEY_BYTES}")


class PackRows:
    """Packs that come a few at a time, to become a table."""

    def __init__(self) -> None:
        self._labels: dict[str, int] = {}
        self._columns = {name: Column("I" if kind == "u4" else "Q") for name, kind in _COLUMNS.items()}
        self._ids = Spool()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._columns["writer"])

    def extend(self, packs: Iterable[PackRef]) -> None:
        if isinstance(packs, PackTable):
            for part in in_parts(len(packs)):
                self.take(packs, np.arange(part.start, part.stop))
            return
        for pack in packs:
            self.add(pack)

    def add(self, pack: PackRef) -> None:
        columns = self._columns
        columns["writer"].append(self._labels.setdefault(pack.label, len(self._labels)))
        columns["size_bytes"].append(pack.size_bytes)
        columns["tail_bytes"].append(pack.tail_bytes)
        columns["plain_length"].append(pack.plain_length)
        self._ids.write(pack.id)
        self.size_bytes += pack.size_bytes
        if not len(columns["writer"]) % _REFS_AT_ONCE:
            for column in columns.values():
                column.settle()

    def take(self, table: PackTable, numbers: npt.NDArray[Any]) -> None:
        """Some packs of another table, by their numbers."""
        writer = table.writer[numbers]
        theirs, first = np.unique(writer, return_index=True)
        ours = np.zeros(len(table.labels), np.uint32)
        for one in theirs[np.argsort(first)].tolist():
            ours[one] = self._labels.setdefault(table.labels[one], len(self._labels))
        self._columns["writer"].extend(ours[writer].tobytes())
        for name in ("size_bytes", "tail_bytes", "plain_length"):
            self._columns[name].extend(getattr(table, name)[numbers].astype(_COLUMNS[name], copy=False).tobytes())
        self._ids.write(table.ids[numbers])
        self.size_bytes += int(table.size_bytes[numbers].sum())

    def finish(self) -> PackTable:
        """All of them; nothing may come after it."""
        columns = {name: column.to_array() for name, column in self._columns.items()}
        ids = self._ids.to_array(np.uint8).reshape(-1, ID_BYTES)
        return PackTable(labels=tuple(self._labels), ids=ids, **columns)


def join_packs(*parts: Sequence[PackRef]) -> PackTable:
    """All packs of these, one after another."""
    rows = PackRows()
    for part in parts:
        rows.extend(part)
    return rows.finish()


class PackNumbers:
    """Packs of any number of tables, each with a number: those that were added first have the lowest.

    Some 100 bytes a pack, not in memory where there are many.
    """

    def __init__(self) -> None:
        self._labels: dict[str, int] = {}
        self._keys: npt.NDArray[np.bytes_] = np.zeros(0, _KEY)  # in order
        self._numbers: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._parts: list[PackTable] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def table(self) -> PackTable:
        """All of them, by their numbers."""
        if len(self._parts) != 1:
            self._parts = [join_packs(*self._parts)]
        return self._parts[0]

    def add(self, packs: Sequence[PackRef]) -> npt.NDArray[np.int64]:
        """The number of each of these packs, of which those that are new get the next ones."""
        table = PackTable.of(packs)
        keys = table.keys(self._labels)
        new = PackRows()
        for part in in_parts(len(keys)):
            missing = np.flatnonzero(self._search(keys[part]) == _NOT_THERE)
            if len(missing):
                _, first = np.unique(keys[part][missing], return_index=True)
                added = missing[np.sort(first)] + part.start  # a table may name a pack twice
                new.take(table, added)
                self._merge(keys[added], np.arange(self._count, self._count + len(added)))
                self._count += len(added)
        self._parts += [new.finish()] if len(new) else []
        return self._search(keys)

    def find_all(self, packs: Sequence[PackRef]) -> npt.NDArray[np.int64]:
        """The number of each of these packs, -1 for those that were not added."""
        return self._search(PackTable.of(packs).keys(self._labels))

    def find(self, label: str, pack_id: bytes) -> int:
        """The number of this pack, -1 when it was not added."""
        number = self._labels.get(label)
        if number is None or not len(self._keys):
            return _NOT_THERE
        key = np.frombuffer(number.to_bytes(4, "big") + pack_id, _KEY)[0]
        at = int(np.searchsorted(self._keys, key))
        return int(self._numbers[at]) if at < len(self._keys) and self._keys[at] == key else _NOT_THERE

    def _search(self, keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = make_column(len(keys), np.int64)
        for part in in_parts(len(keys)):
            if not len(self._keys):
                found[part] = _NOT_THERE
                continue
            at = np.minimum(np.searchsorted(self._keys, keys[part]), len(self._keys) - 1)
            found[part] = np.where(self._keys[at] == keys[part], self._numbers[at], _NOT_THERE)
        return found

    def _merge(self, keys: npt.NDArray[np.bytes_], numbers: npt.NDArray[np.int64]) -> None:
        order = np.argsort(keys, kind="stable")
        keys, numbers = keys[order], numbers[order]
        place = np.searchsorted(self._keys, keys) + np.arange(len(keys))
        is_new = np.zeros(len(self._keys) + len(keys), bool)
        is_new[place] = True
        merged, renumbered = make_column(len(is_new), _KEY), make_column(len(is_new), np.int64)
        begin = 0
        for part in in_parts(len(is_new)):
            old = part.start - begin
            end = begin + int(np.count_nonzero(is_new[part]))
            for made, added, kept in ((merged, keys, self._keys), (renumbered, numbers, self._numbers)):
                made[part][is_new[part]] = added[begin:end]
                made[part][~is_new[part]] = kept[old : part.stop - end]
            begin = end
        self._keys, self._numbers = merged, renumbered


def find_short_pack(place: PackPlace, packs: Sequence[PackRef]) -> tuple[PackRef, bool] | None:
    """One of these that the store has not at its full length, and whether it has anything of it; None when all are
    whole. By names and sizes alone."""
    numbers = PackNumbers()
    numbers.add(packs)
    table = numbers.table
    found: npt.NDArray[np.int64] = make_column(len(table), np.int64)
    for label in sorted(table.labels):
        prefix = layout.packs_prefix(place.cluster)
        for info in place.store.list(layout.packs_prefix(place.cluster, label)):
            key = layout.parse_pack_name(info.name.removeprefix(prefix))
            if key is not None and (number := numbers.find(*key)) >= 0:
                found[number] = info.size_bytes
    short = np.flatnonzero(found.astype(np.uint64) < table.size_bytes)
    return (table[int(short[0])], bool(found[short[0]])) if len(short) else None
