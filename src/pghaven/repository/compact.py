"""Compaction: the live parts of packs that are mostly dead, written anew, and the backups' maps with them.

    plan → intent (its sources) → their states → their manifests → packs → generations → decision

The one idea: a compaction is a writer like a backup, and follows the same rules (``docs/design/removal.md``). Until its
decision nothing counts of what it wrote, with it all backups switch at one moment; what is superseded goes by and by,
with later collecting. So it may stop anywhere, and two at once only waste work.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged, Locked, ObjectMissing, PghavenError
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import used_packs
from pghaven.repository.collectplan import LIVE
from pghaven.repository.container import CELL_BYTES, FRAME_BYTES
from pghaven.repository.entry import (
    BackupEntry,
    BackupState,
    Intent,
    ManifestPlace,
    Purpose,
    parse_generation,
    render_generation,
)
from pghaven.repository.liveness import SIGN_OF_LIFE_SECONDS, seems_dead
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PACK_BYTES, PackRef, PackWriter, iter_pack_frames, load_pack_index
from pghaven.repository.packtable import join_packs
from pghaven.repository.relocate import LiveBytes, Moves, PackLine, relocate
from pghaven.repository.unreadable import advise
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.units import render_time, render_time_utc

# Writing a pack's live part f anew costs f and frees 1 - f of it: at one half each byte written frees one. Packs that
# are left alone are at least half alive, so what is stored is at most twice what is needed, and while the superseded
# packs stay for the grace period, three halves of what these packs were.
LIVE_SHARE_MAX = 0.5
# Every manifest that refers to such a pack is written anew too, so it must be worth that.
FREED_BYTES_MIN = 16 << 20
# What one compaction writes at the most, so that it ends in hours: what is left is for the next one.
LIVE_BYTES_MAX = 256 << 30
# And only this part of the room there is: the rest is for the WAL and the backups of the grace period.
FREE_SHARE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionRules:
    """Packs of which less than ``live_share_max`` of the plain bytes is in use are written anew, the deadest first, at
    most ``live_bytes_max`` in all, if that frees at least ``freed_bytes_min``. ``is_dead`` judges other writers."""

    live_share_max: float = LIVE_SHARE_MAX
    freed_bytes_min: int = FREED_BYTES_MIN
    live_bytes_max: int = LIVE_BYTES_MAX
    pack_bytes: int = PACK_BYTES
    level: int = 3
    is_dead: Callable[[BackupEntry, datetime], bool] = seems_dead


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsePack:
    """A pack that is worth writing anew; ``live_bytes`` of its plain bytes are in use."""

    pack: PackRef
    live_bytes: int

    @property
    def freed_bytes(self) -> int:
        """About what that frees of the store: dead bytes are taken to be as compressible as live ones."""
        return self.pack.size_bytes - self.pack.size_bytes * self.live_bytes // self.pack.plain_length


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionPlan:
    """What is to be written anew, and the backups whose maps change with it."""

    packs: tuple[SparsePack, ...]
    backups: tuple[str, ...]

    @property
    def live_bytes(self) -> int:
        return sum(one.live_bytes for one in self.packs)

    @property
    def freed_bytes(self) -> int:
        return sum(one.freed_bytes for one in self.packs)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionResult:
    """What a compaction did. Packs are superseded once the grace period is over; ``damaged`` says which could not be
    read and why, and these stay as they are."""

    label: str
    superseded: tuple[PackRef, ...]
    written: tuple[PackRef, ...]
    backups: tuple[str, ...]
    damaged: tuple[str, ...]

    @property
    def written_bytes(self) -> int:
        return sum(pack.size_bytes for pack in self.written)


class Compactor:
    """Compacts the packs of one cluster's backups.

    Memory: what the largest manifest takes, and what the packs that are mostly dead have of runs in all maps; and two
    packs.
    """

    def __init__(self, catalog: BackupCatalog, rules: CompactionRules) -> None:
        self._catalog = catalog
        self._repository = catalog.repository
        self._rules = rules

    def plan(self, going: AbstractSet[str] = frozenset()) -> CompactionPlan:
        """Which packs are mostly dead, over the maps of all backups that are or can be brought back. Raises Damaged.

        Empty when it is not worth it. ``going`` are backups that will be no more when the plan is carried out.
        """
        line = PackLine()
        # Whole cells are moved, so a cell of which anything is in use counts: what was moved is not found sparse again.
        live = LiveBytes(line, dense_at=self._rules.live_share_max, grain=CELL_BYTES)
        users: list[tuple[str, npt.NDArray[np.int64]]] = []
        for entry in reversed(self._read_live()):  # the newest use most, and then the others need not be counted
            if entry.label in going:
                continue
            manifest = self._catalog.load_manifest(entry)
            line.add(manifest.packs)
            live.add(manifest.block_map, manifest.packs)
            users.append((entry.label, line.numbers_of(manifest.packs)))
        sparse = {
            number: SparsePack(pack=line.packs[number], live_bytes=size)
            for number, size in live.bytes_of_sparse().items()
        }
        chosen: list[int] = []
        left = self._find_room()
        for number in sorted(sparse, key=lambda one: sparse[one].live_bytes / sparse[one].pack.plain_length):
            if sparse[number].live_bytes <= left:
                chosen.append(number)
                left -= sparse[number].live_bytes
        if sum(sparse[number].freed_bytes for number in chosen) < self._rules.freed_bytes_min:
            chosen = []
        return CompactionPlan(
            packs=tuple(sparse[number] for number in chosen),
            backups=tuple(label for label, numbers in reversed(users) if np.isin(chosen, numbers).any()),
        )

    def _find_room(self) -> int:
        """How much may be written: what is superseded is not free at once, and a store that is full takes no WAL."""
        free_bytes = self._repository.store.free_bytes()
        most = self._rules.live_bytes_max
        return most if free_bytes is None else min(most, free_bytes // FREE_SHARE)

    def run(self, plan: CompactionPlan, label: str, who: ProcessIdentity) -> CompactionResult:
        """Carry out a plan, under a label of its own.

        Raises Locked when another compaction is at work, Cancelled when this one was given up by somebody else, Damaged
        for a manifest that cannot be read; then nothing has changed.
        """
        self._make_way()
        work = _Work(self._catalog, self._rules, plan, label)
        work.announce(who)
        with self._abandoned_on_failure(label):
            return work.run()

    def _read_live(self) -> list[BackupEntry]:
        found = []
        for entry in (one for one in self._catalog.list_labels() if one.has_files):
            if entry.state is BackupState.DAMAGED:
                raise Damaged(f"nothing can be compacted: {entry.reason}", hint=advise(self._catalog, entry.label))
            found += [entry] if entry.state in LIVE else []
        return found

    def _make_way(self) -> None:
        """Two at once would both be right, and one of them in vain."""
        for entry in self._catalog.list_labels():
            is_other = (entry.purpose, entry.state) == (Purpose.COMPACTION, BackupState.UNDECIDED)
            if is_other and entry.intent is not None and not self._rules.is_dead(entry, self._repository.clock.now()):
                raise Locked(
                    f'a compaction of "{self._catalog.cluster}" is running: process {entry.intent.who.pid} on host '
                    f'"{entry.intent.who.host}", since {render_time(entry.intent.started_at)}',
                    hint="Wait until it is done, or end that process.",
                )

    @contextmanager
    def _abandoned_on_failure(self, label: str) -> Iterator[None]:
        """Say in the repository that this compaction will not be, so that nobody has to find out."""
        try:
            yield
        except BaseException as error:
            reason = error.message if isinstance(error, PghavenError) else f"interrupted ({type(error).__name__})"
            with suppress(PghavenError):
                self._catalog.abandon(label, reason)
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A backup whose map changes, and the manifest that is changed."""

    entry: BackupEntry
    place: ManifestPlace


class _Work:
    """One compaction under its label."""

    def __init__(self, catalog: BackupCatalog, rules: CompactionRules, plan: CompactionPlan, label: str) -> None:
        self._catalog = catalog
        self._rules = rules
        self._plan = plan
        self._label = label
        self._clock = catalog.repository.clock
        self._signs = 0
        self._next_sign = 0.0

    def announce(self, who: ProcessIdentity) -> None:
        self._catalog.announce(
            self._label,
            Intent(
                who=who,
                started_at=self._clock.now(),
                system_identifier=0,
                timeline=0,
                start_lsn="0/0",
                parent=None,
                sources=self._plan.backups,
                purpose=Purpose.COMPACTION,
            ),
        )
        self._next_sign = self._clock.monotonic() + SIGN_OF_LIFE_SECONDS

    def run(self) -> CompactionResult:
        sources = self._read_sources()
        line = PackLine(sorted((one.pack for one in self._plan.packs), key=lambda pack: (pack.label, pack.id)))
        live = LiveBytes(line)
        for source in sources:
            manifest = self._catalog.load_manifest(source.entry, source.place)
            live.add(manifest.block_map, manifest.packs)
            self._sign_of_life()
        moves, written, damaged = self._move(line, live)
        moved = PackLine(line.packs)
        moved.forget(damaged)
        generations = {}
        for source in sources:
            self._sign_of_life()
            manifest = self._catalog.load_manifest(source.entry, source.place)
            if (moved.numbers_of(manifest.packs) >= 0).any():
                part = render_generation(_next_generation(source.entry), self._label)
                changed = _rewrite(manifest, moved, moves, written)
                generations[source.entry.label], _ = self._catalog.store_manifest(source.entry.label, part, changed)
        self._decide(generations)
        return CompactionResult(
            label=self._label,
            superseded=tuple(pack for number, pack in enumerate(line.packs) if number not in damaged),
            written=written,
            backups=tuple(generations),
            damaged=tuple(damaged.values()),
        )

    def _read_sources(self) -> list[_Source]:
        """Those of the backups that were named which nobody has given up, and the manifests they have by now."""
        found = []
        for label in self._plan.backups:
            entry = self._catalog.read_entry(label)
            if entry.state in LIVE:
                found.append(_Source(entry=entry, place=next(self._catalog.iter_manifests(entry))))
        return found

    def _move(self, line: PackLine, live: LiveBytes) -> tuple[Moves, tuple[PackRef, ...], dict[int, str]]:
        """Write what is in use of each pack; also returns the new packs, and by number the packs that are damaged."""
        place = self._catalog.pack_place
        writer = PackWriter(
            place, self._label, level=self._rules.level, pack_bytes=self._rules.pack_bytes, in_background=False
        )
        filler = _FrameFiller(writer)
        damaged: dict[int, str] = {}
        for number, pack in enumerate(line.packs):
            self._sign_of_life()
            try:
                index = load_pack_index(place, pack)
                pieces = _cut(index.plain_offsets, live.intervals_of(number).tolist())
                for frame, plain in iter_pack_frames(place, pack, index, list(pieces)):
                    for first, last in pieces[frame]:
                        begin = line.begin_of(number) + index.plain_offsets[frame] + first
                        filler.add(begin, memoryview(plain)[first:last])
            except (Damaged, ObjectMissing) as error:
                damaged[number] = error.message
        moves = filler.close()
        return moves, writer.close(), damaged

    def _decide(self, generations: dict[str, str]) -> None:
        body = {
            "decision": "commit",
            "manifest": "",
            "summary": {},
            "generations": generations,
            "written_at": render_time_utc(self._clock.now()),
        }
        self._catalog.decide(self._label, body)

    def _sign_of_life(self) -> None:
        if self._clock.monotonic() >= self._next_sign:
            self._signs += 1
            self._catalog.sign_of_life(self._label, self._signs)
            self._next_sign = self._clock.monotonic() + SIGN_OF_LIFE_SECONDS


def _cut(plain_offsets: tuple[int, ...], intervals: Iterable[tuple[int, int]]) -> dict[int, list[tuple[int, int]]]:
    """By frame, the pieces of it (begin, end) that hold these bytes of a pack: whole cells, so that they stay cells."""
    pieces: dict[int, list[tuple[int, int]]] = {}
    frame = 0
    for begin, end in intervals:
        while plain_offsets[frame + 1] <= begin:
            frame += 1
        at = frame
        while at + 1 < len(plain_offsets) and plain_offsets[at] < end:
            start, length = plain_offsets[at], plain_offsets[at + 1] - plain_offsets[at]
            first = max(begin - start, 0) // CELL_BYTES * CELL_BYTES
            last = min(-(-min(end - start, length) // CELL_BYTES) * CELL_BYTES, length)
            ours = pieces.setdefault(at, [])
            if ours and first <= ours[-1][1]:
                ours[-1] = (ours[-1][0], max(last, ours[-1][1]))
            else:
                ours.append((first, last))
            at += 1
    return pieces


class _FrameFiller:
    """Puts pieces one after another into frames of full size, each piece at the beginning of a cell."""

    def __init__(self, writer: PackWriter) -> None:
        self._writer = writer
        self._buffer = bytearray(FRAME_BYTES)
        self._used = 0
        self._pieces: list[tuple[int, int, int]] = []
        self._columns = (array("Q"), array("Q"), array("I"), array("Q"))

    def add(self, begin: int, data: memoryview) -> None:
        """Add the bytes that lie at ``begin`` of the line; begins only go up."""
        done = 0
        while done < len(data):
            at = -(-self._used // CELL_BYTES) * CELL_BYTES
            if at >= FRAME_BYTES:
                self._flush()
                at = 0
            size = min(len(data) - done, FRAME_BYTES - at)
            self._buffer[self._used : at] = bytes(at - self._used)
            self._buffer[at : at + size] = data[done : done + size]
            self._pieces.append((begin + done, size, at))
            self._used = at + size
            done += size

    def close(self) -> Moves:
        """Write the last frame; returns where everything is now."""
        self._flush()
        begin, length, pack, offset = self._columns
        return Moves(
            begin=np.array(begin, np.uint64),
            length=np.array(length, np.uint64),
            pack=np.array(pack, np.uint32),
            offset=np.array(offset, np.uint64),
        )

    def _flush(self) -> None:
        if self._used:
            pack, offset = self._writer.append(memoryview(self._buffer)[: self._used])
            for begin, length, at in self._pieces:
                for column, value in zip(self._columns, (begin, length, pack, offset + at), strict=True):
                    column.append(value)
        self._used = 0
        self._pieces.clear()


def _rewrite(manifest: Manifest, line: PackLine, moves: Moves, written: tuple[PackRef, ...]) -> Manifest:
    """The same backup over the packs that were written."""
    block_map = relocate(manifest.block_map, manifest.packs, line, moves)
    packs = join_packs(manifest.packs, written)
    block_map, kept = used_packs(block_map, len(packs))
    return replace(manifest, block_map=block_map, packs=packs.choose(kept))


def _next_generation(entry: BackupEntry) -> int:
    return max((found[0] for part in entry.parts if (found := parse_generation(part))), default=1) + 1
