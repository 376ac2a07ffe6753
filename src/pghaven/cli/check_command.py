"""``pghaven check``: every link between server and repository, one line each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import choose_clusters, count_processes, list_places
from pghaven.cli.output import make_printable
from pghaven.errors import EXIT_WARNINGS, CheckFailed, UsageError

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig, Config
    from pghaven.events import Listener
    from pghaven.proof.check import CheckSettings
    from pghaven.proof.results import CheckResult

# One segment through archive_command takes a fraction of a second; with archiving behind, others come first.
ROUND_TRIP_SECONDS = 60.0


@click.command("check")
@click.argument("cluster", required=False)
@click.option(
    "--timeout",
    metavar="DURATION",
    help='How long a WAL segment may take into the repository, such as "2min".  [default: 1min]',
)
@click.option(
    "--nagios", is_flag=True, help="One line for monitoring, as a Nagios plugin; nothing is tried, only read."
)
@click.option("--deep", is_flag=True, help="Also read every row of every database, and check all relations.")
@click.option("--database", "databases", multiple=True, metavar="NAME", help="With --deep: only this; can be repeated.")
@click.option("--create-amcheck", is_flag=True, help="With --deep: create the extension amcheck where it is missing.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str | None,
    timeout: str | None,
    nagios: bool,
    deep: bool,
    databases: tuple[str, ...],
    create_amcheck: bool,
) -> int:
    """Try every link between the server and the repository of CLUSTER, or of every configured cluster.

    A WAL segment is finished on the server, awaited in the repository and read back. Ends with 17 when a check fails,
    with 3 when there are only warnings.

    With --deep every database is dumped to nowhere, which reads every row, and pg_amcheck looks for every row in its
    indexes (by the extension amcheck). What is damaged is named, relation by relation. It takes as long as a dump, and
    then some.

    With --nagios no segment is finished: what "pghaven status" sees is told in one line with performance data, and the
    exit status is that of a plugin: 0, 1, 2, and 3 for unknown.
    """
    if nagios:
        from pghaven.cli.status_asked import show_nagios

        return show_nagios(invocation, cluster)
    if not deep and (databases or create_amcheck):
        raise UsageError("--database and --create-amcheck are for --deep", hint="Add --deep, or leave them out.")
    from pghaven.proof.check import run_checks
    from pghaven.proof.results import Verdict, judge

    seconds = _parse_timeout(timeout)
    config = invocation.config
    found: list[tuple[str, tuple[CheckResult, ...]]] = []
    with invocation.reporter as listener:
        for one in choose_clusters(config, cluster):
            results = run_checks(_make_settings(config, one, seconds), listener)
            if deep:
                results += _check_deep(one, databases, listener, may_install=create_amcheck)
            found.append((one.name, results))
    body = [{"cluster": name, "result": judge(results).value, "checks": results} for name, results in found]
    titled = len(found) > 1
    text = "\n".join((f"cluster {name}\n" if titled else "") + render_results(results) for name, results in found)
    status = invocation.show("check", {"clusters": body}, text)
    verdict = judge(result for _, results in found for result in results)
    return {Verdict.FAILED: CheckFailed.exit_status, Verdict.WARNING: EXIT_WARNINGS}.get(verdict, status)


def _check_deep(
    cluster: ClusterConfig, databases: tuple[str, ...], listener: Listener, *, may_install: bool
) -> tuple[CheckResult, ...]:
    from pghaven.proof.deep import DeepSettings, run_deep_check
    from pghaven.setup.register import find_server_os_user

    settings = DeepSettings(
        conninfo=cluster.conninfo,
        owner=find_server_os_user(cluster.data_directory) if os.geteuid() == 0 else None,
        pg_bin=cluster.pg_bin,
        databases=databases,
        jobs=count_processes(cluster),
        may_install=may_install,
    )
    return run_deep_check(settings, listener)


def render_results(results: tuple[CheckResult, ...]) -> str:
    """``name: what was found: OK``, one line each, a hint on the line after."""
    lines = []
    for result in results:
        lines.append(make_printable(f"{result.name}: {result.text}: {result.verdict.value}"))
        if result.hint:
            lines.append(make_printable(f"    HINT:  {result.hint}"))
    return "\n".join(lines) + "\n"


def _parse_timeout(text: str | None) -> float:
    from pghaven.units import parse_duration

    if text is None:
        return ROUND_TRIP_SECONDS
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error


def _make_settings(config: Config, cluster: ClusterConfig, round_trip_seconds: float) -> CheckSettings:
    from pghaven.cli.asking import ask_passphrase
    from pghaven.proof.check import CheckSettings
    from pghaven.setup.program import find_program
    from pghaven.wal.commands import render_archive_command

    program = find_program(cluster.program)
    return CheckSettings(
        cluster=cluster.name,
        data_directory=cluster.data_directory,
        conninfo=cluster.conninfo,
        repositories=list_places(config, cluster),
        config_path=config.source,
        program=program,
        archive_command=render_archive_command(program, config.source, cluster.name),
        round_trip_seconds=round_trip_seconds,
        ask=ask_passphrase,
        receive_slot=cluster.receive_slot,
        is_receiver_wanted=cluster.receive,
        fails_over=cluster.ha.is_configured,
    )
