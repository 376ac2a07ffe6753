"""``pghaven expire`` with one backup's name: bring it back, give it up, or expire it whatever the policy says.

The one idea: what is done to one backup is done to it and its copies in every repository of the cluster, told for each,
and what it costs is told before it is too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pghaven.cli.opening import each_repository, open_chosen_repository
from pghaven.cli.retention_options import make_policy

if TYPE_CHECKING:
    from pghaven.cli.invocation import Invocation
    from pghaven.config.values import ClusterConfig
    from pghaven.events import Listener
    from pghaven.repository.backups import BackupCatalog
    from pghaven.repository.entry import BackupState


class Order(NamedTuple):
    """A backup or dump to be expired by its label, or the beginning of one."""

    label: str
    reason: str
    dry_run: bool


def remove(invocation: Invocation, chosen: ClusterConfig, order: Order, repository: str | None) -> int:
    from pghaven.repository.entry import BackupState
    from pghaven.repository.removal import refuse_held
    from pghaven.retention.byhand import RemovalByHand, find_named, remove_backup
    from pghaven.units import render_time

    removals: list[tuple[str, RemovalByHand]] = []
    with invocation.reporter as listener:
        catalogs = _open_each(invocation, chosen, repository, listener)
        found, without = find_named(catalogs, order.label, BackupState.COMMITTED)
        for entry in found.values():
            refuse_held(entry)  # before anything is done anywhere
        for name, entry in found.items():
            removed = remove_backup(
                catalogs[name],
                make_policy(chosen.retention),
                entry.label,
                reason=order.reason or "no reason was given",
                dry_run=order.dry_run,
                listener=listener,
            )
            removals.append((name, removed))
        _tell_without(without, BackupState.COMMITTED, listener)
    lines = []
    for name, removed in removals:
        where = f" in repository {name}" if len(removals) > 1 else ""
        verb = "is" if removed.is_done else "would be"
        lines.append(f"{removed.purpose} {removed.label} of {chosen.name}{where} {verb} expired by hand")
        lines += [f"  the policy keeps it: {text}" for text in removed.kept_for]
        lines += [f"  what is lost: {text}" for text in removed.lost]
    last = removals[-1][1]
    undo = f"pghaven expire {chosen.name} --undo {removals[0][1].label}"
    lines.append(f"  until {render_time(last.undo_until)} this brings it back: {undo}")
    body = {"cluster": chosen.name, "removals": [{"repository": name, "removal": one} for name, one in removals]}
    return invocation.show("expire-remove", body, "\n".join(lines) + "\n")


def _open_each(
    invocation: Invocation, chosen: ClusterConfig, repository: str | None, listener: Listener
) -> dict[str, BackupCatalog]:
    """The cluster's catalog in each of its repositories, by their names; one that fails is warned of."""
    from pghaven.repository.backups import BackupCatalog

    return dict(
        each_repository(
            invocation.config, chosen, repository, listener, lambda _, opened: BackupCatalog(opened, chosen.name)
        )
    )


def _tell_without(names: tuple[str, ...], state: BackupState, listener: Listener) -> None:
    from pghaven.events import Notice

    for name in names:
        text = f'repository "{name}" has no {state} backup or dump of that label, nor a copy of it'
        listener(Notice(level="info", code="not_there", text=text))


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


def mend(invocation: Invocation, chosen: ClusterConfig, label: str, repository: str | None) -> int:
    from pghaven.repository import unreadable
    from pghaven.repository.backups import BackupCatalog

    with invocation.reporter as listener:
        catalog = BackupCatalog(open_chosen_repository(invocation.config, chosen, repository, listener), chosen.name)
        backups = unreadable.mend(catalog, label)
    body = {"cluster": chosen.name, "label": label, "backups": backups}
    text = f"what compaction {label} of {chosen.name} wrote is whole, and counts for {', '.join(backups)}\n"
    return invocation.show("expire-mend", body, text)


def undo(invocation: Invocation, chosen: ClusterConfig, label: str, repository: str | None) -> int:
    from pghaven.events import Notice
    from pghaven.repository.entry import BackupState
    from pghaven.retention.byhand import find_named, find_next_expiry, undo_expiry

    undone: list[dict[str, str | None]] = []
    lines = []
    with invocation.reporter as listener:
        catalogs = _open_each(invocation, chosen, repository, listener)
        found, _ = find_named(catalogs, label, BackupState.RETIRED)
        for name, entry in found.items():
            whole = undo_expiry(catalogs[name], entry.label, listener)
            reason = find_next_expiry(catalogs[name], make_policy(chosen.retention), whole)
            undone.append({"repository": name, "label": whole, "expires_again": reason})
            where = f" in repository {name}" if len(found) > 1 else ""
            lines.append(f"{entry.purpose} {whole} of {chosen.name} is back{where}")
            if reason is not None:
                listener(
                    Notice(
                        level="info",
                        code="expires_again",
                        text=f"the next pghaven expire will expire it again{where}: {reason}",
                        hint=f"Change the policy, or exempt it: pghaven hold {whole}",
                    )
                )
    return invocation.show("expire-undo", {"cluster": chosen.name, "undone": undone}, "\n".join(lines) + "\n")
