"""What ``pghaven wal push`` and ``wal get`` do, without the command-line library.

The one idea: PostgreSQL starts these for every WAL file, and half of what a start costs is the parsing of options. So
the command lines that ``wal.commands`` renders are recognised here, word for word; any other goes to ``wal_command``,
which ends in the same functions. What fails is reported by the same code too, which may then be slow.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from pghaven.cli.opening import count_processes, list_places
from pghaven.config.loading import load_config
from pghaven.config.values import ClusterConfig, Config
from pghaven.errors import EXIT_DONE, EXIT_STOP_RECOVERY, Cancelled, PghavenError
from pghaven.events import Event, Listener, Notice
from pghaven.light import dataclass, replace
from pghaven.units import render_duration
from pghaven.wal.commands import ABSENT_STATUS

if TYPE_CHECKING:
    from pghaven.wal.everywhere import PushRequest

EXIT_ABSENT = 1

_PUSH_OPTIONS = frozenset({"--config", "--cluster"})
_GET_OPTIONS = _PUSH_OPTIONS | {"--plan", "--absent-status"}
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_STATUS_MAX = 255
_PUSH_PROCESSES_MAX = 8
_MOMENT_SECONDS = 1.0
_USUAL_SEGMENT_BYTES = 16 << 20


def run_words(words: Sequence[str], spent_seconds: float = 0.0) -> int | None:
    """Run a command line as PostgreSQL is told to use it, and return its exit status; None if it is any other.

    ``spent_seconds`` of the time that a push may take are over already.
    Only errors of ours and interrupts are reported here; a bug is raised.
    """
    if list(words[:2]) == ["wal", "push"]:
        found = _split(words[2:], _PUSH_OPTIONS, operands=1)
        failure_status = None
    elif list(words[:2]) == ["wal", "get"]:
        found = _split(words[2:], _GET_OPTIONS, operands=2)
        failure_status = EXIT_STOP_RECOVERY
    else:
        return None
    if found is None:
        return None
    options, operands = found
    with _ending_signals_interrupt():
        try:
            config = load_config(options.get("--config"))
            cluster = choose_cluster(config, options.get("--cluster"))
            if failure_status is None:
                return push(PushCall(config=config, cluster=cluster, path=operands[0], spent_seconds=spent_seconds))
            return get(
                GetCall(
                    config=config,
                    cluster=cluster,
                    file_name=operands[0],
                    target_path=operands[1],
                    plan_path=options.get("--plan"),
                    absent_status=int(options.get("--absent-status", EXIT_ABSENT)),
                )
            )
        except PghavenError as error:
            return report(error, failure_status=failure_status)
        except KeyboardInterrupt as interrupt:
            reason = f"ended by {interrupt}" if interrupt.args else "interrupted"
            return report(Cancelled(reason), failure_status=failure_status)


def choose_cluster(config: Config, name: str | None) -> ClusterConfig:
    """The named cluster; without a name the only one, or the one whose data directory is the current one.

    Raises NotFound, UsageError.
    """
    if name is None and len(config.clusters) > 1:
        here = os.path.realpath(".")
        at_home = [one for one in config.clusters.values() if os.path.realpath(one.data_directory) == here]
        if len(at_home) == 1:
            return at_home[0]
    return config.get_cluster(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushCall:
    """Of the cluster's time limit ``spent_seconds`` are over; a moment is left all the same."""

    config: Config
    cluster: ClusterConfig
    path: str
    as_json: bool = False
    spent_seconds: float = 0.0
    look_ahead: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GetCall:
    """``absent_status`` is what proven absence ends with."""

    config: Config
    cluster: ClusterConfig
    file_name: str
    target_path: str
    plan_path: str | None = None
    absent_status: int = EXIT_ABSENT
    as_json: bool = False


def push(call: PushCall, listener: Listener | None = None) -> int:
    """Archive one file within the cluster's time limit; the exit status. A warning does not change it: PostgreSQL
    takes anything but 0 for a failure and tries again. Raises what ``push_everywhere`` raises."""
    from pghaven.wal.everywhere import push_everywhere
    from pghaven.wal.spool import sweep_spools
    from pghaven.wal.stretch import stretched

    cluster = call.cluster
    with stretched(call.path, cluster.wal_timeout_seconds, call.spent_seconds) as limit:
        request = replace(
            make_push(call.config, cluster, call.path),
            limit_seconds=max(limit - call.spent_seconds, _MOMENT_SECONDS),
            look_ahead=cluster.wal_look_ahead if call.look_ahead else 0,
        )
        result = push_everywhere(request, listener or _listen)
    sweep_spools()  # a server that archives has done with recovery, or has a spool that is in use
    if call.as_json:
        _show_json("wal-push", {"result": result})
    return EXIT_DONE


def count_push_processes(cluster: ClusterConfig) -> int:
    """How many processes push files that wait, for each repository."""
    return min(count_processes(cluster), _PUSH_PROCESSES_MAX)


def make_push(config: Config, cluster: ClusterConfig, path: str) -> PushRequest:
    """How the configuration says that a file is archived."""
    from pghaven.wal.everywhere import PushRequest

    return PushRequest(
        cluster=cluster.name,
        repositories=list_places(config, cluster),
        path=path,
        required=cluster.wal_required or len(cluster.repositories),
        limit_seconds=cluster.wal_timeout_seconds,
        patience_seconds=cluster.wal_patience_seconds,
        look_ahead=cluster.wal_look_ahead,
        processes=count_push_processes(cluster),
        data_directory=cluster.data_directory,
    )


def get(call: GetCall, listener: Listener | None = None) -> int:
    """Fetch one file within the cluster's time limit; 0, the status for absence, or the one that stops recovery."""
    from pghaven.wal.spool import find_spool

    spool = None
    if call.cluster.wal_prefetch:
        spool = find_spool(call.file_name, call.target_path, call.config.source, call.cluster.name, call.plan_path)
    # A file that is on its way is waited for, but so that there is time left to fetch it.
    if spool is None or not spool.take(call.file_name, call.target_path, call.cluster.wal_timeout_seconds / 2):
        status, without = _get_from_repositories(call, listener)
        if status == EXIT_DONE and spool is not None and not spool.tell_asked(call.file_name):
            from pghaven.cli.wal_ahead import fetch_ahead

            fetch_ahead(call, spool, without)
        return status
    if call.as_json:
        _show_json("wal-get", {"file_name": call.file_name, "outcome": "fetched"})
    return EXIT_DONE


def _get_from_repositories(call: GetCall, listener: Listener | None) -> tuple[int, int]:
    """The exit status, and how many of the first repositories were too slow for it."""
    from pghaven.wal.directory import is_standby
    from pghaven.wal.turns import Turns, run_in_turn

    standby = is_standby(os.curdir)  # recovery runs its commands in the data directory
    parent = os.getpid()
    count = len(call.cluster.repositories)
    patience = find_patience(call.cluster, _read_segment_size()) if count > 1 else call.cluster.wal_timeout_seconds
    failed = EXIT_STOP_RECOVERY

    def tell_late(_number: int) -> None:
        text = f'"{call.file_name}" has not come within {render_duration(patience)}; the next repository is asked too'
        hint = "A repository hangs or is slow. How long it is waited for alone is the option wal_patience."
        (listener or _listen)(Notice(level="warning", code="repository_slow", text=text, hint=hint))

    turns = Turns(
        ways=[partial(_get_without, call, number, standby, parent, listener or _listen) for number in range(count)],
        limit_seconds=call.cluster.wal_timeout_seconds,
        patience_seconds=patience,
        decides=lambda status: status == EXIT_DONE,
        report=lambda error: report(error, as_json=call.as_json, failure_status=failed),
        tell_late=tell_late,
    )
    status, without = run_in_turn(turns)
    if status is None:
        late = Cancelled(
            f'could not fetch "{call.file_name}" within {render_duration(turns.limit_seconds)}',
            hint="The repository hangs or is slow; the limit is the option wal_timeout.",
        )
        if not standby:
            raise late
        report(late)
        return call.absent_status, 0
    if status < 0:
        raise _was_killed(status)
    # No other status may be handed on: 1 is what an interpreter in trouble ends with.
    return {EXIT_DONE: EXIT_DONE, ABSENT_STATUS: call.absent_status}.get(status, failed), without


def _get_without(call: GetCall, without: int, standby: bool, parent: int, listener: Listener) -> int:
    """Fetch a file as if so many of the first repositories were away; then nothing is absent."""
    from pghaven.wal.directory import find_data_directory, read_system_identifier
    from pghaven.wal.get import GetOutcome, GetRequest, get_file
    from pghaven.wal.plan import read_plan

    plan = None if call.plan_path is None else read_plan(call.plan_path)
    identifier = plan.system_identifier if plan is not None else None
    directory = find_data_directory(call.cluster.data_directory)
    if identifier is None and directory is not None:
        identifier = read_system_identifier(directory)
    places = list_places(call.config, call.cluster)
    chosen = (places if plan is None else plan.choose_places(places))[without:]
    if not chosen:
        return EXIT_STOP_RECOVERY
    outcome = get_file(
        GetRequest(
            cluster=call.cluster.name,
            repositories=chosen,
            file_name=call.file_name,
            target_path=call.target_path,
            system_identifier=identifier,
            plan=plan,
            standby=standby,
            still_wanted=lambda: os.getppid() == parent,
        ),
        listener,
    )
    if call.as_json and (outcome is GetOutcome.FETCHED or not without):
        _show_json("wal-get", {"file_name": call.file_name, "outcome": outcome})
    return EXIT_DONE if outcome is GetOutcome.FETCHED else ABSENT_STATUS


def find_patience(cluster: ClusterConfig, segment_size: int) -> float:
    """How long a repository is waited for before the next one is asked too."""
    share = max(1.0, segment_size / _USUAL_SEGMENT_BYTES)
    return min(cluster.wal_patience_seconds * share, cluster.wal_timeout_seconds / 2)


def _read_segment_size() -> int:
    """By the control file of the current directory; 0 where it does not say."""
    from pghaven.postgres.control import parse_control

    with suppress(OSError, PghavenError), open("global/pg_control", "rb") as file:
        return parse_control(file.read()).wal_segment_size
    return 0


def report(error: BaseException, *, as_json: bool = False, failure_status: int | None = None) -> int:
    """Show an error as all commands do, and return its exit status."""
    from pghaven.cli.failure import report_failure
    from pghaven.cli.output import prepare_streams

    prepare_streams()
    return report_failure(error, as_json=as_json, failure_status=failure_status)


def _was_killed(status: int) -> Cancelled:
    return Cancelled(f"the process that did the work was ended by {signal.Signals(-status).name}")


def _listen(event: Event) -> None:
    from pghaven.cli.output import prepare_streams
    from pghaven.cli.progress import Reporter

    prepare_streams()
    Reporter()(event)


def _show_json(name: str, body: dict[str, object]) -> None:
    from pghaven.cli.output import write_out
    from pghaven.cli.render import render_json

    write_out(render_json(name, body))


def _split(
    words: Sequence[str], known: frozenset[str], *, operands: int
) -> tuple[dict[str, str], tuple[str, ...]] | None:
    """Options and operands of a plain command line; None for one that needs a real parser."""
    options: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0] in known and len(rest) > 1:
        name, value = rest.pop(0), rest.pop(0)
        if name in options or value.startswith("-"):
            return None
        options[name] = value
    if len(rest) != operands or any(not word or word.startswith("-") for word in rest):
        return None
    status = options.get("--absent-status", "1")
    if not (status.isascii() and status.isdecimal() and 0 < int(status) <= _STATUS_MAX):
        return None
    return options, tuple(rest)


@contextmanager
def _ending_signals_interrupt() -> Iterator[None]:
    """Let signals that ask for an end interrupt, so that blocks clean up; a second one changes nothing, and one that
    our parent ignores stays ignored."""
    asked = False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt(signal.Signals(number).name)

    earlier: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | signal.Handlers | None] = {}
    for number in _ENDING_SIGNALS:
        handler = signal.getsignal(number)
        if handler != signal.SIG_IGN:
            earlier[number] = handler
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
