"""How a server is started or restarted: the command that fits how it is looked after.

The one idea: a server that a service manager or Debian's tools look after must be restarted by them, or they take the
restart for a crash; so the server's own process is asked where it belongs.
"""

from __future__ import annotations

import os
import re
import shlex

from pghaven.errors import PghavenError
from pghaven.server.postmaster import is_running
from pghaven.server.programs import find_programs

_DEBIAN_CONFIG = re.compile(r"/etc/postgresql/([0-9]+)/([^/]+)/postgresql\.conf")
_UNIT = re.compile(r"/([^/]+\.service)$")


def render_restart_command(data_directory: str, config_file: str, major: int, pg_bin: str | None) -> str:
    """A command line for an administrator of the server's host. ``config_file`` is the server's setting.

    Looks at the host; raises nothing.
    """
    debian = render_debian(config_file, "restart")
    if debian is not None:
        return debian
    unit = _find_unit(data_directory)
    if unit is not None:
        return f"systemctl restart {shlex.quote(unit)}"
    bin_dir = pg_bin or _find_running_bin(data_directory)
    return render_pg_ctl(data_directory, major, bin_dir, "restart")


def render_debian(config_file: str, action: str) -> str | None:
    """``pg_ctlcluster`` for a server whose configuration lies where Debian's tools keep it; None for any other."""
    debian = _DEBIAN_CONFIG.fullmatch(config_file)
    return None if debian is None else f"pg_ctlcluster {debian[1]} {debian[2]} {action}"


def render_pg_ctl(data_directory: str, major: int, pg_bin: str | None, action: str) -> str:
    """``pg_ctl`` by its full path where it is installed here. Raises nothing."""
    try:
        program = find_programs(major, pg_bin).path("pg_ctl")
    except PghavenError:
        program = "pg_ctl"
    return f"{shlex.quote(program)} -D {shlex.quote(data_directory)} {action}"


def _find_running_bin(data_directory: str) -> str | None:
    """The directory of the programs that the server there runs from, as far as we may look."""
    try:
        running = is_running(data_directory)
        return None if running is None else os.path.dirname(os.readlink(f"/proc/{running.pid}/exe"))
    except (OSError, PghavenError):
        return None


def _find_unit(data_directory: str) -> str | None:
    """The systemd service that the server's process belongs to."""
    try:
        running = is_running(data_directory)
        if running is None:
            return None
        with open(f"/proc/{running.pid}/cgroup", encoding="utf-8", errors="replace") as file:
            groups = [line.strip().split(":", 2)[-1] for line in file]
    except (OSError, PghavenError):
        return None
    found = (_UNIT.search(group) for group in groups)
    # A login session's own service is not the server's.
    return next((match[1] for match in found if match and match[1].startswith("postgres")), None)
