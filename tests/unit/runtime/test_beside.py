"""A second thread does what it is given while its owner goes on, and what it raises is not lost."""

from __future__ import annotations

import _thread

import pytest

from pghaven.runtime.beside import Beside
from tests.support.waiting import PATIENCE_SECONDS


def test_both_pieces_of_work_are_done_at_once() -> None:
    ours, theirs = _thread.allocate_lock(), _thread.allocate_lock()
    ours.acquire()
    theirs.acquire()

    def share() -> int:
        ours.release()
        assert theirs.acquire(timeout=PATIENCE_SECONDS)
        return _thread.get_ident()

    with Beside() as beside:
        beside.begin(share)
        assert ours.acquire(timeout=PATIENCE_SECONDS)
        theirs.release()
        assert beside.finish() != _thread.get_ident()


def test_many_pieces_are_done_in_their_order() -> None:
    done: list[int] = []
    with Beside() as beside:
        for number in range(100):
            beside.begin(lambda number=number: done.append(number))
            beside.finish()
    assert done == list(range(100))


def test_what_a_piece_raises_is_raised_where_it_is_finished_and_the_next_is_done() -> None:
    with Beside() as beside:
        beside.begin(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            beside.finish()
        beside.begin(lambda: "next")
        assert beside.finish() == "next"


def test_leaving_the_block_waits_for_what_was_begun() -> None:
    done: list[str] = []
    gate = _thread.allocate_lock()
    gate.acquire()

    def share() -> None:
        assert gate.acquire(timeout=PATIENCE_SECONDS)
        done.append("share")

    def leave() -> None:
        with Beside() as beside:
            beside.begin(share)
            gate.release()
            raise KeyError("ours")

    with pytest.raises(KeyError):
        leave()
    assert done == ["share"]
