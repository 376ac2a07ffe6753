"""``pg_rewind`` asks for the WAL of a node that was passed over: the node's own, out of quarantine.

The one idea: a server's recovery asks for its file under a name of its own (``RECOVERYXLOG``), while ``pg_rewind``
has it put where it belongs in the ``pg_wal`` of a stopped server. It reads there what the node itself wrote since the
fork, to find the pages to take back; nobody else may ever replay that. So only who stored a file gets it again.

Sources: RestoreArchivedWALFile in fe_utils/archive.c, RestoreArchivedFile in xlogarchive.c of PostgreSQL.
"""

from __future__ import annotations

import os

from pghaven.errors import ObjectMissing
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.repository.walstore import WalArchive

_POSTMASTER_FILE = "postmaster.pid"


def find_rewound_directory(file_name: str, target_path: str) -> str | None:
    """The data directory for which ``pg_rewind`` asks; None for any other caller."""
    path = os.path.abspath(target_path)
    place, name = os.path.split(path)
    directory = os.path.dirname(place)
    if name != file_name or os.path.basename(place) != WAL_DIRECTORY:
        return None
    if not os.path.exists(os.path.join(directory, "global/pg_control")):
        return None
    return None if os.path.exists(os.path.join(directory, _POSTMASTER_FILE)) else os.path.realpath(directory)


def find_own_quarantined(archive: WalArchive, file_name: str, data_directory: str) -> bytes | None:
    """The proven contents of this file as the server in this directory of this host wrote it; None if there is none.

    Of several the last one stored. Raises Damaged.
    """
    found: list[tuple[str, str]] = []
    for entry in archive.list_quarantine(file_name):
        try:
            facts = archive.read_quarantined_facts(entry)
        except ObjectMissing:
            continue
        if facts.get("host") == os.uname().nodename and facts.get("data_directory") == data_directory:
            found.append((str(facts.get("pushed_at", "")), entry))
    return archive.get_quarantined(max(found)[1]) if found else None
