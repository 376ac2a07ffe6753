"""When a service of the agent is begun again."""

from __future__ import annotations

import re
from pathlib import Path

from pghaven.agent.services import Keeper, Service
from pghaven.clock import ManualClock
from pghaven.errors import StoreUnreachable
from pghaven.events import Event, Listener, Notice
from pghaven.wal.children import wait_for_any


def fail(_listener: Listener) -> None:
    raise StoreUnreachable("nobody will know of it")


def count_pauses(directory: Path, times: int, every_seconds: float | None, longest_seconds: float) -> list[int]:
    """The pauses, in seconds, after each of its failures."""
    heard: list[Event] = []
    clock = ManualClock()
    service = Service(
        name="drill of main",
        data_directory=str(directory),
        run=fail,
        every_seconds=every_seconds,
        longest_pause_seconds=longest_seconds,
    )
    keeper = Keeper(service, heard.append, clock)
    pauses: list[int] = []
    while len(pauses) < times:
        keeper.start_if_due()
        assert keeper.child is not None
        while keeper.is_running:
            list(wait_for_any([keeper.child], 60.0))
            keeper.hear()
        last = heard[-1]
        assert isinstance(last, Notice)
        (seconds,) = re.findall(r"begun again in (\d+) s", last.text)
        pauses.append(int(seconds))
        clock.advance(pauses[-1] - 1)
        keeper.start_if_due()
        assert not keeper.is_running, "it is not due yet"
        clock.advance(1)
    return pauses


def test_what_goes_on_failing_waits_longer_and_longer(tmp_path: Path) -> None:
    assert count_pauses(tmp_path, 4, None, 60.0) == [1, 2, 4, 8]
    assert count_pauses(tmp_path, 5, 600.0, 3000.0) == [600, 1200, 2400, 3000, 3000]


def test_what_is_begun_seldom_anyway_is_not_begun_sooner_for_failing(tmp_path: Path) -> None:
    assert count_pauses(tmp_path, 2, 600.0, 60.0) == [600, 600]
