"""Taking over a primary that runs without Patroni, or under a Patroni that somebody else has set up.

The one idea: what the server is now must still be true afterwards. Patroni sets some settings on its command line,
writes ``postgresql.conf`` and ``pg_hba.conf`` itself, and keeps the rest in etcd, so whatever of the server's own
would be lost is named before anything is done.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pghaven.errors import Refused, ServerUnsuitable
from pghaven.ha.dynamic import Drift, find_drift, is_same, list_parameters, merge, render_dynamic
from pghaven.ha.overrides import Override, find_overrides
from pghaven.ha.patroni_file import describe_parameters, render_hba
from pghaven.ha.rest import RestApi
from pghaven.ha.spec import HaNode, HaSpec, LocalPlaces, Secrets
from pghaven.server.connection import Connection, fetch_one, server_errors
from pghaven.server.privileges import quote_identifier

# What Patroni sets for all members alike, and to what unless it is told (docs, dynamic configuration).
CONTROLLED: Final = {
    "max_connections": "100",
    "max_locks_per_transaction": "64",
    "max_worker_processes": "8",
    "max_prepared_transactions": "0",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "track_commit_timestamp": "off",
}
# And what it writes into postgresql.conf unless it is told.
_PATRONIS_OWN: Final = {"wal_keep_size": "128MB"}
# Where a server listens and lies, and whom it follows, is what the description is about.
_PLACES: Final = re.compile(
    "archive_command|cluster_name|config_file|data_directory|(hba|ident)_file|hot_standby|listen_addresses|port|"
    "primary_(conninfo|slot_name)|restore_command|recovery_target.*|synchronous_standby_names|unix_socket_directories"
)
_RULES = """SELECT concat_ws(' ', type, array_to_string(database, ','), array_to_string(user_name, ','), address,
    netmask, auth_method, array_to_string(options, ' ')) FROM pg_hba_file_rules WHERE error IS NULL"""
# Patroni keeps the file of the server's own, and has its own include that.
_SETTINGS = """SELECT name, current_setting(name),
        source = 'command line' OR sourcefile = current_setting('config_file') AND sourcefile LIKE '%/postgresql.conf'
    FROM pg_settings WHERE source IN ('configuration file', 'command line') ORDER BY name"""
_OWN_RULE: Final = re.compile(r"^local | (127\.0\.0\.1/32|::1/128) ")
_IS_UNDER_PATRONI = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'Patroni%')"
# Of a shared configuration that is taken over: what is for a moment, or would have it follow somebody.
_NOT_TAKEN: Final = ("pause", "standby_cluster", "pghaven")


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A Patroni that runs the server, and is not ours. ``config`` is what its members share; ``scope`` its cluster's
    name there."""

    scope: str
    version: str
    paused: bool
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """``settings`` would change their value or go, as ``name = value``; ``rules`` are lines of ``pg_hba.conf`` that
    would go; ``shared`` what would change of another Patroni's configuration in etcd; ``overrides`` what
    ``ALTER SYSTEM`` has set and would go; ``archive_command`` the one that gives way to ours. ``tablespaces`` counts
    the server's own. ``config`` is the shared configuration afterwards."""

    settings: tuple[str, ...]
    rules: tuple[str, ...]
    tablespaces: int
    shared: tuple[Drift, ...] = ()
    overrides: tuple[Override, ...] = ()
    archive_command: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)

    @property
    def changes_nothing(self) -> bool:
        return not (self.settings or self.rules or self.shared or self.overrides or self.archive_command)


def find_foreign(connection: Connection, node: HaNode, api: RestApi) -> Foreign | None:
    """The Patroni that runs the server, if one does. Raises ServerUnsuitable when it cannot be asked."""
    with server_errors(connection, "look who runs the server"):
        is_run = bool(fetch_one(connection, _IS_UNDER_PATRONI)[0])
    try:
        told = api.call(node, "GET", "/patroni").body
        config, cluster = api.call(node, "GET", "/config").body, api.call(node, "GET", "/cluster").body
    except ServerUnsuitable as error:
        if not is_run:
            return None
        raise ServerUnsuitable(
            f"Patroni runs this server, and does not answer at {node.rest_url}",
            hint=f'Give node "{node.name}" the address and rest_port that its restapi.connect_address has now.',
        ) from error
    if not all(isinstance(one, dict) for one in (told, config, cluster)):
        raise ServerUnsuitable(
            f"what answers at {node.rest_url} is not Patroni, or knows no shared configuration",
            hint=f'Is the rest_port of node "{node.name}" right?',
        )
    patroni = told.get("patroni") or {}
    return Foreign(
        scope=str(patroni.get("scope")),
        version=str(patroni.get("version")),
        paused=bool(cluster.get("pause")),
        config=config,
    )


def plan_adoption(
    connection: Connection, spec: HaSpec, places: LocalPlaces, foreign: Foreign | None = None
) -> Adoption:
    """Raises Refused for a standby, NotPermitted, ServerUnsuitable."""
    with server_errors(connection, "look at the server that is to be taken over"):
        if fetch_one(connection, "SELECT pg_is_in_recovery()")[0]:
            raise Refused(
                "the server is a standby: the primary is taken over first",
                hint="Run this on the primary's host. Its standbys are made members, or made anew, afterwards.",
            )
        found = {name: str(fetch_one(connection, f"SHOW {name}")[0]) for name in CONTROLLED}
        explicit = [(str(name), str(value), bool(file)) for name, value, file in _fetch_all(connection, _SETTINGS)]
        rules = [str(row[0]) for row in _fetch_all(connection, _RULES)]
        spaces = fetch_one(connection, "SELECT count(*) FROM pg_tablespace WHERE oid > 16383")[0]
        archiving = str(fetch_one(connection, "SHOW archive_command")[0])
        archives = fetch_one(connection, "SHOW archive_mode")[0] != "off"
    ours = render_dynamic(spec, places)
    theirs = {} if foreign is None else {name: one for name, one in foreign.config.items() if name not in _NOT_TAKEN}
    config = merge(theirs, ours)
    wanted = {**_PATRONIS_OWN, **list_parameters(config), **describe_parameters(spec, places)}
    overrides = find_overrides(connection, wanted)
    named = {one.name for one in overrides}
    settings = dict.fromkeys(find_changed(found, wanted))
    settings |= dict.fromkeys(find_lost_settings(explicit, wanted, rewritten=foreign is not None))
    return Adoption(
        settings=tuple(one for one in settings if one.partition(" ")[0] not in named),
        rules=find_lost_rules(rules, spec),
        tablespaces=spaces,
        shared=tuple(one for one in find_drift(ours, theirs) if one.found is not None),
        overrides=overrides,
        archive_command=archiving if archives and archiving not in ("", places.archive_command) else None,
        config=config,
    )


def _fetch_all(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


def find_changed(found: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """The settings that would not be what they are, as the option ``parameters`` takes them. Pure."""
    return tuple(
        f"{name} = {found[name]}" for name, own in CONTROLLED.items() if not is_same(found[name], wanted.get(name, own))
    )


def find_lost_settings(
    explicit: Sequence[tuple[str, str, bool]], wanted: Mapping[str, str], *, rewritten: bool
) -> Iterator[str]:
    """Of settings that somebody has made, with their value and whether that stands in ``postgresql.conf`` or on the
    command line, those that would have another one; with ``rewritten`` also those that would have none, because that
    file is Patroni's. Pure."""
    for name, value, is_there in explicit:
        if _PLACES.fullmatch(name):
            continue
        if name in wanted:
            if not is_same(value, wanted[name]):
                yield f"{name} = {value}"
        elif rewritten and is_there and name not in CONTROLLED:
            yield f"{name} = {value}"


def find_lost_rules(rules: Sequence[str], spec: HaSpec) -> tuple[str, ...]:
    """The lines that the generated ``pg_hba.conf`` has not, local ones and loopback's apart: it has its own. Pure."""
    kept = {simplify_rule(line) for line in render_hba(spec)}
    found = dict.fromkeys(simplify_rule(rule) for rule in rules)
    return tuple(rule for rule in found if rule not in kept and not _OWN_RULE.search(rule))


def simplify_rule(rule: str) -> str:
    """A line of ``pg_hba.conf`` with single spaces, and an address with its mask as one word. Pure."""
    words = rule.split()
    for at in range(len(words) - 1):
        try:
            address, mask = ipaddress.ip_address(words[at]), ipaddress.ip_address(words[at + 1])
        except ValueError:
            continue
        words[at : at + 2] = [f"{address}/{int(mask).bit_count()}"]
        break
    return " ".join(words)


def give_roles(connection: Connection, spec: HaSpec, secrets: Secrets) -> None:
    """The superuser gets its password, the standbys their role. Raises ServerUnsuitable, NotPermitted."""
    user = spec.replication_user
    with server_errors(connection, "give the roles their passwords"), connection.transaction():
        is_there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone()
        verb = "ALTER" if is_there else "CREATE"
        for role, statement, password in (
            (spec.superuser, "ALTER ROLE {} PASSWORD {}", secrets.superuser),
            (user, f"{verb} ROLE {{}} WITH LOGIN REPLICATION PASSWORD {{}}", secrets.replication),
        ):
            quoted = "'" + password.replace("'", "''") + "'"
            connection.execute(statement.format(quote_identifier(role), quoted).encode())
