"""The command line's root: the group of all commands, the global options, signals.

The one idea: the group knows its commands by name and summary alone (``main.COMMANDS``) and imports a command's module
only when it is used; and every command takes the global options in its own place too, so that
``pghaven --json list`` and ``pghaven list --json`` are the same.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from pghaven import __version__
from pghaven.cli.failure import Terminated, report_failure
from pghaven.cli.invocation import Invocation
from pghaven.cli.lazy import LazyGroup
from pghaven.cli.main import COMMANDS, PROGRAM_NAME
from pghaven.cli.output import prepare_streams, write_out
from pghaven.errors import EXIT_DONE, UsageError

# The one other status that a command with a declared failure status may return: what it was asked for is proven absent.
EXIT_ABSENT = 1

_COMPLETION_VARIABLE = "_PGHAVEN_COMPLETE"
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_HELP = """Keep PostgreSQL recoverable: backups, WAL archive, restore to any second.

The configuration is a TOML file: --config, $PGHAVEN_CONFIG, ./pghaven.toml, /etc/pghaven/pghaven.toml.
"""


def run(words: Sequence[str], *, failure_status: int | None = None) -> int:
    """Run the command these words name and return its exit status; every error is reported here."""
    prepare_streams()
    # What a command makes by the hundred thousand is held to its end and has no cycles, so looking for some is in vain.
    gc.set_threshold(200_000, 20, 100)
    with _ending_signals_raise():
        try:
            status = _invoke(list(words))
            write_out("")
        except BaseException as error:  # noqa: BLE001  the root of the program
            return report_failure(error, as_json="--json" in words, failure_status=failure_status)
    if failure_status is not None and status not in (EXIT_DONE, EXIT_ABSENT):
        return failure_status
    return status


def _invoke(words: list[str]) -> int:
    root = build_root()
    if _COMPLETION_VARIABLE in os.environ:
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, PROGRAM_NAME, _COMPLETION_VARIABLE, os.environ[_COMPLETION_VARIABLE])
    # Not root.main(): that takes EPIPE and EOFError from anywhere in the program for events of the terminal, and
    # ends with status 1.
    try:
        with root.make_context(PROGRAM_NAME, words, obj=Invocation()) as context:
            result = root.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return result if isinstance(result, int) else EXIT_DONE


@contextmanager
def _ending_signals_raise() -> Iterator[None]:
    """Let signals that ask for an end be interrupts, so that every block cleans up; a second one changes nothing."""
    asked = False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise Terminated(signal.Signals(number).name)

    # A signal that our parent ignores (nohup) stays ignored.
    earlier = {number: signal.getsignal(number) for number in _ENDING_SIGNALS}
    earlier = {number: handler for number, handler in earlier.items() if handler != signal.SIG_IGN}
    for number in earlier:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class RootGroup(LazyGroup):
    """The commands of ``main.COMMANDS``, each imported when it is used."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in COMMANDS or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        from pghaven.config.values import find_nearest

        nearest = find_nearest(args[0], COMMANDS)
        hint = f"Did you mean: {PROGRAM_NAME} {nearest}" if nearest else f"Try: {PROGRAM_NAME} --help"
        raise UsageError(f'unknown command "{args[0]}"', hint=hint)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name][1]) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)


def build_root() -> RootGroup:
    version = click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
    )
    root = RootGroup(
        PROGRAM_NAME,
        COMMANDS,
        params=[*_global_options(), version],
        help=_HELP,
        no_args_is_help=True,
        context_settings={"help_option_names": ["--help", "-?"]},
    )
    root.finish = _with_global_options
    return root


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        write_out(f"{PROGRAM_NAME} {__version__}\n")
        context.exit()


def _global_options() -> list[click.Option]:
    def flag(names: list[str], attribute: str, text: str) -> click.Option:
        return click.Option(names, is_flag=True, expose_value=False, callback=_keep(attribute), help=text)

    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            expose_value=False,
            callback=_keep("config_path"),
            help="The configuration file.",
        ),
        flag(["--json"], "json", "Show the result, or the error, as JSON."),
        flag(["-q", "--quiet"], "quiet", "No progress and no notes; warnings and the result remain."),
        flag(["-v", "--verbose"], "verbose", "Show each step."),
    ]


def _keep(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        # What was given before the command stays when nothing is given after it.
        if value:
            setattr(context.find_object(Invocation), attribute, value)

    return keep


def _with_global_options(command: click.Command) -> click.Command:
    taken = {name for parameter in command.params for name in parameter.opts}
    command.params.extend(option for option in _global_options() if not taken.intersection(option.opts))
    if isinstance(command, LazyGroup):
        command.finish = _with_global_options
    elif isinstance(command, click.Group):
        for inner in command.commands.values():
            _with_global_options(inner)
    return command
