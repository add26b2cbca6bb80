"""What is *not* an anomaly: light, optics and camera as they vary between good frames. Labels stay empty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from edge.types import FloatImage

COARSE_CELLS = 4  # of a smooth field, along a window


@dataclass(frozen=True, slots=True)
class Lighting:
    """How strongly each of them varies; 0 leaves it alone."""

    gain: float = 0.08  # relative, either way
    offset: float = 0.04  # of the scale
    field: float = 0.0  # smooth uneven light: exp of at most this
    stripes: float = 0.0  # gain from line to line of the texture: exp of at most this
    stripes_run: Literal["down", "across"] = "down"  # as the texture's lines do
    blur_px: float = 0.6  # largest σ, for a third of the windows
    noise: float = 0.012  # largest standard deviation
    gamma: float = 0.0  # values to the power of exp(± at most this)

    def vary(self, window: FloatImage, rng: np.random.Generator) -> FloatImage:
        """The window (h, w) in 0..1 under other light."""
        out = np.asarray(window, np.float32)
        if self.gamma:
            out = np.power(np.maximum(out, 0), np.float32(math.exp(rng.uniform(-self.gamma, self.gamma))))
        if self.field and rng.random() < 0.5:
            coarse = rng.normal(0, self.field / 2, (COARSE_CELLS, COARSE_CELLS))
            smooth = cv2.resize(coarse.astype(np.float32), out.shape[::-1], interpolation=cv2.INTER_CUBIC)
            out = out * np.exp(np.clip(smooth, -self.field, self.field))
        if self.stripes and rng.random() < 0.3:
            down = self.stripes_run == "down"
            lines = rng.normal(0, 1, (1, out.shape[1] if down else out.shape[0])).astype(np.float32)
            lines = np.asarray(cv2.GaussianBlur(lines, (0, 0), float(rng.uniform(0.5, 6.0))), np.float32)
            lines *= rng.uniform(0, self.stripes) / max(1e-6, float(np.abs(lines).max()))
            out = out * np.exp(lines if down else lines.T)
        gain = 1 + rng.uniform(-self.gain, self.gain)
        out = out * np.float32(gain) + np.float32(rng.uniform(-self.offset, self.offset))
        if self.blur_px and rng.random() < 0.33:
            out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.3, max(0.31, self.blur_px))))  # type: ignore[assignment]  # float32
        if self.noise and rng.random() < 0.5:
            out = out + rng.standard_normal(out.shape, np.float32) * np.float32(rng.uniform(0, self.noise))
        return np.clip(out, 0, 1).astype(np.float32)
