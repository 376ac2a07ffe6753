"""The guides' commands, run as they stand against a real server in a directory of its own.

The one idea: a page is a session. Its blocks are run in order in one shell:

- ```` ```console ````: each line that begins with ``$ `` is a command (a backslash at its end continues it). The lines
  below it are what it shows, in order; ``…`` stands for anything, and other lines may come between. A command whose
  shown lines begin with ``pghaven: error:`` must fail, every other must succeed; ``# status N`` behind it says else.
- ```` ```sql ````: run by a superuser in the database ``postgres``.
- ``<!-- run`` … ``-->``: commands that prepare what the reader is assumed to have; readers do not see them.

Blocks of other kinds (``sh``, ``toml``, …) are not run. Paths such as ``/mnt/backup`` stand for ones in the
directory, and ``sudo``, ``psql`` and ``systemctl`` for small scripts that find the server there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cli.running import clean_environment
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.places import end_servers_below, own, plain_user

SECONDS = 240
PGHAVEN_ERROR = "pghaven: error:"
ANYTHING = "…"

_BLOCK = re.compile(r"^```(console|sql)\n(.*?)^```$|^<!-- run\n(.*?)^-->$", re.MULTILINE | re.DOTALL)
_STATUS = re.compile(r"\s+# status ([0-9]+)$")
_MARK = "@@pghaven-guide"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a page. ``status`` is what it must end with; None for any failure."""

    line: int
    text: str
    shown: tuple[str, ...]
    status: int | None


def read_commands(page: Path) -> list[Command]:
    """What is to be run, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Command] = []
    for match in _BLOCK.finditer(text):
        first = text.count("\n", 0, match.start()) + 2
        if match[1] == "sql":
            quoted = shlex.quote(match[2])
            found.append(Command(line=first, text=f"psql --quiet -v ON_ERROR_STOP=1 -c {quoted}", shown=(), status=0))
        elif match[1] == "console":
            found += _read_console(match[2].splitlines(), first, page)
        else:
            found += [
                Command(line=first + number, text=line, shown=(), status=0)
                for number, line in enumerate(match[3].splitlines())
                if line.strip()
            ]
    return found


def _read_console(lines: list[str], first: int, page: Path) -> list[Command]:
    found: list[Command] = []
    number = 0
    while number < len(lines):
        assert lines[number].startswith("$ "), f"{page.name}:{first + number}: a block begins with a command"
        begin = number
        text = lines[number][2:]
        while text.endswith("\\"):
            number += 1
            text = text[:-1].rstrip() + " " + lines[number].strip()
        number += 1
        shown = []
        while number < len(lines) and not lines[number].startswith("$ "):
            shown.append(lines[number])
            number += 1
        status: int | None = None if shown and shown[0].startswith(PGHAVEN_ERROR) else 0
        if match := _STATUS.search(text):
            text, status = text[: match.start()], int(match[1])
        shown = [line for line in shown if line.strip()]
        found.append(Command(line=first + begin, text=text, shown=tuple(shown), status=status))
    return found


class World:
    """A host with one server, as the guides assume it: PostgreSQL by default settings, pghaven installed, no more."""

    def __init__(self, cluster: TestCluster, command: PghavenCommand, place: Path) -> None:
        self.cluster = cluster
        self.place = place
        self.etc = place / "etc"
        self.programs = place / "bin"
        self.servers = place / "srv"
        self.mount = place / "mnt"
        self.sockets = cluster.socket_directory
        for directory in (self.etc, self.programs, self.servers, self.mount):
            directory.mkdir()
            directory.chmod(0o755)
            own(directory)
        self.paths = {
            "/var/lib/postgresql/17/main": str(cluster.data_directory),
            "/etc/pghaven": str(self.etc),
            "/mnt/backup/": f"{self.mount}/",
            "/opt/pghaven/bin/": f"{self.programs}/",
            "/srv/": f"{self.servers}/",
        }
        # A restored server reads the same file, so both find their socket where the scripts look for it.
        cluster.append_conf(unix_socket_directories=str(self.sockets), port="5432")
        self._write_programs(command)

    def run(self, commands: list[Command]) -> list[tuple[Command, int, str]]:
        """Each command with its exit status and what it showed on both streams; ends early if the shell does."""
        script = []
        for number, command in enumerate(commands):
            script += [f"printf '{_MARK} %s\\n' {number}", self.translate(command.text)]
            script.append(f"printf '\\n{_MARK} %s %s\\n' {number} $?")
        path = self.place / "session.sh"
        path.write_text("\n".join(script) + "\n")
        done = subprocess.run(
            ["bash", str(path)],
            cwd=self.place,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return _split(done.stdout, commands)

    def translate(self, text: str) -> str:
        for path, real in self.paths.items():
            text = text.replace(path, real)
        return text

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
        return {
            **kept,
            "PATH": f"{self.programs}:{self.cluster.bin_dir}:{os.environ['PATH']}",
            "PGHAVEN_CONFIG": str(self.etc / "pghaven.toml"),
            "PGHOST": str(self.sockets),
            "PGPORT": "5432",
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "TZ": "Europe/Berlin",
            # The receiver of a server from a wheel loads libpq from beside it.
            "LD_LIBRARY_PATH": str(self.cluster.bin_dir.parent / "lib"),
        }

    def _write_programs(self, command: PghavenCommand) -> None:
        user = plain_user()
        become = (
            "" if os.geteuid() != 0 else f"setpriv --reuid {user.uid} --regid {user.gid} --clear-groups env HOME=/ "
        )
        control = (
            f"{become}{self.cluster.bin_dir}/pg_ctl -D {self.cluster.data_directory} -l {self.cluster.log_path} -w"
        )
        self._write("pghaven", f'exec {shlex.join(command.words)} "$@"')
        self._write("sudo", f'[ "$1" = -u ] || exec "$@"; shift 2; cd / && exec {become} "$@"')
        self._write("systemctl", f'exec {control} "$1" >/dev/null')

    def _write(self, name: str, body: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def stop_everything(self) -> None:
        """End every server that a page has started."""
        end_servers_below(self.place)
        end_servers_below(self.cluster.directory)


def _split(output: str, commands: list[Command]) -> list[tuple[Command, int, str]]:
    found = []
    pattern = re.compile(rf"^{_MARK} ([0-9]+)\n(.*?)\n{_MARK} \1 ([0-9]+)$", re.MULTILINE | re.DOTALL)
    for match in pattern.finditer(output):
        found.append((commands[int(match[1])], int(match[3]), match[2]))
    return found


def find_fault(world: World, command: Command, status: int, output: str) -> str | None:
    """What a page says of this command and is not so."""
    if command.status is None and status == 0:
        return "it succeeds, and should fail"
    if command.status is not None and status != command.status:
        return f"it ends with status {status}, not {command.status}"
    lines = iter(output.splitlines())
    for shown in command.shown:
        parts = [re.escape(part) for part in world.translate(shown).strip().split(ANYTHING)]
        pattern = re.compile(".*".join(parts))
        if not any(pattern.fullmatch(line.strip()) for line in lines):
            return f"it does not show: {shown}"
    return None
