"""Keeps a process that works for months with large arrays as small as it needs to be.

glibc raises the size from which on memory comes straight from the system as soon as larger blocks are freed;
later planes then lie scattered in heaps that cannot shrink, one heap or more a thread. Both are pinned here
(`man 3 mallopt`): a plane that is freed is gone.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
LARGE_BYTES = 256 * 1024
ARENAS = 2


def steady_heap() -> bool:
    """Pin glibc's thresholds; False where the C library has none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, LARGE_BYTES), (_TRIM_THRESHOLD, 4 * LARGE_BYTES), (_ARENA_MAX, ARENAS))
    return all([mallopt(key, value) == 1 for key, value in settings])
