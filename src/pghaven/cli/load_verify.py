"""``pghaven load --verify``: whether a dump can be loaded, and is then what was dumped.

The one idea: what differs is a finding to be shown like any other, and the exit status says that there was one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pghaven.cli.dump_command import find_spool
from pghaven.cli.dump_finding import open_meant_dump
from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import count_processes
from pghaven.errors import CheckFailed, PghavenError, UsageError
from pghaven.events import Listener, Notice

if TYPE_CHECKING:
    from datetime import datetime

    from pghaven.dump.load import OpenDump
    from pghaven.dump.proving import ProofResult
    from pghaven.server.identity import OsUser

_TOLD = 20


def verify_dump(
    invocation: Invocation,
    label: str | None,
    *,
    cluster: str | None,
    database: str | None,
    jobs: int | None,
    options: tuple[str, ...],
    repository: str | None,
) -> int:
    """Load the dump, or one database of it, into a server made for it, and compare; the command's exit status."""
    from pghaven.dump.options import refuse_own_options
    from pghaven.dump.proving import ProofSettings, run_proof

    refuse_own_options(options)
    chosen = invocation.get_cluster(cluster)
    with invocation.reporter as listener:
        dump = open_meant_dump(invocation, chosen, repository, label)
        databases = dump.facts.databases if database is None else (dump.choose(database),)
        settings = ProofSettings(
            scratch=find_spool(chosen),
            user=_find_user(chosen.data_directory),
            jobs=jobs or count_processes(chosen),
            processes=count_processes(chosen),
            pg_bin=chosen.pg_bin,
            options=options,
        )
        began_at = dump.catalog.repository.clock.now()
        try:
            result = run_proof(dump, databases, settings, listener)
        except UsageError:
            raise
        except PghavenError as error:
            if not options:
                _keep(dump, began_at, error, listener)
            raise
        if not options and (len(databases) == len(dump.facts.databases) or not result.is_same):
            _keep(dump, began_at, result, listener)
    status = invocation.show("load-verify", _body(result), _render(result))
    return status if result.is_same else CheckFailed.exit_status


def _keep(dump: OpenDump, began_at: datetime, found: ProofResult | PghavenError, listener: Listener) -> None:
    """In the repository, for ``status``. That some databases alone are right says nothing of the dump, and what differs
    by somebody's options neither."""
    from pghaven.dump.proven import keep_proof

    try:
        keep_proof(dump, began_at, found)
    except PghavenError as error:
        text = f"what was found could not be kept: {error.message}"
        hint = "It counts for nobody who asks later: `pghaven status` will not know of it."
        listener(Notice(level="warning", code="evidence", text=text, hint=hint))


def _find_user(data_directory: str) -> OsUser | None:
    """Whom the server runs as: for root the owner of the cluster's own, where that is here."""
    from pghaven.server.identity import find_owner, find_server_user

    if os.geteuid() != 0:
        return None
    owner = find_owner(data_directory) if os.path.isdir(data_directory) else None
    return owner if owner is not None and owner.uid != 0 else find_server_user()


def _body(result: ProofResult) -> dict[str, object]:
    return {
        "label": result.label,
        "result": "same" if result.is_same else "different",
        "server_version": result.server_version,
        "databases": result.databases,
        "seconds": result.total_seconds,
    }


def _render(result: ProofResult) -> str:
    from pghaven.units import render_duration

    lines = []
    for one in result.databases:
        objects = f", {one.large_objects} large objects" if one.large_objects else ""
        found = f"{len(one.differences)} of them differ" if one.differences else "all as they were dumped"
        lines.append(f'database "{one.name}": {one.tables} tables, {one.rows:,} rows{objects}: {found}')
        lines += [f"  {different.name}: {different.text}" for different in one.differences[:_TOLD]]
        if len(one.differences) > _TOLD:
            lines.append(f"  and {len(one.differences) - _TOLD} more")
    verdict = "is loaded the same" if result.is_same else "is NOT loaded the same"
    lines.append(
        f"dump {result.label} {verdict} into PostgreSQL {result.server_version}, "
        f"in {render_duration(result.total_seconds)}"
    )
    return "\n".join(lines) + "\n"
