"""What is known of one label in a repository: who makes or made it, what was decided, what came after. Values only.

The one idea: an entry is read from a few small documents and the names of the others, so that listing backups, and
deciding what to keep of them, needs no manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from pghaven.repository.manifest import BackupFacts
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.units import parse_time_utc, render_time_utc

COLLECT = "collect"
KEEP = "keep"
_GENERATION = re.compile(r"generations/([0-9]{8})-([^/]+)/manifest")


class BackupState(StrEnum):
    """What a label is at the moment; ``docs/design/removal.md`` says when each holds and who may change it."""

    UNDECIDED = "undecided"
    COMMITTED = "committed"
    RETIRED = "retired"
    ABANDONED = "abandoned"
    CONDEMNED = "condemned"
    GONE = "gone"
    DAMAGED = "damaged"


class Purpose(StrEnum):
    """What stands under a label: a physical backup; files of packs anew; what ``pg_dump`` wrote of databases."""

    BACKUP = "backup"
    COMPACTION = "compaction"
    DUMP = "dump"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """``who`` is making a backup.

    ``sources`` are all labels whose packs this one may come to refer to; its ``parent`` is one of them. ``copy_of`` is
    the label of the backup that this is a copy of, made first in another repository; the moment and the WAL position
    are that one's, the process is the one that copies.
    """

    who: ProcessIdentity
    started_at: datetime
    system_identifier: int
    timeline: int
    start_lsn: str
    parent: str | None
    sources: tuple[str, ...] = ()
    purpose: Purpose = Purpose.BACKUP
    copy_of: str | None = None


def render_intent(intent: Intent) -> dict[str, Any]:
    """What the document of an intent holds."""
    copied = {} if intent.copy_of is None else {"copy_of": intent.copy_of}
    return {
        "host": intent.who.host,
        "boot_id": intent.who.boot_id,
        "process": intent.who.pid,
        "process_start": intent.who.start,
        "started_at": render_time_utc(intent.started_at),
        "system_identifier": str(intent.system_identifier),
        "timeline": intent.timeline,
        "start_lsn": intent.start_lsn,
        "parent": intent.parent,
        "sources": list(intent.sources),
        "purpose": str(intent.purpose),
        **copied,
    }


def parse_intent(body: Mapping[str, Any]) -> Intent:
    """The reverse. Raises KeyError, TypeError, ValueError for what is no intent."""
    known = {one.name: body[one.name] for one in fields(Intent) if one.name not in ("who", "copy_of")}
    process = {"host": body["host"], "boot_id": body["boot_id"], "pid": body["process"], "start": body["process_start"]}
    known["who"] = ProcessIdentity(**process)
    known["copy_of"] = None if body.get("copy_of") is None else str(body["copy_of"])
    known["system_identifier"] = int(known["system_identifier"])
    known["started_at"] = parse_time_utc(known["started_at"])
    known["sources"] = tuple(str(source) for source in known["sources"])
    known["purpose"] = Purpose(known["purpose"])
    return Intent(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """A backup's expiry: its number, and unless it was undone why and from when on it may be collected."""

    number: int
    reason: str
    not_before: datetime
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    number: int
    reason: str
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestPlace:
    """A manifest of a backup that counts: its name below the label, and the hash that a decision gives it.

    ``compaction`` wrote it, None for the backup's own. ``superseded_at`` is since when a newer one is read instead,
    None for the one that is read.
    """

    part: str
    hash: str
    compaction: str | None
    superseded_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupEntry:
    """One backup as the catalog knows it. ``summary`` is what the decision carries: ``list`` needs no manifest.

    ``parts`` are the objects there are of it, by their names below the label, with the store's times. ``retirement``
    and ``hold`` are those in force. ``generations`` are a compaction's: the new manifest's hash for each backup that it
    rewrote.
    """

    label: str
    state: BackupState
    intent: Intent | None
    last_sign: datetime | None
    parts: Mapping[str, datetime] = field(default_factory=dict, repr=False)
    summary: Mapping[str, Any] = field(default_factory=dict)
    manifest_hash: str | None = None
    reason: str | None = None
    retirement: Retirement | None = None
    hold: Hold | None = None
    generations: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def purpose(self) -> Purpose:
        if self.intent is not None:
            return self.intent.purpose
        return Purpose.COMPACTION if self.manifest_hash == "" else Purpose.BACKUP

    @property
    def has_files(self) -> bool:
        """Whether it is something that is kept for its own sake, with a manifest; a compaction serves others."""
        return self.purpose is not Purpose.COMPACTION

    @property
    def original(self) -> str:
        """The label of the backup that this one is or is a copy of: the same in every repository that has it."""
        copy_of = self.intent.copy_of if self.intent is not None else None
        return copy_of or self.label


def pick_entries(entries: Iterable[BackupEntry], purpose: Purpose) -> tuple[BackupEntry, ...]:
    """Those of a purpose, but for what is being removed."""
    gone = (BackupState.CONDEMNED, BackupState.GONE)
    return tuple(entry for entry in entries if entry.purpose is purpose and entry.state not in gone)


def parse_generation(part: str) -> tuple[int, str] | None:
    """The number and the compaction of a manifest's generation, None for anything else below a label."""
    match = _GENERATION.fullmatch(part)
    return None if match is None else (int(match[1]), match[2])


def render_generation(number: int, compaction: str) -> str:
    """The name below a backup's label of the manifest that a compaction writes."""
    return f"generations/{number:08d}-{compaction}/manifest"


def find_last(parts: Mapping[str, datetime], kind: str) -> int:
    """The highest number among a label's objects of one kind ("retire/00000001"), 0 when there is none."""
    numbers = (part.removeprefix(f"{kind}/") for part in parts if part.startswith(f"{kind}/"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def summarize(facts: BackupFacts, first_segment: str, last_segment: str) -> dict[str, Any]:
    """What the decision carries of a backup, so that listing and choosing one need no manifest."""
    return {
        "system_identifier": str(facts.system_identifier),
        "server_version_num": facts.server_version_num,
        "wal_segment_size": facts.wal_segment_size,
        "timeline": int(facts.timeline),
        "start_lsn": str(facts.start_lsn),
        "stop_lsn": str(facts.stop_lsn),
        "started_at": render_time_utc(facts.started_at),
        "stopped_at": render_time_utc(facts.stopped_at),
        "block_size": facts.block_size,
        "segment_blocks": facts.segment_blocks,
        "data_checksums": facts.data_checksums,
        "from_standby": facts.from_standby,
        "method": facts.method,
        "changes": facts.changes,
        "parent": facts.parent,
        "host": facts.host,
        "first_segment": first_segment,
        "last_segment": last_segment,
        "file_count": facts.file_count,
        "total_bytes": facts.total_bytes,
        "stored_bytes": facts.stored_bytes,
        "bad_pages": len(facts.bad_pages),
    }
