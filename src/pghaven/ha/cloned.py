"""A restored copy that becomes the first member of a cluster of its own.

The one idea: what ties it to the cluster it was copied from is cut before anybody can reach it: the roles get the
passwords of its own nodes, its subscriptions take nothing from their publishers any more, and it archives as itself
alone.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

from pghaven.errors import StoreUnreachable
from pghaven.ha.adopt import give_roles
from pghaven.ha.spec import HaSpec, LocalPlaces
from pghaven.postgres.recovery import strip_settings_block
from pghaven.runtime.durable import OwnerOf, write_durably
from pghaven.server.connection import Connection, connect, server_errors
from pghaven.server.identity import find_owner
from pghaven.server.instance import Instance
from pghaven.server.privileges import quote_identifier
from pghaven.server.programs import Programs
from pghaven.server.scratch import open_scratch_place
from pghaven.wal.directory import make_archive_of_its_own

_SECONDS = 600.0
_SUBSCRIPTIONS = """SELECT datname, subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
    WHERE subenabled ORDER BY 1, 2"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeOwn:
    """``subscriptions`` were disabled, each as DATABASE.NAME."""

    subscriptions: tuple[str, ...]


def make_own(spec: HaSpec, places: LocalPlaces, programs: Programs) -> MadeOwn:
    """Cut what ties the recovered, stopped server in ``places.data_directory`` to its source. Nobody reaches it
    meanwhile. Raises ServerUnsuitable, NotPermitted, StoreUnreachable."""
    directory = places.data_directory
    owner = find_owner(directory) if os.geteuid() == 0 else None
    with open_scratch_place(tempfile.gettempdir(), owner) as place:
        instance = Instance(directory, programs, log_path=f"{directory}/pghaven.recovery.log")
        instance.start(place.isolation(programs.major), timeout_seconds=_SECONDS)
        try:
            with connect(place.conninfo(role=spec.superuser)) as connection:
                give_roles(connection, spec, places.secrets)
                found = _list_subscriptions(connection)
            for database, name in found:
                _disable(place.conninfo(database, spec.superuser), name)
        finally:
            instance.stop("fast", timeout_seconds=_SECONDS)
    _settle_files(directory, spec.cluster)
    return MadeOwn(subscriptions=tuple(f"{database}.{name}" for database, name in found))


def _list_subscriptions(connection: Connection) -> list[tuple[str, str]]:
    with server_errors(connection, "look for subscriptions"):
        return [(str(database), str(name)) for database, name in connection.execute(_SUBSCRIPTIONS.encode())]


def _disable(conninfo: str, name: str) -> None:
    with connect(conninfo) as connection, server_errors(connection, "disable a subscription"):
        connection.execute(f"ALTER SUBSCRIPTION {quote_identifier(name)} DISABLE".encode())


def _settle_files(directory: str, cluster: str) -> None:
    """Settings of the restore go, ``archive_mode = off`` among them: Patroni's own lead from here on."""
    path = os.path.join(directory, "postgresql.auto.conf")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = strip_settings_block(file.read())
        write_durably(path, text.encode("utf-8", "surrogateescape"), 0o600, OwnerOf.path(directory))
        make_archive_of_its_own(directory, cluster)
    except OSError as error:
        raise StoreUnreachable(f'could not settle the copy in "{directory}": {error.strerror}') from error
