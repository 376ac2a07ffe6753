"""Waiting for a condition, with a limit: what tests do in place of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(condition: Callable[[], Result], what: str, timeout_seconds: float = 30.0) -> Result:
    """The first true result of ``condition``; an AssertionError naming ``what`` when it does not come."""
    deadline = time.monotonic() + timeout_seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s in vain for {what}"
        time.sleep(0.01)
    return result
