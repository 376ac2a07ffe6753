"""A cluster's retention options as the policy that expiring works with."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pghaven.config.retention_values import RetentionConfig
    from pghaven.config.snapshot_values import SnapshotConfig
    from pghaven.instant.points import KeepRules
    from pghaven.retention.policy import RetentionPolicy

# Anything longer means the same, and moments that far away can still be written.
_LONGEST = timedelta(days=365_000)


def make_policy(config: RetentionConfig) -> RetentionPolicy:
    from pghaven.retention.policy import RetentionPolicy

    return RetentionPolicy(
        window=None if config.window_seconds is None else _make_span(config.window_seconds),
        count=config.count,
        daily=config.keep_daily,
        weekly=config.keep_weekly,
        monthly=config.keep_monthly,
        yearly=config.keep_yearly,
        grace=_make_span(config.grace_seconds),
    )


def make_keep_rules(config: SnapshotConfig) -> KeepRules:
    from pghaven.instant.points import KeepRules

    within = config.keep_within_seconds
    return KeepRules(count=config.keep, within=None if within is None else _make_span(within))


def _make_span(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, _LONGEST.total_seconds()))
