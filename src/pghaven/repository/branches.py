"""Which timelines two archives of one lineage hold as different branches.

The one idea: two servers that were promoted apart may both take one number, and then their WAL has the same names. The
history file says where a timeline comes from, so where it differs, nothing of that timeline may pass from one archive
to the other, nor of any timeline that descends from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.segment import WalFileKind, classify
from pghaven.postgres.timeline import Timeline
from pghaven.repository.walstore import WalArchive

APART_HINT = (
    "Two servers were promoted to one timeline. Find out which of them is the right one. Each repository keeps its own "
    "branch, and a restore takes that of the repository it chooses; have the right one archive into a new repository "
    "in place of the other."
)


def find_apart(one: WalArchive, other: WalArchive) -> frozenset[Timeline]:
    """The timelines of which the histories in both archives differ, and those that descend from one of them.

    A history that only one of them has, or that is damaged, is not known to differ. Raises StoreUnreachable,
    NotPermitted.
    """
    timelines = [(archive, archive.list_timelines()) for archive in (one, other)]
    shared = set(timelines[0][1]) & set(timelines[1][1])
    forks = {timeline for timeline in shared if _differs(one, other, timeline)}
    apart = set(forks)
    for archive, found in timelines if forks else ():
        for timeline in found:
            with suppress(ObjectMissing, Damaged):
                history = archive.read_history(timeline)
                apart.update(timeline for fork in forks if history.includes(fork))
    return frozenset(apart)


def timeline_of(file_name: str) -> Timeline | None:
    """The timeline that a file of the archive belongs to; None for what is no such file."""
    if classify(file_name) is WalFileKind.OTHER:
        return None
    number = int(file_name[:8], 16)
    return Timeline(number) if number else None


def describe_apart(apart: Iterable[Timeline], one: WalArchive, other: WalArchive) -> str:
    """Why nothing of these timelines passes between the two."""
    timelines = sorted(apart)
    numbers = ", ".join(map(str, timelines))
    return (
        f'"{timelines[0].history_name}" is not the same in {one.store.url} and in {other.store.url}: they hold '
        f"different branches, and nothing of timeline {numbers} passes from one to the other"
    )


def _differs(one: WalArchive, other: WalArchive, timeline: Timeline) -> bool:
    try:
        hashes = [archive.read_facts(timeline.history_name).get("hash") for archive in (one, other)]
    except (ObjectMissing, Damaged):
        return False
    return hashes[0] != hashes[1]
