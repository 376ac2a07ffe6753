"""``pghaven drill``: restore somewhere, start, question, report, clean up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, io_limit_option, limit_option
from pghaven.cli.opening import choose_clusters
from pghaven.clock import SYSTEM_CLOCK
from pghaven.config.drill_values import DRILL_POLICIES, DRILL_QUESTIONS
from pghaven.errors import EXIT_WARNINGS, CheckFailed, UsageError

if TYPE_CHECKING:
    from pghaven.cli.drill_job import Wishes
    from pghaven.drill.result import DrillResult


@click.command("drill")
@click.argument("cluster", required=False)
@click.option("--at", "policy", type=click.Choice(DRILL_POLICIES), help="To which point.  [default: as configured]")
@click.option("--target-time", metavar="TIME", help="To this moment.")
@click.option("--target-lsn", metavar="LSN", help="To this WAL position.")
@click.option("--target-xid", metavar="XID", help="To the end of this transaction.")
@click.option("--target-name", metavar="NAME", help="To this restore point.")
@click.option("--backup", metavar="LABEL", help="From this backup (or the beginning of its label).")
@click.option("--from-snapshot", metavar="LABEL", help="Take the files from this kept snapshot instead of a backup.")
@click.option("--standby", is_flag=True, help="Have it follow the archive as a standby does, and promote it then.")
@click.option("--directory", metavar="DIR", help="Restore below this directory.  [default: as configured]")
@click.option("--skip", multiple=True, type=click.Choice(DRILL_QUESTIONS), help="Leave this question out.")
@click.option("--repository", metavar="NAME", help="Only from this one of the cluster's repositories.")
@limit_option
@io_limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str | None,
    policy: str | None,
    target_time: str | None,
    target_lsn: str | None,
    target_xid: str | None,
    target_name: str | None,
    backup: str | None,
    from_snapshot: str | None,
    standby: bool,
    directory: str | None,
    skip: tuple[str, ...],
    repository: str | None,
    limit: int | None,
    io_limit: int | None,
) -> int:
    """Prove that CLUSTER, or every configured cluster, comes back: by bringing it back, and asking it.

    A backup is restored into a directory of its own, started where nobody reaches it, recovered to a point, questioned
    and removed. What was found is kept in the repository. Ends with 17 when the drill failed, which it also has when it
    could not tell.
    """
    from pghaven.cli.drill_job import DrillJob, Wishes
    from pghaven.cli.drill_snapshot import make_snapshot_source
    from pghaven.cli.drill_text import render_body, render_text
    from pghaven.cli.restore_request import TargetOptions, make_target
    from pghaven.postgres.recovery import TargetKind

    options = TargetOptions(
        time=target_time,
        lsn=target_lsn,
        xid=target_xid,
        name=target_name,
        immediate=False,
        timeline=None,
        action=None,
        exclusive=False,
    )
    target = make_target(options, SYSTEM_CLOCK.now())
    given = None if target.kind is TargetKind.LATEST else target
    chosen = choose_clusters(invocation.config, cluster)
    wishes = Wishes(policy=policy, given=given, backup=backup, skip=skip, as_standby=standby)
    _require_sense(wishes, from_snapshot, len(chosen))
    found: list[DrillResult] = []
    with invocation.reporter as listener:
        for one in chosen:
            limits = Limits(invocation.config, one, listener, limit=limit, io_limit=io_limit)
            source = None
            if from_snapshot is not None:
                source = make_snapshot_source(invocation, one, limits, repository, from_snapshot)
            job = DrillJob(invocation.config, one, limits, repository)
            found.append(job.run(job.make_settings(wishes), directory, source))
    status = invocation.show(
        "drill", {"drills": [render_body(one) for one in found]}, "\n".join(map(render_text, found))
    )
    if not all(one.passed for one in found):
        return CheckFailed.exit_status
    return EXIT_WARNINGS if any(one.has_warnings for one in found) else status


def _require_sense(wishes: Wishes, from_snapshot: str | None, clusters: int) -> None:
    """Raises UsageError for what does not go together."""
    if wishes.given is not None and wishes.policy is not None:
        raise UsageError("--at chooses a point, and a target is one", hint="Leave one of them out.")
    if wishes.as_standby and (wishes.given is not None or wishes.policy not in (None, "latest")):
        raise UsageError("--standby follows the archive to its end", hint="Leave out --at and the target.")
    if from_snapshot is not None and wishes.backup is not None:
        raise UsageError(
            "--from-snapshot and --backup name two places to take the files from", hint="Leave one of them out."
        )
    if clusters > 1 and any(one is not None for one in (wishes.given, wishes.backup, from_snapshot)):
        raise UsageError(
            "a target, a backup or a snapshot needs the name of a cluster", hint="Run: pghaven drill CLUSTER …"
        )
