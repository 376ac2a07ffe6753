"""Whether ``wal_level`` may have been minimal for a while since the parent.

The one idea: with ``wal_level = minimal`` a table can be filled without a word in the WAL, and its pages may carry LSNs
from before. It only changes when a server starts, and a standby cannot replay such WAL at all. So a server that has
been running since before the parent began had no such time, and for any other one the WAL in between must be there and
free of it. A gap decides against the parent: such WAL cannot be archived, so a gap is what it mostly leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pghaven.backup.untouched import boot_of
from pghaven.errors import Damaged, ObjectMissing, Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History
from pghaven.postgres.waldata import check_segment
from pghaven.postgres.walparameter import WAL_LEVEL_MINIMAL, decode_parameter_change, may_contain_parameter_change
from pghaven.postgres.walrecord import RM_XLOG, iter_records
from pghaven.repository.entry import BackupEntry
from pghaven.repository.walstore import WalArchive
from pghaven.server.probe import ServerFacts
from pghaven.units import parse_time_utc

_POLL_SECONDS: Final = 0.1
# The parent may have been taken on another host, whose clock is not exactly this one.
_CLOCK_MARGIN: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DipSearch:
    """The WAL to look through: on the way of ``history`` from the parent's start to that of the new backup.

    The last of it may still be on its way to the archive; it is waited for ``timeout_seconds`` in all, with ``on_wait``
    called meanwhile.
    """

    history: History
    start_lsn: Lsn
    end_lsn: Lsn
    from_standby: bool
    timeout_seconds: float
    on_wait: Callable[[], None]


def has_run_since(facts: ServerFacts, parent: BackupEntry, boot_id: str) -> bool:
    """Whether this server has been running without a break since before the parent began, so that no dip is possible.

    ``boot_id`` is this host's, as in an intent. False where it is not certain: when the clock has been put back since,
    or the parent does not say when it was.
    """
    try:
        started, stopped = (parse_time_utc(parent.summary[name]) for name in ("started_at", "stopped_at"))
    except (KeyError, TypeError, ValueError):
        return False
    is_here = parent.intent is not None and boot_of(parent.intent.who.boot_id) == boot_of(boot_id)
    margin = timedelta(0) if is_here else _CLOCK_MARGIN
    return facts.started + margin < started and stopped <= facts.probed


def find_dip(archive: WalArchive, search: DipSearch) -> str | None:
    """Why the parent cannot be used, if ``wal_level`` was minimal on the way or may have been; None if it was not.

    Reads every segment in between once. Raises StoreUnreachable.
    """
    if not archive.repository.keyring.can_read:
        return "the server was started since, and the key of this host cannot read the WAL that would tell how"
    deadline = archive.clock.monotonic() + search.timeout_seconds
    try:
        for segment in _list_segments(archive, search):
            content = _wait_for(archive, search, segment, deadline)
            check_segment(content, segment, archive.system_identifier)
            if may_contain_parameter_change(content):
                found = _find_in(archive, search, segment, content, deadline)
                if found is not None:
                    return f"wal_level was minimal since: the server was started so at {found}"
    except (ObjectMissing, Damaged, Refused) as error:
        return f"wal_level may have been minimal since: {error.message}"
    return None


def _list_segments(archive: WalArchive, search: DipSearch) -> Iterator[SegmentName]:
    """Each segment on the way, under the name of the last timeline that wrote to it, which began with a copy of it.

    On a primary the one in which the new backup starts is left out: starting a backup finishes the segment before.
    """
    size = archive.segment_size
    last = search.end_lsn // size - (0 if search.from_standby else 1)
    for number in range(search.start_lsn // size, last + 1):
        last_byte = Lsn(min((number + 1) * size, search.end_lsn) - 1)
        yield SegmentName(timeline=search.history.timeline_at(last_byte), number=number, segment_size=size)


def _wait_for(archive: WalArchive, search: DipSearch, segment: SegmentName, deadline: float) -> bytes:
    while True:
        try:
            return archive.get(str(segment))
        except ObjectMissing as error:
            if archive.clock.monotonic() >= deadline:
                raise ObjectMissing(f"WAL segment {segment} is not in the archive") from error
        search.on_wait()
        archive.clock.sleep(_POLL_SECONDS)


def _find_in(
    archive: WalArchive, search: DipSearch, segment: SegmentName, content: bytes, deadline: float
) -> Lsn | None:
    """Where a server was started with the level minimal, of the records that begin in this segment."""

    def iter_contents() -> Iterator[tuple[SegmentName, bytes]]:
        yield segment, content
        # Taken only if a record reaches over the end.
        following = next((one for one in _list_segments(archive, search) if one.number > segment.number), None)
        if following is not None:
            yield following, _wait_for(archive, search, following, deadline)

    reader = iter_records(iter_contents(), resource_managers=(RM_XLOG,))
    for record in reader:
        if record.start_lsn >= min(segment.end_lsn, search.end_lsn):
            return None
        change = decode_parameter_change(record)
        if change is not None and change.wal_level == WAL_LEVEL_MINIMAL and change.start_lsn >= search.start_lsn:
            return change.start_lsn
    assert reader.end is not None
    if reader.end.lsn < min(segment.end_lsn, search.end_lsn):
        raise Damaged(f"WAL segment {segment} cannot be read: {reader.end.message}")
    return None
