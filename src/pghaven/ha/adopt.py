"""Taking over a primary that runs without Patroni.

The one idea: what the server is now must still be true afterwards. Patroni sets some settings on its command line and
writes ``pg_hba.conf`` itself, so whatever of the server's own would be lost is named before anything is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pghaven.errors import Refused
from pghaven.ha.patroni_file import render_hba
from pghaven.ha.spec import HaSpec, Secrets
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
_RULES = """SELECT concat_ws(' ', type, array_to_string(database, ','), array_to_string(user_name, ','), address,
    netmask, auth_method, array_to_string(options, ' ')) FROM pg_hba_file_rules WHERE error IS NULL"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """``settings`` would change their value, as ``name = value``; ``rules`` are lines of ``pg_hba.conf`` that would go;
    ``tablespaces`` counts the server's own."""

    settings: tuple[str, ...]
    rules: tuple[str, ...]
    tablespaces: int

    @property
    def changes_nothing(self) -> bool:
        return not self.settings and not self.rules


def plan_adoption(connection: Connection, spec: HaSpec) -> Adoption:
    """Raises Refused for a standby, ServerUnsuitable."""
    with server_errors(connection, "look at the server that is to be taken over"):
        if fetch_one(connection, "SELECT pg_is_in_recovery()")[0]:
            raise Refused(
                "the server is a standby: the primary is taken over first",
                hint="Run this on the primary's host. Its standbys are made members, or made anew, afterwards.",
            )
        found = {name: str(fetch_one(connection, f"SHOW {name}")[0]) for name in CONTROLLED}
        rules = [str(row[0]) for row in connection.execute(_RULES.encode()).fetchall()]
        spaces = fetch_one(connection, "SELECT count(*) FROM pg_tablespace WHERE oid > 16383")[0]
    return Adoption(
        settings=find_changed(found, spec.parameters), rules=find_lost_rules(rules, spec), tablespaces=spaces
    )


def find_changed(found: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """The settings that would not be what they are, as the option ``parameters`` takes them. Pure."""
    return tuple(f"{name} = {found[name]}" for name, own in CONTROLLED.items() if wanted.get(name, own) != found[name])


def find_lost_rules(rules: Sequence[str], spec: HaSpec) -> tuple[str, ...]:
    """The lines that the generated ``pg_hba.conf`` has not, local ones and loopback's apart: it has its own. Pure."""
    kept = {" ".join(line.split()) for line in render_hba(spec)}
    lost = []
    for rule in rules:
        words = rule.split()
        if words[0] == "local" or any(word in ("127.0.0.1", "::1") for word in words):
            continue
        if rule not in kept:
            lost.append(rule)
    return tuple(lost)


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
