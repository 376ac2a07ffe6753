"""``pghaven repo …``: what is done with repositories as such."""

from __future__ import annotations

from pghaven.cli.lazy import LazyGroup

# name -> (module:attribute, summary), as in ``main.COMMANDS``.
COMMANDS = {
    "info": ("pghaven.cli.repo_info:command", "Show what lies in a repository, what it costs, and why it is kept."),
    "key": ("pghaven.cli.repo_key:key_group", "The keys of a sealed repository, and who can open them."),
    "accept": ("pghaven.cli.repo_accept:command", "Go on from a repository in an older state than this host has seen."),
    "copy": ("pghaven.cli.repo_copy:command", "Copy backups and WAL to another repository, verified."),
}

command = LazyGroup("repo", COMMANDS, help="Look after repositories.", no_args_is_help=True)
