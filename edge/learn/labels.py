"""Planes with the truth of their pixels: what supervised networks learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.learn.datasets import Plane16

MOST_CLASSES = 8  # bits of a truth plane


@dataclass(frozen=True, slots=True)
class LabelledPlane:
    """A preprocessed frame and what is where in it."""

    plane: Plane16  # (h, w) float16 in 0..1
    truth: NDArray[np.uint8]  # (h, w): bit k is set where class k is; 0 is good. Classes may overlap
    label: int = 0  # of the whole frame: 0 good, k + 1 defect class k (1 where only "defect" is known)
