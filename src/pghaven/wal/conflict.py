"""Two servers that archive under one name: the first wins each file, the other is told whom it collides with.

The one idea: the error goes to a log that may never be read, so what happened is also kept in the repository, once for
each file that was refused, where ``status`` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pghaven.errors import Conflict, PghavenError
from pghaven.repository.incidents import Incident, IncidentKind, record_incident
from pghaven.repository.walstore import PutOutcome, WalArchive

_TOLD = ("host", "data_directory", "system_identifier", "pushed_at", "hash")


def put_or_tell(archive: WalArchive, name: str, content: bytes, facts: Mapping[str, Any]) -> PutOutcome:
    """``WalArchive.put``; a conflict is kept in the repository before it is raised."""
    try:
        return archive.put(name, content, facts)
    except Conflict:
        with suppress(PghavenError):  # what failed first is what is told
            _record(archive, name, content, facts)
        raise


def _record(archive: WalArchive, name: str, content: bytes, facts: Mapping[str, Any]) -> None:
    import blake3

    incident = Incident(
        kind=IncidentKind.TWO_WRITERS,
        subject=name,
        seen_at=archive.clock.now(),
        archived=_choose(archive.read_facts(name)),
        refused={**_choose(facts), "hash": blake3.blake3(content).hexdigest()},
    )
    record_incident(archive.repository, archive.cluster, archive.system_identifier, incident)


def _choose(facts: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(facts[key]) for key in _TOLD if key in facts}
