"""What a verification found: each thing by the name of its object, what is wrong with it, and what that means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Gravity(StrEnum):
    """DAMAGE: something cannot be restored any more. WARNING: an object is not as it was stored, or is missed, and no
    restore needs it. INFO: as it should be, and worth knowing."""

    DAMAGE = "damage"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``object`` is a name in the repository, the prefix of some, or for notes about nothing in particular the
    cluster's. ``backups`` are the labels that cannot be restored because of it, ``files`` some of the ``file_count``
    files of theirs that are hit (each once a backup), with the relation where its name is known."""

    gravity: Gravity
    object: str
    reason: str
    meaning: str | None = None
    backups: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    file_count: int = 0

    @property
    def text(self) -> str:
        return self.reason if self.object in self.reason else f'"{self.object}": {self.reason}'


def damage(name: str, reason: str, meaning: str, backups: tuple[str, ...] = ()) -> Finding:
    return Finding(gravity=Gravity.DAMAGE, object=name, reason=reason, meaning=meaning, backups=backups)


def warning(name: str, reason: str, meaning: str | None = None) -> Finding:
    return Finding(gravity=Gravity.WARNING, object=name, reason=reason, meaning=meaning)


def info(name: str, reason: str) -> Finding:
    return Finding(gravity=Gravity.INFO, object=name, reason=reason)


def list_labels(labels: tuple[str, ...]) -> str:
    """ "backup A cannot be restored", "backups A and B cannot be restored"; many are counted."""
    if len(labels) == 1:
        return f"backup {labels[0]}"
    if len(labels) <= 3:
        return f"backups {', '.join(labels[:-1])} and {labels[-1]}"
    return f"{len(labels)} backups, {labels[0]} to {labels[-1]}"
