"""Memory that this process fills and its workers read."""

from __future__ import annotations

import gc
import os

from pghaven.runtime.crew import Crew
from pghaven.runtime.shared import hold_shared
from pghaven.runtime.sharedslots import SharedSlots


class Reader:
    def __init__(self, slots: SharedSlots) -> None:
        self._slots = slots

    def __call__(self, number: int) -> bytes:
        return bytes(self._slots.view(number)[:5])

    def close(self) -> None:
        """Nothing is held."""


def test_a_worker_sees_what_was_written_after_it_began() -> None:
    slots = SharedSlots(2, 8192)
    found: list[bytes] = []
    with Crew(size=1, setup=Reader, settings=slots) as crew:
        for number in (first := slots.take(), second := slots.take()):
            assert number is not None
            slots.view(number)[:5] = b"slot%d" % number
        assert slots.take() is None
        crew.run(iter((first, second)), found.append)
    assert found == [b"slot%d" % first, b"slot%d" % second]


def test_whoever_starts_workers_holds_what_they_inherit() -> None:
    """What is garbage already may be collected between a list of descriptors and the start."""
    slots = SharedSlots(1, 4096)
    before = len(hold_shared())
    held = hold_shared()
    (descriptor,) = (number for number, owner in held.items() if owner is slots)
    del slots
    gc.collect()
    os.fstat(descriptor)
    del held
    assert len(hold_shared()) == before - 1


def test_who_starts_after_the_end_inherits_nothing() -> None:
    slots = SharedSlots(1, 4096)
    slots.close()
    assert all(owner is not slots for owner in hold_shared().values())


def test_what_was_given_back_last_is_taken_first() -> None:
    slots = SharedSlots(3, 4096)
    taken = [slots.take() for _ in range(3)]
    assert sorted(taken, key=str) == [0, 1, 2]
    slots.give_back(2)
    slots.give_back(0)
    assert (slots.take(), slots.take(), slots.take()) == (0, 2, None)
