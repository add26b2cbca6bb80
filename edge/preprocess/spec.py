"""What a recipe does to a frame before the engine; travels in the bundle, bound by its digest."""

from __future__ import annotations

import hashlib
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Clahe(_Spec):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994)."""

    clip: float = Field(9.0, gt=0)  # in multiples of a flat histogram's bin
    tiles: int = Field(9, ge=1, le=64)  # per side


class TileSpec(_Spec):
    """Square windows: `size_px` is what the engine sees, its centre `keep_px` is what is kept of the answer,
    a new window every `step_px`. 320→256 without overlap: (320, 256, 256); 64 at half steps: (64, 64, 32)."""

    size_px: int = Field(320, ge=8, le=4096)
    keep_px: int = Field(256, ge=8, le=4096)
    step_px: int = Field(256, ge=1, le=4096)

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if self.keep_px > self.size_px or (self.size_px - self.keep_px) % 2:
            raise ValueError("keep_px must be at most size_px, and leave an even margin")
        if self.step_px > self.keep_px:
            raise ValueError("step_px above keep_px would leave gaps")
        return self

    @property
    def margin_px(self) -> int:
        return (self.size_px - self.keep_px) // 2


class PreprocessSpec(_Spec):
    """Applied in this order: grey, window, resize, illumination, CLAHE, tiles."""

    version: Literal[1] = 1
    gray: Literal["bt601", "bt709", "mean", "red", "green", "blue"] = "bt601"
    window: Literal["declared", "percentile"] = "declared"
    value_range: tuple[float, float] | None = (
        None  # stored values of black and white, before what files declare
    )
    percentiles: tuple[float, float] = (0.5, 99.5)  # of the frame's own pixels; only for window = percentile
    size_px: tuple[int, int] | None = None  # (width, height) every frame is brought to
    scale: float = Field(1.0, gt=0, le=8)  # otherwise: plane pixels per frame pixel
    illumination: Literal["none", "median"] = "none"
    clahe: Clahe | None = None
    tiles: TileSpec = TileSpec()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError("percentiles must be (low, high) within 0..100")
        if self.value_range is not None and self.value_range[0] == self.value_range[1]:
            raise ValueError("value_range needs two different values")
        if self.size_px is not None and not 8 <= min(self.size_px) <= max(self.size_px) <= 16_384:
            raise ValueError("size_px is not within 8 to 16384")
        return self

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of the spec."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
