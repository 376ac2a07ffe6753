"""The options of what is kept: ``[cluster.NAME.retention]``, a part of ``values``.

The one idea: each rule keeps by itself, and none takes away what another keeps.
"""

from __future__ import annotations

from pghaven.config.schema import DURATION, count, option
from pghaven.light import dataclass

_KEPT = count(1, 100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """What is kept of a cluster's backups; a rule that is None keeps nothing."""

    window_seconds: float | None = option(
        DURATION,
        default_words="no window",
        doc=(
            "Every moment of this time up to now can be restored: the backups within it are kept, the newest one from "
            "before it, and all WAL from there on."
        ),
        example='"7d"',
    )
    count: int | None = option(
        _KEPT,
        default_words="no number",
        doc="The newest backups are kept, this many, and all WAL from the oldest of them on.",
        example="5",
    )
    keep_daily: int | None = option(
        _KEPT,
        default_words="none",
        doc=(
            "The newest backup of a day is kept, for this many days that have one. Days are of UTC, as weeks, months "
            "and years are. Of WAL only what the backup itself needs is kept."
        ),
        example="7",
    )
    keep_weekly: int | None = option(
        _KEPT,
        default_words="none",
        doc="The newest backup of a week is kept, for this many weeks that have one. Weeks begin on Monday.",
        example="4",
    )
    keep_monthly: int | None = option(
        _KEPT,
        default_words="none",
        doc="The newest backup of a month is kept, for this many months that have one.",
        example="6",
    )
    keep_yearly: int | None = option(
        _KEPT,
        default_words="none",
        doc="The newest backup of a year is kept, for this many years that have one.",
        example="10",
    )
    grace_seconds: float = option(
        DURATION,
        default="24h",
        doc="How long an expired backup can still be brought back (`pghaven expire --undo`), before it is removed.",
        example='"3d"',
    )


KEEP_ALL = RetentionConfig()
