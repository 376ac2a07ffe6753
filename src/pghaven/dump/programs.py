"""Which ``pg_dump``, ``pg_dumpall`` and ``pg_restore`` to call, and calling them.

The one idea: a pg_dump that is older than its server is refused before anything is begun, since it may leave out what
it does not know; a newer one works, and is told of, since what it writes may not load into an older server. Passwords
go through the environment, where no list of processes shows them.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pghaven.errors import NotFound, PghavenError, ServerUnsuitable
from pghaven.server.identity import OsUser, child_identity
from pghaven.server.programs import find_embedded, find_programs

_VERSION = re.compile(r"\(PostgreSQL\) ([0-9]+)(\S*)")
# What pg_restore --verbose says beside its complaints: without the option it does not say which object one is about.
_PROGRESS = re.compile(r"pg_restore: (?!error:|warning:|detail:|hint:)")
_FAILED_ENTRY = re.compile(r"^pg_restore: from TOC entry [0-9]+; [0-9]+ [0-9]+ (.*)", re.MULTILINE)
_ASK_SECONDS = 20
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_LINES_TOLD = 12
_KEPT = frozenset({"PATH", "HOME", "TZ", "TMPDIR"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpPrograms:
    """A directory with the three programs; ``version`` is what they say, such as "17.6"."""

    bin_dir: str
    major: int
    version: str

    def path(self, program: str) -> str:
        return os.path.join(self.bin_dir, program)


def find_dump_programs(server_major: int, hint_dir: str | None = None) -> DumpPrograms:
    """Programs of the server's major version, else the next newer there are. Raises NotFound saying what was there."""
    found: dict[int, DumpPrograms] = {}
    seen = []
    for directory in [hint_dir] if hint_dir else _candidates(server_major):
        programs = _inspect(directory)
        if programs is None:
            continue
        seen.append(f'"{directory}" has version {programs.version}.')
        if programs.major == server_major:
            return programs
        if programs.major > server_major:
            found.setdefault(programs.major, programs)
    if found:
        return found[min(found)]
    raise NotFound(
        f"there is no pg_dump of PostgreSQL {server_major} or newer on this host",
        detail=" ".join(seen) or "No pg_dump was found at all.",
        hint=f"Install PostgreSQL's client programs of version {server_major}, or name their directory as pg_bin in "
        "the configuration. An older pg_dump does not know all that this server has.",
    )


def _candidates(major: int) -> Iterator[str]:
    with suppress(PghavenError):
        yield find_programs(major).bin_dir
    on_path = shutil.which("pg_dump")
    if on_path:
        yield os.path.dirname(os.path.realpath(on_path))
    for version in range(major, major + 10):
        yield f"/usr/lib/postgresql/{version}/bin"
        yield f"/usr/pgsql-{version}/bin"
    embedded = find_embedded()
    if embedded:
        yield embedded


def _inspect(directory: str) -> DumpPrograms | None:
    if not all(os.access(os.path.join(directory, name), os.X_OK) for name in ("pg_dump", "pg_dumpall", "pg_restore")):
        return None
    try:
        answer = subprocess.run(
            [os.path.join(directory, "pg_dump"), "--version"],
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stdout)
    return None if match is None else DumpPrograms(bin_dir=directory, major=int(match[1]), version=match[1] + match[2])


class Running:
    """A program at work while something else is done. Use it as a block: when that is left, the program has ended."""

    def __init__(self, process: subprocess.Popen[bytes], doing: str, good_statuses: Sequence[int]) -> None:
        self._process = process
        self._doing = doing
        self._good_statuses = good_statuses

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    @property
    def has_ended(self) -> bool:
        """Not while it waits for us to take what it writes, if that is more than a pipe holds."""
        return self._process.poll() is not None

    def take(self) -> bytes:
        """All that it writes to standard output; waits for its end. Once. Raises ServerUnsuitable."""
        written, said = self._process.communicate()
        if self._process.returncode not in self._good_statuses:
            raise program_failed(self._process.returncode, said, self._doing)
        return written


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """How programs reach a server: as which user of this host, with which connection string and password."""

    programs: DumpPrograms
    user: OsUser | None
    conninfo: str
    environment: Mapping[str, str]

    @classmethod
    def of(cls, programs: DumpPrograms, conninfo: str, user: OsUser | None) -> Calling:
        parameters = conninfo_to_dict(conninfo)
        environment = {name: value for name, value in os.environ.items() if _is_kept(name)}
        environment["LC_ALL"] = "C"  # what they say is read
        password = parameters.pop("password", None)
        if password is not None:
            environment["PGPASSWORD"] = str(password)
        if user is not None:
            environment["HOME"] = user.home
        parameters.setdefault("application_name", "pghaven")
        return cls(programs=programs, user=user, conninfo=make_conninfo("", **parameters), environment=environment)

    def with_database(self, name: str) -> str:
        """The connection string for one database; whatever its name is, it is no option and no other string."""
        return make_conninfo(self.conninfo, dbname=name)

    def run(self, program: str, arguments: Sequence[str], *, doing: str, good_statuses: Sequence[int] = (0,)) -> bytes:
        """What a program writes to standard output. Raises ServerUnsuitable with what it said ("could not …"). It ends
        with us, however we end."""
        with self.begin(program, arguments, doing=doing, good_statuses=good_statuses) as running:
            return running.take()

    def begin(
        self, program: str, arguments: Sequence[str], *, doing: str, good_statuses: Sequence[int] = (0,)
    ) -> Running:
        """The same, begun; to be called by the main thread, while no other is at work."""
        process = subprocess.Popen(
            [self.programs.path(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self.environment),
            preexec_fn=_end_with_parent,  # noqa: PLW1509
            **child_identity(self.user),
        )
        return Running(process, doing, good_statuses)

    def ask_globals(self) -> Running:
        """The roles and tablespaces of the server, to compare a dump's with."""
        arguments = ["--globals-only", "--no-role-passwords", "--encoding=UTF8", "-d", self.conninfo]
        return self.begin("pg_dumpall", arguments, doing="read the target's roles and tablespaces")

    def start(self, program: str, arguments: Sequence[str], errors: int) -> subprocess.Popen[bytes]:
        """A program in a process group of its own; what it says goes to the descriptor ``errors``.

        It ends with us, however we end: by our death's signal, or if it is stopped at that moment because the kernel
        hangs up groups of stopped processes that nobody is left to continue.
        """
        return subprocess.Popen(
            [self.programs.path(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=dict(self.environment),
            process_group=0,
            preexec_fn=_end_with_parent,  # noqa: PLW1509  one system call, and no thread of ours is at work here
            **child_identity(self.user),
        )


def _end_with_parent() -> None:
    """In the child, before it becomes the program."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _is_kept(name: str) -> bool:
    """What libpq reads, so that the programs reach the server that we do, and what any program needs."""
    return name in _KEPT or (name.startswith("PG") and not name.startswith("PGHAVEN"))


def program_failed(status: int, said: bytes, doing: str) -> ServerUnsuitable:
    """The error for a program that failed: its first complaint in one line, with the object that pg_restore says it was
    at; what it said from there on as the detail."""
    text = said.decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip() and not _PROGRESS.match(line)]
    at = next((number for number, line in enumerate(lines) if "error:" in line or "FATAL" in line), None)
    shown = lines[-_LINES_TOLD:] if at is None else lines[at : at + _LINES_TOLD]
    first = shown[0].partition("error: ")[2] or shown[0] if shown else f"exit status {status}"
    failed = _FAILED_ENTRY.search(text)
    return ServerUnsuitable(
        f"could not {doing}: {first}" + (f" ({failed[1]})" if failed else ""),
        detail="\n".join(shown) or None,
        hint="Nothing after it was loaded. Mend that, or leave it out with --table or --schema." if failed else None,
    )
