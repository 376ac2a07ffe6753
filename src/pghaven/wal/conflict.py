"""Two servers that archive under one name: the first wins each file, the other is told whom it collides with.

The one idea: the error goes to a log that may never be read, so what happened is also kept in the repository, once for
each file that was refused, where ``status`` finds it. That the other one is another cluster altogether, by its system
identifier, makes no difference: then it is refused the name itself, and it is kept with the cluster that has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pghaven.errors import Conflict, PghavenError
from pghaven.light import dataclass
from pghaven.repository.filehash import hash_file
from pghaven.repository.incidents import Incident, IncidentKind, record_incident
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import PutOutcome, WalArchive
from pghaven.units import render_time_utc
from pghaven.wal.archives import OpenArchive, open_archive

if TYPE_CHECKING:
    from pghaven.repository.large import Plain


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldFile:
    """What is known of a file that was refused: its name, and of its writer host and data directory."""

    name: str
    facts: Mapping[str, str]


_TOLD = ("host", "data_directory", "system_identifier", "pushed_at", "hash")


def put_or_tell(archive: WalArchive, name: str, content: Plain, facts: Mapping[str, Any]) -> PutOutcome:
    """``WalArchive.put``; a conflict is kept in the repository before it is raised."""
    try:
        return archive.put(name, content, facts)
    except Conflict:
        with suppress(PghavenError):  # what failed first is what is told
            _record(archive, name, content, facts)
        raise


def open_or_tell(repository: Repository, cluster: str, claim: int, told: ToldFile) -> OpenArchive:
    """``open_archive`` for a file to be archived; that another cluster has the name is kept before it is raised."""
    try:
        return open_archive(repository, cluster, claim)
    except Conflict:
        with suppress(PghavenError):  # what failed first is what is told
            _record_stranger(repository, cluster, claim, told)
        raise


def _record_stranger(repository: Repository, cluster: str, claim: int, told: ToldFile) -> None:
    newest = repository.list_lineages(cluster)[-1]
    archive = WalArchive(repository, cluster, newest.system_identifier, newest.wal_segment_size)
    there = {"system_identifier": str(newest.system_identifier), "pushed_at": newest.registered_at}
    refused = {"system_identifier": str(claim), "pushed_at": render_time_utc(archive.clock.now()), **told.facts}
    incident = Incident(
        kind=IncidentKind.TWO_WRITERS,
        subject=told.name,
        seen_at=archive.clock.now(),
        archived={**there, **_find_last_writer(archive)},
        # By the claim and not the contents: a server that is refused its first file never comes to a second one.
        refused={**_choose(refused), "hash": f"{claim:016x}"},
    )
    record_incident(repository, cluster, newest.system_identifier, incident)


def _find_last_writer(archive: WalArchive) -> dict[str, str]:
    """Who stored the newest segment, as far as it can be read."""
    for timeline in reversed(archive.list_timelines()):
        segments = [str(stored.name) for stored in archive.list_segments(timeline)]
        if segments:
            return _choose(archive.read_facts(segments[-1]))
    return {}


def _record(archive: WalArchive, name: str, content: Plain, facts: Mapping[str, Any]) -> None:
    incident = Incident(
        kind=IncidentKind.TWO_WRITERS,
        subject=name,
        seen_at=archive.clock.now(),
        archived=_choose(archive.read_facts(name)),
        refused={**_choose(facts), "hash": hash_file(content)},
    )
    record_incident(archive.repository, archive.cluster, archive.system_identifier, incident)


def _choose(facts: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(facts[key]) for key in _TOLD if key in facts}
