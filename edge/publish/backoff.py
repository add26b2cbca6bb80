"""How long to wait before trying again."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Waits that double from `first_s` to `limit_s`, each shortened by up to half: many boxes spread out.

    `jitter` returns 0 ≤ x < 1, as `random.random` does.
    """

    def __init__(self, first_s: float, limit_s: float, jitter: Callable[[], float]) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._jitter = jitter
        self._next_s = first_s

    def wait_s(self) -> float:
        """The next wait, in seconds."""
        wait_s = self._next_s
        self._next_s = min(self._limit_s, 2 * wait_s)
        return wait_s * (1 - self._jitter() / 2)

    def reset(self) -> None:
        self._next_s = self._first_s
