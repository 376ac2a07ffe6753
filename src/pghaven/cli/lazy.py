"""Groups of commands that are known by name and summary, and imported when they are used.

The one idea: every command line pays for what it imports, so a group is a table of places, not of commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click


def _as_it_is(command: click.Command) -> click.Command:
    return command


class LazyGroup(click.Group):
    """``known`` has for each name (module:attribute, summary). ``finish`` is done to each command that is imported."""

    def __init__(self, name: str, known: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(name, **options)
        self.known = known
        self.finish: Callable[[click.Command], click.Command] = _as_it_is

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(self.known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        if cmd_name not in self.known:
            return None
        from importlib import import_module

        module, _, attribute = self.known[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return self.finish(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.known.items()])
