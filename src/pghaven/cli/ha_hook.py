"""``pghaven ha hook``: what Patroni's configuration calls. Not for people.

The one idea: an exit status here decides whether Patroni promotes, or removes a data directory; so each hook says what
its status means, and what may hang is done by a child that is left behind when its time is up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pghaven.cli.invocation import Invocation
from pghaven.errors import EXIT_DONE, PghavenError, UsageError
from pghaven.events import Listener, Notice

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.restore.request import RestoreRequest
    from pghaven.seam.promotion import Member

_SEAM_SECONDS = 1.0
_WORDS = {"ignore_unknown_options": True, "allow_extra_args": True}

_node_option = click.option("--node", required=True, metavar="NAME", help="The member that calls.")
_words = click.argument("words", nargs=-1, type=click.UNPROCESSED)


def _limit_option(default: str) -> Callable[[Any], Any]:
    return click.option("--limit", default=default, show_default=True, metavar="DURATION", help="Done by then, or not.")


@click.group("hook", no_args_is_help=True)
def command() -> None:
    """What Patroni calls: the contract of each is in docs/design/seam.md."""
    from pghaven.seam.called import clean_environment

    clean_environment(os.environ)


@command.command("replica", context_settings=_WORDS)
@click.argument("cluster")
@_node_option
@click.option("--patience", default="1h", show_default=True, metavar="DURATION", help="How long a directory is saved.")
@_words
@click.pass_obj
def replica_command(invocation: Invocation, cluster: str, node: str, patience: str, words: tuple[str, ...]) -> int:
    """Fill the data directory from the newest backup on the line, keeping what is there and the same (a method of
    create_replica_methods).

    Patroni removes the directory when this fails, so what may pass is waited for, and WAL that the repository lacks is
    moved beside the directory before it fails.
    """
    from pghaven.cli.ha_rebuild import rebuild
    from pghaven.seam.called import parse_keys

    listener = _tell_as(invocation.reporter, node)
    return rebuild(invocation, (cluster, node), parse_keys(words), _seconds("--patience", patience), listener)


@command.command("bootstrap", context_settings=_WORDS)
@click.argument("cluster")
@_node_option
@click.option("--target-time", metavar="TIME")
@click.option("--target-lsn", metavar="LSN")
@click.option("--target-xid", metavar="XID")
@click.option("--target-name", metavar="NAME")
@click.option("--immediate", is_flag=True)
@click.option("--target-timeline", metavar="T")
@click.option("--backup", metavar="LABEL")
@click.option("--archive", is_flag=True, help="It takes the original's place, and archives.")
@_words
@click.pass_obj
def bootstrap_command(
    invocation: Invocation, /, cluster: str, *, node: str, archive: bool, words: tuple[str, ...], **target: Any
) -> int:
    """Make the first member's data directory out of a backup (a bootstrap method with keep_existing_recovery_conf).

    A target that cannot be reached is refused before anything is written; a copy archives only with --archive.
    """
    from pghaven.cli.ha_rebuild import make_bootstrap_request, restore_into
    from pghaven.seam.called import get_data_directory, parse_keys

    chosen = invocation.get_cluster(cluster)
    directory = get_data_directory(parse_keys(words), chosen.data_directory)
    request: RestoreRequest = make_bootstrap_request(cluster, directory, target, archive=archive)
    restore_into(invocation, chosen, request, _tell_as(invocation.reporter, node))
    return EXIT_DONE


@command.command("pre-promote", context_settings=_WORDS)
@click.argument("cluster")
@_node_option
@_limit_option("2s")
@_words
@click.pass_obj
def pre_promote_command(
    invocation: Invocation,
    cluster: str,
    node: str,
    limit: str,
    words: tuple[str, ...],  # noqa: ARG001  a later Patroni may append some
) -> int:
    """Have everything archived that this standby has and a repository lacks, as soon as it is promoted.

    Always ends with 0, and within the limit and two seconds: it must never hold up a failover.
    """
    from pghaven.wal.limit import run_within

    listener = _tell_as(invocation.reporter, node)
    try:
        seconds = _seconds("--limit", limit)
        member = _find_member(invocation, cluster)

        def announce() -> int:
            from pghaven.wal.announced import announce_promotion

            announce_promotion(member.data_directory, node)
            return EXIT_DONE

        def ask() -> int:
            from pghaven.seam.promotion import mark_lacking

            _tell_marked(mark_lacking(member), listener)
            return EXIT_DONE

        def mark() -> int:
            from pghaven.seam.promotion import mark_newest

            _tell_marked(mark_newest(member), listener)
            return EXIT_DONE

        run_within(_SEAM_SECONDS, announce, lambda error: _tell_failure(error, listener))
        if run_within(seconds, ask, lambda error: _tell_failure(error, listener)) != EXIT_DONE:
            run_within(_SEAM_SECONDS, mark, lambda error: _tell_failure(error, listener))
    except (PghavenError, OSError) as error:
        _tell_failure(error, listener)
    return EXIT_DONE


@command.command("role-change", context_settings=_WORDS)
@click.argument("cluster")
@_node_option
@_limit_option("5min")
@_words
@click.pass_obj
def role_change_command(invocation: Invocation, cluster: str, node: str, limit: str, words: tuple[str, ...]) -> int:
    """After a promotion: end the first segment, look for gaps and fill them (callbacks on_role_change, on_start).

    From the first call on a promotion of this server that pre-promote was not called for is somebody's mistake, and
    what it archives goes into quarantine.

    Always ends with 0: Patroni takes no notice, and may end it at any moment; refilling goes on where it was.
    """
    from pghaven.seam.called import parse_role_change
    from pghaven.wal.announced import note_member
    from pghaven.wal.limit import run_within

    listener = _tell_as(invocation.reporter, node)
    try:
        seconds = _seconds("--limit", limit)
        change = parse_role_change(words)
        chosen = invocation.get_cluster(cluster)
        member = _find_member(invocation, cluster)
        note_member(member.data_directory, node)
        if not change.to_primary:
            return EXIT_DONE

        def look_after() -> int:
            _look_after(chosen, member, (node, seconds), listener)
            return EXIT_DONE

        if run_within(seconds, look_after, lambda error: _tell_failure(error, listener)) is None:
            text = f"not done within {limit}: pghaven wal refill {cluster} does the rest"
            listener(Notice(level="warning", code="late", text=text))
    except (PghavenError, OSError) as error:
        _tell_failure(error, listener)
    return EXIT_DONE


def _look_after(chosen: ClusterConfig, member: Member, call: tuple[str, float], listener: Listener) -> None:
    """``call``: the node, and how long it may take."""
    from pghaven.repository.place import open_place
    from pghaven.seam.promotion import finish_first_segment, repair_continuity
    from pghaven.wal.announced import note_begun

    node, seconds = call
    segment = finish_first_segment(chosen.conninfo, seconds)
    note_begun(member.data_directory, node, segment.timeline)
    listener(Notice(level="info", code="switched", text=f"{segment} is the first segment of this primary"))
    for name, found in repair_continuity(member, chosen.wal_nodes, listener, open_place).items():
        if found.filled:
            text = f'{len(found.filled)} segments were missing from repository "{name}" and are filled in'
            listener(Notice(level="info", code="filled", text=text))
        for gap in (*found.lost, *(gap for gap, _ in found.open)):
            text = f'WAL from {gap.first} to {gap.last} is missing from repository "{name}", and no server has it'
            hint = f"Take a backup: pghaven backup {chosen.name}"
            listener(Notice(level="warning", code="gap", text=text, hint=hint))


def _find_member(invocation: Invocation, cluster: str) -> Member:
    from pghaven.cli.opening import list_places
    from pghaven.seam.promotion import Member

    chosen = invocation.get_cluster(cluster)
    places = list_places(invocation.config, chosen)
    return Member(cluster=chosen.name, data_directory=chosen.data_directory, places=places)


def _seconds(option: str, text: str) -> float:
    from pghaven.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _tell_as(listener: Listener, node: str) -> Listener:
    """Patroni's log is one for all: each line says whose hook it is."""
    from dataclasses import replace

    def tell(event: Any) -> None:
        listener(replace(event, text=f"{node}: {event.text}") if isinstance(event, Notice) else event)

    return tell


def _tell_marked(names: tuple[str, ...], listener: Listener) -> None:
    text = f"{len(names)} files are to be archived at the promotion: {names[0]} to {names[-1]}" if names else "no gap"
    listener(Notice(level="info", code="marked", text=text))


def _tell_failure(error: BaseException, listener: Listener) -> int:
    """Of a hook that ends with 0 all the same; gives the status for the child."""
    if isinstance(error, PghavenError):
        listener(Notice(level="warning", code="hook_failed", text=error.message, hint=error.hint))
        return error.exit_status
    listener(Notice(level="warning", code="hook_failed", text=f"{type(error).__name__}: {error}"))
    return 1
