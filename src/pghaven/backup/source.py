"""The server that is about to be copied, known and found to fit its directory, its archive and the repository.

The one idea: backups and kept snapshots begin by the same questions, in the same order, before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.backup.archivewait import refuse_abandoned_timeline
from pghaven.backup.checks import check_data_directory, check_server
from pghaven.postgres.control import ControlFile
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import WalArchive
from pghaven.server.connection import Connection
from pghaven.server.probe import ServerFacts, probe_server


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is known of the server; ``control`` is as it was read now, ``archive`` where its WAL goes."""

    facts: ServerFacts
    control: ControlFile
    archive: WalArchive


def know_source(repository: Repository, cluster: str, data_directory: str, connection: Connection) -> Source:
    """Raises ServerUnsuitable, Refused, NotFound where they do not belong together."""
    facts = probe_server(connection)
    control = check_data_directory(data_directory, facts)
    lineage = repository.require_lineage(cluster, facts.system_identifier)
    check_server(cluster, facts, lineage)
    archive = WalArchive(repository, cluster, facts.system_identifier, lineage.wal_segment_size)
    refuse_abandoned_timeline(archive, facts.timeline, facts.lsn)
    return Source(facts=facts, control=control, archive=archive)
