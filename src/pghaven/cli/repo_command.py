"""``pghaven repo …``: what is done with repositories as such."""

from __future__ import annotations

from pghaven.cli.lazy import LazyGroup

# name -> (module:attribute, summary), as in ``main.COMMANDS``.
COMMANDS = {
    "copy": ("pghaven.cli.repo_copy:command", "Copy backups and WAL to another repository, verified."),
}

command = LazyGroup("repo", COMMANDS, help="Look after repositories.", no_args_is_help=True)
