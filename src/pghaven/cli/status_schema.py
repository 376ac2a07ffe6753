"""The schema of ``status --json``: every field there is, with its type and what it means.

The one idea: it is declared here once; the reference page is made of it, and a test holds what is really shown to it.
Within a version fields are only added; what a field means does not change.
"""

from __future__ import annotations

from typing import Final

NAME: Final = "pghaven/status/1"

_TIME, _TEXT, _COUNT, _BYTES, _SECONDS, _LSN, _YES = "time", "text", "count", "bytes", "seconds", "LSN", "boolean"

FIELDS: Final[tuple[tuple[str, str, str], ...]] = (
    ("schema", _TEXT, f'`"{NAME}"`'),
    ("notices[]", "object", "what was noticed on the way: `level`, `code`, `text`, `hint`"),
    ("requests[]", "object", "what was asked of each store; only where something was"),
    ("clusters[].cluster", _TEXT, "its name in the configuration"),
    ("clusters[].looked_at", _TIME, "the moment that all of this speaks of"),
    ("clusters[].problems[].level", _TEXT, "`critical`: data would be lost or cannot be brought back; `warning`"),
    ("clusters[].problems[].code", _TEXT, "the kind of problem; problems come in the order of importance"),
    ("clusters[].problems[].text", _TEXT, "one sentence"),
    ("clusters[].problems[].hint", _TEXT, "what to do, with the command"),
    # -- the server
    ("clusters[].server.up", _YES, "false: only `is_running`, `reason` and `hint` follow"),
    ("clusters[].server.is_running", _YES, "whether its process is there; null is not known"),
    ("clusters[].server.reason", _TEXT, "why it did not answer"),
    ("clusters[].server.hint", _TEXT, "what to do about that"),
    ("clusters[].server.version", _TEXT, ""),
    ("clusters[].server.in_recovery", _YES, "it is a standby"),
    ("clusters[].server.timeline", _COUNT, "that it writes, or follows"),
    ("clusters[].server.lsn", _LSN, "how far it has written, a standby: replayed"),
    ("clusters[].server.system_identifier", _TEXT, "in decimal"),
    ("clusters[].server.started", _TIME, ""),
    ("clusters[].server.archive_mode", _TEXT, "as the setting"),
    ("clusters[].server.archiver", "object", "`pg_stat_archiver`, by its own names; `*_name` are files"),
    ("clusters[].server.waiting", _COUNT, "finished WAL files not archived yet; null is not known"),
    ("clusters[].server.room", "object", "of `pg_wal`, null when it is not on this host"),
    ("clusters[].server.room.waiting", _COUNT, "files that wait"),
    ("clusters[].server.room.waiting_bytes", _BYTES, ""),
    ("clusters[].server.room.free_bytes", _BYTES, ""),
    ("clusters[].server.room.bytes_per_second", "number", "how fast WAL comes; null is not known"),
    ("clusters[].server.room.seconds", _SECONDS, "until it is full; null is not known"),
    ("clusters[].server.receiver", "object", "the slot of `wal receive`; null without one"),
    ("clusters[].server.receiver.name", _TEXT, ""),
    ("clusters[].server.receiver.is_active", _YES, ""),
    ("clusters[].server.receiver.wal_status", _TEXT, "as in `pg_replication_slots`"),
    ("clusters[].server.receiver.restart_lsn", _LSN, ""),
    ("clusters[].server.receiver.held_bytes", _BYTES, "what the server keeps for it"),
    ("clusters[].server.receiver.state", _TEXT, "as in `pg_stat_replication`"),
    ("clusters[].server.receiver.sync_state", _TEXT, ""),
    ("clusters[].server.receiver.flushed_lsn", _LSN, ""),
    ("clusters[].server.standbys[].name", _TEXT, "its `application_name`; of one that is away, its slot's"),
    ("clusters[].server.standbys[].address", _TEXT, "null: over a socket, or away"),
    ("clusters[].server.standbys[].state", _TEXT, "as in `pg_stat_replication`, or `away`"),
    ("clusters[].server.standbys[].sync_state", _TEXT, "as in `pg_stat_replication`"),
    ("clusters[].server.standbys[].slot", _TEXT, "null without one"),
    ("clusters[].server.standbys[].wal_status", _TEXT, "of its slot; `lost`: it cannot follow from here any more"),
    ("clusters[].server.standbys[].replayed_lsn", _LSN, ""),
    ("clusters[].server.standbys[].behind_bytes", _BYTES, "that it has not replayed; null is not known"),
    (
        "clusters[].server.standbys[].replay_seconds",
        _SECONDS,
        "how late it shows a commit; null while nothing is written",
    ),
    ("clusters[].server.standbys[].held_bytes", _BYTES, "what the server keeps for its slot"),
    ("clusters[].agent", _TEXT, "`running`, `silent` (it has left its socket and does not answer), or `none`"),
    # -- repositories
    ("clusters[].repositories[].name", _TEXT, "in the configuration"),
    ("clusters[].repositories[].url", _TEXT, ""),
    ("clusters[].repositories[].reachable", _YES, "false: only `reason`, `hint` and `missed` follow"),
    ("clusters[].repositories[].reason", _TEXT, "why it cannot be used"),
    ("clusters[].repositories[].hint", _TEXT, ""),
    ("clusters[].repositories[].missed", "object", "WAL it missed, as this host has noted; null: none"),
    ("clusters[].repositories[].missed.files", _COUNT, ""),
    ("clusters[].repositories[].missed.since", _TIME, ""),
    ("clusters[].repositories[].free_bytes", _BYTES, "null where the store does not tell"),
    ("clusters[].repositories[].system_identifier", _TEXT, "the cluster's life that is meant"),
    ("clusters[].repositories[].recovery_point", "object", "what would be lost now; null: everything"),
    ("clusters[].repositories[].recovery_point.since", _TIME, "what was written since then; null is not known"),
    ("clusters[].repositories[].recovery_point.since_lsn", _LSN, ""),
    ("clusters[].repositories[].recovery_point.seconds", _SECONDS, "since then; null is not known"),
    ("clusters[].repositories[].recovery_point.unarchived_bytes", _BYTES, "null while the server does not answer"),
    (
        "clusters[].repositories[].recovery_time.measured_seconds",
        _SECONDS,
        "of the last drill that passed; null: unknown",
    ),
    ("clusters[].repositories[].recovery_time.measured_at", _TIME, ""),
    ("clusters[].repositories[].recovery_time.is_stale", _YES, "it was too long ago to count"),
    (
        "clusters[].repositories[].recovery_time.estimated_seconds",
        _SECONDS,
        "for now, by what was measured; null: unknown",
    ),
    (
        "clusters[].repositories[].recovery_time.is_replay_assumed",
        _YES,
        "no drill replayed enough WAL to measure that; null: no drill",
    ),
    ("clusters[].repositories[].newest_backup", _TEXT, "label; null: none"),
    ("clusters[].repositories[].backup_count", _COUNT, "complete ones"),
    ("clusters[].repositories[].running_backups[]", _TEXT, "labels"),
    ("clusters[].repositories[].newest_dump", _TEXT, "label; null: none"),
    ("clusters[].repositories[].dump_count", _COUNT, ""),
    ("clusters[].repositories[].windows[].timeline", _COUNT, ""),
    ("clusters[].repositories[].windows[].begin", _TIME, "every moment from here on can be restored to"),
    ("clusters[].repositories[].windows[].begin_lsn", _LSN, ""),
    ("clusters[].repositories[].windows[].end", _TIME, "up to here; null is not known"),
    ("clusters[].repositories[].windows[].end_lsn", _LSN, ""),
    ("clusters[].repositories[].windows[].last_segment", _TEXT, ""),
    ("clusters[].repositories[].windows[].backups[]", _TEXT, "labels of those it is reached from"),
    ("clusters[].repositories[].gaps[].first", _TEXT, "the first missing segment"),
    ("clusters[].repositories[].gaps[].last", _TEXT, ""),
    ("clusters[].repositories[].gaps[].segments", _COUNT, ""),
    ("clusters[].repositories[].gaps[].cause", _TEXT, "`lost`, `elsewhere`, `failed`, `waiting`, `unstored`, …; null"),
    ("clusters[].repositories[].gaps[].reason", _TEXT, "the same in words"),
    ("clusters[].repositories[].damaged_wal[]", _TEXT, "segments a window would end with"),
    ("clusters[].repositories[].unusable_backups[]", _TEXT, "labels: their own WAL is incomplete"),
    ("clusters[].repositories[].timelines_without_history[]", _COUNT, ""),
    ("clusters[].repositories[].timelines[]", "object", "all WAL that is held, as in `wal list --json`"),
    ("clusters[].repositories[].verified_backups[].label", _TEXT, ""),
    ("clusters[].repositories[].verified_backups[].verdict", _TEXT, "`whole`, `damaged` or `never`"),
    ("clusters[].repositories[].verified_backups[].at", _TIME, ""),
    ("clusters[].repositories[].last_damage", "object", "`evidence`, `at`, `damage_count`; null: none since"),
    ("clusters[].repositories[].doubtful_verification", "object", "`evidence`, `at`, `doubt`; null: the newest counts"),
    ("clusters[].repositories[].last_drill", "object", "null: never"),
    ("clusters[].repositories[].last_drill.evidence", _TEXT, "the object it is kept in"),
    ("clusters[].repositories[].last_drill.at", _TIME, ""),
    ("clusters[].repositories[].last_drill.passed", _YES, "false also when its result does not count"),
    ("clusters[].repositories[].last_drill.is_stale", _YES, "too long ago to count, or in the future"),
    (
        "clusters[].repositories[].last_drill.signature",
        _TEXT,
        "`good`, `missing`, `wrong`, or `no_key`: the repository is not sealed",
    ),
    ("clusters[].repositories[].last_drill.doubt", _TEXT, "why its result does not count; null: it does"),
    ("clusters[].repositories[].last_drill.source", _TEXT, "`backup` or `snapshot`"),
    ("clusters[].repositories[].last_drill.backup", _TEXT, "the label of that"),
    ("clusters[].repositories[].last_drill.target", _TEXT, "in words"),
    ("clusters[].repositories[].last_drill.reached_lsn", _LSN, ""),
    ("clusters[].repositories[].last_drill.reached_at", _TIME, "of the last transaction that came back"),
    ("clusters[].repositories[].last_drill.failures[]", _TEXT, "`question: what was wrong`"),
    ("clusters[].repositories[].last_drill.seconds", "object", "by part: `fetch`, `replay`, `first_query`, `total`, …"),
    (
        "clusters[].repositories[].last_dump_proof",
        "object",
        "the same of the last dump that was loaded to be compared; null: never",
    ),
    ("clusters[].repositories[].audit", "object", "the newest of the WAL; null: none"),
    ("clusters[].repositories[].incidents[]", "object", "two writers, lost WAL; as in `wal list --json`"),
    ("clusters[].repositories[].quarantined", _COUNT, "WAL files of a server that was passed over"),
    ("clusters[].repositories[].quarantined_from", _TEXT, "who wrote the last of them"),
    ("clusters[].repositories[].fenced", _TEXT, "why what this server writes leads nowhere; null: it leads on"),
    ("clusters[].repositories[].older[]", _TEXT, "what is older than this host has seen"),
    ("clusters[].repositories[].single_writer", _YES, "as the option says"),
    # -- all of them
    ("clusters[].overall", "object", "what all repositories give between them; null: nothing"),
    ("clusters[].overall.timeline", _COUNT, ""),
    ("clusters[].overall.begin", _TIME, "every moment from here on can be restored to"),
    ("clusters[].overall.begin_in", _TEXT, "the repository with the first moment"),
    ("clusters[].overall.end", _TIME, "null is not known"),
    ("clusters[].overall.end_lsn", _LSN, ""),
    ("clusters[].overall.end_in", _TEXT, "the repository with the last moment"),
    ("clusters[].overall.recovery_point", "object", "as that of a repository"),
    ("clusters[].overall.lacks[].repository", _TEXT, "one that lacks what another has"),
    ("clusters[].overall.lacks[].backups[]", _TEXT, "labels of the originals"),
    ("clusters[].overall.lacks[].wal_bytes", _BYTES, "null: nothing of this timeline can be restored from it"),
)


def render_status_schema() -> str:
    """The page."""
    rows = "\n".join(f"| `{path}` | {kind} | {meaning} |" for path, kind, meaning in FIELDS)
    return f"""\
# What `status --json` shows

<!-- Generated from src/pghaven/cli/status_schema.py by "make docs"; do not edit. -->

One line of JSON with the schema `{NAME}`. The number rises when a field goes or changes its meaning; fields are added
without that, so read what you know and pass over the rest. Times are UTC (`2026-11-23T03:47:00.000000Z`), LSNs text
(`16/B374D848`), sizes bytes, durations seconds. What is not known is null, never zero. `--brief` shows the same.

| field | type | meaning |
|---|---|---|
{rows}

The exit status is 0 when there is no problem and 3 when there is one; see [exit statuses](exit-status.md). For
monitoring there is also `pghaven check --nagios`.
"""
