"""Collections take turns: of all collectors of one cluster one is at work, until it knows what it will remove.

    intent → (lists, reads, judges) → decision: remove            written by who has the turn
                                      decision: abandon           written by whoever takes it for dead

The one idea: as with a backup exactly one of the two decisions is ever written, by put-if-absent, and nothing is
removed without the first. So while a turn lasts, whatever vanishes was condemned before it began, and a collector that
stands still for days learns that its turn is over before it can remove what it once saw to be of no use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pghaven.errors import Cancelled, Damaged, Locked, ObjectExists, ObjectMissing, PghavenError, StoreUnreachable
from pghaven.repository import layout
from pghaven.repository.liveness import SIGN_OF_LIFE_SECONDS, is_over
from pghaven.repository.repository import Repository
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.units import parse_time_utc, render_time, render_time_utc

REMOVE = "remove"
ABANDON = "abandon"
# Each attempt that fails means that another collector has got on.
_ATTEMPTS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnHolder:
    """Who has a turn. ``identity`` and ``began_at`` are None where the intent cannot be read."""

    number: int
    identity: ProcessIdentity | None
    began_at: datetime | None
    last_sign: datetime | None


def seems_over(holder: TurnHolder, now: datetime) -> bool:
    """Whether a turn's holder is gone: known for this host, judged by its silence for others."""
    return is_over(holder.identity, holder.last_sign, now)


class Turn:
    """The turn that this process has. What it does with it ends with ``decide`` or ``give_up``."""

    def __init__(self, repository: Repository, cluster: str, number: int, body: Mapping[str, Any]) -> None:
        self.number = number
        self._repository = repository
        self._cluster = cluster
        self._body = body
        self._signs = 0
        self._next_sign = repository.clock.monotonic() + SIGN_OF_LIFE_SECONDS

    def sign_of_life(self) -> None:
        """Say that the collector lives, if it is time to; cheap enough to be called for each object."""
        clock = self._repository.clock
        if clock.monotonic() < self._next_sign:
            return
        self._signs += 1
        with suppress(ObjectExists):  # of an earlier holder of this number, which is the same to others
            self._repository.create_document(self._name(f"alive/{self._signs:08d}"), {"number": self._signs})
        self._next_sign = clock.monotonic() + SIGN_OF_LIFE_SECONDS

    def decide(self) -> None:
        """Decide that what was found to be of no use is removed. Raises Cancelled when the turn was taken away.

        The intent is looked for afterwards: where it is gone, or another one's, the turn was abandoned so long ago that
        the decision that says so may have been removed.
        """
        body = {"decision": REMOVE, "written_at": render_time_utc(self._repository.clock.now())}
        try:
            self._repository.create_document(self._name("decision"), body)
            with suppress(ObjectMissing):
                if self._repository.read_document(self._name("intent")) == self._body:
                    _remove_older(self._repository, self._cluster, self.number)
                    return
        except ObjectExists:
            pass
        raise Cancelled(
            f'the collection of "{self._cluster}" stood still for so long that another process took over; this one '
            "has removed nothing",
            hint="Run it again.",
        )

    def give_up(self, reason: str) -> None:
        """Let others have their turn at once; where that cannot be said, they find out."""
        with suppress(PghavenError):
            _abandon(self._repository, self._cluster, self.number, reason)

    def _name(self, part: str) -> str:
        return layout.collection_object_name(self._cluster, self.number, part)


def take_turn(
    repository: Repository,
    cluster: str,
    who: ProcessIdentity,
    has_ended: Callable[[TurnHolder, datetime], bool] = seems_over,
) -> Turn:
    """Take the next turn, if need be away from one who is gone. Raises Locked when somebody else is at work."""
    for _ in range(_ATTEMPTS_MAX):
        last = _find_last(repository, cluster)
        if last and not _make_way(repository, cluster, last, has_ended):
            continue
        turn = _begin(repository, cluster, last + 1, who)
        if turn is not None:
            return turn
    raise StoreUnreachable(f"the turns of collecting in {repository.store.url} go on changing")


def find_unfinished(repository: Repository, cluster: str) -> TurnHolder | None:
    """Who has had the last turn and is gone without a decision; the next who collects takes it away."""
    last = _find_last(repository, cluster)
    prefix = layout.collection_object_name(cluster, last, "")
    parts = {info.name.removeprefix(prefix): info.modified for info in repository.store.list(prefix)}
    if not parts or "decision" in parts:
        return None
    with suppress(ObjectMissing):
        holder = _read_holder(repository, prefix, last, max(parts.values()))
        return holder if seems_over(holder, repository.clock.now()) else None
    return None


def _begin(repository: Repository, cluster: str, number: int, who: ProcessIdentity) -> Turn | None:
    """A turn of this number; None when it, or a later one, is somebody else's."""
    body = {
        "host": who.host,
        "boot_id": who.boot_id,
        "process": who.pid,
        "process_start": who.start,
        "began_at": render_time_utc(repository.clock.now()),
        "token": os.urandom(8).hex(),
    }
    name = layout.collection_object_name(cluster, number, "intent")
    try:
        repository.create_document(name, body)
    except ObjectExists:
        return None
    if _find_last(repository, cluster) > number:
        repository.store.delete(name)  # we stood still meanwhile, and this number has been used and removed
        return None
    return Turn(repository, cluster, number, body)


def _make_way(
    repository: Repository, cluster: str, number: int, has_ended: Callable[[TurnHolder, datetime], bool]
) -> bool:
    """Whether this turn is over, which it is made if its holder is gone; False when it is not there any more."""
    prefix = layout.collection_object_name(cluster, number, "")
    parts = {info.name.removeprefix(prefix): info.modified for info in repository.store.list(prefix)}
    if "decision" in parts:
        return True
    if not parts:
        return False
    try:
        holder = _read_holder(repository, prefix, number, max(parts.values()))
    except ObjectMissing:
        return False
    if not has_ended(holder, repository.clock.now()):
        who = "" if holder.identity is None else f": process {holder.identity.pid} on host {holder.identity.host!r}"
        since = "" if holder.began_at is None else f", since {render_time(holder.began_at)}"
        raise Locked(
            f'another collection of "{cluster}" is running{who}{since}',
            hint="Wait until it is done, or end that process.",
        )
    _abandon(repository, cluster, number, "its process is gone")
    return True


def _read_holder(repository: Repository, prefix: str, number: int, last_sign: datetime) -> TurnHolder:
    """Whoever has the turn; one whose intent cannot be read is known by nothing but its signs of life."""
    try:
        body = repository.read_document(f"{prefix}intent")
        identity = ProcessIdentity(
            host=str(body["host"]),
            boot_id=str(body["boot_id"]),
            pid=int(body["process"]),
            start=str(body["process_start"]),
        )
        began_at = parse_time_utc(body["began_at"])
    except (Damaged, KeyError, TypeError, ValueError):
        return TurnHolder(number=number, identity=None, began_at=None, last_sign=last_sign)
    return TurnHolder(number=number, identity=identity, began_at=began_at, last_sign=last_sign)


def _abandon(repository: Repository, cluster: str, number: int, reason: str) -> None:
    body = {"decision": ABANDON, "reason": reason, "written_at": render_time_utc(repository.clock.now())}
    with suppress(ObjectExists):
        repository.create_document(layout.collection_object_name(cluster, number, "decision"), body)


def _find_last(repository: Repository, cluster: str) -> int:
    """The highest number there is, 0 when there is none."""
    return max(_list_numbers(repository, cluster), default=0)


def find_last_turn(repository: Repository, cluster: str) -> tuple[int, bool]:
    """The number of the last turn, 0 when there was none, and whether it has been decided, so that nothing which is
    complete from now on was judged in it or before."""
    number = _find_last(repository, cluster)
    if not number:
        return 0, True
    decision = layout.collection_object_name(cluster, number, "decision")
    return number, repository.store.find(decision) is not None


def _list_numbers(repository: Repository, cluster: str) -> list[int]:
    children = repository.store.list_children(layout.collections_prefix(cluster))
    return sorted(int(child[:-1]) for child in children if child.endswith("/") and child[:-1].isdecimal())


def _remove_older(repository: Repository, cluster: str, number: int) -> None:
    """What is left of earlier turns, each intent first: who comes late and decides looks for it."""
    store = repository.store
    for older in _list_numbers(repository, cluster):
        if older >= number:
            continue
        prefix = layout.collection_object_name(cluster, older, "")
        names = [info.name for info in store.list(prefix)]
        for name in sorted(names, key=lambda name: (name != f"{prefix}intent", name == f"{prefix}decision")):
            store.delete(name)
