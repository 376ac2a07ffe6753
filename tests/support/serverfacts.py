"""What a server might say of itself, for tests of decisions that need no server."""

from __future__ import annotations

from datetime import UTC, datetime

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.version import require_supported
from pghaven.server.probe import ArchiverFacts, ServerFacts

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FACTS = ServerFacts(
    version_num=170011,
    version="17.11 (Debian 17.11-1.pgdg13+1)",
    major=require_supported(170011),
    system_identifier=7,
    data_directory="/srv/data",
    in_recovery=False,
    timeline=Timeline(1),
    lsn=Lsn(0x5000000),
    block_size=8192,
    segment_size=1 << 30,
    wal_segment_size=16 << 20,
    data_checksums=True,
    settings={"summarize_wal": "on"},
    pending_restart=(),
    config_files=(),
    tablespaces=(),
    databases=(),
    archiver=ArchiverFacts(
        archived_count=0,
        last_archived_name=None,
        last_archived_time=None,
        failed_count=0,
        last_failed_name=None,
        last_failed_time=None,
        stats_reset=None,
    ),
    role="postgres",
    is_superuser=True,
    started=NOW,
    probed=NOW,
)
