"""What copying is asked to do, what it found there was to do, and what came of it. Values only.

The one idea: a backup that cannot be copied does not keep the others from being copied, so what became of each is told
apart, and only at the end is it judged whether all went well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pghaven.repository.entry import BackupEntry
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.transfer.beside import BesideOutcome
from pghaven.transfer.carrier import WalJob


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """``labels`` are the backups and dumps to copy, or beginnings of their labels; without any, all that are complete,
    with what lies beside them. ``who`` is the process that copies, None for this one."""

    cluster: str
    labels: tuple[str, ...] = ()
    processes: int = 1
    who: ProcessIdentity | None = None


class BackupFate(StrEnum):
    """What became, or would become, of one backup."""

    COPY = "to be copied"
    COPIED = "copied"
    PRESENT = "there already"
    EXPIRED = "expired there"
    IN_PROGRESS = "being copied by another process"
    TOO_OLD = "older than the WAL kept there"
    GONE = "removed while it was copied"
    FAILED = "not copied"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOutcome:
    """One backup: ``label`` is its own in the source, ``copy`` its label in the target, where it has one.

    ``copied_bytes`` in ``copied_packs`` were stored; ``present_packs`` of its packs were there already.
    """

    label: str
    fate: BackupFate
    copy: str | None = None
    reason: str | None = None
    total_bytes: int = 0
    copied_packs: int = 0
    copied_bytes: int = 0
    present_packs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WalOutcome:
    """Files of the archive: ``copied`` were stored, ``present`` were there, ``failed`` are (name, reason)."""

    copied: int = 0
    copied_bytes: int = 0
    present: int = 0
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """``backups`` are those to be copied, oldest first, as the source has them; ``outcomes`` say what becomes of these
    and of all others. ``files`` of the archive are missing, ``present`` ones are there; ``apart`` are (history file,
    reason) of which nothing is copied, because the target has another branch."""

    backups: tuple[BackupEntry, ...]
    outcomes: tuple[BackupOutcome, ...]
    files: tuple[WalJob, ...]
    present: int
    apart: tuple[tuple[str, str], ...] = ()

    @property
    def pack_bytes(self) -> int:
        return sum(one.copied_bytes for one in self.outcomes)

    @property
    def wal_bytes(self) -> int:
        return sum(job.size_bytes for job in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult:
    """What was done, or with ``is_done`` False what would be."""

    cluster: str
    source: str
    target: str
    is_done: bool
    backups: tuple[BackupOutcome, ...]
    wal: WalOutcome
    beside: BesideOutcome
    total_seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether all that was to be copied has been."""
        return (
            not self.wal.failed
            and not self.beside.failed
            and all(one.fate is not BackupFate.FAILED for one in self.backups)
        )
