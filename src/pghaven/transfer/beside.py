"""What goes with a lineage beside its backups and its archive: pieces of unfinished WAL, WAL in quarantine, markers,
what happened to its WAL, and what was found by verifications, drills and audits.

The one idea: these are many small objects that never change and whose names say what they are, so what the target has
of them by name it need not be given again. Results speak of the objects of one repository, and what is said of these is
not true of copies; so they go along as what was told elsewhere, which nobody judges the target by. What is made from
the rest (outlines), what is one repository's own business (turns, horizons) and what lies on a host (kept snapshots)
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields

from pghaven.errors import Damaged, ObjectExists, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.container import Kind
from pghaven.repository.evidence import COPIED_SUFFIX, render_copied
from pghaven.repository.partials import parse_piece
from pghaven.repository.recast import Binding, recast_file
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import WalArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideOutcome:
    """What was copied, or would be: ``quarantined`` files, ``pieces`` of unfinished segments, ``incidents``,
    ``markers``, and ``results`` of verifications, drills and audits; ``failed`` are (name, reason)."""

    quarantined: int = 0
    pieces: int = 0
    incidents: int = 0
    markers: int = 0
    results: int = 0
    failed: tuple[tuple[str, str], ...] = ()


_COUNTED = tuple(field.name for field in fields(BesideOutcome) if field.name != "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One object: what it counts as, its name here and there, and how it is carried."""

    counts_as: str
    name: str
    there: str
    carry: Callable[[Repository, Repository, _Item], None]
    plain_name: str = ""


def carry_beside(
    source: Repository, target: Repository, cluster: str, systems: Collection[int], *, dry_run: bool = False
) -> BesideOutcome:
    """Copy what the target lacks, each proven on the way.

    Raises StoreUnreachable, NotPermitted. What is damaged in the source is told and passed over.
    """
    copied = dict.fromkeys(_COUNTED, 0)
    failed: list[tuple[str, str]] = []
    for system in sorted(systems):
        there = _list_there(target, cluster, system)
        for item in tuple(_iter_items(source, target, cluster, system)):
            if item.there in there:
                continue
            there.add(item.there)
            try:
                if not dry_run:
                    item.carry(source, target, item)
            except ObjectMissing:
                continue  # removed meanwhile
            except Damaged as error:
                failed.append((item.name, error.message))
            else:
                copied[item.counts_as] += 1
    return BesideOutcome(**copied, failed=tuple(failed))


def _list_there(target: Repository, cluster: str, system: int) -> set[str]:
    prefixes = (
        f"{layout.quarantine_prefix(cluster)}{system}/",
        layout.partials_prefix(cluster, system),
        layout.incidents_prefix(cluster, system),
        layout.markers_prefix(cluster, system),
        layout.evidence_prefix(cluster),
    )
    return {info.name for prefix in prefixes for info in target.store.list(prefix)}


def _iter_items(source: Repository, target: Repository, cluster: str, system: int) -> Iterator[_Item]:
    for info in source.store.list(f"{layout.quarantine_prefix(cluster)}{system}/"):
        plain = info.name.rpartition("/")[2].rpartition("-")[0]
        yield _Item(counts_as="quarantined", name=info.name, there=info.name, carry=_carry_file, plain_name=plain)
    yield from _iter_pieces(source, target, cluster, system)
    for counts_as, prefix in (
        ("incidents", layout.incidents_prefix(cluster, system)),
        ("markers", layout.markers_prefix(cluster, system)),
    ):
        for info in source.store.list(prefix):
            yield _Item(counts_as=counts_as, name=info.name, there=info.name, carry=_carry_document)
    for prefix in (layout.evidence_prefix(cluster), layout.audits_prefix(cluster, system)):
        for info in source.store.list(prefix):
            child = info.name.rpartition("/")[2].removesuffix(COPIED_SUFFIX)
            there = layout.evidence_name(cluster, child + COPIED_SUFFIX)
            yield _Item(counts_as="results", name=info.name, there=there, carry=_carry_result)


def _iter_pieces(source: Repository, target: Repository, cluster: str, system: int) -> Iterator[_Item]:
    """Those of segments that the target does not have: of these it would be the first to remove them."""
    lineage = source.require_lineage(cluster, system)
    archive = WalArchive(source, cluster, system, lineage.wal_segment_size)
    for info in source.store.list(layout.partials_prefix(cluster, system)):
        piece = parse_piece(archive, info.name)
        if piece is None:
            continue
        segment = layout.wal_object_name(cluster, system, str(piece.segment))
        if target.store.find(segment) is None:
            yield _Item(counts_as="pieces", name=info.name, there=info.name, carry=_carry_file, plain_name=piece.label)


def _carry_file(source: Repository, target: Repository, item: _Item) -> None:
    container = source.read_container(item.name, Kind.WAL)
    try:
        finished = recast_file(
            container, item.plain_name, Binding(context=target.context(item.there).encode(), keyring=target.keyring)
        )
    except Damaged as error:
        raise Damaged(f'"{item.name}" is damaged: {error.message}') from error
    try:
        target.create_container(item.there, finished)
    except ObjectExists:
        target.store.confirm(item.there)  # a rival was faster; its name says what it holds


def _carry_document(source: Repository, target: Repository, item: _Item) -> None:
    body = source.read_document(item.name)
    try:
        target.create_document(item.there, body)
    except ObjectExists:
        target.store.confirm(item.there)  # it tells of the same, as it was seen there


def _carry_result(source: Repository, target: Repository, item: _Item) -> None:
    """As what was told of another repository; what had been told of a third one before stays as it is."""
    body = source.read_document(item.name)
    if not item.name.endswith(COPIED_SUFFIX):
        body = render_copied(source.id, item.name, body)
    try:
        target.create_document(item.there, body)
    except ObjectExists:
        target.store.confirm(item.there)
