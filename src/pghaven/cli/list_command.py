"""``pghaven list``: the backups there are."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import choose_clusters, each_repository
from pghaven.cli.render import Column, render_table
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import NotFound

if TYPE_CHECKING:
    from pghaven.proof.catalog import ListedBackup, ListedDump
    from pghaven.repository.kept import KeptSnapshot
    from pghaven.repository.repository import Repository

_COLUMNS = (
    "backup",
    "state",
    "started",
    Column(title="took", align="right"),
    Column(title="size", align="right"),
    Column(title="stored", align="right"),
    "changes",
    Column(title="timeline", align="right"),
    "start LSN",
    "stop LSN",
    "from",
    Column(title="bad pages", align="right"),
    "verified",
    "drilled",
)


_DUMP_COLUMNS = (
    "dump",
    "state",
    "started",
    Column(title="took", align="right"),
    "databases",
    Column(title="rows", align="right"),
    Column(title="size", align="right"),
    Column(title="stored", align="right"),
    "pg_dump",
)

_SNAPSHOT_COLUMNS = ("snapshot", "taken", Column(title="size", align="right"), "host", "on")

_Listed: TypeAlias = "tuple[tuple[ListedBackup, ...], tuple[ListedDump, ...], tuple[KeptSnapshot, ...]]"


@click.command("list")
@click.argument("cluster", required=False)
@click.option("--repository", metavar="NAME", help="Only this one of the cluster's repositories.")
@click.pass_obj
def command(invocation: Invocation, cluster: str | None, repository: str | None) -> int:
    """List the backups of CLUSTER, or of every configured cluster, oldest first.

    Of several repositories each is listed, and one that cannot be reached is warned of.
    Backups that are running or came to nothing are listed too. Only "complete" ones can be restored. Needs the
    repository alone, no server.
    """
    from pghaven.proof.catalog import list_all
    from pghaven.repository.kept import list_kept
    from pghaven.repository.outline import open_outlined

    config = invocation.config
    chosen = choose_clusters(config, cluster)
    shown: list[tuple[str, str, _Listed]] = []
    for one in chosen:

        def read(_name: str, opened: Repository, cluster: str = one.name) -> _Listed:
            if not opened.list_lineages(cluster):
                raise NotFound(
                    f'cluster "{cluster}" is not registered in repository {opened.store.url}',
                    hint=f"Register it with: pghaven init {cluster}",
                )
            catalog = open_outlined(opened, cluster)
            return (*list_all(catalog), list_kept(opened, cluster))

        found = each_repository(config, one, repository, invocation.reporter, read)
        shown += [(one.name, name, listed) for name, listed in found]
    body = [
        {
            "cluster": name,
            "repository": place,
            "backups": _body(listed[0]),
            "dumps": _dump_body(listed[1]),
            "snapshots": _snapshot_body(listed[2]),
        }
        for name, place, listed in shown
    ]
    titled = len(shown) > 1
    text = "\n".join(
        _title(name, place, titled)
        + render_backups(name, listed[0])
        + render_dumps(listed[1])
        + render_snapshots(listed[2])
        for name, place, listed in shown
    )
    return invocation.show("list", {"clusters": body}, text)


def render_backups(cluster: str, backups: tuple[ListedBackup, ...]) -> str:
    if not backups:
        return f"no backups yet; take one: pghaven backup {cluster}\n"
    now = SYSTEM_CLOCK.now()
    return render_table(_COLUMNS, [_row(one, now) for one in backups])


def render_dumps(dumps: tuple[ListedDump, ...]) -> str:
    """A table of them below that of the backups; nothing without any."""
    from pghaven.units import render_duration, render_size, render_time

    rows = [
        (
            one.label,
            one.state,
            render_time(one.started_at) if one.started_at else None,
            None if one.seconds is None else render_duration(one.seconds),
            ", ".join(one.databases) or None,
            None if one.rows is None else f"{one.rows:,}",
            None if one.total_bytes is None else render_size(one.total_bytes),
            None if one.stored_bytes is None else render_size(one.stored_bytes),
            one.program_version,
        )
        for one in dumps
    ]
    return "\n" + render_table(_DUMP_COLUMNS, rows) if rows else ""


def render_snapshots(kept: tuple[KeptSnapshot, ...]) -> str:
    """A table of those that are kept on some host; whether they are there still, only that host can tell."""
    from pghaven.units import render_size, render_time

    rows = [
        (
            one.label,
            render_time(one.facts.stopped_at),
            render_size(one.facts.total_bytes),
            one.facts.host,
            ", ".join(map(str, one.volumes)),
        )
        for one in kept
    ]
    return "\n" + render_table(_SNAPSHOT_COLUMNS, rows) if rows else ""


def _snapshot_body(kept: tuple[KeptSnapshot, ...]) -> list[dict[str, object]]:
    return [
        {
            "label": one.label,
            "taken_at": one.facts.stopped_at,
            "host": one.facts.host,
            "total_bytes": one.facts.total_bytes,
            "volumes": one.volumes,
        }
        for one in kept
    ]


def _dump_body(dumps: tuple[ListedDump, ...]) -> list[dict[str, object]]:
    from dataclasses import asdict

    return [asdict(one) for one in dumps]


def _title(cluster: str, repository: str, titled: bool) -> str:
    return f"cluster {cluster}, repository {repository}\n" if titled else ""


def _row(backup: ListedBackup, now: datetime) -> tuple[object, ...]:
    from pghaven.units import render_duration, render_size, render_time

    source = None if backup.from_standby is None else "standby" if backup.from_standby else "primary"
    return (
        backup.label,
        _describe_state(backup),
        render_time(backup.started_at) if backup.started_at else None,
        None if backup.seconds is None else render_duration(backup.seconds),
        None if backup.total_bytes is None else render_size(backup.total_bytes),
        None if backup.stored_bytes is None else render_size(backup.stored_bytes),
        backup.changes,
        backup.timeline,
        backup.start_lsn,
        backup.stop_lsn,
        source,
        backup.bad_pages,
        _describe_verification(backup, now),
        _describe_drill(backup),
    )


def _describe_state(backup: ListedBackup) -> str:
    from pghaven.units import render_time

    state = backup.state.value
    if state == "running":
        return f"running on {backup.host} (process {backup.process})"
    if backup.removed_after is not None:
        state += f", removed after {render_time(backup.removed_after)}"
    if backup.held_since is not None:
        return f"{state}, held since {render_time(backup.held_since)}: {backup.held}"
    return f"{state}: {backup.reason}" if backup.reason else state


def _describe_verification(backup: ListedBackup, now: datetime) -> str | None:
    """When all of it was last read, and what was found then."""
    from pghaven.proof.problems import is_stale
    from pghaven.units import render_time

    if backup.state.value not in ("complete", "retired"):
        return None
    verdict, at = backup.verified.verdict.value, backup.verified.at
    if at is None:
        return verdict
    stale = ", long ago" if is_stale(backup, now) else ""
    return f"{verdict.upper() if verdict == 'damaged' else verdict} {render_time(at)}{stale}"


def _describe_drill(backup: ListedBackup) -> str | None:
    """When it was last restored to be proven, and whether it came back."""
    from pghaven.units import render_time

    if backup.state.value not in ("complete", "retired"):
        return None
    drilled = backup.drilled
    if drilled is None:
        return "never"
    stale = ", long ago" if drilled.is_stale else ""
    return f"{'passed' if drilled.passed else 'FAILED'} {render_time(drilled.at)}{stale}"


def _body(backups: tuple[ListedBackup, ...]) -> list[dict[str, object]]:
    from dataclasses import fields

    found = []
    for one in backups:
        body = {field.name: getattr(one, field.name) for field in fields(one)}
        body["system_identifier"] = None if one.system_identifier is None else str(one.system_identifier)
        found.append(body)
    return found
