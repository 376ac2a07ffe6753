"""The program's entry: which commands there are, and what nothing may escape.

The one idea: an exit status is a promise to whoever started us, so it is decided in one place that cannot itself fail
for want of a library: this module imports nothing but ``sys`` until it is inside its own ``try``. That matters for
``wal get``: PostgreSQL takes any status from 1 to 125 as "end of archive" and promotes (see ``pghaven.errors``), and
Python's own status for an import that fails is 1.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM_NAME = "pghaven"

# name -> (module:attribute, summary). The modules are imported when their command is used, not before.
COMMANDS = {
    "demo": ("pghaven.cli.demo_command:command", "See the whole story on a PostgreSQL of its own, in about a minute."),
    "init": ("pghaven.cli.init_command:command", "Create the repository, register a cluster, set up its server."),
    "check": ("pghaven.cli.check_command:command", "Try every link between server and repository."),
    "backup": ("pghaven.cli.backup_command:command", "Take a backup."),
    "dump": ("pghaven.cli.dump_command:command", "Take an SQL dump of databases, or write one out as files."),
    "load": ("pghaven.cli.load_command:command", "Load a database of a dump into a server."),
    "snapshot": ("pghaven.cli.snapshot_command:command", "Keep, list, clone and remove snapshots of file systems."),
    "list": ("pghaven.cli.list_command:command", "List the backups."),
    "status": ("pghaven.cli.status_command:command", "Show how far back, and how recent, a restore can be."),
    "verify": ("pghaven.cli.verify_command:command", "Read all that restores would read, and tell what is damaged."),
    "drill": ("pghaven.cli.drill_command:command", "Restore somewhere, start, question, report, and clean up."),
    "mark": ("pghaven.cli.mark_command:command", "Keep what the tables hold now, for drills to compare with."),
    "expire": ("pghaven.cli.expire_command:command", "Remove what the retention policy no longer keeps."),
    "hold": ("pghaven.cli.hold_command:command", "Keep a backup whatever the retention policy says."),
    "release": ("pghaven.cli.release_command:command", "Let the retention policy judge a held backup again."),
    "restore": ("pghaven.cli.restore_command:command", "Restore a cluster to a moment."),
    "standby": ("pghaven.cli.standby_command:command", "Build, promote, rejoin and look at standbys."),
    "repo": ("pghaven.cli.repo_command:command", "Look after repositories: copy one to another, its keys."),
    "wal": ("pghaven.cli.wal_command:command", "Archive and fetch write-ahead log."),
    "ha": ("pghaven.cli.ha:command", "Clusters that fail over by themselves."),
    "agent": ("pghaven.cli.agent_command:command", "Look after the WAL of this host's clusters, all the time."),
}

# Commands of which every failure ends with one declared status, whatever its class: argument words in this order.
# Such a command reports anything finer by what it returns, never by what it raises.
FAILURE_STATUSES = {("wal", "get"): 255}

_STATUS_BUG = 1
_STATUS_CANCELLED = 18


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status and never raises."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    failure_status = find_failure_status(words)
    try:
        if words[:1] == ["wal"]:
            status, spent = None, 0.0
            if words[1:2] == ["push"]:
                from pghaven.wal.asking import ask_agent

                status, spent = ask_agent(words[2:])
                if status is not None:
                    return status
            # PostgreSQL's own calls, once for every WAL file, do not wait for the library that parses options.
            status = _run_for_server(words, spent)
            if status is not None:
                if arguments is None:
                    _leave(status)
                return status
        import os

        # NumPy's threads for matrices, of which we have none, would wait busily for some while the rest is loaded.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from pghaven.cli.root import run

        status = run(words, failure_status=failure_status)
        if arguments is None:
            _leave(status)
        return status
    except KeyboardInterrupt:
        return _STATUS_CANCELLED if failure_status is None else failure_status
    except BaseException:  # noqa: BLE001  the root of the program, for what even its error handling let through
        _print_trace()
        return _STATUS_BUG if failure_status is None else failure_status


def _run_for_server(words: Sequence[str], spent: float) -> int | None:
    """A call of PostgreSQL's, without the collector of cycles: so short a process has none worth its price, which the
    children would pay once more for what it touches. None for any other call."""
    import gc

    gc.disable()
    try:
        from pghaven.cli.wal_run import run_words

        return run_words(words, spent)
    finally:
        gc.enable()


def _leave(status: int) -> None:
    """End at once: taking an interpreter apart costs as much as half of what it has loaded."""
    import os

    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed before we were started
                stream.flush()
    finally:
        os._exit(status)


def find_failure_status(words: Sequence[str]) -> int | None:
    """The declared status of the command that these arguments name, without understanding their options.

    Words that merely look like the command give its status too: a wrong status that stops PostgreSQL is better than
    one that promotes it.
    """
    for command, status in FAILURE_STATUSES.items():
        rest = iter(words)
        if all(word in rest for word in command):
            return status
    return None


def _print_trace() -> None:
    try:
        import traceback

        traceback.print_exc()
    except BaseException:  # noqa: BLE001, S110  nothing may keep the status from being returned
        pass


if __name__ == "__main__":
    sys.exit(main())
