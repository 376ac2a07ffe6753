"""``pghaven verify``: read all that restores would read, and tell what is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, limit_option
from pghaven.cli.opening import choose_clusters, count_processes, each_repository
from pghaven.errors import EXIT_WARNINGS, Damaged, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pghaven.proof.findings import Finding
    from pghaven.proof.verify_result import VerifyResult
    from pghaven.repository.repository import Repository

# Of each kind so many are shown; --json has them all.
_SHOWN = 50


@click.command("verify")
@click.argument("cluster", required=False)
@click.option(
    "--backup", metavar="LABEL", help="Only this backup (or the beginning of its label) and the WAL it needs."
)
@click.option("--quick", is_flag=True, help="Only the structure: what is there, its size, its index. No contents.")
@click.option("--repository", metavar="NAME", help="Only this one of the cluster's repositories.")
@limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str | None,
    backup: str | None,
    quick: bool,
    repository: str | None,
    limit: int | None,
) -> int:
    """Read everything that restores of CLUSTER, or of every configured cluster, would read, and prove it.

    Every damaged or missing object is named, with what it means. The result is kept in the repository; "pghaven list"
    and "pghaven status" show it. Ends with 16 when something is damaged, with 3 when something is odd and no restore
    needs it. Needs the repository alone, no server.
    """
    from pghaven.proof.verify import VerifySettings, run_verify
    from pghaven.repository.evidence import Scope

    config = invocation.config
    chosen = choose_clusters(config, cluster)
    if backup is not None and len(chosen) > 1:
        raise UsageError("--backup needs the name of a cluster", hint="Run: pghaven verify CLUSTER --backup LABEL")
    found: list[tuple[str, VerifyResult]] = []
    with invocation.reporter as listener:
        for one in chosen:
            limits = Limits(config, one, listener, limit=limit)
            settings = VerifySettings(
                cluster=one.name,
                processes=count_processes(one),
                scope=Scope.QUICK if quick else Scope.FULL,
                only=backup,
            )

            def verify(
                name: str, opened: Repository, settings: VerifySettings = settings, limits: Limits = limits
            ) -> VerifyResult:
                return run_verify(limits.hold(opened, name), settings, limits)

            found += each_repository(config, one, repository, listener, verify)
    body = [render_body(name, result) for name, result in found]
    status = invocation.show("verify", {"results": body}, "\n".join(render_text(*one) for one in found))
    if any(result.is_damaged for _, result in found):
        return Damaged.exit_status
    return EXIT_WARNINGS if any(result.has_warnings for _, result in found) else status


def render_body(repository: str, result: VerifyResult) -> Mapping[str, object]:
    ends = [
        {"system_identifier": str(one.system_identifier), "timeline": one.timeline, "end_lsn": one.end_lsn}
        for one in result.archive_ends
    ]
    return {
        "cluster": result.cluster,
        "repository": repository,
        "scope": result.scope,
        "only": result.only,
        "began_at": result.began_at,
        "total_seconds": result.total_seconds,
        "is_damaged": result.is_damaged,
        "backups": result.backups,
        "archive_ends": ends,
        "counts": result.counts,
        "findings": result.findings,
        "evidence": result.evidence,
    }


def render_text(repository: str, result: VerifyResult) -> str:
    from pghaven.cli.render import render_block
    from pghaven.units import render_duration, render_rate, render_size

    counts = result.counts
    whole = sum(one.is_whole for one in result.backups)
    took = f"in {render_duration(result.total_seconds)}"
    rate = f", {render_rate(counts.proven_bytes / result.total_seconds)}" if counts.proven_bytes else ""
    packs = f"{counts.packs} packs, their ends and indexes"
    wal = f"{counts.wal_files} files, their ends and indexes"
    if counts.proven_bytes:
        packs = f"{counts.packs} packs, all of their {counts.frames} frames"
        wal = f"{counts.wal_files} files, all of their contents"
    pairs: list[tuple[str, object]] = [
        ("took", f"{took}, {result.scope}{rate}"),
        ("backups", f"{whole} of {len(result.backups)} without damage"),
        ("packs", packs),
        ("WAL", wal),
    ]
    pairs += [
        ("" if number else "archived to", f"{end.end_lsn} on timeline {end.timeline}")
        for number, end in enumerate(result.archive_ends)
    ]
    if counts.proven_bytes:
        pairs.append(("read", f"{render_size(counts.read_bytes)} for {render_size(counts.proven_bytes)}"))
    pairs.append(("kept as", result.evidence))
    what = f"backup {result.only} of {result.cluster}" if result.only is not None else f"cluster {result.cluster}"
    text = f"{what}, repository {repository}, {_describe_verdict(result)}\n{render_block(pairs, indent='  ')}"
    return text + _render_findings(result.findings)


def _describe_verdict(result: VerifyResult) -> str:
    from pghaven.repository.evidence import Scope

    if result.is_damaged:
        return "is DAMAGED"
    if not result.backups:
        return "has no backup to verify"
    return "is whole" if result.scope is Scope.FULL else "misses nothing; what is in it was not read"


def _render_findings(findings: tuple[Finding, ...]) -> str:
    text = ""
    for gravity, title in (("damage", "DAMAGED"), ("warning", "WARNING"), ("info", "note")):
        mine = [one for one in findings if one.gravity.value == gravity]
        text += "".join(_render_finding(title, one) for one in mine[:_SHOWN])
        if len(mine) > _SHOWN:
            text += f"  {title}: and {len(mine) - _SHOWN} more; --json shows them all\n"
    return text


def _render_finding(title: str, finding: Finding) -> str:
    from pghaven.cli.output import make_printable

    text = f"  {title}: {make_printable(finding.text)}\n"
    if finding.meaning:
        text += f"    {finding.meaning}\n"
    text += "".join(f"      {make_printable(file)}\n" for file in finding.files)
    if finding.file_count > len(finding.files):
        text += f"      and {finding.file_count - len(finding.files)} more files\n"
    return text
