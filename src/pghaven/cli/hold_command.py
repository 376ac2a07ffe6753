"""``pghaven hold``: keep a backup whatever the retention policy says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import find_in_repositories

if TYPE_CHECKING:
    from pghaven.repository.entry import BackupEntry
    from pghaven.repository.repository import Repository


@click.command("hold")
@click.argument("label")
@click.option("--reason", default="by hand", show_default=True, help='Why; "pghaven list" shows it.')
@click.option("--cluster", metavar="NAME", help="Whose backup it is; needed if several clusters are configured.")
@click.option("--repository", metavar="NAME", help="Which of the cluster's repositories it is in.")
@click.pass_obj
def command(invocation: Invocation, label: str, reason: str, cluster: str | None, repository: str | None) -> int:
    """Exempt the backup LABEL (or the beginning of its label) from retention until it is released.

    It stays, with the WAL it needs, whatever the policy says, and the policy counts the others as if it were not held.
    An expired backup that has not been removed yet is brought back.
    """
    from pghaven.repository.backups import BackupCatalog
    from pghaven.retention.byhand import hold_backup
    from pghaven.units import render_time

    chosen = invocation.get_cluster(cluster)
    with invocation.reporter as listener:

        def hold(opened: Repository) -> BackupEntry:
            return hold_backup(BackupCatalog(opened, chosen.name), label, reason, listener)

        entry = find_in_repositories(invocation.config, chosen, repository, listener, hold)
    assert entry.hold is not None
    since = entry.hold.written_at
    body = {"cluster": chosen.name, "label": entry.label, "reason": entry.hold.reason, "held_since": since}
    text = f"backup {entry.label} of {chosen.name} is held since {render_time(since)}: {entry.hold.reason}\n"
    return invocation.show("hold", body, text)
