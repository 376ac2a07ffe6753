"""What a verification came to, and what of it is kept.

The one idea: everything is in the result; what is kept beside the backups is bounded, with all of it counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pghaven
from pghaven.errors import PghavenError
from pghaven.events import Listener, Notice
from pghaven.proof.findings import Finding, Gravity
from pghaven.repository.evidence import ArchiveEnd, BackupProof, Scope, render_ends, render_proofs, store_evidence
from pghaven.repository.repository import Repository
from pghaven.units import render_time_utc

# So many findings are kept as evidence, and so many labels with each.
_KEPT_FINDINGS = 100
_KEPT_LABELS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCounts:
    """What was looked at. ``read_bytes`` of packs and WAL as they are stored, ``proven_bytes`` of what is in them."""

    documents: int
    manifests: int
    packs: int
    frames: int
    wal_files: int
    read_bytes: int
    proven_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """``backups`` oldest first; ``evidence`` is the object this was kept as, None if that could not be."""

    cluster: str
    scope: Scope
    only: str | None
    began_at: datetime
    total_seconds: float
    backups: tuple[BackupProof, ...]
    archive_ends: tuple[ArchiveEnd, ...]
    counts: VerifyCounts
    findings: tuple[Finding, ...]
    evidence: str | None

    @property
    def is_damaged(self) -> bool:
        return any(one.gravity is Gravity.DAMAGE for one in self.findings)

    @property
    def has_warnings(self) -> bool:
        return any(one.gravity is Gravity.WARNING for one in self.findings)


def keep_result(repository: Repository, result: VerifyResult, listener: Listener) -> str | None:
    """Keep it; the name of the object, or None with a warning where nothing can be written."""
    try:
        return store_evidence(repository, result.cluster, render_evidence(result))
    except PghavenError as error:
        hint = "It counts for nobody who asks later: `pghaven status` will not know of it."
        text = f"the result could not be kept: {error.message}"
        listener(Notice(level="warning", code="evidence", text=text, hint=hint))
        return None


def render_evidence(result: VerifyResult) -> Mapping[str, object]:
    """What is kept of a result: of the findings the gravest, all of them counted."""
    told = [one for one in result.findings if one.gravity is not Gravity.INFO]
    counts = result.counts
    return {
        "scope": str(result.scope),
        "only": result.only,
        "began_at": render_time_utc(result.began_at),
        "seconds": round(result.total_seconds, 3),
        "written_by": f"pghaven {pghaven.__version__}",
        "backups": render_proofs(result.backups),
        "archive_ends": render_ends(result.archive_ends),
        "documents": counts.documents,
        "manifests": counts.manifests,
        "packs": counts.packs,
        "frames": counts.frames,
        "wal_files": counts.wal_files,
        "read_bytes": str(counts.read_bytes),
        "proven_bytes": str(counts.proven_bytes),
        "damage_count": sum(one.gravity is Gravity.DAMAGE for one in told),
        "warning_count": sum(one.gravity is Gravity.WARNING for one in told),
        "findings": [
            {
                "gravity": str(one.gravity),
                "object": one.object,
                "reason": one.reason,
                "meaning": one.meaning,
                "backups": list(one.backups[:_KEPT_LABELS]),
                "files": list(one.files),
                "file_count": one.file_count,
            }
            for one in told[:_KEPT_FINDINGS]
        ],
    }
