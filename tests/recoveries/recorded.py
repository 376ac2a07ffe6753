"""What all recoveries recover from: a base backup, the WAL of a primary, of a standby that took over, and of a zombie.

The one idea: it is recorded once, as the server gave it to ``archive_command``; each tool then archives these files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.wal.directory import read_system_identifier
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.waiting import wait_until

SEGMENT_SIZE = 1 << 20
ROWS = (1, 2, 3, 4, 5, 6)
"""Each in a segment of its own, on timeline 1."""
LATE, TAKEN_OVER, ZOMBIE = 7, 8, 666
"""In the segment in which timeline 2 begins: before its beginning, on it, and beyond it on timeline 1."""
HISTORY = "00000002.history"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """``files`` has all that was archived. ``segments`` are those with the rows; ``left`` is the segment of timeline 1
    that timeline 2 has left at ``fork``, as the zombie wrote it, and ``heir`` that of timeline 2."""

    base: Path
    files: Path
    version: int
    release: str
    identifier: int
    segments: tuple[str, ...]
    left: str
    heir: tuple[str, ...]
    fork: Lsn
    end: Lsn

    @property
    def line(self) -> tuple[str, ...]:
        """What was archived before anybody was promoted."""
        return tuple(sorted(path.name for path in self.files.glob("00000001*") if path.name[:24] < self.left))

    def read(self, name: str) -> bytes:
        return (self.files / name).read_bytes()

    def end_of(self, segment: str) -> Lsn:
        return SegmentName.parse(segment, SEGMENT_SIZE).end_lsn


def record(make_cluster: ClusterFactory, place: Path) -> Recorded:
    """The servers end before this returns; ``place`` belongs to the servers' user."""
    files, base = place / "files", place / "base"
    files.mkdir()
    own(files)
    primary = make_cluster(conf={"archive_mode": "on", "archive_command": f"cp %p {files}/%f"})
    primary.sql("CREATE TABLE t (a int)")
    primary.run("pg_basebackup", "-D", str(base), "-X", "none", "-c", "fast", "--no-sync")
    segments = []
    for row in ROWS:
        primary.sql("INSERT INTO t VALUES (%s)", row)
        segments.append(primary.switch_wal())
    standby = make_cluster.standby_of(primary)
    primary.sql("INSERT INTO t VALUES (%s)", LATE)
    written = primary.value("SELECT pg_current_wal_lsn()::text")
    standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)
    standby.sql("SELECT pg_promote()")
    standby.sql("INSERT INTO t VALUES (%s)", TAKEN_OVER)
    heir = standby.switch_wal()
    primary.sql("INSERT INTO t VALUES (%s)", ZOMBIE)
    left = primary.switch_wal()
    wait_until(lambda: all((files / name).exists() for name in (left, heir, HISTORY)), "the archivers")
    identifier = read_system_identifier(str(primary.data_directory))
    assert identifier is not None
    for server in (standby, primary):
        server.stop_and_remove()
    history = (files / HISTORY).read_text().split()
    heirs = sorted(path.name for path in files.glob("00000002????????????????"))
    return Recorded(
        base=base,
        files=files,
        version=primary.version,
        release=primary.programs.version,
        identifier=identifier,
        segments=tuple(segments),
        left=left,
        heir=tuple(name for name in heirs if name <= heir),
        fork=Lsn.parse(history[1]),
        end=SegmentName.parse(segments[-1], SEGMENT_SIZE).end_lsn,
    )
