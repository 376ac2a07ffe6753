"""PostgreSQL's own programs that a standby is made with, run as the server's user.

The one idea: they get no variable of ours that would lead them elsewhere, no password on their command lines, and what
they say last is the reason of a failure.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pghaven.errors import ServerUnsuitable
from pghaven.server.identity import OsUser, child_identity
from pghaven.server.programs import Programs


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program ended; ``told`` is all that it wrote."""

    status: int
    out: str
    told: str

    @property
    def reason(self) -> str:
        """Its last line that says what was wrong, without the program's name."""
        lines = [line.strip() for line in self.told.splitlines() if line.strip()]
        grave = [line for line in lines if "error:" in line or "fatal:" in line.lower()]
        last = (grave or lines or [f"exit status {self.status}"])[-1]
        return last.partition("error: ")[2] or last


def run_program(programs: Programs, name: str, arguments: Sequence[str], user: OsUser | None) -> Ran:
    """Run to its end; nothing is raised for how it ends. Raises NotFound when it is not installed, ServerUnsuitable."""
    command = [programs.path(name), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            env=_environment(user),
            **child_identity(user),
        )
    except OSError as error:
        raise ServerUnsuitable(f'could not run "{command[0]}": {error.strerror}') from error
    return Ran(status=done.returncode, out=done.stdout, told=done.stdout + done.stderr)


def copy_from_server(
    programs: Programs,
    conninfo: str,
    data_directory: str,
    *,
    slot: str | None,
    tablespaces: Mapping[str, str],
    user: OsUser | None,
) -> None:
    """``pg_basebackup`` with the WAL it needs. Raises ServerUnsuitable with its reason; it then removes its own."""
    arguments = ["-D", data_directory, "-d", conninfo, "-X", "stream", "-c", "fast", "--no-password", "--verbose"]
    if slot is not None:
        arguments += ["-S", slot]
    for old, new in tablespaces.items():
        arguments += ["-T", f"{_escape(old)}={_escape(new)}"]
    ran = run_program(programs, "pg_basebackup", arguments, user)
    if ran.status != 0:
        raise ServerUnsuitable(f"could not copy the data: {ran.reason}", detail=ran.told.strip() or None)


def read_numbers(
    programs: Programs, data_directory: str, names: Sequence[str], user: OsUser | None
) -> Mapping[str, int]:
    """What the configuration of a stopped server says of these settings; those that cannot be told are left out."""
    found: dict[str, int] = {}
    for name in names:
        ran = run_program(programs, "postgres", ["-D", data_directory, "-C", name], user)
        text = ran.out.strip()
        if ran.status == 0 and text.lstrip("-").isdecimal():
            found[name] = int(text)
    return found


def _escape(path: str) -> str:
    return path.replace("=", "\\=")


def _environment(user: OsUser | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    if user is not None:
        kept |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    return kept
