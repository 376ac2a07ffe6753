"""``pghaven ha``: clusters that fail over by themselves.

The one idea: a table of places; each command's module is imported when it is used.
"""

from __future__ import annotations

from pghaven.cli.lazy import LazyGroup

command = LazyGroup(
    "ha",
    {
        "demo": ("pghaven.cli.ha_demo:command", "See a cluster lose its primary and go on, in about two minutes."),
        "plan": ("pghaven.cli.ha_apply:plan_command", "Show what would be written on this host and changed in etcd."),
        "apply": ("pghaven.cli.ha_apply:apply_command", "Write this host's files for Patroni, etcd and HAProxy."),
        "adopt": ("pghaven.cli.ha_adopt:command", "Take over a primary that runs without Patroni."),
        "status": ("pghaven.cli.ha_status:command", "Show the members, the archive, and whether all is well."),
        "check": ("pghaven.cli.ha_check:command", "Look for what would keep the cluster from failing over."),
        "switchover": ("pghaven.cli.ha_switch:switchover_command", "Hand the lead to another node."),
        "failover": ("pghaven.cli.ha_switch:failover_command", "Promote a standby although the primary is gone."),
        "pause": ("pghaven.cli.ha_switch:pause_command", "Have nothing fail over by itself, for maintenance."),
        "resume": ("pghaven.cli.ha_switch:resume_command", "End a pause."),
        "rejoin": ("pghaven.cli.ha_switch:rejoin_command", "Bring a node back that does not follow."),
        "reinit": ("pghaven.cli.ha_switch:reinit_command", "Make a standby anew."),
        "restore": ("pghaven.cli.ha_restore:command", "Take the whole cluster back to a moment, in place."),
        "clone": ("pghaven.cli.ha_clone:command", "Make a cluster of its own of another one, as it was at a moment."),
        "promote": ("pghaven.cli.ha_switch:promote_command", "Make a cluster that follows another one of its own."),
        "hook": ("pghaven.cli.ha_hook:command", "What Patroni calls; not for people."),
    },
    help="Clusters that fail over by themselves, run by Patroni.",
    no_args_is_help=True,
)
