"""Which number of the map judges a frame: chosen on good frames that were not learned from, with synthetic
anomalies planted in some of them. Real defects take no part in the choice.

One frame's texture asks for a small window, another's natural blemishes for a mean over many pixels. The
candidate that tells painted from clean frames best is taken; the model's own stays where none is clearly
better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge.infer.bundle import ScoreSpec
from edge.judge.statistics import score_map, summarise
from edge.learn.anomalies.batches import AnomalyPlan
from edge.learn.anomalies.mix import paint
from edge.learn.datasets import Plane16
from edge.preprocess import TileSpec
from edge.preprocess.tiles import Stitcher, Tiling
from edge.types import FloatImage

LEAST_PLANES = 6  # with fewer, chance would choose
MOST_PLANES = 40
PAINTED = 3  # of each plane
TOP_RATIOS = (0.001, 0.003, 0.01)
SMOOTHING_PX = (1.0, 2.0, 4.0, 8.0)  # σ
FALSE_ALARMS = 0.2  # of clean planes: how a score sorts what would never be let through does not count
CLEARLY = 0.75  # of resamples in which another must be better than the model's own
RESAMPLES = 200
BATCH = 4


@dataclass(frozen=True, slots=True)
class ScoreChoice:
    """The score that was chosen, and how well each candidate told painted from clean frames."""

    score: ScoreSpec
    why: str
    found: dict[str, float]  # share of painted planes found at no more than FALSE_ALARMS


def candidates(own: ScoreSpec) -> list[ScoreSpec]:
    """The model's own score first; then other smoothing, a peak, and means of more of the highest pixels."""
    smoothed = [own.model_copy(update={"smooth_px": px}) for px in SMOOTHING_PX if px != own.smooth_px]
    peak = own.model_copy(update={"statistic": "peak"})
    tops = [own.model_copy(update={"statistic": "top", "top_ratio": ratio}) for ratio in TOP_RATIOS]
    return [own, *(other for other in (*smoothed, peak, *tops) if other != own)]


def choose_score(
    network: nn.Module,
    planes: Sequence[Plane16],
    own: ScoreSpec,
    plan: AnomalyPlan,
    tiles: TileSpec,
    window_px: int,
    seed: int,
    on_plane: Callable[[int, int], None] = lambda done, of: None,
) -> ScoreChoice:
    """Choose among `candidates` by the share of painted planes that are found at few false alarms.

    That is the mean true-positive rate below a false-positive rate of FALSE_ALARMS, a partial area under the
    ROC curve (McClish, "Analyzing a portion of the ROC curve", 1989).

    Args:
        network: what is exported: (n, 1, size, size) → probabilities of the same size.
        planes: (h, w) good frames that were not learned from.
        own: the model's own score, over a map of probabilities.
        plan: which anomalies are painted.
        tiles: how planes go through the network.
        window_px: side of the window that one anomaly is painted in.
        seed: which anomalies, and which planes where there are more than needed.
        on_plane: called with (planes done, planes in all).
    """
    if len(planes) < LEAST_PLANES:
        return ScoreChoice(
            own, f"the model's own: {len(planes)} good frames were held back, too few to choose", {}
        )
    rng = np.random.default_rng((seed, 0x5C03))
    chosen = rng.permutation(len(planes))[:MOST_PLANES]
    specs = candidates(own)
    clean: list[list[float]] = []
    painted: list[list[float]] = []
    for done, index in enumerate(chosen):
        on_plane(done, len(chosen))
        plane = planes[int(index)].astype(np.float32)
        donors = [_window(plane, window_px, rng)[1] for _ in range(2)]
        clean.append(_scores(network, plane, specs, tiles))
        for _ in range(PAINTED):
            where, window = _window(plane, window_px, rng)
            changed = plane.copy()
            changed[where] = paint(window, rng, plan.mix, donors).window
            painted.append(_scores(network, changed, specs, tiles))
    rows, changed_rows = np.array(clean), np.array(painted).reshape(len(clean), PAINTED, len(specs))
    found = _shares(rows, changed_rows)
    figures = {name_of(spec): round(float(value), 4) for spec, value in zip(specs, found, strict=True)}
    best = int(np.argmax(found))
    gains = _resampled_gains(rows, changed_rows, best, rng)
    if best == 0 or float(np.mean(gains > 0)) < CLEARLY:
        return ScoreChoice(
            own, f"the model's own: none found clearly more painted frames than its {found[0]:.0%}", figures
        )
    why = (
        f"found {found[best]:.0%} of {len(painted)} painted frames at few false alarms among {len(clean)} "
        f"clean ones, {name_of(own)} {found[0]:.0%}"
    )
    return ScoreChoice(specs[best], why, figures)


def name_of(spec: ScoreSpec) -> str:
    """A score in a few words."""
    what = (
        f"top {100 * spec.top_ratio:.2g}%"
        if spec.statistic == "top"
        else f"{spec.statistic} {spec.peak_px} px"
    )
    return f"{what}, σ {spec.smooth_px:g} px"


def _scores(
    network: nn.Module, plane: FloatImage, specs: Sequence[ScoreSpec], tiles: TileSpec
) -> list[float]:
    answer = whole_map(network, plane, tiles)
    maps = {s.smooth_px: score_map(plane, answer, s.map, s.smooth_px) for s in specs}
    return [summarise(plane, maps[s.smooth_px], s.statistic, s.peak_px, None, s.top_ratio).raw for s in specs]


def whole_map(network: nn.Module, plane: FloatImage, tiles: TileSpec) -> NDArray[np.float32]:
    """(h, w) answer of a network to a plane, through tiles as in inspection."""
    tiling = Tiling(plane.shape[0], plane.shape[1], tiles)
    padded, stitcher = tiling.pad(plane), Stitcher(tiling)
    with torch.inference_mode():
        for start in range(0, len(tiling), BATCH):
            stop = min(len(tiling), start + BATCH)
            stitcher.add(start, network(torch.from_numpy(tiling.cut(padded, start, stop))).numpy())
    return stitcher.result()


def _window(
    plane: FloatImage, side_px: int, rng: np.random.Generator
) -> tuple[tuple[slice, slice], FloatImage]:
    h, w = (min(side_px, length) for length in plane.shape)
    top, left = int(rng.integers(plane.shape[0] - h + 1)), int(rng.integers(plane.shape[1] - w + 1))
    where = np.s_[top : top + h, left : left + w]
    return where, plane[where]


def _shares(clean: NDArray[np.float64], painted: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each candidate the share of painted planes (n, PAINTED, k) above a clean one (n, k), mean over the
    highest FALSE_ALARMS of the clean; ties count half."""
    highest = np.sort(clean, axis=0)[-max(1, round(FALSE_ALARMS * len(clean))) :]
    above = painted[:, :, None, :] > highest[None, None, :, :]
    ties = painted[:, :, None, :] == highest[None, None, :, :]
    return np.asarray(above.mean((0, 1, 2)) + 0.5 * ties.mean((0, 1, 2)))


def _resampled_gains(
    clean: NDArray[np.float64], painted: NDArray[np.float64], best: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """By how much the best candidate beats the first one, over planes drawn again and again."""
    gains = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(clean), size=len(clean))
        shares = _shares(clean[drawn][:, [0, best]], painted[drawn][..., [0, best]])
        gains.append(shares[1] - shares[0])
    return np.array(gains)
