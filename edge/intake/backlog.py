"""Complete files that wait for a decoder: oldest or newest first per source, sources in turn."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Container, Iterable, Mapping
from typing import Literal

from edge.types import Candidate

Order = Literal["oldest", "newest"]


class Backlog:
    """Thread-safe; `add` by the scans, `take` by the decode stage."""

    def __init__(self, orders: Mapping[str, Order]) -> None:
        self._orders = dict(orders)
        self._heaps: dict[str, list[tuple[int, int, Candidate]]] = {source: [] for source in orders}
        self._turn = itertools.cycle(list(orders))
        self._count = itertools.count()
        self._lock = threading.Lock()

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Queue files by the mtime of their content; equal times keep the order they came in."""
        with self._lock:
            for candidate in candidates:
                sign = 1 if self._orders[candidate.source] == "oldest" else -1
                key = sign * candidate.stamp.mtime_ns
                heapq.heappush(self._heaps[candidate.source], (key, next(self._count), candidate))

    def take(self, resting: Container[str] = ()) -> Candidate | None:
        """The next file, or None; no source waits behind another's backlog, nor for one that rests."""
        with self._lock:
            for _ in self._heaps:
                source = next(self._turn)
                if self._heaps[source] and source not in resting:
                    return heapq.heappop(self._heaps[source])[2]
        return None

    def depth(self, source: str) -> int:
        """Files of a source that wait."""
        with self._lock:
            return len(self._heaps[source])

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._heaps.values()))
