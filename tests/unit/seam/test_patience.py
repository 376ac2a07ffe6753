"""How long a hook tries to fill a directory, and when it leaves that to the next method."""

from __future__ import annotations

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import NotFound, PghavenError, StoreUnreachable
from pghaven.events import ignore
from pghaven.seam.patience import EMPTY_SECONDS, Patience


def unreachable(cause: OSError) -> StoreUnreachable:
    error = StoreUnreachable("could not open file:///srv/repository")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "has_data", "seconds"),
    [
        pytest.param(NotFound("there is no backup"), True, 0, id="nobody helps"),
        pytest.param(unreachable(OSError("timed out")), False, EMPTY_SECONDS, id="empty, may pass"),
        pytest.param(unreachable(OSError("timed out")), True, 600, id="something to save, may pass"),
        pytest.param(unreachable(FileNotFoundError()), False, 0, id="empty, and no repository was ever made"),
        pytest.param(unreachable(FileNotFoundError()), True, 600, id="something to save, perhaps not mounted"),
    ],
)
def test_what_may_pass_is_waited_for_as_long_as_there_is_something_to_save(
    error: PghavenError, has_data: bool, seconds: float
) -> None:
    clock = ManualClock()

    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        Patience(seconds=600.0, has_data=lambda: has_data, clock=clock).try_on(work, ignore)
    assert clock.monotonic() == pytest.approx(seconds)
