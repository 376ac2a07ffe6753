"""``pghaven expire``: remove what the retention policy no longer keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli import expire_by_hand as by_hand
from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, limit_option
from pghaven.cli.opening import each_repository, find_memory, open_chosen_repository, refresh_listing
from pghaven.cli.retention_options import make_keep_rules, make_policy
from pghaven.errors import Cancelled, Damaged, PghavenError, UsageError
from pghaven.events import Notice

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.events import Listener
    from pghaven.repository.repository import Repository
    from pghaven.retention.expire import ExpireResult


@click.command("expire")
@click.argument("cluster", required=False)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and why, and change nothing.")
@click.option("--undo", metavar="LABEL", help="Bring an expired backup or dump (or the beginning of its label) back.")
@click.option(
    "--give-up", metavar="LABEL", help="End a backup whose records cannot be read, so that it holds nothing back."
)
@click.option(
    "--mend", metavar="LABEL", help="Decide a compaction once more whose decision cannot be read; nothing is lost."
)
@click.option(
    "--remove",
    metavar="LABEL",
    help="Expire one backup or dump (or the beginning of its label), also one that the policy would keep.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why, with --remove; kept with the backup.")
@click.option("--repository", metavar="NAME", help="Only this one of the cluster's repositories.")
@limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str | None,
    dry_run: bool,
    undo: str | None,
    give_up: str | None,
    mend: str | None,
    remove: str | None,
    reason: str,
    repository: str | None,
    limit: int | None,
) -> int:
    """Expire the backups of CLUSTER that its retention policy no longer keeps, and remove what was expired before.

    CLUSTER can be left out if only one is configured. An expired backup can be brought back with --undo for the time
    that "grace" gives in the configuration; then it is removed with everything that only it needed. WAL that no backup
    and no window needs is removed too, and kept snapshots by [cluster.NAME.snapshot]. Every backup is listed with the
    reason why it is kept or not. --remove expires one backup or dump by name in the same two steps, with its copies in
    the cluster's other repositories, and tells what can no longer be restored without it; --undo brings it back in all
    of them. Ends with 12 when a clock is wrong, with 16 when stored data is damaged so that nothing can be removed. No
    server is needed.
    """
    from pghaven.repository.backups import BackupCatalog
    from pghaven.repository.older import refuse_older
    from pghaven.retention.expire import run_expire

    chosen = invocation.get_cluster(cluster)
    if sum([dry_run and remove is None, *(one is not None for one in (undo, give_up, mend, remove))]) > 1:
        raise UsageError(
            "of --undo, --give-up, --mend and --remove only one can be given, and only --remove with --dry-run",
            hint="Give one of them.",
        )
    if reason and remove is None:
        raise UsageError("--reason goes with --remove", hint="Give --remove LABEL too.")
    for label, do in ((undo, by_hand.undo), (give_up, by_hand.give_up), (mend, by_hand.mend)):
        if label is not None:
            return do(invocation, chosen, label, repository)
    if remove is not None:
        return by_hand.remove(invocation, chosen, by_hand.Order(remove, reason, dry_run), repository)
    policy = make_policy(chosen.retention)
    with invocation.reporter as listener:
        limits = Limits(invocation.config, chosen, listener, limit=limit)

        def expire(name: str, opened: Repository) -> ExpireResult:
            catalog = BackupCatalog(limits.hold(opened, name), chosen.name)
            refuse_older(find_memory(invocation.config, name), opened, chosen.name, "nothing was expired")
            result = run_expire(catalog, policy, limits, dry_run=dry_run)
            if not dry_run:
                refresh_listing(opened, chosen.name, listener)
                limits.watch(opened, name)
            return result

        found = each_repository(invocation.config, chosen, repository, listener, expire)
        _trim_snapshots(invocation, chosen, repository, limits, dry_run=dry_run)
    from pghaven.cli.expire_text import render_body, render_text

    text = "\n".join(render_text(*one) for one in found)
    status = invocation.show("expire", {"results": [render_body(*one) for one in found]}, text)
    return Damaged.exit_status if any(result.obstacle for _, result in found) else status


def _trim_snapshots(
    invocation: Invocation, chosen: ClusterConfig, repository: str | None, listener: Listener, *, dry_run: bool
) -> None:
    """Remove the kept snapshots that no rule keeps; without any rule they are nobody's business here."""
    if chosen.snapshot.keep is None and chosen.snapshot.keep_within_seconds is None:
        return
    from pghaven.cli.snapshot_command import open_others
    from pghaven.instant.points import trim_points

    try:
        opened = open_chosen_repository(invocation.config, chosen, repository)
        repositories = (opened, *open_others(invocation, chosen, repository))
        rules = make_keep_rules(chosen.snapshot)
        trim_points(repositories, chosen.name, chosen.data_directory, rules, listener, dry_run=dry_run)
    except Cancelled:
        raise
    except PghavenError as error:
        text = f"no snapshot was removed: {error.message}"
        listener(Notice(level="warning", code="not_trimmed", text=text, hint=error.hint))
