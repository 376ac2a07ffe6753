"""What a running operation tells its caller: progress, steps and notices, as typed values.

The one idea: operations emit events and return results; how they look is decided in ``cli`` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pghaven.light import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The operation has come to a new step, named as a reader would ("waiting for WAL")."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step has come. ``total_bytes`` is zero when unknown. ``share`` is the part of its work that is done,
    from 0 to 1, where bytes alone do not tell. ``seconds_left`` is for all of the operation, not this step alone; None
    where nobody has estimated it."""

    phase: str
    done_bytes: int
    total_bytes: int
    share: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the reader should know although the operation goes on.

    ``level`` "warning" makes the whole operation end with the exit status "done, with warnings".
    """

    level: Literal["info", "warning"]
    code: str
    text: str
    hint: str | None = None


Event = Step | Progress | Notice
Listener = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """A listener that does not listen."""
