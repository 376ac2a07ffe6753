"""What drills found, kept beside what verifications found.

The one idea: a drill proves the very manifest that it restored, with the WAL up to the point it reached, at the time
it began. For a backup that lies in other packs since, or after one that failed, it proves nothing; nor does a result
that cannot be read, or in a sealed repository one that no reader of it has signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pghaven.clock import CLOCK_TOLERANCE
from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.evidence import DRILL_SUFFIX, parse_stamp, store_evidence
from pghaven.repository.repository import Repository
from pghaven.repository.signing import Signature, check_body
from pghaven.units import parse_time_utc

KIND: Final = "drill"
FROM_BACKUP: Final = "backup"
FROM_SNAPSHOT: Final = "snapshot"
FROM_DUMP: Final = "dump"
"""Where the files came from: only a drill of a backup tells how fast the repository gives them, and one of a dump tells
nothing of backups."""
DRILL_AGE_WARNED: Final = timedelta(days=30)
"""A proof that is older counts as stale: the backups, the WAL and the host that it speaks of are others by now."""

_LOOKED_BACK = 20
_OF_DUMP_SUFFIX: Final = f"-{FROM_DUMP}{DRILL_SUFFIX}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillEvidence:
    """One drill. ``backup`` and ``manifest_hash`` are None where it failed before one was chosen. ``reached_at`` is
    the last transaction that came back, None when that is not known; ``failures`` say in words what failed.
    ``seconds`` are those of its parts: ``plan``, ``fetch``, ``replay``, ``first_query`` (from the beginning to the
    first answer), ``stop`` (the checkpoint after it) and ``total``; ``fetched_bytes`` of stored frames were read for
    ``written_bytes`` of files, and ``replayed_bytes`` of WAL were replayed. ``fetch_profile`` are the shares of the
    files' work that were done after each tenth of ``fetch``: nine, or none if nobody measured. ``source`` is what
    ``backup`` is a label of. ``doubt`` says why it does not count although it says that it passed, or that nobody can
    read what it says; then ``passed`` is False."""

    name: str
    began_at: datetime
    passed: bool
    backup: str | None
    manifest_hash: str | None
    system_identifier: int | None
    target: str
    timeline: Timeline | None
    reached_lsn: Lsn | None
    reached_at: datetime | None
    failures: tuple[str, ...]
    seconds: Mapping[str, float]
    written_bytes: int
    fetched_bytes: int
    replayed_bytes: int
    fetch_profile: tuple[float, ...] = ()
    source: str = FROM_BACKUP
    signature: Signature = Signature.NO_KEY
    doubt: str | None = None

    @property
    def is_of_backup(self) -> bool:
        return self.source == FROM_BACKUP

    def is_stale(self, now: datetime) -> bool:
        return is_stale_at(self.began_at, now)


def is_stale_at(began_at: datetime, now: datetime) -> bool:
    """Too long ago to count, or in the future: then some clock is wrong, and the age is not known."""
    return not -CLOCK_TOLERANCE <= now - began_at <= DRILL_AGE_WARNED


def store_drill(repository: Repository, cluster: str, body: Mapping[str, Any]) -> str:
    """Keep a drill's result, signed if the repository has a key for that; its name.

    Raises what storing raises: NotPermitted, StoreUnreachable, Refused.
    """
    suffix = _OF_DUMP_SUFFIX if body.get("source") == FROM_DUMP else DRILL_SUFFIX
    return store_evidence(repository, cluster, body, kind=KIND, suffix=suffix)


def load_drills(repository: Repository, cluster: str, *, of_dumps: bool = False) -> tuple[DrillEvidence, ...]:
    """The newest ones, of dumps or of all else, the newest first. The last may be one that cannot be read: what was
    before it does not count, since that one may have failed.

    Raises StoreUnreachable, NotPermitted.
    """
    prefix = layout.evidence_prefix(cluster)
    children = [child for child in repository.store.list_children(prefix) if child.endswith(DRILL_SUFFIX)]
    names = [child for child in children if child.endswith(_OF_DUMP_SUFFIX) is of_dumps]
    found: list[DrillEvidence] = []
    for name in sorted(names, reverse=True)[:_LOOKED_BACK]:
        try:
            found.append(read_drill(repository, prefix + name))
        except ObjectMissing:
            continue  # it was removed meanwhile
        except Damaged as error:
            found.append(_make_unreadable(prefix + name, error))
            break
    return tuple(found)


def read_drill(repository: Repository, name: str) -> DrillEvidence:
    """Raises Damaged, ObjectMissing, StoreUnreachable."""
    body = repository.read_document(name)
    try:
        return _parse(name, body, check_body(repository.keyring.signer, repository.context(name), body))
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'"{name}" is damaged: it is no result of a drill ({error!r})') from error


def find_drill_of(drills: Sequence[DrillEvidence], label: str, manifest_hash: str | None) -> DrillEvidence | None:
    """The newest drill of a backup whose manifest now is the one with this hash."""
    counting = (one for one in drills if one.doubt is None)
    return next((one for one in counting if one.backup == label and one.manifest_hash == manifest_hash), None)


def _make_unreadable(name: str, error: Damaged) -> DrillEvidence:
    return DrillEvidence(
        name=name,
        began_at=parse_stamp(name) or datetime.max.replace(tzinfo=UTC),
        passed=False,
        backup=None,
        manifest_hash=None,
        system_identifier=None,
        target="not known",
        timeline=None,
        reached_lsn=None,
        reached_at=None,
        failures=(),
        seconds={},
        written_bytes=0,
        fetched_bytes=0,
        replayed_bytes=0,
        doubt=error.message,
    )


def _parse(name: str, body: Mapping[str, Any], signature: Signature) -> DrillEvidence:
    reached = body["reached"]
    has_passed = body["passed"] is True
    identifier = body["system_identifier"]
    return DrillEvidence(
        name=name,
        began_at=parse_time_utc(body["began_at"]),
        passed=has_passed and signature.doubt is None,
        backup=body["backup"],
        manifest_hash=body["manifest"],
        system_identifier=None if identifier is None else int(identifier),
        target=str(body["target"]["text"]),
        timeline=None if reached is None else Timeline(reached["timeline"]),
        reached_lsn=None if reached is None else Lsn.parse(reached["lsn"]),
        reached_at=None if reached is None or reached["time"] is None else parse_time_utc(reached["time"]),
        failures=tuple(f"{one['name']}: {one['text']}" for one in body["checks"] if one["verdict"] == "FAILED"),
        seconds={str(part): float(value) for part, value in body["seconds"].items()},
        written_bytes=int(body["written_bytes"]),
        fetched_bytes=int(body["fetched_bytes"]),
        replayed_bytes=int(body["replayed_bytes"]),
        fetch_profile=tuple(map(float, body.get("fetch_profile", ()))),
        source=str(body.get("source", FROM_BACKUP)),
        signature=signature,
        doubt=signature.doubt if has_passed else None,
    )
