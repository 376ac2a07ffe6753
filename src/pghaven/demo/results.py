"""What a demonstration tells while it runs, and what it has measured at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pghaven.demo.shop import TableState


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A new part of the story begins. ``command`` is what does the same to a cluster of the reader's own."""

    number: int
    count: int
    title: str
    command: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A sentence of the story."""

    text: str


Teller = Callable[[Chapter | Said], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupNumbers:
    label: str
    seconds: float
    total_bytes: int
    stored_bytes: int
    file_count: int
    orders_meanwhile: int
    slowest_order_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What would be gone if the machine had been lost at the accident: what no WAL in the repository told of."""

    seconds: float
    wal_bytes: int
    orders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreNumbers:
    """``total_seconds`` is from the decision to restore until the restored server takes connections."""

    planning_seconds: float
    files_seconds: float
    files_bytes: int
    replay_seconds: float
    replay_bytes: int
    opening_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowNumbers:
    """Every moment between the two can be restored."""

    begin: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        return (self.end - self.begin).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A table just before the accident and after the restore."""

    before: TableState
    after: TableState | None

    @property
    def is_same(self) -> bool:
        return self.before == self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is left for looking around: both servers run. ``original`` and ``restored`` are connection strings."""

    directory: str
    config_path: str
    psql: str
    original: str
    restored: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """All measured. ``lost_rows`` are those of the dropped table; ``missing_rows`` those that did not come back."""

    server_version: str
    database_bytes: int
    cluster: str
    backup: BackupNumbers
    accident_at: datetime
    lost_table: str
    lost_rows: int
    loss: Loss
    restore: RestoreNumbers
    tables: tuple[Comparison, ...]
    missing_rows: int
    window: WindowNumbers
    total_seconds: float
    kept: Kept | None
