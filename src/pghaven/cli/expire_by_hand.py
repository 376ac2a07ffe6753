"""``pghaven expire`` with one backup's name: bring it back, give it up, or expire it whatever the policy says.

The one idea: what is done to one backup is told as one sentence, and what it costs is told before it is too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pghaven.cli.opening import open_chosen_repository
from pghaven.cli.retention_options import make_policy

if TYPE_CHECKING:
    from pghaven.cli.invocation import Invocation
    from pghaven.config.values import ClusterConfig


class Order(NamedTuple):
    """A backup to be expired by its label, or the beginning of one."""

    label: str
    reason: str
    dry_run: bool


def remove(invocation: Invocation, chosen: ClusterConfig, order: Order, repository: str | None) -> int:
    from pghaven.repository.backups import BackupCatalog
    from pghaven.retention.byhand import remove_backup
    from pghaven.units import render_time

    with invocation.reporter as listener:
        catalog = BackupCatalog(open_chosen_repository(invocation.config, chosen, repository, listener), chosen.name)
        removed = remove_backup(
            catalog,
            make_policy(chosen.retention),
            order.label,
            reason=order.reason or "no reason was given",
            dry_run=order.dry_run,
            listener=listener,
        )
    verb = "is" if removed.is_done else "would be"
    lines = [f"backup {removed.label} of {chosen.name} {verb} expired by hand"]
    lines += [f"  the policy keeps it: {text}" for text in removed.kept_for]
    lines += [f"  what is lost: {text}" for text in removed.lost]
    undo = f"pghaven expire {chosen.name} --undo {removed.label}"
    lines.append(f"  until {render_time(removed.undo_until)} this brings it back: {undo}")
    return invocation.show("expire-remove", {"cluster": chosen.name, "removal": removed}, "\n".join(lines) + "\n")


def give_up(invocation: Invocation, chosen: ClusterConfig, label: str, repository: str | None) -> int:
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


def undo(invocation: Invocation, chosen: ClusterConfig, label: str, repository: str | None) -> int:
    from pghaven.events import Notice
    from pghaven.repository.backups import BackupCatalog
    from pghaven.retention.byhand import find_next_expiry, undo_expiry

    with invocation.reporter as listener:
        catalog = BackupCatalog(open_chosen_repository(invocation.config, chosen, repository, listener), chosen.name)
        whole = undo_expiry(catalog, label, listener)
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
