"""What the repositories of a cluster have of one backup or dump.

The one idea: most clusters have one repository, so what is told of one needs nothing of what copies to others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIn:
    """What one repository has of a backup: its ``label`` there, and what was stored; or the ``reason`` why it has not.

    ``made_up`` are earlier backups that it had missed and has now.
    """

    repository: str
    label: str | None
    copied_bytes: int = 0
    made_up: tuple[str, ...] = ()
    reason: str | None = None
