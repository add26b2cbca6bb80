"""The wall clock, and whether somebody set it."""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_S = 2.0  # more than an NTP daemon slews away unnoticed


class WallClock:
    """Tells when the wall clock moved against the monotonic one; it is meant to be asked often."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, unix_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock, self._unix_clock = clock, unix_clock
        self._offset_s = unix_clock() - clock()

    def jump_s(self) -> float:
        """By how many seconds the clock was set since `taken`; 0 if it was not."""
        jump_s = self._unix_clock() - self._clock() - self._offset_s
        return jump_s if abs(jump_s) > JUMP_S else 0.0

    def taken(self, jump_s: float) -> None:
        """That jump is dealt with."""
        self._offset_s += jump_s
