"""What a receiver had to pass over, as it notes it in its own directory, so that a gap can be told with its cause.

The one idea: only the receiver sees that its slot is gone, and only at that moment; hours later there is just a gap. A
note is a help to whoever asks why, on this host: it decides nothing, and may be missing.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.runtime.durable import write_durably
from pghaven.units import parse_time_utc, render_time_utc

_NAME = "passed-over.json"
_KEPT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """The server had no WAL any more from ``begin_lsn`` to ``end_lsn`` of a timeline; ``reason`` is what the receiver
    had found of its slot, None when it had found nothing."""

    timeline: Timeline
    begin_lsn: Lsn
    end_lsn: Lsn
    noticed_at: datetime
    reason: str | None

    def covers(self, segment: SegmentName) -> bool:
        return segment.timeline == self.timeline and self.begin_lsn <= segment.start_lsn < self.end_lsn


def note_passed_over(directory: str, one: PassedOver) -> None:
    """Keep it with the newest ones before it. Raises OSError."""
    notes = [*read_passed_over(directory), one][-_KEPT:]
    body = [
        {
            "timeline": int(note.timeline),
            "begin_lsn": str(note.begin_lsn),
            "end_lsn": str(note.end_lsn),
            "noticed_at": render_time_utc(note.noticed_at),
            "reason": note.reason,
        }
        for note in notes
    ]
    write_durably(os.path.join(directory, _NAME), json.dumps(body).encode())


def read_passed_over(directory: str) -> tuple[PassedOver, ...]:
    """The oldest first; none where there are none, or they cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError), open(os.path.join(directory, _NAME), "rb") as file:
        return tuple(
            PassedOver(
                timeline=Timeline(int(note["timeline"])),
                begin_lsn=Lsn.parse(note["begin_lsn"]),
                end_lsn=Lsn.parse(note["end_lsn"]),
                noticed_at=parse_time_utc(note["noticed_at"]),
                reason=None if note["reason"] is None else str(note["reason"]),
            )
            for note in json.load(file)
        )
    return ()
