"""Waiting for a condition, with a limit: what tests do in place of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

PATIENCE_SECONDS = 120.0
"""How long what must come may take, on a slow machine whose disk stalls. It ends a hang, and decides nothing else."""


def wait_until(condition: Callable[[], Result], what: str, timeout_seconds: float = PATIENCE_SECONDS) -> Result:
    """The first true result of ``condition``; an AssertionError naming ``what`` when it does not come."""
    deadline = time.monotonic() + timeout_seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s in vain for {what}"
        time.sleep(0.01)
    return result
