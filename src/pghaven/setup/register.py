"""A cluster's place in a repository: connecting with enough rights, making the repository, claiming the name.

The one idea: what cannot be done is told with the statement or command that makes it possible, and nothing is made
before the server has been asked who it is.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass

from pghaven.clock import Clock
from pghaven.errors import NotFound, NotPermitted, ServerUnsuitable
from pghaven.repository import layout
from pghaven.repository.place import RepositoryPlace, unlock
from pghaven.repository.repository import Lineage, Repository, Sealing, create_repository, open_repository
from pghaven.repository.rescuekit import write_kit
from pghaven.runtime.durable import OwnerOf
from pghaven.server.connection import Connection, closing_on_error, connect
from pghaven.server.identity import OsUser, acting_as, find_owner, get_os_user
from pghaven.server.privileges import LEAST_PRIVILEGES, render_grant, render_least_privilege_sql
from pghaven.server.probe import ServerFacts
from pghaven.server.rights import list_missing_privileges
from pghaven.store.api import Store
from pghaven.store.open import create_root
from pghaven.store.posix import PosixStore
from pghaven.store.reserve import keep_reserve
from pghaven.units import render_time_utc

MakeSealing = Callable[[RepositoryPlace, OwnerOf | None], Sealing | None]
"""What a new repository at a place is sealed with, and who gets the key file; None to make it in the open."""

_NO_ROLE = re.compile(r'role "(.+?)" does not exist')
_USUAL_OWNER = "postgres"
_PROBE_PRIVILEGE = "pg_monitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A session, and which of the privileges that pghaven needs its role lacks."""

    connection: Connection
    missing: tuple[str, ...]


def open_server(conninfo: str, data_directory: str | None) -> Access:
    """Connect, as root under the identity of the data directory's owner, and see what the role may do.

    Raises ServerUnsuitable, with the SQL that makes the role when it does not exist, and NotPermitted with every GRANT
    when the role may not even look at the server.
    """
    try:
        connection = connect(conninfo, os_user=_find_os_user(data_directory))
    except ServerUnsuitable as error:
        match = _NO_ROLE.search(error.message)
        if match is None:
            raise
        raise ServerUnsuitable(
            error.message,
            detail="A role for pghaven needs no superuser. These statements, run by one in the database that pghaven "
            f"connects to, make it:\n{render_least_privilege_sql(match[1])}".rstrip(),
            hint=f'Make the role "{match[1]}", or name another with user=… in conninfo.',
        ) from error
    with closing_on_error(connection):
        missing = list_missing_privileges(connection)
        if _PROBE_PRIVILEGE in missing:
            role = connection.info.user
            raise NotPermitted(
                f'role "{role}" may not read all settings and statistics',
                detail=f"It lacks:\n{render_missing(role, missing)}",
                hint=f"As a superuser, run: {render_grant(role, _PROBE_PRIVILEGE)}"
                + (" and the others above" if len(missing) > 1 else ""),
            )
    return Access(connection=connection, missing=missing)


def render_missing(role: str, missing: tuple[str, ...]) -> str:
    """A GRANT a line for each, with what it is for."""
    return "\n".join(f"{render_grant(role, one)};  -- {LEAST_PRIVILEGES[one]}" for one in missing)


def _find_os_user(data_directory: str | None) -> str | None:
    """Whose identity peer authentication needs. Without a data directory the usual owner, where there is one."""
    if data_directory is not None:
        try:
            owner = find_owner(data_directory)
        except FileNotFoundError:
            raise ServerUnsuitable(
                f'data directory "{data_directory}" does not exist',
                hint="SHOW data_directory tells where the server's is.",
            ) from None
        except OSError as error:
            raise NotPermitted(f'could not look at "{data_directory}": {error.strerror}') from error
        return owner.name if owner else None
    if os.geteuid() != 0:
        return None
    return _USUAL_OWNER if any(entry.pw_name == _USUAL_OWNER for entry in pwd.getpwall()) else None


def make_lineage(facts: ServerFacts, clock: Clock) -> Lineage:
    """What the repository remembers of a cluster, by a probe of its server."""
    return Lineage(
        system_identifier=facts.system_identifier,
        major=facts.major.major,
        block_size=facts.block_size,
        segment_blocks=facts.segment_size // facts.block_size,
        wal_segment_size=facts.wal_segment_size,
        registered_at=render_time_utc(clock.now()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRepository:
    repository: Repository
    is_new: bool


def prepare_repository(
    place: RepositoryPlace, user: OsUser | None, clock: Clock, make_sealing: MakeSealing | None = None
) -> PreparedRepository:
    """Open the repository at a place, or make it. As root a new one is given to ``user``, who will write to it.

    ``make_sealing`` gives what a new one is sealed with, None for one in the open. Raises Refused for a place that
    holds something else, StoreUnreachable, NotPermitted, UsageError.
    """
    owner = OwnerOf(uid=user.uid, gid=user.gid) if user is not None and os.geteuid() == 0 else None
    store = create_root(place.store, owner)
    try:
        repository = open_repository(
            store, clock=clock, unlock=lambda keys: unlock(keys, place.key), must_be_sealed=place.key.is_expected
        )
        prepared = PreparedRepository(repository=repository, is_new=False)
    except NotFound:
        sealing = make_sealing(place, owner) if make_sealing is not None else None
        prepared = _make_repository(store, owner, clock, sealing)
    write_kit(prepared.repository)
    keep_reserve(store, layout.RESERVE_PREFIX)
    return prepared


def _make_repository(store: Store, owner: OwnerOf | None, clock: Clock, sealing: Sealing | None) -> PreparedRepository:
    if owner is not None and isinstance(store, PosixStore) and os.stat(store.root).st_uid == 0:
        # Somebody made the directory ready for us as root; what is made in it gets its owner.
        owner.give(store.root)
    repository = create_repository(store, clock=clock, sealing=sealing)
    return PreparedRepository(repository=repository, is_new=True)


def find_unwritable(repository: Repository, user: OsUser | None) -> str | None:
    """Why ``user`` (None: ourselves) may not write to a repository; None when nothing speaks against it."""
    store = repository.store
    if not isinstance(store, PosixStore):
        return None
    with acting_as(user):
        if os.access(store.root, os.W_OK | os.X_OK, effective_ids=True):
            return None
    who = "this user" if user is None else f'operating-system user "{user.name}"'
    return f'{who} may not write to the repository\'s directory "{store.root}"'


def find_server_os_user(data_directory: str) -> OsUser | None:
    """The owner of a data directory, whose identity its server has; None when that is ourselves or has no name."""
    try:
        owner = find_owner(data_directory)
    except OSError:
        return None
    return None if owner is None or owner.uid == os.geteuid() else get_os_user(owner.name)
