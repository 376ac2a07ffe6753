"""What came of proving a dump, kept beside what drills of backups found.

The one idea: it is a drill of another kind of thing, so it has a drill's form; and since it proves the dump and no
backup, its source says so, and nobody who asks about backups counts it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pghaven
from pghaven.dump.load import OpenDump
from pghaven.dump.proving import DatabaseProof, ProofResult
from pghaven.errors import PghavenError
from pghaven.repository.drills import FROM_DUMP, store_drill
from pghaven.units import render_time_utc

_TOLD = 5
_KEPT_CHARACTERS = 2000


def keep_proof(dump: OpenDump, began_at: datetime, found: ProofResult | PghavenError) -> str:
    """Keep what was found of all its databases, or what kept it from being told; its name.

    Raises what storing raises: NotPermitted, StoreUnreachable, Refused.
    """
    return store_drill(dump.catalog.repository, dump.catalog.cluster, _render(dump, began_at, found))


def _render(dump: OpenDump, began_at: datetime, found: ProofResult | PghavenError) -> Mapping[str, Any]:
    result = found if isinstance(found, ProofResult) else None
    checks = [_check("load", found.message)] if isinstance(found, PghavenError) else [*map(_judge, found.databases)]
    seconds = (dump.catalog.repository.clock.now() - began_at).total_seconds()
    return {
        "began_at": render_time_utc(began_at),
        "written_by": f"pghaven {pghaven.__version__}",
        "host": socket.gethostname(),
        "passed": result is not None and result.is_same,
        "source": FROM_DUMP,
        "as_standby": False,
        "backup": dump.label,
        "manifest": dump.catalog.find_manifest(dump.entry)[1],
        "system_identifier": str(dump.manifest.facts.system_identifier),
        "server_version": None if result is None else result.server_version,
        "target": {"policy": "given", "text": "as it was dumped", "promised_lsn": None},
        "reached": None,
        "marker": None,
        "checks": checks,
        "tables": 0 if result is None else sum(one.tables for one in result.databases),
        "rows": "0" if result is None else str(sum(one.rows for one in result.databases)),
        "contents": None,
        "seconds": {"total": round(max(0.0, seconds), 3)},
        "written_bytes": "0",
        "fetched_bytes": "0",
        "replayed_bytes": "0",
    }


def _judge(one: DatabaseProof) -> dict[str, str]:
    if one.differences:
        told = "; ".join(f"{different.name}: {different.text}" for different in one.differences[:_TOLD])
        return _check(f"database {one.name}", f"{len(one.differences)} differ: {told}")
    text = f"{one.tables} tables with {one.rows:,} rows are as they were dumped"
    return {"name": f"database {one.name}", "verdict": "OK", "text": text}


def _check(name: str, text: str) -> dict[str, str]:
    return {"name": name, "verdict": "FAILED", "text": text[:_KEPT_CHARACTERS]}
