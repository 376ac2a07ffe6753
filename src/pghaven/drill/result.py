"""What a drill came to, and what of it is kept.

The one idea: it passed only if every question that was asked has its good answer; what was not asked is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pghaven
from pghaven.drill.contents import TableContents
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.proof.results import CheckResult, Verdict, judge
from pghaven.repository.drills import FROM_BACKUP
from pghaven.units import render_time_utc

_KEPT_CHARACTERS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Where recovery ended: ``time`` is the last transaction's that came back, as far as that is known."""

    timeline: Timeline
    lsn: Lsn
    time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillResult:
    """``target`` is in words, with ``policy`` saying who chose it; ``promised_lsn`` is what the plan promised.
    ``backup`` is a label of what ``source`` says.
    ``seconds`` are as in ``DrillEvidence``; what it did not come to is not in it. ``evidence`` is the object this was
    kept as, None if that could not be; ``is_signed`` with the repository's key."""

    cluster: str
    repository: str
    began_at: datetime
    policy: str
    target: str
    backup: str | None
    manifest_hash: str | None
    system_identifier: int | None
    server_version: str | None
    promised_lsn: Lsn | None
    reached: Reached | None
    marker: str | None
    checks: tuple[CheckResult, ...]
    contents: tuple[TableContents, ...]
    seconds: Mapping[str, float]
    written_bytes: int
    fetched_bytes: int
    replayed_bytes: int
    fetch_profile: tuple[float, ...] = ()
    source: str = FROM_BACKUP
    as_standby: bool = False
    evidence: str | None = None
    is_signed: bool = False

    @property
    def passed(self) -> bool:
        return judge(self.checks) is not Verdict.FAILED

    @property
    def has_warnings(self) -> bool:
        return judge(self.checks) is Verdict.WARNING


def render_evidence(result: DrillResult, host: str) -> Mapping[str, object]:
    """What is kept; of each answer the beginning, of the tables their number, their rows and one hash of all."""
    reached = result.reached
    return {
        "began_at": render_time_utc(result.began_at),
        "written_by": f"pghaven {pghaven.__version__}",
        "host": host,
        "passed": result.passed,
        "source": result.source,
        "as_standby": result.as_standby,
        "backup": result.backup,
        "manifest": result.manifest_hash,
        "system_identifier": None if result.system_identifier is None else str(result.system_identifier),
        "server_version": result.server_version,
        "target": {
            "policy": result.policy,
            "text": result.target,
            "promised_lsn": None if result.promised_lsn is None else str(result.promised_lsn),
        },
        "reached": None
        if reached is None
        else {
            "timeline": int(reached.timeline),
            "lsn": str(reached.lsn),
            "time": None if reached.time is None else render_time_utc(reached.time),
        },
        "marker": result.marker,
        "checks": [
            {"name": one.name, "verdict": one.verdict.value, "text": one.text[:_KEPT_CHARACTERS]}
            for one in result.checks
        ],
        "tables": len(result.contents),
        "rows": str(sum(one.rows for one in result.contents)),
        "contents": hash_contents(result.contents),
        "seconds": {part: round(value, 3) for part, value in result.seconds.items()},
        "written_bytes": str(result.written_bytes),
        "fetched_bytes": str(result.fetched_bytes),
        "replayed_bytes": str(result.replayed_bytes),
        "fetch_profile": [round(share, 3) for share in result.fetch_profile],
    }


def hash_contents(contents: Sequence[TableContents]) -> str | None:
    """One hash for what all tables hold; None when none were read."""
    from blake3 import blake3

    if not contents:
        return None
    lines = sorted(f"{one.name}\t{one.rows}\t{one.checksum}\n" for one in contents)
    return blake3("".join(lines).encode()).hexdigest()
