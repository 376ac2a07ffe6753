"""What was found when a cluster's repository was verified, kept beside what it is about.

The one idea: a result counts for a backup only as long as it is about the very manifest that a restore would read now,
so it is kept with that manifest's hash: after a compaction moved the backup to other packs, nothing old counts for it.
And nothing older than a result that cannot be read counts as good, since that one may have been bad. In a sealed
repository only who reads can sign that all was read; what anybody else says is whole is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.repository import Repository
from pghaven.repository.signing import check_body, sign_body
from pghaven.units import parse_time_utc

DRILL_SUFFIX = "-drill"
"""What names of drills' results end in, so that neither kind pushes the other out of sight; see ``drills``."""

COPIED_SUFFIX = "-copied"
"""What names of results end in that another repository told of its own objects, and that were copied with these."""

_KIND = "verification"
_COPIED_KIND = "copied"
_STAMP = "%Y%m%dT%H%M%SZ"
# How many results are looked back on: with one a day, and one for each backup now and then, that is months.
_LOOKED_BACK = 100


class Scope(StrEnum):
    """How much was read: every byte a restore would read, or the structure without contents."""

    FULL = "full"
    QUICK = "quick"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupProof:
    """One backup as it was found. ``manifest_hash`` is None where no decision could be read that names one."""

    label: str
    manifest_hash: str | None
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveEnd:
    """How far the archive of a timeline reached."""

    system_identifier: int
    timeline: Timeline
    end_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One result. ``only`` is the backup that it was limited to; ``began_at`` is what it speaks of: what was damaged
    later it cannot know. ``doubt`` says why it does not count although it says that everything was read: then
    ``scope`` is QUICK, since damage is believed of anybody."""

    name: str
    scope: Scope
    only: str | None
    began_at: datetime
    backups: tuple[BackupProof, ...]
    archive_ends: tuple[ArchiveEnd, ...]
    damage_count: int
    doubt: str | None = None


def render_proofs(proofs: Sequence[BackupProof]) -> list[dict[str, Any]]:
    return [{"label": one.label, "manifest": one.manifest_hash, "whole": one.is_whole} for one in proofs]


def render_ends(ends: Sequence[ArchiveEnd]) -> list[dict[str, Any]]:
    return [
        {
            "system_identifier": str(one.system_identifier),
            "timeline": int(one.timeline),
            "end_lsn": str(one.end_lsn),
        }
        for one in ends
    ]


def store_evidence(
    repository: Repository, cluster: str, body: Mapping[str, Any], *, kind: str = _KIND, suffix: str = ""
) -> str:
    """Keep a result, signed if the repository has a key for that; its name. ``body`` has what ``Evidence`` needs, or
    what goes with another ``kind``, and more for people; results of another kind have a ``suffix`` to their names.

    Raises what storing raises: NotPermitted, StoreUnreachable, Refused.
    """
    name = layout.evidence_name(cluster, layout.make_label(_next_moment(repository, cluster)) + suffix)
    signed = sign_body(repository.keyring.signer, repository.context(name), {"kind": kind, **body})
    repository.create_document(name, signed)
    return name


def _next_moment(repository: Repository, cluster: str) -> datetime:
    """Now, or a second after the newest result: it must not count before this one because a clock was ahead then."""
    now = repository.clock.now()
    for name in sorted(repository.store.list_children(layout.evidence_prefix(cluster)), reverse=True):
        if (newest := parse_stamp(name)) is not None:
            with suppress(OverflowError):  # it is at the end of all time
                return max(now, newest + timedelta(seconds=1))
    return now


def parse_stamp(name: str) -> datetime | None:
    """When a result was kept, by its name; None for a name of another kind."""
    with suppress(ValueError, OverflowError):
        return datetime.strptime(name.rpartition("/")[2].partition("-")[0], _STAMP).replace(tzinfo=UTC)
    return None


def list_results(repository: Repository, cluster: str) -> tuple[str, ...]:
    """The names of all results, the newest first."""
    children = sorted(_list_children(repository, cluster), reverse=True)
    return tuple(layout.evidence_prefix(cluster) + child for child in children)


def read_result(repository: Repository, name: str) -> Evidence | None:
    """One result; None for evidence of another kind. Raises Damaged, ObjectMissing."""
    body = repository.read_document(name)
    return _parse(repository, name, body) if body.get("kind") == _KIND else None


def _list_children(repository: Repository, cluster: str) -> list[str]:
    children = repository.store.list_children(layout.evidence_prefix(cluster))
    return [child for child in children if not child.endswith(("/", DRILL_SUFFIX, COPIED_SUFFIX))]


def render_copied(repository_id: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A result as it is kept elsewhere: whose it is, under which name, and all that it said."""
    return {"kind": _COPIED_KIND, "repository": repository_id, "name": name, "said": dict(body)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceLog:
    """The newest results, newest first, and the ones that cannot be read with the reason: (name, message).

    ``results`` ends before the first of these, or with a full one of everything, or far enough back.
    """

    results: tuple[Evidence, ...]
    unreadable: tuple[tuple[str, str], ...]


def load_evidence(repository: Repository, cluster: str) -> EvidenceLog:
    """Raises StoreUnreachable, NotPermitted."""
    prefix = layout.evidence_prefix(cluster)
    found: list[Evidence] = []
    unreadable: list[tuple[str, str]] = []
    for child in sorted(_list_children(repository, cluster), reverse=True)[:_LOOKED_BACK]:
        try:
            body = repository.read_document(prefix + child)
            if body.get("kind") == _KIND and not unreadable:
                found.append(_parse(repository, prefix + child, body))
                if found[-1].scope is Scope.FULL and found[-1].only is None:
                    break  # what was found before, of the same manifests, it has found again
        except ObjectMissing:
            continue  # it was removed meanwhile
        except Damaged as error:
            unreadable.append((prefix + child, error.message))
    return EvidenceLog(results=tuple(found), unreadable=tuple(unreadable))


def _parse(repository: Repository, name: str, body: Mapping[str, Any]) -> Evidence:
    try:
        scope = Scope(body["scope"])
        doubt = None
        if scope is Scope.FULL:
            doubt = check_body(repository.keyring.signer, repository.context(name), body).doubt
        return Evidence(
            name=name,
            scope=scope if doubt is None else Scope.QUICK,
            only=body["only"],
            began_at=parse_time_utc(body["began_at"]),
            backups=tuple(
                BackupProof(label=one["label"], manifest_hash=one["manifest"], is_whole=one["whole"] is True)
                for one in body["backups"]
            ),
            archive_ends=tuple(
                ArchiveEnd(
                    system_identifier=int(one["system_identifier"]),
                    timeline=Timeline(one["timeline"]),
                    end_lsn=Lsn.parse(one["end_lsn"]),
                )
                for one in body["archive_ends"]
            ),
            damage_count=int(body["damage_count"]),
            doubt=doubt,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'"{name}" is damaged: it is no result of a verification ({error!r})') from error


# -- what it says ----------------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What is known of a backup from the last time somebody looked."""

    NEVER = "never"
    WHOLE = "whole"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The verdict on one backup. ``at`` is when all of it was last read and found whole, or when it was found damaged;
    None for NEVER."""

    verdict: Verdict
    at: datetime | None


NEVER_VERIFIED = Verification(verdict=Verdict.NEVER, at=None)


def judge_backup(results: Sequence[Evidence], label: str, manifest_hash: str | None) -> Verification:
    """What the results (newest first) say of a backup whose manifest now is the one with this hash.

    Only a full verification proves a backup; damage is believed from a quick one too, and only a later full one takes
    it back.
    """
    for result in results:
        proof = next((one for one in result.backups if one.label == label), None)
        if proof is None or proof.manifest_hash not in (manifest_hash, None):
            continue
        if not proof.is_whole:
            return Verification(verdict=Verdict.DAMAGED, at=result.began_at)
        if result.scope is Scope.FULL and proof.manifest_hash is not None:
            return Verification(verdict=Verdict.WHOLE, at=result.began_at)
    return NEVER_VERIFIED


def find_last_damage(results: Sequence[Evidence]) -> Evidence | None:
    """The newest result (of these, newest first) with damage that no later full one of everything takes back."""
    for result in results:
        if result.damage_count:
            return result
        if result.scope is Scope.FULL and result.only is None:
            return None
    return None
