"""Partials: what a receiver has got of a segment that the server has not finished, kept in the repository.

The one idea: nothing is overwritten, so an unfinished segment is kept as pieces. Each piece is one receiver's and says
from where to where it reaches; pieces of one receiver that follow one another from the segment's start are its partial,
and never is one receiver's continued with another's, which may have listened to another server. The segment itself
takes the place of all of them when it is archived.

A partial counts only where its segment is not held and no later one of its timeline is: see ``wal.get`` and
``restore.plan``. Removing pieces is never needed for being right, only for space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pghaven.errors import Damaged, ObjectMissing, StoreUnreachable
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.postgres.waldata import LONG_HEADER_SIZE, parse_page_header
from pghaven.repository import layout
from pghaven.repository.ledger import Walk, list_legs
from pghaven.repository.walstore import WalArchive

_NAME = re.compile(r"([0-9A-F]{24})/([0-9a-f]{8})-([0-9A-F]{8})-([0-9A-F]{8})", re.ASCII)
_READS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The bytes of ``segment`` from offset ``begin`` up to ``end``; ``receiver`` is the eight hexadecimal digits of
    whoever received them."""

    segment: SegmentName
    receiver: str
    begin: int
    end: int

    @property
    def label(self) -> str:
        return f"{self.segment}/{self.receiver}-{self.begin:08X}-{self.end:08X}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """One receiver's part of a segment: ``pieces`` follow one another from the segment's start, and may overlap."""

    segment: SegmentName
    pieces: tuple[Piece, ...]
    archive: WalArchive = field(compare=False, repr=False)

    @property
    def end_lsn(self) -> Lsn:
        """The first position that it does not have."""
        return Lsn(self.segment.start_lsn + self.pieces[-1].end)

    def read(self) -> bytes:
        """The proven bytes, and zeros up to a whole segment, which the server takes for the end of WAL.

        Raises ObjectMissing when a piece has been removed meanwhile (then there is something better), Damaged.
        """
        content = bytearray()
        for piece in self.pieces:
            part = self.archive.get_at(_name_of(self.archive, piece), piece.label)
            if len(part) != piece.end - piece.begin:
                raise Damaged(f'"{_name_of(self.archive, piece)}" is damaged: it has {len(part)} bytes')
            content[piece.begin :] = part
        return bytes(content) + bytes(self.segment.segment_size - len(content))

    def read_facts(self) -> Mapping[str, Any]:
        """What was kept beside its last piece, which speaks of all of it. Raises ObjectMissing, Damaged."""
        return self.archive.read_facts_at(_name_of(self.archive, self.pieces[-1]))


def put_piece(archive: WalArchive, piece: Piece, content: bytes, facts: Mapping[str, Any]) -> None:
    """Keep a piece; durable when it returns. Raises Conflict when its name holds something else."""
    archive.put_at(_name_of(archive, piece), piece.label, content, facts)


def list_pieces(archive: WalArchive, timeline: Timeline) -> Iterator[tuple[Piece, int]]:
    """Every piece held of one timeline with its stored size in bytes, by segment."""
    prefix = layout.partials_prefix(archive.cluster, archive.system_identifier)
    for info in archive.store.list(f"{prefix}{timeline.hex8}/"):
        match = _NAME.fullmatch(info.name.removeprefix(f"{prefix}{timeline.hex8}/"))
        piece = None if match is None else _parse(match, archive.segment_size)
        if piece is not None:
            yield piece, info.size_bytes


def list_partial_timelines(archive: WalArchive) -> tuple[Timeline, ...]:
    """The timelines of which there are any pieces."""
    prefix = layout.partials_prefix(archive.cluster, archive.system_identifier)
    children = archive.store.list_children(prefix)
    return tuple(Timeline(int(child[:8], 16)) for child in children if layout.TIMELINE_FOLDER.fullmatch(child))


def find_newest_partial(archive: WalArchive, timeline: Timeline) -> Partial | None:
    """The partial of the last segment of a timeline that has any; of several receivers' the one that reaches furthest.

    Whether it is the end of its timeline is for the caller to see: no segment from its own on may be held.
    """
    return max(
        (found for member in archive.list_members(timeline) if (found := _find_newest(member, timeline))),
        key=lambda partial: partial.end_lsn,
        default=None,
    )


def read_partial(archive: WalArchive, segment: SegmentName) -> tuple[Partial, bytes] | None:
    """The newest partial of its timeline, if it is of this segment, with its bytes padded to a whole segment.

    None also when it goes because the segment itself was archived: look for that first, and again. Raises Damaged,
    StoreUnreachable.
    """
    for _ in range(_READS):
        partial = find_newest_partial(archive, segment.timeline)
        if partial is None or partial.segment != segment:
            return None
        try:
            return partial, partial.read()
        except ObjectMissing:
            continue  # its receiver has put larger pieces in the place of those
    raise StoreUnreachable(f'could not read the partial of "{segment}": its pieces change too fast')


def get_or_partial(archive: WalArchive, segment: SegmentName) -> bytes:
    """The segment, or its partial padded to a whole one. Raises ObjectMissing, Damaged, StoreUnreachable."""
    try:
        return archive.get(str(segment))
    except ObjectMissing:
        found = read_partial(archive, segment)
        # It may have been finished, archived and removed between the two.
        return archive.get(str(segment)) if found is None else found[1]


def read_facts_or_partial(archive: WalArchive, segment: SegmentName) -> Mapping[str, Any]:
    """What is kept beside the segment, or beside its partial. Raises ObjectMissing, Damaged, StoreUnreachable."""
    for _ in range(_READS):
        try:
            return archive.read_facts(str(segment))
        except ObjectMissing:
            partial = find_newest_partial(archive, segment.timeline)
            if partial is not None and partial.segment == segment:
                with suppress(ObjectMissing):  # its receiver has put larger pieces in the place of those
                    return partial.read_facts()
    return archive.read_facts(str(segment))


def find_partials(archive: WalArchive, timelines: Iterable[Timeline]) -> dict[Timeline, Partial]:
    """The newest partial of each timeline that has one, also of timelines of which nothing else is held."""
    found = {one: find_newest_partial(archive, one) for one in {*timelines, *list_partial_timelines(archive)}}
    return {timeline: partial for timeline, partial in found.items() if partial is not None}


def extend_walk(walk: Walk, history: History, partials: Mapping[Timeline, Partial]) -> Walk:
    """The same walk, ending in the partial of the segment that it ends before; or in an ancestor's of that number,
    which leads up to where its timeline was left. Pure."""
    if walk.beyond:
        return walk
    missing = walk.first_missing
    for leg in reversed(list_legs(history)):
        partial = partials.get(leg.timeline)
        if leg.timeline > missing.timeline or partial is None or partial.segment.number != missing.number:
            continue
        end = partial.end_lsn if leg.end_lsn is None else min(partial.end_lsn, leg.end_lsn)
        if end > walk.end_lsn:
            return replace(walk, tail=partial.segment, end_lsn=end)
    return walk


def parse_piece(archive: WalArchive, name: str) -> Piece | None:
    """The piece that an object below ``partials_prefix`` is, by its whole name; None for what is none."""
    timeline, _, label = name.removeprefix(
        layout.partials_prefix(archive.cluster, archive.system_identifier)
    ).partition("/")
    match = _NAME.fullmatch(label)
    piece = None if match is None else _parse(match, archive.segment_size)
    return piece if piece is not None and piece.segment.timeline.hex8 == timeline else None


def name_piece(archive: WalArchive, piece: Piece) -> str:
    """The name of its object."""
    return _name_of(archive, piece)


def prove_piece(archive: WalArchive, piece: Piece, *, contents: bool) -> int:
    """Read a piece as whoever restores from it would; how many of its bytes were proven. Without ``contents`` only what
    stands beside them is read. Raises ObjectMissing, Damaged naming the object."""
    name = _name_of(archive, piece)
    facts = archive.read_facts_at(name)
    if (facts.get("name"), facts.get("size")) != (piece.label, piece.end - piece.begin):
        raise Damaged(f'"{name}" is damaged: it is not the piece it is named as')
    if not contents:
        return 0
    content = archive.get_at(name, piece.label)
    if len(content) != piece.end - piece.begin:
        raise Damaged(f'"{name}" is damaged: it has {len(content)} bytes')
    if not piece.begin:
        _require_own(archive, name, content)
    return len(content)


def _require_own(archive: WalArchive, name: str, content: bytes) -> None:
    """Raises Damaged for the beginning of another cluster's segment."""
    header = parse_page_header(content) if len(content) >= LONG_HEADER_SIZE else None
    if header is not None and header.system_identifier not in (archive.system_identifier, None):
        raise Damaged(f'"{name}" is damaged: it is of system identifier {header.system_identifier}')


def remove_pieces(archive: WalArchive, pieces: Iterable[Piece]) -> None:
    """Remove these; those that are gone are passed over."""
    for piece in pieces:
        archive.store.delete(_name_of(archive, piece))


def iter_needless_pieces(
    archive: WalArchive, judged: Collection[Timeline], is_kept: Callable[[SegmentName], bool]
) -> Iterator[tuple[Piece, int]]:
    """The pieces that nobody misses, with their stored sizes: their segment is held, a larger one of their receiver
    covers them, or they lie on one of the ``judged`` timelines and their segment need not be kept."""
    for timeline in list_partial_timelines(archive):
        pieces = list(list_pieces(archive, timeline))
        held = {one for one in {piece.segment for piece, _ in pieces} if archive.exists(str(one))}
        for piece, size_bytes in pieces:
            is_passed = timeline in judged and not is_kept(piece.segment)
            if piece.segment in held or is_passed or any(_covers(other, piece) for other, _ in pieces):
                yield piece, size_bytes


def join_pieces(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """As few of one receiver's pieces of one segment as reach furthest from its start; none without the first. Pure."""
    chosen: list[Piece] = []
    reach = 0
    furthest: Piece | None = None
    for piece in sorted(pieces, key=lambda one: (one.begin, -one.end)):
        if piece.begin > reach:
            if furthest is None or furthest.end < piece.begin:
                break
            chosen.append(furthest)
            reach, furthest = furthest.end, None
        if piece.end > reach and (furthest is None or piece.end > furthest.end):
            furthest = piece
    return (*chosen, furthest) if furthest is not None else tuple(chosen)


def _find_newest(archive: WalArchive, timeline: Timeline) -> Partial | None:
    by_receiver: dict[tuple[SegmentName, str], list[Piece]] = {}
    for piece, _ in list_pieces(archive, timeline):
        by_receiver.setdefault((piece.segment, piece.receiver), []).append(piece)
    found = [
        Partial(segment=segment, pieces=joined, archive=archive)
        for (segment, _), pieces in by_receiver.items()
        if (joined := join_pieces(pieces))
    ]
    return max(found, key=lambda partial: partial.end_lsn, default=None)


def _covers(other: Piece, piece: Piece) -> bool:
    """Whether all of a piece is in another one of its receiver."""
    is_ours = (other.segment, other.receiver) == (piece.segment, piece.receiver) and other != piece
    return is_ours and other.begin <= piece.begin and piece.end <= other.end


def _parse(match: re.Match[str], segment_size: int) -> Piece | None:
    begin, end = int(match[3], 16), int(match[4], 16)
    if not begin < end <= segment_size:
        return None
    try:
        segment = SegmentName.parse(match[1], segment_size)
    except ValueError:
        return None
    return Piece(segment=segment, receiver=match[2], begin=begin, end=end)


def _name_of(archive: WalArchive, piece: Piece) -> str:
    prefix = layout.partials_prefix(archive.cluster, archive.system_identifier)
    return f"{prefix}{piece.segment.timeline.hex8}/{piece.label}"
