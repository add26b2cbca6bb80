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

# Below this a 320-px tile would be mostly mirrored border: less than half of it is the frame
SMALL_SIDE_PX = 160


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
        score=ScoreSpec(map="ssim", smooth_px=4.0, statistic="peak", peak_px=16),
        loss="ssim+l2",
        window_px=160,
        batch=16,
        learning_rate=2e-3,
    ),
    "fragment-cae": ModelKind(
        build=lambda: FragmentCae(FragmentCaeConfig()),
        tiles=TileSpec(size_px=64, keep_px=64, step_px=32),
        score=ScoreSpec(map="ssim", smooth_px=4.0, statistic="peak", peak_px=16),
        loss="ssim+l2",
        window_px=64,
        batch=64,
        learning_rate=2e-3,
    ),
}


def choose(sizes: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """(name, why) for `--model auto`, from the (height, width) of the preprocessed frames.

    Small frames would be mostly mirrored border in a 320-px tile, so they are learned by fragments.
    """
    shorter = sorted(min(size) for size in sizes)[len(sizes) // 2]
    if shorter < SMALL_SIDE_PX:
        return "fragment-cae", f"the shorter side of the frames is {shorter} px, below {SMALL_SIDE_PX}"
    return "cae", f"the shorter side of the frames is {shorter} px, at least {SMALL_SIDE_PX}"
