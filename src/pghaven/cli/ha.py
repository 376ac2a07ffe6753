"""``pghaven ha``: clusters that fail over by themselves.

The one idea: a table of places; each command's module is imported when it is used.
"""

from __future__ import annotations

from pghaven.cli.lazy import LazyGroup

command = LazyGroup(
    "ha",
    {
        "hook": ("pghaven.cli.ha_hook:command", "What Patroni calls; not for people."),
    },
    help="Clusters that fail over by themselves, run by Patroni.",
    no_args_is_help=True,
)
