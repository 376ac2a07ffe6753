"""``pghaven init``: a place in the repository for a cluster, and its server's settings.

The one idea: what the server needs is shown with the reason for each change; only --apply changes the server.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation

if TYPE_CHECKING:
    from pghaven.cli.init_run import InitResult


@click.command("init")
@click.argument("cluster")
@click.option("--apply", is_flag=True, help="Change the server's settings too (ALTER SYSTEM and a reload).")
@click.option("--data-directory", metavar="DIR", help="For a new configuration: default is what the server says.")
@click.option("--conninfo", metavar="CONNINFO", help="For a new configuration: how to connect, as for psql.")
@click.option("--repository", "repository_url", metavar="URL", help="For a new configuration: where backups are kept.")
@click.option(
    "--store-option",
    "store_options",
    metavar="NAME=VALUE",
    multiple=True,
    help="For a new configuration: an option of the repository, as endpoint=… or region=…. May be given several times.",
)
@click.option(
    "--encryption/--no-encryption",
    "encryption",
    default=None,
    help="Whether a new repository is sealed. Default: where it is not a directory.",
)
@click.option("--key-file", metavar="FILE", help="For a new configuration: where this host keeps the repository's key.")
@click.option("--recovery-copy", metavar="FILE", help="Where to write a second key, to be kept apart from this host.")
@click.option(
    "--recovery-recipient",
    "recovery_recipients",
    metavar="AGE",
    multiple=True,
    help="An age recipient whose identity opens a new repository too. May be given several times.",
)
@click.option("--new-lineage", is_flag=True, help="Let another cluster take over the name, as after pg_upgrade.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str,
    apply: bool,
    data_directory: str | None,
    conninfo: str | None,
    repository_url: str | None,
    encryption: bool | None,
    key_file: str | None,
    store_options: tuple[str, ...],
    recovery_copy: str | None,
    recovery_recipients: tuple[str, ...],
    new_lineage: bool,
) -> int:
    """Make the repository, register CLUSTER in it, and show what its server's settings should be.

    Without a configuration file a first one is written: to --config or $PGHAVEN_CONFIG if given, else to
    ./pghaven.toml, for root to /etc/pghaven/pghaven.toml. Doing it again is fine and changes nothing.

    A new repository in an object store or on another host is sealed: its key is written to a file of this host, and a
    second one must be kept apart (--recovery-copy, --recovery-recipient, or shown at the terminal), because without a
    key nobody can read it. A directory is sealed with --encryption.
    """
    from pghaven.cli.asking import is_interactive, show_recovery_key
    from pghaven.cli.init_place import InitOptions, find_place
    from pghaven.cli.init_run import InitRequest, run_init
    from pghaven.repository.layout import check_cluster_name
    from pghaven.setup.sealing import RecoveryOrder

    check_cluster_name(cluster)
    given = InitOptions(
        data_directory=data_directory,
        conninfo=conninfo,
        repository_url=repository_url,
        encryption=encryption,
        key_file=key_file,
        store_options=store_options,
    )
    place = find_place(invocation.config_path, cluster, given)
    with invocation.reporter as listener:
        recovery = RecoveryOrder(
            copy_path=None if recovery_copy is None else os.path.abspath(recovery_copy),
            recipients=recovery_recipients,
            show=show_recovery_key if is_interactive() else None,
        )
        request = InitRequest(
            place=place, apply=apply, new_lineage=new_lineage, encryption=encryption, recovery=recovery
        )
        result = run_init(request, listener)
    return invocation.show("init", render_body(result), render_text(result))


def render_body(result: InitResult) -> dict[str, object]:
    applied = result.applied
    return {
        "cluster": result.place.cluster.name,
        "system_identifier": str(result.facts.system_identifier),
        "server_version_num": result.facts.version_num,
        "data_directory": result.place.cluster.data_directory,
        "config_path": result.place.config_path,
        "config_written": result.place.is_new,
        "repositories": result.repositories,
        "ready": result.is_ready,
        "settings_to_change": result.plan.change,
        "settings_waiting_for_restart": result.plan.waiting,
        "applied": applied,
        "restart_command": result.restart_command,
        "missing_privileges": result.missing_privileges,
        "archive_command": result.archive_command,
    }


def render_text(result: InitResult) -> str:
    from pghaven.cli.render import render_block
    from pghaven.store.probe import KEPT

    place = result.place
    pairs: list[tuple[str, object]] = [
        ("configuration", place.config_path + (" (written)" if place.is_new else "")),
        ("server", f"PostgreSQL {result.facts.version}, system identifier {result.facts.system_identifier}"),
    ]
    for repository in result.repositories:
        done = "created, cluster registered" if repository.is_new else "cluster registered"
        if repository.is_new and repository.is_sealed:
            done = "created and sealed, cluster registered"
        if not repository.is_new and not repository.newly_registered:
            done = "cluster was registered before"
        pairs.append((f"repository {repository.name}", f"{repository.url} ({done})"))
        if repository.probe is not None:
            pairs.append((f"store of {repository.name}", f"tried: {KEPT}"))
        if repository.key_file is not None:
            pairs.append((f"key of {repository.name}", repository.key_file))
    text = f"cluster {place.cluster.name}\n" + render_block(pairs, indent="  ")
    return text + _render_settings(result) + _render_next(result)


def _render_settings(result: InitResult) -> str:
    from pghaven.cli.render import render_block

    text = ""
    if result.applied is None and result.plan.change:
        text += "\nThe server's settings should be changed:\n"
        for one in result.plan.change:
            restart = " (in force after a restart)" if one.needs_restart else ""
            text += f"  {one.name}\n" + render_block(
                [
                    ("now", one.current or "(empty)"),
                    ("should be", (one.wanted or "(empty)") + restart),
                    ("because", one.reason),
                ],
                indent="    ",
            )
    if result.applied is not None:
        text += _list_names("\nchanged and in force", result.applied.in_force)
        text += _list_names("\nchanged, in force after a restart", result.applied.needs_restart)
    return text + _list_names("\nchanged earlier, in force after a restart", [one.name for one in result.plan.waiting])


def _list_names(title: str, names: Sequence[str]) -> str:
    return f"{title}: {', '.join(names)}\n" if names else ""


def _render_next(result: InitResult) -> str:
    cluster = result.place.cluster.name
    lines = []
    if result.applied is None and result.plan.change:
        lines.append(f"Have them changed with: pghaven init {cluster} --apply")
    if result.restart_command is not None:
        lines.append(f"Restart the server with: {result.restart_command}")
    if result.is_ready:
        lines.append("All is well." if not result.did_anything else f"Try every link with: pghaven check {cluster}")
    return "\n" + "\n".join(lines) + "\n" if lines else ""
