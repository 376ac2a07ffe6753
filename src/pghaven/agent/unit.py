"""The unit by which systemd runs the agent. Pure.

The one idea: the manager's own means do what a daemon would otherwise do by itself: start it again, end what it has
left, say when it is ready (Type=notify), and notice that it hangs (WatchdogSec).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

UNIT_NAME = "pghaven-agent.service"
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+", re.ASCII)


def render_unit(words: Sequence[str], user: str) -> str:
    """``words`` start the agent, as ``user``. Raises ValueError for a control character in them."""
    return f"""\
[Unit]
Description=pghaven agent: archives the WAL of this host's PostgreSQL clusters
Wants=network-online.target
After=network-online.target local-fs.target remote-fs.target

[Service]
Type=notify
User={user}
ExecStart={" ".join(_quote(word) for word in words)}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=30
WatchdogSec=60
UMask=0027
LimitCORE=0
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""


def _quote(word: str) -> str:
    """A word as systemd.service(5) has it: specifiers and variables doubled, quotes and backslashes escaped."""
    if not word.isprintable():
        raise ValueError(f"a unit cannot hold {word!r}")
    doubled = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(word):
        return doubled
    return '"' + doubled.replace("\\", "\\\\").replace('"', '\\"') + '"'
