"""``pghaven agent``: look after the WAL of this host's clusters, all the time."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.output import make_printable, write_error, write_out
from pghaven.clock import SYSTEM_CLOCK
from pghaven.config.values import ClusterConfig, Config
from pghaven.errors import EXIT_DONE, Locked, UsageError
from pghaven.events import Event, Notice

# An agent that was killed is followed by its children within a second or two.
_LOCK_SECONDS = 5.0
_LOCK_POLL_SECONDS = 0.1
_USUAL_OWNER = "postgres"
_PRIORITIES = {"info": "<6>", "warning": "<4>"}  # sd-daemon(3)


@click.command("agent")
@click.option("--cluster", "names", metavar="CLUSTER", multiple=True, help="Only this one; may be given again.")
@click.option("--print-unit", is_flag=True, help="Show the systemd unit that runs it with this configuration.")
@click.pass_obj
def command(invocation: Invocation, names: Sequence[str], print_unit: bool) -> int:
    """Look after the WAL of the configured clusters until it is ended.

    It answers `archive_command` through a socket in each `pg_wal`, pushes what waits, and fills in what repositories
    have missed. Everything works without it, too. One agent serves a host; as root it does each cluster's work as the
    owner of its data directory. A changed configuration is read anew by itself, and at SIGHUP.
    """
    config = invocation.config
    if print_unit:
        write_out(_render_unit(config, names))
        return EXIT_DONE
    _refuse_second(choose(config, names))
    from pghaven.agent.services import Service
    from pghaven.agent.supervisor import Supervisor
    from pghaven.cli.agent_services import list_services
    from pghaven.config.loading import load_config

    def load() -> Sequence[Service]:
        loaded = load_config(config.source)
        return list_services(loaded, choose(loaded, names))

    try:
        Supervisor(config.source, load, log).run()
    except KeyboardInterrupt as interrupt:
        # To a service manager anything but "done" is a failure, and this is how each day of it ends.
        text = f"ended, as it was asked to ({interrupt})" if interrupt.args else "ended, as it was asked to"
        log(Notice(level="info", code="ended", text=text))
    return EXIT_DONE


def choose(config: Config, names: Sequence[str]) -> tuple[ClusterConfig, ...]:
    """The named clusters, or all. Raises NotFound, UsageError when there is none."""
    if not names and not config.clusters:
        raise UsageError(f"no cluster is configured in {config.source}", hint="Add one with: pghaven init NAME")
    return tuple(config.get_cluster(name) for name in dict.fromkeys(names or config.clusters))


def log(event: Event) -> None:
    """A line for each; a service manager adds the time, and nobody else does."""
    if not isinstance(event, Notice):
        return
    for text in (event.text, *([] if event.hint is None else [f"hint: {event.hint}"])):
        for line in text.splitlines():
            write_error(f"{_render_begin(event.level)}{make_printable(line)}\n")


def _render_begin(level: str) -> str:
    if os.environ.get("JOURNAL_STREAM"):
        return _PRIORITIES[level]
    return f"{SYSTEM_CLOCK.now().astimezone().isoformat(sep=' ', timespec='milliseconds')} {level}: "


def _refuse_second(clusters: Sequence[ClusterConfig]) -> None:
    from pghaven.agent.door import find_other

    deadline = SYSTEM_CLOCK.monotonic() + _LOCK_SECONDS
    for cluster in clusters:
        while find_other(cluster.data_directory):
            if SYSTEM_CLOCK.monotonic() >= deadline:
                raise Locked(
                    f'another agent serves cluster "{cluster.name}" already',
                    hint="One agent serves all clusters of a host. To have it read its configuration: kill -HUP.",
                )
            SYSTEM_CLOCK.sleep(_LOCK_POLL_SECONDS)


def _render_unit(config: Config, names: Sequence[str]) -> str:
    from pghaven.agent.unit import render_unit
    from pghaven.setup.program import find_program

    clusters = choose(config, names)
    programs = {cluster.program for cluster in clusters}
    words = [*find_program(programs.pop() if len(programs) == 1 else None), "agent", "--config", config.source]
    for name in names:
        words += ["--cluster", name]
    try:
        return render_unit(words, _find_user(clusters))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _find_user(clusters: Sequence[ClusterConfig]) -> str:
    """The owner of all data directories; root when there are several, who becomes each of them for its work."""
    from pghaven.server.identity import find_owner

    owners = set()
    for cluster in clusters:
        try:
            owner = find_owner(cluster.data_directory)
        except OSError:
            continue
        owners.add("root" if owner is None else owner.name)
    return owners.pop() if len(owners) == 1 else "root" if owners else _USUAL_OWNER
