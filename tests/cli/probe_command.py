"""A command that ends in every way a command can end, to be run as a subprocess of the tests.

``python -m tests.cli.probe_command ARGUMENTS`` is ``pghaven ARGUMENTS`` with the command ``probe`` (and ``probe`` in
place of ``wal``) added.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime

import click

from pghaven.cli.invocation import Invocation
from pghaven.errors import ConfigError, Damaged, NotFound, ObjectMissing
from pghaven.events import Notice, Progress, Step

ERRORS: dict[str, BaseException] = {
    "not-found": NotFound('no backup "x"', detail="There are two.\nNeither is it.", hint="Try: pghaven list"),
    "config": ConfigError("the configuration has 2 problems", ["a.toml:1: one", "a.toml:2: two"]),
    "missing": ObjectMissing("no such object"),
    "damaged": Damaged("pack \x1b[31mred\x07 is not what was stored"),
    "bug": KeyError("left over"),
    "broken-pipe": BrokenPipeError(32, "Broken pipe"),
    "end-of-file": EOFError(),
    "memory": MemoryError(),
    "exit": SystemExit(7),
    "exit-text": SystemExit("good bye"),
    "abort": click.Abort(),
    "usage": click.UsageError("Wrong."),
}


@click.group()
def command() -> None:
    """Try every way to end."""


@command.command(name="get", help="Ends as the argument says.")
@click.argument("how")
def get(how: str) -> int:
    if how.isdecimal():
        return int(how)
    raise ERRORS[how]


@command.command(name="show", help="Shows a result.")
@click.option("--warn", is_flag=True)
@click.option("--note", is_flag=True)
@click.pass_obj
def show(invocation: Invocation, warn: bool, note: bool) -> int:
    with invocation.reporter as listener:
        listener(Step(text="looking around"))
        if note:
            listener(Notice(level="info", code="remark", text="nothing unusual"))
        if warn:
            listener(Notice(level="warning", code="thin_ice", text="the ice is thin", hint="Walk slowly."))
    body = {"when": datetime(2026, 11, 23, 4, 47, tzinfo=UTC), "size_bytes": 5, "config": invocation.config_path}
    return invocation.show("probe", body, "all is well\n")


@command.command(name="much", help="Writes more than a pipe holds.")
@click.pass_obj
def much(invocation: Invocation) -> int:
    return invocation.show("probe", {}, "0123456789\n" * 100_000)


@command.command(name="work", help="Reports progress and ends.")
@click.pass_obj
def work(invocation: Invocation) -> int:
    with invocation.reporter as listener:
        listener(Step(text="getting ready"))
        for done in range(0, 101, 50):
            listener(Progress(phase="copying", done_bytes=done << 20, total_bytes=100 << 20))
        listener(Notice(level="warning", code="thin_ice", text="the ice is thin"))
    return invocation.show("probe", {}, "done\n")


@command.command(name="signal", help="Receives a signal, cleans up, and shows that it did.")
@click.argument("name")
def receive(name: str) -> int:
    try:
        os.kill(os.getpid(), signal.Signals[name])
        signal.pause()
    finally:
        os.kill(os.getpid(), signal.Signals[name] if name != "SIGINT" else 0)
        sys.stderr.write("cleaned up\n")
    return 0


@command.command(name="cluster", help="Names the configured cluster.")
@click.argument("name", required=False)
@click.pass_obj
def cluster(invocation: Invocation, name: str | None) -> int:
    return invocation.show("probe", {}, invocation.get_cluster(name).data_directory + "\n")


if __name__ == "__main__":
    from pghaven.cli import main

    main.COMMANDS["probe"] = ("tests.cli.probe_command:command", "Ends in every way.")
    main.COMMANDS["wal"] = ("tests.cli.probe_command:command", "Ends in every way, but get in one.")
    main.COMMANDS["absent"] = ("tests.cli.no_such_module:command", "Cannot be imported.")
    sys.exit(main.main())
