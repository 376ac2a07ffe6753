"""WAL segments and the names of files in ``pg_wal``.

The one idea: a segment is a timeline and a number, and its name can only be read with the cluster's segment size,
which is 1 MiB to 1 GiB and not 16 MiB by assumption. Follows xlog_internal.h of PostgreSQL.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, Self

from pghaven.light import dataclass, pattern
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline

SEGMENT_SIZE_MIN: Final = 1 << 20
SEGMENT_SIZE_MAX: Final = 1 << 30

_SEGMENT = pattern(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})", re.ASCII)
_ARCHIVE_NAME = pattern(r"[0-9A-Za-z.]{1,64}", re.ASCII)


class WalFileKind(StrEnum):
    """What a name in ``pg_wal`` or in the archive stands for."""

    SEGMENT = "segment"
    HISTORY = "history"
    PARTIAL = "partial"
    BACKUP_HISTORY = "backup_history"
    OTHER = "other"


_KINDS: Final = (
    (WalFileKind.SEGMENT, _SEGMENT),
    (WalFileKind.HISTORY, pattern(r"[0-9A-F]{8}\.history", re.ASCII)),
    (WalFileKind.PARTIAL, pattern(r"[0-9A-F]{24}\.partial", re.ASCII)),
    (WalFileKind.BACKUP_HISTORY, pattern(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup", re.ASCII)),
)


def classify(name: str) -> WalFileKind:
    """The kind of file a base name stands for; letters must be upper case, as PostgreSQL writes them."""
    for kind, form in _KINDS:
        if form.fullmatch(name):
            return kind
    return WalFileKind.OTHER


def is_valid_archive_name(name: str) -> bool:
    """Whether PostgreSQL could ask to archive a file of this name.

    Up to 64 ASCII letters, digits and dots (manual, "Setting Up WAL Archiving"); never ``.`` or ``..``.
    """
    return _ARCHIVE_NAME.fullmatch(name) is not None and name not in {".", ".."}


def is_valid_segment_size(size_bytes: int) -> bool:
    """A power of two from 1 MiB to 1 GiB (IsValidWalSegSize)."""
    return SEGMENT_SIZE_MIN <= size_bytes <= SEGMENT_SIZE_MAX and size_bytes & (size_bytes - 1) == 0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SegmentName:
    """One segment of one timeline. ``str()`` is the file's name; order is by timeline, then number.

    ``number`` counts segments from position 0/0, ``segment_size`` is in bytes. ValueError if they cannot be.
    """

    timeline: Timeline
    number: int
    segment_size: int

    def __post_init__(self) -> None:
        if not is_valid_segment_size(self.segment_size):
            raise ValueError(f"a WAL segment cannot have {self.segment_size} bytes")
        if not 0 <= self.number < (1 << 64) // self.segment_size:
            raise ValueError(f"there is no WAL segment number {self.number}")

    @classmethod
    def parse(cls, name: str, segment_size: int) -> Self:
        """The segment called ``name``, which must be a whole segment's name of 24 digits. Raises ValueError."""
        match = _SEGMENT.fullmatch(name)
        if match is None:
            raise ValueError(f'"{name}" is not the name of a WAL segment such as "00000001000000000000000A"')
        if not is_valid_segment_size(segment_size):
            raise ValueError(f"a WAL segment cannot have {segment_size} bytes")
        per_log = (1 << 32) // segment_size
        low = int(match[3], 16)
        if low >= per_log:
            raise ValueError(f'"{name}" cannot be the name of a WAL segment of {segment_size} bytes')
        return cls(
            timeline=Timeline(int(match[1], 16)), number=int(match[2], 16) * per_log + low, segment_size=segment_size
        )

    @classmethod
    def containing(cls, timeline: Timeline, lsn: Lsn, segment_size: int) -> Self:
        """The segment that holds the byte at ``lsn`` (XLByteToSeg)."""
        return cls(timeline=timeline, number=lsn // segment_size, segment_size=segment_size)

    @classmethod
    def before(cls, timeline: Timeline, lsn: Lsn, segment_size: int) -> Self:
        """The segment that holds the last byte before ``lsn`` (XLByteToPrevSeg): right for the end of something.

        ValueError for position 0/0, which has nothing before it.
        """
        return cls(timeline=timeline, number=(lsn - 1) // segment_size, segment_size=segment_size)

    @property
    def start_lsn(self) -> Lsn:
        return Lsn(self.number * self.segment_size)

    @property
    def end_lsn(self) -> Lsn:
        """The first position after this segment. ValueError for the very last one, whose end is not a position."""
        return Lsn((self.number + 1) * self.segment_size)

    def next(self) -> Self:
        """The following segment of the same timeline. ValueError after the very last one."""
        return type(self)(timeline=self.timeline, number=self.number + 1, segment_size=self.segment_size)

    def __str__(self) -> str:
        high, low = divmod(self.number, (1 << 32) // self.segment_size)
        return f"{self.timeline.hex8}{high:08X}{low:08X}"
