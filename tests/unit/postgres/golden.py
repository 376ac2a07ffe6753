"""Reading the golden files; see tests/golden/README.md."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.version import SUPPORTED, MajorVersion, find_by_major

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GOLDEN = Path(__file__).parents[2] / "golden"
MAJORS = tuple(version.major for version in SUPPORTED)


def read_zstd(path: Path) -> bytes:
    return zstd.decompress(path.read_bytes())


@dataclass(frozen=True)
class GoldenSegment:
    """A segment of a real server, and what pg_waldump says of it."""

    version: MajorVersion
    name: SegmentName
    data: bytes
    system_identifier: int
    records: list[tuple[Lsn, int, int, str]]
    """Start, length, xid, resource manager."""
    transactions: list[list[Any]]
    restore_points: list[list[str]]


@functools.cache
def read_segment(major: int) -> GoldenSegment:
    described = json.loads((GOLDEN / f"wal/pg{major}.json").read_text())
    version = find_by_major(major)
    assert version is not None
    return GoldenSegment(
        version=version,
        name=SegmentName.parse(described["segment"], 1 << 20),
        data=read_zstd(GOLDEN / f"wal/pg{major}.zst"),
        system_identifier=described["system_identifier"],
        records=[(Lsn.parse(lsn), length, xid, manager) for lsn, length, xid, manager in described["records"]],
        transactions=described["transactions"],
        restore_points=described["restore_points"],
    )
