"""The options that every way to a standby has: how it connects to the server that it follows, and what is done at the
end.

The one idea: who has made one standby knows the options of the other command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from pghaven.errors import UsageError

_Command = Callable[..., int]


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ARG002
        from pghaven.units import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            raise UsageError(f"{param.opts[0] if param is not None else 'time'}: {error}") from error


DURATION = _Duration()

_FOLLOWING = (
    click.option("--role", metavar="ROLE", help="Whom it connects as.  [default: the user of the connection string]"),
    click.option(
        "--passfile", metavar="FILE", help="The password file of its connection.  [default: .pgpass, if there]"
    ),
    click.option("--name", metavar="NAME", help="Its application_name.  [default: the name of DIR]"),
    click.option("--slot", metavar="NAME", help="Make a replication slot for it there, and use it."),
    click.option("--reuse-slot", is_flag=True, help="Take the slot of that name if it is there and nobody uses it."),
    click.option("--delay", type=DURATION, default=0.0, metavar="TIME", help="Replay so much later, such as 4h."),
)
_ENDING = (
    click.option("--apply", is_flag=True, help="Change the server it follows as needed: settings, role, pg_hba.conf."),
    click.option("--start", is_flag=True, help="Start it, and wait until it receives WAL."),
)


def following_options(command: _Command) -> _Command:
    """How it connects to the server it follows, and how it follows that."""
    return _add(command, _FOLLOWING)


def ending_options(command: _Command) -> _Command:
    """What is changed at the server it follows, and whether it is started."""
    return _add(command, _ENDING)


def _add(command: _Command, options: tuple[Callable[[_Command], _Command], ...]) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command
