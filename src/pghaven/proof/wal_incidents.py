"""What the incidents kept with a cluster's WAL mean now, as problems. Pure.

The one idea: two writers are one problem however many files they collided over, and it is one until it has been quiet
for long enough that the servers of then are known to be dealt with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from pghaven.proof.states import Problem
from pghaven.repository.audits import Audit
from pghaven.repository.incidents import Incident, IncidentKind
from pghaven.repository.walstore import describe_writer
from pghaven.units import render_duration, render_time

# A server that is refused tries again for ever, and is told of once a day.
QUIET_AFTER = timedelta(days=7)


def judge_writers(cluster: str, incidents: Sequence[Incident], now: datetime) -> Iterator[Problem]:
    """Servers that were refused a name under which another one archives."""
    recent = [one for one in incidents if one.kind is IncidentKind.TWO_WRITERS and now - one.seen_at <= QUIET_AFTER]
    sides: dict[tuple[object, ...], list[Incident]] = {}
    for one in recent:
        sides.setdefault((*_place(one.archived), *_place(one.refused)), []).append(one)
    for found in sides.values():
        last = found[-1]
        ago = render_duration(max(0.0, (now - last.seen_at).total_seconds()))
        files = last.subject if len(found) == 1 else f"{len(found)} files, the last {last.subject}"
        text = (
            f"two servers archive as {cluster} ({files}, {ago} ago): {describe_writer(last.archived)} was first, and "
            f"{describe_writer(last.refused)} was refused"
        )
        hint = (
            "Find out which of the two is the right one and stop the other. A clone gets archive_mode = off or a "
            "cluster name of its own; a primary that was passed over is rebuilt as a standby. What was refused is "
            f"still in the pg_wal of its server. Who wrote what: pghaven wal list {cluster}"
        )
        yield Problem(code="two_writers", level="critical", text=text, hint=hint)


def judge_audit(cluster: str, audit: Audit | None) -> Iterator[Problem]:
    """What the newest audit of the WAL found."""
    if audit is None or not audit.flaws:
        return
    name, reason = audit.flaws[0]
    more = "" if len(audit.flaws) == 1 else f", and {len(audit.flaws) - 1} more files"
    text = f"the audit of {render_time(audit.written_at)} found damaged WAL: {name} ({reason}){more}"
    hint = f"What it means for backups: pghaven verify {cluster}. Take a new backup: pghaven backup {cluster}"
    yield Problem(code="wal_damaged", level="critical", text=text, hint=hint)


def _place(writer: Mapping[str, str]) -> tuple[object, ...]:
    return writer.get("host"), writer.get("data_directory")
