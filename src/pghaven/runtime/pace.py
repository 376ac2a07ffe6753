"""How many bytes a second may pass: one bucket of tokens that all workers of an operation draw from.

The one idea: whoever finds the bucket not in debt goes on at once and pays afterwards, however much it is; whoever
finds it in debt waits until it is paid. So parts of any size pass, in the long run never faster than the rate, and a
new rate holds for those who wait as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.runtime.shared import SharedNumbers

# A waiting worker looks again this often whether the rate is another one by now.
LOOK_AGAIN_SECONDS = 0.25
# What was not used may be made up for, up to this much.
BURST_SECONDS = 1.0

_RATE, _TOKENS, _MOMENT, _PASSED, _CAP = range(5)


class Pace:
    """Bytes a second; 0 is without a limit. Can be pickled into workers, who then share it.

    ``on_wait`` is called in this process, by whoever waits, before each look: what sets another rate may have no other
    chance to.
    """

    def __init__(self, rate: float = 0.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self._numbers = SharedNumbers(5)
        self._clock = clock
        self.on_wait: Callable[[], None] | None = None
        self.set_rate(rate)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "on_wait": None}

    def set_rate(self, rate: float) -> None:
        """From now on, for everybody who shares it."""
        with self._numbers.change() as numbers:
            numbers[_RATE] = rate

    def set_cap(self, rate: float) -> None:
        """A second limit beside the rate, the lower of both holds; 0 is without."""
        with self._numbers.change() as numbers:
            numbers[_CAP] = rate

    @property
    def rate(self) -> float:
        """What holds now; 0 is without a limit."""
        return _lower(*(self._numbers.read()[one] for one in (_RATE, _CAP)))

    @property
    def passed_bytes(self) -> int:
        """How much has passed so far."""
        return int(self._numbers.read()[_PASSED])

    def take(self, size_bytes: int) -> None:
        """Wait for the turn of so many bytes."""
        while (seconds := self._try(size_bytes)) > 0:
            if self.on_wait is not None:
                self.on_wait()
            self._clock.sleep(seconds)

    def _try(self, size_bytes: int) -> float:
        """Take them and return 0, or return how long to wait before trying again."""
        with self._numbers.change() as numbers:
            rate, tokens, before = _lower(numbers[_RATE], numbers[_CAP]), numbers[_TOKENS], numbers[_MOMENT]
            now = self._clock.monotonic()
            if rate > 0:
                tokens = min(BURST_SECONDS * rate, tokens + max(0.0, now - before) * rate)
                numbers[_MOMENT] = now
                if tokens < 0:
                    numbers[_TOKENS] = tokens
                    return max(0.001, min(LOOK_AGAIN_SECONDS, -tokens / rate))
                numbers[_TOKENS] = tokens - size_bytes
            else:
                numbers[_TOKENS], numbers[_MOMENT] = 0.0, now
            numbers[_PASSED] += size_bytes
            return 0.0


def _lower(rate: float, cap: float) -> float:
    return min(rate, cap) if rate and cap else rate or cap
