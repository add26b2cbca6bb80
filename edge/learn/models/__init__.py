"""Which networks can be learned, and what each is used with by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from edge.infer.bundle import ScoreSpec
from edge.learn.losses import LossName
from edge.learn.models.cae import Cae, CaeConfig
from edge.learn.models.fragment_cae import FragmentCae, FragmentCaeConfig
from edge.preprocess import TileSpec

# Fragments judge better for the same time of learning (docs/decisions.md), but at half steps every pixel is
# computed four times: about a second for this many pixels on two cores, against 0.4 s for tiles
MOST_PIXELS_FOR_FRAGMENTS = 1_000_000


@dataclass(frozen=True, slots=True)
class ModelKind:
    """A network with its defaults, chosen by trials on several data sets (docs/decisions.md)."""

    build: Callable[[], nn.Module]
    tiles: TileSpec
    score: ScoreSpec
    loss: LossName
    window_px: int  # of a training window; the networks are fully convolutional, so smaller is cheaper
    batch: int  # windows a step
    learning_rate: float


MODELS: Mapping[str, ModelKind] = {
    "cae": ModelKind(
        build=lambda: Cae(CaeConfig()),
        tiles=TileSpec(size_px=320, keep_px=256, step_px=256),
        score=ScoreSpec(map="ssim", smooth_px=8.0, statistic="peak", peak_px=16),
        loss="ssim+l2",
        window_px=160,
        batch=16,
        learning_rate=2e-3,
    ),
    "fragment-cae": ModelKind(
        build=lambda: FragmentCae(FragmentCaeConfig()),
        tiles=TileSpec(size_px=64, keep_px=64, step_px=32),
        score=ScoreSpec(map="ssim", smooth_px=8.0, statistic="peak", peak_px=16),
        loss="ssim+l2",
        window_px=64,
        batch=64,
        learning_rate=2e-3,
    ),
}


def choose(sizes: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """(name, why) for `--model auto`, from the (height, width) of the preprocessed frames.

    The more sensitive network where it judges a frame in about a second, else the faster one.
    """
    pixels = sorted(height * width for height, width in sizes)[len(sizes) // 2]
    size = f"frames have {pixels / 1e6:.2f} megapixels"
    if pixels <= MOST_PIXELS_FOR_FRAGMENTS:
        return "fragment-cae", f"{size}, which fragments at half steps can judge in about a second"
    return "cae", f"{size}, too many for fragments at half steps"
