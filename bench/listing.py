"""A repository of very many backups that are no more than what a listing reads of them.

The one idea: a list reads what was announced and decided of each backup, and nothing of its data; so a thousand are
made in seconds by the code that makes them for real.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import Intent
from pghaven.repository.layout import backup_object_name
from pghaven.repository.outline import refresh_outlines
from pghaven.repository.repository import open_repository
from pghaven.runtime.whoami import read_own_identity
from pghaven.store.api import Store

BACKUPS = 1000
_CLUSTER = "main"
_AT_ONCE = 8


def fill(store: Store) -> None:
    """Have a repository with the cluster "main" list a thousand backups, and keep copies of what a list reads."""
    repository = open_repository(store)
    catalog = BackupCatalog(repository, _CLUSTER)
    system_identifier = repository.list_lineages(_CLUSTER)[0].system_identifier
    who, now = read_own_identity(), repository.clock.now()
    intent = Intent(
        who=who,
        started_at=now,
        system_identifier=system_identifier,
        timeline=1,
        start_lsn="0/3000028",
        parent=None,
    )
    summary = {
        "system_identifier": str(system_identifier),
        "timeline": 1,
        "start_lsn": "0/3000028",
        "stop_lsn": "0/3000100",
        "started_at": "2026-03-01T13:00:00.000000Z",
        "stopped_at": "2026-03-01T13:00:05.000000Z",
        "server_version_num": 150018,
        "total_bytes": 1 << 30,
        "stored_bytes": 1 << 20,
        "changes": "lsn",
        "host": who.host,
        "bad_pages": 0,
        "from_standby": False,
        "parent": None,
    }

    def take(number: int) -> None:
        label = f"20260301T130000Z-{number:04x}"
        catalog.announce(label, replace(intent, started_at=now))
        store.create(backup_object_name(_CLUSTER, label, "manifest"), [b"x"])
        catalog.decide(label, {"decision": "commit", "manifest": "00" * 32, "manifest_bytes": 1, "summary": summary})

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(take, range(BACKUPS)))
    catalog.announce("20260301T140000Z", intent)  # one more is being taken
    refresh_outlines(repository, _CLUSTER)
