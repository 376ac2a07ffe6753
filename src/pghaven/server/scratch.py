"""Servers of our own that nobody else can reach, in a place that is gone afterwards.

The one idea: what is only tried (a dump that is loaded to be compared, a backup that is restored to be proven) must not
be taken for the real thing nor disturb it. Its server listens in a directory that one user alone can enter and on no
network, archives nothing and follows nobody; server and files end with the block, and what a killed process left is
removed by the next one, or by the agent.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from psycopg.conninfo import make_conninfo

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import StoreUnreachable
from pghaven.runtime.durable import OwnerOf
from pghaven.runtime.whoami import ProcessIdentity, is_alive, read_own_identity
from pghaven.server.identity import OsUser
from pghaven.server.instance import Instance
from pghaven.server.postmaster import list_server_processes
from pghaven.server.programs import Programs, can_run, copy_programs

ROLE: Final = "postgres"
"""The superuser of a cluster made here."""

_PREFIX: Final = "pghaven-scratch-"
_MARK: Final = "process.json"
_SOCKET_PATH_BYTES: Final = 107
_LONGEST_SOCKET: Final = "/.s.PGSQL.65535"
_INITDB: Final = ("-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
# Nothing here has to outlive a crash.
_FAST: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchPlace:
    """``directory`` is ours, and ``user`` (None for ourselves) runs servers in it; ``sockets`` is where they listen."""

    directory: str
    sockets: str
    user: OsUser | None

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def make_directory(self, name: str) -> str:
        """A directory for the servers' user alone."""
        path = self.path(name)
        os.mkdir(path, 0o700)
        _give(path, self.user)
        return path

    def find_reachable(self, programs: Programs) -> Programs:
        """These programs, or a copy of them here if the servers' user cannot run them where they are."""
        if can_run(programs, self.user):
            return programs
        os.mkdir(self.path("programs"), 0o755)
        return copy_programs(programs, self.path("programs"))

    def isolation(self, major: int) -> dict[str, str]:
        """Settings for the command line of a server of this major version by which nobody reaches it but its own user
        and root, by socket, as any role and without a password, whatever triggers are in it; and by which it changes
        nothing outside."""
        hba = self.path("pg_hba.conf")
        if not os.path.exists(hba):
            with open(hba, "x", encoding="utf-8") as file:
                file.write("local all all trust\n")
            os.chmod(hba, 0o644)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.sockets,
            "unix_socket_permissions": "0700",
            "port": "5432",
            "hba_file": hba,
            "ssl": "off",
            "archive_mode": "off",
            "synchronous_standby_names": "",
            "primary_conninfo": "",
            "max_logical_replication_workers": "0",  # subscriptions stay where they are
            "logging_collector": "off",
            "log_destination": "stderr",
            "dynamic_shared_memory_type": "mmap",  # a container's /dev/shm may be too small for the default
        }
        return {**settings, "event_triggers": "off"} if major >= 17 else settings

    def conninfo(self, database: str = "postgres", role: str = ROLE) -> str:
        return make_conninfo(host=self.sockets, port=5432, user=role, dbname=database)


@contextmanager
def open_scratch_place(above: str, user: OsUser | None) -> Iterator[ScratchPlace]:
    """A new directory below ``above``; gone when the block is left. ``user`` is another user for root, else None.

    Servers must have ended by then. What processes that were killed left there is removed. Raises StoreUnreachable.
    """
    with _marked_directory(above, user) as directory:
        if len(os.fsencode(f"{directory}/s{_LONGEST_SOCKET}")) <= _SOCKET_PATH_BYTES:
            yield _open(directory, directory, user)
        else:
            with _marked_directory("/tmp", user) as elsewhere:  # noqa: S108  a new directory, and short
                yield _open(directory, elsewhere, user)


def _open(directory: str, sockets_above: str, user: OsUser | None) -> ScratchPlace:
    sockets = os.path.join(sockets_above, "s")
    os.mkdir(sockets, 0o700)
    _give(sockets, user)
    return ScratchPlace(directory=directory, sockets=sockets, user=user)


@contextmanager
def run_scratch_cluster(
    place: ScratchPlace, programs: Programs, settings: Mapping[str, str] | None = None, *, clock: Clock = SYSTEM_CLOCK
) -> Iterator[Instance]:
    """A new and empty cluster in the place, running until the block is left.

    ``settings`` win over those made for speed. Raises ServerUnsuitable with the server's words, Cancelled.
    """
    instance = make_instance(place, place.make_directory("data"), programs, clock=clock)
    instance.initdb(_INITDB)
    with running(instance, {**_FAST, **(settings or {}), **place.isolation(programs.major)}):
        yield instance


def make_instance(
    place: ScratchPlace, data_directory: str, programs: Programs, *, clock: Clock = SYSTEM_CLOCK
) -> Instance:
    """The server of a data directory in the place; once started it ends with us, however we end."""
    return Instance(
        data_directory,
        place.find_reachable(programs),
        log_path=place.path("server.log"),
        os_user=None if place.user is None else place.user.name,
        launcher=find_launcher(),
        clock=clock,
    )


@contextmanager
def running(instance: Instance, settings: Mapping[str, str], *, timeout_seconds: float = 60.0) -> Iterator[None]:
    """Start a server with these settings, and end it at once when the block is left: nothing of it is kept."""
    try:
        instance.start(settings, timeout_seconds=timeout_seconds)
        yield
    finally:
        instance.stop("immediate")


def find_launcher() -> Sequence[str]:
    """What becomes the server, told to end at once when we are gone, however we went; empty where there is no such
    program."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    launcher = (setpriv, "--pdeathsig", "QUIT", "--")
    # That of BusyBox has no such option.
    tried = subprocess.run([*launcher, "true"], capture_output=True, check=False)
    return launcher if tried.returncode == 0 else ()


# -- directories -----------------------------------------------------------------------------------------------------


@contextmanager
def _marked_directory(above: str, user: OsUser | None) -> Iterator[str]:
    """A new directory that says whose it is; what is in it is for its parts to open to the servers' user."""
    sweep_scratch(above)
    try:
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=above)
    except OSError as error:
        raise StoreUnreachable(
            f'could not make a directory in "{above}": {error.strerror}',
            hint="Name one that is there, with room: --directory of a drill, dump_spool for dumps, or TMPDIR for both.",
        ) from error
    try:
        if user is not None:
            os.chmod(path, 0o711)  # noqa: S103  the servers' user must get through; what is inside is closed
        with open(os.path.join(path, _MARK), "x", encoding="utf-8") as file:
            json.dump(asdict(read_own_identity()), file)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep_scratch(above: str, owner: OsUser | None = None) -> None:
    """Remove the directories of our user, and of ``owner``, whose process was killed, and whose server has ended with
    it; those of processes that live stay."""
    users = {os.geteuid()} if owner is None else {os.geteuid(), owner.uid}
    for path in glob.glob(os.path.join(glob.escape(above), f"{_PREFIX}*")):
        try:
            if os.lstat(path).st_uid not in users:
                continue
            with open(os.path.join(path, _MARK), encoding="utf-8") as file:
                identity = ProcessIdentity(**json.load(file))
        except (OSError, ValueError, TypeError):
            continue  # somebody else's, or just being made
        if is_alive(identity) is False and not list_server_processes(os.path.join(path, "data")):
            shutil.rmtree(path, ignore_errors=True)


def _give(path: str, user: OsUser | None) -> None:
    if user is not None:
        OwnerOf(uid=user.uid, gid=user.gid).give(path)
