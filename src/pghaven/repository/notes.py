"""What was noted of a backup after its commit: that it is retired, or held.

The one idea: a note that cannot be read must not do harm. A retirement says from when on a backup may be removed, so
without it nothing is known of the backup; a hold holds whatever its words are.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pghaven.errors import Damaged
from pghaven.repository.entry import Hold, Retirement
from pghaven.repository.repository import Repository
from pghaven.units import parse_time_utc


def read_retirement(repository: Repository, name: str, number: int) -> Retirement:
    """Raises Damaged, ObjectMissing."""
    body, written_at = _read_note(repository, name)
    try:
        not_before = parse_time_utc(body["not_before"])
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'"{name}" is damaged: it is no retirement ({error!r})') from error
    return Retirement(number=number, reason=str(body.get("reason")), not_before=not_before, written_at=written_at)


def read_hold(repository: Repository, name: str, number: int, stored_at: datetime) -> Hold:
    """One that cannot be read holds all the same, since it was ``stored_at``. Raises ObjectMissing."""
    try:
        body, written_at = _read_note(repository, name)
    except Damaged as error:
        return Hold(number=number, reason=f"why cannot be read: {error.message}", written_at=stored_at)
    return Hold(number=number, reason=str(body.get("reason")), written_at=written_at)


def _read_note(repository: Repository, name: str) -> tuple[dict[str, Any], datetime]:
    body = repository.read_document(name)
    try:
        return body, parse_time_utc(body["written_at"])
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'"{name}" is damaged ({error!r})') from error
