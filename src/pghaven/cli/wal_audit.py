"""``pghaven wal audit``: what it does in each repository, and how the result looks.

The one idea: an audit that is not through is no failure; the next one goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pghaven.cli.limiting import Limits
from pghaven.cli.opening import each_repository
from pghaven.cli.render import render_block
from pghaven.clock import SYSTEM_CLOCK
from pghaven.config.values import ClusterConfig, Config
from pghaven.errors import EXIT_DONE, EXIT_WARNINGS, Damaged, UsageError
from pghaven.events import Listener
from pghaven.proof.audit import run_audit
from pghaven.repository.audits import Audit
from pghaven.repository.repository import Repository
from pghaven.units import parse_duration, render_size, render_time

_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """``at_most`` is a duration as it was written; ``segments`` is how many are read of each lineage at most."""

    at_most: str | None
    segments: int | None
    restart: bool
    limit: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedLineage:
    repository: str
    system_identifier: int
    audit: Audit


def audit_cluster(
    config: Config, cluster: ClusterConfig, options: AuditOptions, listener: Listener
) -> tuple[AuditedLineage, ...]:
    """Raises UsageError for a duration that cannot be read, and what opening raises when no repository is left."""
    seconds = None
    if options.at_most is not None:
        try:
            seconds = parse_duration(options.at_most)
        except ValueError as error:
            raise UsageError(f"--at-most: {error}") from error
    began = SYSTEM_CLOCK.monotonic()

    def is_over(count: int) -> bool:
        if options.segments is not None and count >= options.segments:
            return True
        return seconds is not None and SYSTEM_CLOCK.monotonic() - began >= seconds

    limits = Limits(config, cluster, listener, limit=options.limit)

    def audit(name: str, repository: Repository) -> list[AuditedLineage]:
        held = limits.hold(repository, name)
        return [
            AuditedLineage(
                repository=name,
                system_identifier=lineage.system_identifier,
                audit=run_audit(held, cluster.name, lineage, limits, is_over=is_over, restart=options.restart),
            )
            for lineage in repository.list_lineages(cluster.name)
        ]

    found = each_repository(config, cluster, None, listener, audit)
    return tuple(one for _, audits in found for one in audits)


def describe_audit(cluster: str, found: Sequence[AuditedLineage]) -> dict[str, object]:
    """For programs."""
    return {
        "cluster": cluster,
        "audits": [
            {
                "repository": one.repository,
                "system_identifier": str(one.system_identifier),
                "complete": one.audit.is_complete,
                "next_segment": one.audit.next_segment,
                "began_at": one.audit.began_at,
                "segments": one.audit.segments,
                "read_bytes": one.audit.read_bytes,
                "flaws": [{"file": name, "reason": reason} for name, reason in one.audit.flaws],
                "gaps": [{"first": first, "last": last} for first, last in one.audit.gaps],
            }
            for one in found
        ],
    }


def render_audit(found: Sequence[AuditedLineage]) -> str:
    """For people."""
    if not found:
        return "no WAL: the cluster is in none of its repositories yet\n"
    return "\n".join(_render(one) for one in found)


def _render(one: AuditedLineage) -> str:
    audit = one.audit
    state = "complete" if audit.is_complete else f"to be continued at {audit.next_segment}"
    pairs: list[tuple[str, object]] = [
        ("repository", one.repository),
        ("system identifier", one.system_identifier),
        ("audit", f"{state}, begun {render_time(audit.began_at)}"),
        ("read", f"{audit.segments} segments, {render_size(audit.read_bytes)}"),
    ]
    for first, last in audit.gaps:
        pairs.append(("missing", first if first == last else f"{first} to {last}"))
    for name, reason in audit.flaws[:_SHOWN]:
        pairs.append(("DAMAGED", f"{name}: {reason}"))
    if len(audit.flaws) > _SHOWN:
        pairs.append(("", f"and {len(audit.flaws) - _SHOWN} more (--json has them)"))
    return render_block(pairs)


def end_audit(found: Sequence[AuditedLineage]) -> int:
    """The exit status: damage, else a warning for what is missing."""
    if any(one.audit.flaws for one in found):
        return Damaged.exit_status
    return EXIT_WARNINGS if any(one.audit.gaps for one in found) else EXIT_DONE
