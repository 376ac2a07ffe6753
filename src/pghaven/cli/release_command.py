"""``pghaven release``: let the retention policy judge a held backup again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import find_in_repositories
from pghaven.cli.retention_options import make_policy

if TYPE_CHECKING:
    from pghaven.repository.backups import BackupCatalog
    from pghaven.repository.repository import Repository


@click.command("release")
@click.argument("label")
@click.option("--cluster", metavar="NAME", help="Whose backup it is; needed if several clusters are configured.")
@click.option("--repository", metavar="NAME", help="Which of the cluster's repositories it is in.")
@click.pass_obj
def command(invocation: Invocation, label: str, cluster: str | None, repository: str | None) -> int:
    """End the hold of the backup LABEL (or the beginning of its label)."""
    from pghaven.repository.backups import BackupCatalog
    from pghaven.retention.byhand import find_next_expiry, release_backup

    chosen = invocation.get_cluster(cluster)
    with invocation.reporter as listener:

        def release(opened: Repository) -> tuple[BackupCatalog, str]:
            catalog = BackupCatalog(opened, chosen.name)
            return catalog, release_backup(catalog, label, listener)

        catalog, whole = find_in_repositories(invocation.config, chosen, repository, listener, release)
        reason = find_next_expiry(catalog, make_policy(chosen.retention), whole)
    after = "stays as the policy is now" if reason is None else f"goes with the next pghaven expire: {reason}"
    text = f"backup {whole} of {chosen.name} is no longer held; it {after}\n"
    return invocation.show("release", {"cluster": chosen.name, "label": whole, "expires": reason}, text)
