"""A bounded buffer between two stages: what is in it is limited by weight, so memory is too."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Buffer(Generic[Item]):
    """Many producers, one consumer. An item heavier than the limit gets in when the buffer is empty."""

    def __init__(self, max_weight: float) -> None:
        self._max_weight = max_weight
        self._items: deque[tuple[Item, float]] = deque()
        self._weight = 0.0
        self._changed = threading.Condition()

    def has_room(self) -> bool:
        """Whether a producer should go on."""
        with self._changed:
            return self._weight < self._max_weight

    def put(self, item: Item, weight: float = 1.0, timeout_s: float | None = None) -> bool:
        """Add an item, waiting for room; False if there was none in time."""
        with self._changed:
            fits = self._changed.wait_for(
                lambda: not self._items or self._weight + weight <= self._max_weight, timeout_s
            )
            if fits:
                self._items.append((item, weight))
                self._weight += weight
                self._changed.notify_all()
            return fits

    def take(
        self,
        max_items: int,
        max_weight: float = float("inf"),
        timeout_s: float = 0.0,
        wanted: Callable[[Item], bool] = lambda item: True,
    ) -> list[Item]:
        """Up to that many items and that much weight (at least one item), waiting for the first; none beyond
        one that is not `wanted`."""
        taken: list[Item] = []
        total = 0.0
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items), timeout_s)
            while self._items and len(taken) < max_items:
                item, weight = self._items[0]
                if (taken and total + weight > max_weight) or not wanted(item):
                    break
                self._items.popleft()
                taken.append(item)
                total += weight
            self._weight -= total
            if not self._items:
                self._weight = 0.0  # no drift from adding and subtracting floats
            self._changed.notify_all()
        return taken

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)
