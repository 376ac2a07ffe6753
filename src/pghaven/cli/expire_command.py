"""``pghaven expire``: remove what the retention policy no longer keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import each_repository, open_chosen_repository, refresh_listing
from pghaven.cli.retention_options import make_policy
from pghaven.errors import Damaged, UsageError

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.repository.repository import Repository
    from pghaven.retention.expire import ExpireResult


@click.command("expire")
@click.argument("cluster", required=False)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and why, and change nothing.")
@click.option("--undo", metavar="LABEL", help="Bring an expired backup (or the beginning of its label) back.")
@click.option(
    "--give-up", metavar="LABEL", help="End a backup whose records cannot be read, so that it holds nothing back."
)
@click.option("--repository", metavar="NAME", help="Only this one of the cluster's repositories.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str | None,
    dry_run: bool,
    undo: str | None,
    give_up: str | None,
    repository: str | None,
) -> int:
    """Expire the backups of CLUSTER that its retention policy no longer keeps, and remove what was expired before.

    CLUSTER can be left out if only one is configured. An expired backup can be brought back with --undo for the time
    that "grace" gives in the configuration; then it is removed with everything that only it needed. WAL that no backup
    and no window needs is removed too. Every backup is listed with the reason why it is kept or not. Ends with 12 when
    a clock is wrong, with 16 when stored data is damaged so that nothing can be removed. Needs the repository alone,
    no server.
    """
    from pghaven.repository.backups import BackupCatalog
    from pghaven.retention.expire import run_expire

    chosen = invocation.get_cluster(cluster)
    if sum((dry_run, undo is not None, give_up is not None)) > 1:
        raise UsageError("--undo, --give-up and --dry-run do not go together", hint="Give one of them.")
    if undo is not None:
        return _undo(invocation, chosen, undo, repository)
    if give_up is not None:
        return _give_up(invocation, chosen, give_up, repository)
    policy = make_policy(chosen.retention)
    found: list[tuple[str, ExpireResult]] = []
    with invocation.reporter as listener:

        def expire(_name: str, opened: Repository) -> ExpireResult:
            result = run_expire(BackupCatalog(opened, chosen.name), policy, listener, dry_run=dry_run)
            if not dry_run:
                refresh_listing(opened, chosen.name, listener)
            return result

        found += each_repository(invocation.config, chosen, repository, listener, expire)
    from pghaven.cli.expire_text import render_body, render_text

    text = "\n".join(render_text(*one) for one in found)
    status = invocation.show("expire", {"results": [render_body(*one) for one in found]}, text)
    return Damaged.exit_status if any(result.obstacle for _, result in found) else status


def _give_up(invocation: Invocation, chosen: ClusterConfig, label: str, repository: str | None) -> int:
    from pghaven.repository import unreadable
    from pghaven.repository.backups import BackupCatalog

    with invocation.reporter as listener:
        catalog = BackupCatalog(open_chosen_repository(invocation.config, chosen, repository, listener), chosen.name)
        reason = unreadable.give_up(catalog, label)
    body = {"cluster": chosen.name, "label": label, "reason": reason}
    text = (
        f"backup {label} of {chosen.name} is given up, the next pghaven expire removes what is left of it: {reason}\n"
    )
    return invocation.show("expire-give-up", body, text)


def _undo(invocation: Invocation, chosen: ClusterConfig, label: str, repository: str | None) -> int:
    from pghaven.events import Notice
    from pghaven.repository.backups import BackupCatalog
    from pghaven.retention.expire import find_next_expiry, undo_expiry

    with invocation.reporter as listener:
        catalog = BackupCatalog(open_chosen_repository(invocation.config, chosen, repository, listener), chosen.name)
        whole = undo_expiry(catalog, label)
        reason = find_next_expiry(catalog, make_policy(chosen.retention), whole)
        if reason is not None:
            listener(
                Notice(
                    level="info",
                    code="expires_again",
                    text=f"the next pghaven expire will expire it again: {reason}",
                    hint=f"Change the policy, or exempt it: pghaven hold {whole}",
                )
            )
    body = {"cluster": chosen.name, "label": whole, "expires_again": reason}
    return invocation.show("expire-undo", body, f"backup {whole} of {chosen.name} is back\n")
