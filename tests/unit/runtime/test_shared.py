"""What workers inherit, while the owners of some of it go."""

from __future__ import annotations

from pghaven.runtime.shared import hold_shared, share, unshare

FIRST, SECOND = 1_000_001, 1_000_002


class Owner:
    pass


class Eventful(int):
    """A number at which something is collected whenever a dictionary is asked for it."""

    owners: list[Owner]

    def __new__(cls, value: int) -> Eventful:
        made = super().__new__(cls, value)
        made.owners = []
        return made

    def __hash__(self) -> int:
        self.owners.clear()
        return super().__hash__()


def test_an_owner_that_is_collected_while_a_worker_starts_is_not_inherited_from() -> None:
    number, kept = Eventful(FIRST), Owner()
    goes = Owner()
    share(number, kept)
    share(SECOND, goes)
    number.owners.append(goes)
    del goes
    try:
        held = hold_shared()
        assert held[FIRST] is kept
        assert number.owners == [], "it was collected meanwhile"
    finally:
        unshare(FIRST)
        unshare(SECOND)
    assert SECOND not in hold_shared()
