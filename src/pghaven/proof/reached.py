"""What a recovery has brought back: the last transaction that ended before the point it reached."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pghaven.errors import ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.walevent import decode_xact
from pghaven.postgres.walrecord import RM_XACT, iter_records
from pghaven.repository.walstore import WalArchive
from pghaven.restore.request import WalPlan

# Looking further back for a quiet cluster's last transaction is not worth the reading.
_SEGMENTS_BACK = 4


def find_last_transaction(archive: WalArchive, wal: WalPlan, reached: Lsn) -> datetime | None:
    """When the last transaction ended whose record lies before ``reached``; None when none did in the last few
    segments. Reads the archive. Raises Damaged, StoreUnreachable."""
    last = SegmentName.before(wal.timeline, reached, archive.segment_size).number
    for back in range(1, _SEGMENTS_BACK + 1):
        first = last - back + 1
        if first < wal.first_segment.number:
            return None
        latest: datetime | None = None
        for record in iter_records(_read(archive, wal, range(first, last + 1)), resource_managers=(RM_XACT,)):
            if record.end_lsn > reached:
                break
            event = decode_xact(record)
            if event is not None and event.time is not None and event.kind != "prepare":
                latest = event.time
        if latest is not None:
            return latest
    return None


def _read(archive: WalArchive, wal: WalPlan, numbers: range) -> Iterator[tuple[SegmentName, bytes]]:
    for number in numbers:
        segment = SegmentName(timeline=wal.timeline, number=number, segment_size=archive.segment_size)
        for part in reversed(wal.path):
            if part.begin_lsn < segment.end_lsn:
                segment = SegmentName(timeline=part.timeline, number=number, segment_size=archive.segment_size)
                break
        try:
            yield segment, archive.get(str(segment))
        except ObjectMissing:
            return
