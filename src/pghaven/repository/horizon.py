"""Horizons: before which position a lineage's WAL may be removed, told to backups that begin at that moment.

The one idea: a collector writes the horizon and then reads who has announced a backup; a backup announces itself and
then reads the horizon. So either the collector keeps what that backup needs, or the backup sees that it begins too
early. Of each timeline a horizon only goes up, and each document holds all there were before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pghaven.errors import Damaged, ObjectExists, ObjectMissing, StoreUnreachable
from pghaven.light import dataclass, field
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.repository import Repository
from pghaven.units import render_time_utc

# Each attempt that fails means that another collector has got on with its own.
_ATTEMPTS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """For each timeline the position before which WAL that no backup needs may have been removed, or is being removed.

    ``number`` is that of the document that said so, 0 when there has been none.
    """

    number: int = 0
    positions: Mapping[Timeline, Lsn] = field(default_factory=dict)

    def is_past(self, timeline: Timeline, lsn: Lsn) -> bool:
        """Whether a backup that begins here could lose its WAL to a collector that has not seen it."""
        return lsn < self.positions.get(timeline, Lsn(0))

    def raised(self, positions: Mapping[Timeline, Lsn]) -> dict[Timeline, Lsn]:
        """The higher one of each timeline's positions here and there."""
        return {
            timeline: max(self.positions.get(timeline, Lsn(0)), positions.get(timeline, Lsn(0)))
            for timeline in sorted({*self.positions, *positions})
        }


def read_horizon(repository: Repository, cluster: str, system_identifier: int) -> Horizon:
    """The horizon in force. A backup asks for it when it has announced itself. Raises Damaged."""
    for _ in range(_ATTEMPTS_MAX):
        numbers = _list_numbers(repository, cluster, system_identifier)
        if not numbers:
            return Horizon()
        name = layout.horizon_name(cluster, system_identifier, numbers[-1])
        try:
            body = repository.read_document(name)
        except ObjectMissing:
            continue  # there is a newer one, and this one went
        return Horizon(number=numbers[-1], positions=_parse_positions(body, name))
    raise _busy(repository)


def find_horizon(repository: Repository, cluster: str, system_identifier: int) -> Horizon | None:
    """The horizon in force for who only looks; None where it is damaged. Raises StoreUnreachable, NotPermitted."""
    try:
        return read_horizon(repository, cluster, system_identifier)
    except Damaged:
        return None


def raise_horizon(
    repository: Repository, cluster: str, system_identifier: int, positions: Mapping[Timeline, Lsn]
) -> Horizon:
    """Tell every backup that announces itself from now on of these positions; returns what is in force then.

    Nothing is written when it has been told already.
    """
    for _ in range(_ATTEMPTS_MAX):
        before = read_horizon(repository, cluster, system_identifier)
        raised = before.raised(positions)
        if raised == dict(before.positions):
            if before.number:
                repository.store.confirm(layout.horizon_name(cluster, system_identifier, before.number))
            return before
        body = {
            "positions": {str(int(timeline)): str(lsn) for timeline, lsn in raised.items()},
            "written_at": render_time_utc(repository.clock.now()),
        }
        try:
            repository.create_document(layout.horizon_name(cluster, system_identifier, before.number + 1), body)
        except ObjectExists:
            continue
        numbers = _list_numbers(repository, cluster, system_identifier)
        if numbers and numbers[-1] > before.number + 1:
            continue  # we stood still, and this number has been used and removed: what is in force does not hold ours
        for number in numbers:
            if number <= before.number:
                repository.store.delete(layout.horizon_name(cluster, system_identifier, number))
        return Horizon(number=before.number + 1, positions=raised)
    raise _busy(repository)


def _busy(repository: Repository) -> StoreUnreachable:
    return StoreUnreachable(f"the horizon of the WAL in {repository.store.url} goes on changing")


def _list_numbers(repository: Repository, cluster: str, system_identifier: int) -> list[int]:
    children = repository.store.list_children(layout.horizons_prefix(cluster, system_identifier))
    return sorted(int(child) for child in children if child.isdecimal())


def _parse_positions(body: Mapping[str, Any], name: str) -> dict[Timeline, Lsn]:
    try:
        return {Timeline(int(timeline)): Lsn.parse(lsn) for timeline, lsn in body["positions"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f'"{name}" is damaged: it is no horizon ({error!r})') from error
