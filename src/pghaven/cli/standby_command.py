"""``pghaven standby …``: servers that follow another, built, promoted, rejoined and looked at by hand."""

from __future__ import annotations

from pghaven.cli.lazy import LazyGroup

# name -> (module:attribute, summary), as in ``main.COMMANDS``.
COMMANDS = {
    "create": ("pghaven.cli.standby_create:command", "Build a standby from the repository or from its primary."),
    "promote": ("pghaven.cli.standby_promote:command", "Make a standby the primary."),
    "rejoin": ("pghaven.cli.standby_rejoin:command", "Have a former primary follow the new one."),
    "status": ("pghaven.cli.standby_status:command", "Show what a standby follows, and how far behind it is."),
}

command = LazyGroup("standby", COMMANDS, help="Standbys, by hand and without Patroni.", no_args_is_help=True)
