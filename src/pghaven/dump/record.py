"""A dump's facts in the form that the repository keeps of every backup.

The one idea: what a dump does not have, a control file and a state that WAL goes on from, is zero or empty.
"""

from __future__ import annotations

from datetime import datetime

import pghaven
from pghaven.dump.assemble import Assembled
from pghaven.repository.entry import BackupEntry
from pghaven.repository.manifest import BackupFacts
from pghaven.repository.repository import Lineage
from pghaven.runtime.whoami import read_own_identity
from pghaven.server.probe import ServerFacts


def make_backup_facts(
    name: tuple[str, str],
    source: tuple[ServerFacts, Lineage],
    parent: BackupEntry | None,
    assembled: Assembled,
    times: tuple[datetime, datetime],
) -> BackupFacts:
    """``name`` is the cluster's and the label, ``parent`` the dump that was gone on from, ``times`` begin and end."""
    server, lineage = source
    return BackupFacts(
        label=name[1],
        cluster=name[0],
        system_identifier=server.system_identifier,
        server_version_num=server.version_num,
        catalog_version=0,
        control_version=0,
        block_size=lineage.block_size,
        segment_blocks=lineage.segment_blocks,
        wal_segment_size=lineage.wal_segment_size,
        data_checksums=server.data_checksums,
        timeline=server.timeline,
        start_lsn=server.lsn,
        stop_lsn=server.lsn,
        started_at=times[0],
        stopped_at=times[1],
        from_standby=server.in_recovery,
        method="dump",
        changes="rows" if parent is not None else "full",
        parent=parent.label if parent is not None else None,
        host=read_own_identity().host,
        data_directory=server.data_directory,
        written_by=f"pghaven {pghaven.__version__}",
        backup_label="",
        tablespace_map=None,
        tablespaces=(),
        databases=(),
        owners=(("root", "root"),),
        links=(),
        bad_pages=(),
        file_count=len(assembled.files.size),
        total_bytes=int(assembled.files.size.sum()),
        stored_bytes=assembled.written_bytes,
    )
