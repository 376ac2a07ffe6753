"""Calls that let an interrupt through: what they return and raise, and that nothing of them stays."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from pghaven.runtime.interruptible import call_interruptibly


class Segment:
    """What a caller holds while it calls."""


def fail() -> None:
    raise ValueError("as the test wants it")


def test_what_the_call_returns_and_raises_is_the_caller_s() -> None:
    assert call_interruptibly(lambda: 5) == 5
    with pytest.raises(ValueError, match="as the test wants it"):
        call_interruptibly(fail)


def test_only_the_main_thread_needs_another_one() -> None:
    seen: list[threading.Thread] = []
    call_interruptibly(lambda: seen.append(threading.current_thread()))
    worker = threading.Thread(target=lambda: call_interruptibly(lambda: seen.append(threading.current_thread())))
    worker.start()
    worker.join()
    assert seen[0] is not threading.main_thread()
    assert seen[1] is worker


def test_a_failure_that_was_handled_holds_nothing_of_its_caller() -> None:
    """Found: a WAL segment of 1 GiB stayed in memory after the store had said that its name is taken."""
    held: list[weakref.ref[Segment]] = []

    def call() -> None:
        segment = Segment()
        held.append(weakref.ref(segment))
        with pytest.raises(ValueError, match="as the test wants it"):
            call_interruptibly(fail)

    gc.disable()
    try:
        call()
        assert held[0]() is None
    finally:
        gc.enable()
