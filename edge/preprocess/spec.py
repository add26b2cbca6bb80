"""What a recipe does to a frame before the engine; travels in the bundle, bound by its digest."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Clahe(_Spec):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994)."""

    clip: float = Field(9.0, gt=0)  # in multiples of a flat histogram's bin
    tiles: int = Field(9, ge=1, le=64)  # per side


class TileSpec(_Spec):
    """Square windows: `size_px` is what the engine sees, its centre `keep_px` is what is kept of the answer,
    a new window every `step_px`. 320→256 without overlap: (320, 256, 256); 64 at half steps: (64, 64, 32).

    `whole_px` above 0: a fully convolutional network sees the whole plane at once, in as few windows as fit
    into memory (see `Tiling`), whose sides are multiples of it. Squares are then only what it was learned
    and proved with, and their margin is mirrored.
    """

    size_px: int = Field(320, ge=8, le=4096)
    keep_px: int = Field(256, ge=8, le=4096)
    step_px: int = Field(256, ge=1, le=4096)
    whole_px: int = Field(0, ge=0, le=256)

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if self.keep_px > self.size_px or (self.size_px - self.keep_px) % 2:
            raise ValueError("keep_px must be at most size_px, and leave an even margin")
        if self.step_px > self.keep_px:
            raise ValueError("step_px above keep_px would leave gaps")
        return self

    @property
    def whole(self) -> bool:
        """Whether the network sees whole planes."""
        return self.whole_px > 0

    @property
    def margin_px(self) -> int:
        return (self.size_px - self.keep_px) // 2


Point = tuple[float, float]
ANY_VIEW = "*"


class MaskSpec(_Spec):
    """Where the part is: what lies outside becomes 0 before and after CLAHE, and has no score."""

    method: Literal["otsu", "watershed", "kmeans", "unet", "mean"]
    polarity: Literal["auto", "bright", "dark"] = "auto"  # of the part against its background
    clusters: int = Field(2, ge=2, le=4)  # kmeans
    threshold: float = Field(0.5, gt=0, lt=1)  # unet: of the probability; mean: of the share of good masks
    network_px: int = Field(256, ge=32, le=2048)  # unet: side of the square that the network sees
    file_sha256: str = ""  # unet: of the bundle's mask.onnx; mean: of its mean_masks.npz
    close_px: int = Field(5, ge=0, le=99)  # side of the cross that closes gaps; 0: none
    close_times: int = Field(3, ge=1, le=20)
    min_area_ratio: float = Field(0.002, ge=0, lt=1)  # smaller pieces, as a share of the plane, are specks

    @property
    def needs_files(self) -> bool:
        """Whether it takes more than the picture: a network, or the mean masks of the views."""
        return self.method in ("unet", "mean")


class Rectify(_Spec):
    """A plane seen at an angle, made flat: by four points, or a homography, for each view or for any."""

    size_px: tuple[int, int]  # (width, height) of the rectified frame
    # view (or "*") → the corners of what shall fill it: top left, top right, bottom right, bottom left, in
    # frame pixels
    points: dict[str, tuple[Point, Point, Point, Point]] = {}
    homographies: dict[str, tuple[float, float, float, float, float, float, float, float, float]] = {}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not (self.points or self.homographies):
            raise ValueError("rectify needs points or homographies")
        if twice := set(self.points) & set(self.homographies):
            raise ValueError(f"view {', '.join(sorted(twice))} has points and a homography")
        if not 8 <= min(self.size_px) <= max(self.size_px) <= 16_384:
            raise ValueError("rectify.size_px is not within 8 to 16384")
        return self


class PreprocessSpec(_Spec):
    """Applied in this order: grey, window, rectify, resize, mask, illumination, CLAHE, mask again, tiles."""

    version: Literal[1] = 1
    gray: Literal["bt601", "bt709", "mean", "red", "green", "blue"] = "bt601"
    window: Literal["declared", "percentile"] = "declared"
    value_range: tuple[float, float] | None = (
        None  # stored values of black and white, before what files declare
    )
    percentiles: tuple[float, float] = (0.5, 99.5)  # of the frame's own pixels; only for window = percentile
    size_px: tuple[int, int] | None = None  # (width, height) every frame is brought to
    fit: Literal["stretch", "pad"] = "stretch"  # to size_px: both sides as they come, or as one, black around
    scale: float = Field(1.0, gt=0, le=8)  # otherwise: plane pixels per frame pixel
    illumination: Literal["none", "median"] = "none"
    clahe: Clahe | None = None
    tiles: TileSpec = TileSpec()
    mask: MaskSpec | None = None
    rectify: Rectify | None = None

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
    def needs_view(self) -> bool:
        """Whether a frame's view must be known before it can be prepared."""
        return (self.mask is not None and self.mask.method == "mean") or self.rectify is not None

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of the spec; steps that came later are left out where not taken, so
        that older bundles keep their digest."""
        later: dict[str, Any] = {name: True for name in ("mask", "rectify") if getattr(self, name) is None}
        if self.fit == "stretch":
            later["fit"] = True
        if not self.tiles.whole:
            later["tiles"] = {"whole_px"}
        return hashlib.sha256(self.model_dump_json(exclude=later).encode()).hexdigest()
