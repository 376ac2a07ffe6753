"""The options of kept snapshots: ``[cluster.NAME.snapshot]``, a part of ``values``.

The one idea: a snapshot is on the cluster's own disks and holds their room, so how many stay is said apart from what
the repository keeps.
"""

from __future__ import annotations

from pghaven.config.schema import DURATION, count, option
from pghaven.light import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotConfig:
    """Which kept snapshots stay; without any rule all of them do."""

    keep: int | None = option(
        count(1, 10_000),
        default_words="no number",
        doc="The newest snapshots are kept, this many.",
        example="4",
    )
    keep_within_seconds: float | None = option(
        DURATION,
        default_words="no time",
        doc="Snapshots are kept that were taken within this time up to now.",
        example='"6h"',
    )


KEEP_ALL_SNAPSHOTS = SnapshotConfig()
