"""What a verification's worker process does: read packs and WAL files whole, and prove every byte.

The one idea: a job names objects and what they must be; the answer names what is wrong with them. Nothing here knows
what the damage means. Memory: for packs one request of 8 MiB and a frame, for WAL one object and the file in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.errors import Damaged
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.timeline import Timeline, parse_history
from pghaven.postgres.version import find_by_major
from pghaven.postgres.waldata import check_segment
from pghaven.repository import layout
from pghaven.repository.pack import PackPlace, PackRef
from pghaven.repository.packcheck import PackFlaw, check_pack, try_read
from pghaven.repository.partials import Piece, name_piece, prove_piece
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import WalArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """``contents`` is False for a quick verification: ends and indexes only."""

    repository: Repository
    cluster: str
    contents: bool


@dataclass(frozen=True, slots=True)
class WalObject:
    """A file in the archive, or one in quarantine; ``size_bytes`` is the object's, from the listing.

    With a ``piece`` it is that part of an unfinished segment, and ``file_name`` the piece's label.
    """

    file_name: str
    size_bytes: int
    is_quarantined: bool = False
    piece: Piece | None = None


@dataclass(frozen=True, slots=True)
class VerifyJob:
    """Packs, or WAL files of one lineage."""

    packs: tuple[PackRef, ...] = ()
    lineage: Lineage | None = None
    files: tuple[WalObject, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkResult:
    """What a job found. ``done_bytes`` is its share of the whole, whatever it found."""

    pack_flaws: tuple[tuple[PackRef, PackFlaw], ...] = ()
    wal_flaws: tuple[tuple[str, str], ...] = ()  # the object's name, what is wrong
    frames: int = 0
    read_bytes: int = 0
    proven_bytes: int = 0
    done_bytes: int = 0


class VerifyWorker:
    """One per worker process."""

    def __init__(self, settings: WorkerSettings) -> None:
        repository = settings.repository
        self._settings = settings
        self._place = PackPlace(
            store=repository.store,
            repository_id=repository.id,
            cluster=settings.cluster,
            keyring=repository.keyring,
        )

    def __call__(self, job: VerifyJob) -> WorkResult:
        return self._check_wal(job.lineage, job.files) if job.lineage is not None else self._check_packs(job.packs)

    def close(self) -> None:
        """Nothing is kept between jobs."""

    def _check_packs(self, packs: tuple[PackRef, ...]) -> WorkResult:
        checks = [(ref, check_pack(self._place, ref, contents=self._settings.contents)) for ref in packs]
        return WorkResult(
            pack_flaws=tuple((ref, flaw) for ref, check in checks for flaw in check.flaws),
            frames=sum(check.frames for _, check in checks),
            read_bytes=sum(check.read_bytes for _, check in checks),
            proven_bytes=sum(check.proven_bytes for _, check in checks),
            done_bytes=sum(ref.size_bytes for ref in packs),
        )

    def _check_wal(self, lineage: Lineage, files: tuple[WalObject, ...]) -> WorkResult:
        settings = self._settings
        archive = WalArchive(settings.repository, settings.cluster, lineage.system_identifier, lineage.wal_segment_size)
        flaws: list[tuple[str, str]] = []
        proven = 0
        for file in files:
            result = check_wal_object(archive, lineage, file, contents=settings.contents)
            if isinstance(result, str):
                flaws.append((name_wal_object(archive, file), result))
            else:
                proven += result
        total = sum(file.size_bytes for file in files)
        return WorkResult(
            wal_flaws=tuple(flaws),
            read_bytes=total if settings.contents else 0,
            proven_bytes=proven,
            done_bytes=total,
        )


def open_verifier(settings: WorkerSettings) -> VerifyWorker:
    """What a crew calls once in each worker process."""
    return VerifyWorker(settings)


def name_wal_object(archive: WalArchive, file: WalObject) -> str:
    if file.piece is not None:
        return name_piece(archive, file.piece)
    if file.is_quarantined:
        return f"{layout.quarantine_prefix(archive.cluster)}{archive.system_identifier}/{file.file_name}"
    return layout.wal_object_name(archive.cluster, archive.system_identifier, file.file_name)


def check_wal_object(archive: WalArchive, lineage: Lineage, file: WalObject, *, contents: bool) -> int | str:
    """The bytes that were proven, or what is wrong with the object. Raises what ``try_read`` raises."""
    piece = file.piece
    if piece is not None:
        return try_read(archive.store, lambda: prove_piece(archive, piece, contents=contents))
    if contents:
        return try_read(archive.store, lambda: _prove_file(archive, lineage, file))
    if file.is_quarantined:
        return 0
    return try_read(archive.store, lambda: _prove_end(archive, file))


def _prove_file(archive: WalArchive, lineage: Lineage, file: WalObject) -> int:
    name = file.file_name
    if file.is_quarantined:
        return len(archive.get_quarantined(name))
    content = archive.get(name)
    kind = classify(name)
    if kind is WalFileKind.SEGMENT:
        segment = SegmentName.parse(name, archive.segment_size)
        check_segment(content, segment, lineage.system_identifier, find_by_major(lineage.major))
    elif kind is WalFileKind.HISTORY:
        parse_history(content.decode("utf-8", "replace"), Timeline.parse_history_name(name))
    return len(content)


def _prove_end(archive: WalArchive, file: WalObject) -> int:
    facts = archive.read_facts(file.file_name)
    if facts.get("name") != file.file_name:
        raise Damaged("it was archived under another name")
    if classify(file.file_name) is WalFileKind.SEGMENT and facts.get("size") != archive.segment_size:
        raise Damaged(f"it is a segment of {facts.get('size')} bytes, expected {archive.segment_size}")
    return 0
