"""Whole frames with their class: divided, augmented and weighed for a network that classifies."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge.errors import DataError
from edge.learn.datasets import Plane16
from edge.learn.fit import Batch, Objective
from edge.types import FloatImage

SHARES = (0.64, 0.16, 0.20)  # train, validation, test: system D's

Labelled = tuple[Tensor, Tensor, Tensor]
"""Frames (n, 1, s, s) in 0..1; 1 for each that is a defect, (n,); what each counts for, (n,). All float32."""


@dataclass(frozen=True, slots=True)
class ThreeWay:
    """Groups (parts) by their use, each sorted; no group is on two sides."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassAugmentation:
    """What a frame may look like without changing its class; every step draws anew. 0 or False: never.

    Rotation, shift and zoom interpolate, which smooths away fine texture; they are off unless asked for.
    """

    flips: bool = True
    quarter_turns: bool = True
    rotation_deg: float = 0.0  # either way, as the next ones
    shift_ratio: float = 0.0  # of the side
    zoom_ratio: float = 0.0
    gain_ratio: float = 0.1
    offset: float = 0.05  # grey levels in 0..1
    noise: float = 0.005  # largest standard deviation, grey levels in 0..1


NO_AUGMENTATION = ClassAugmentation(False, False, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class ClassBatches:
    """Random frames of both classes; which ones depends on nothing but the seed and the step."""

    planes: Sequence[Plane16]  # (s, s) in 0..1, all of one size
    labels: Sequence[int]  # 0 good, anything else a defect
    batch: int
    augmentation: ClassAugmentation
    seed: int
    defect_share: float | None = 0.5  # of a batch, the minority oversampled; None: as frequent as they are

    def __post_init__(self) -> None:
        _check(self.planes, self.labels)

    def at(self, step: int) -> Labelled:
        """The step's frames, weighed so that both classes count the same however often they are drawn."""
        rng = np.random.default_rng((self.seed, step))
        truth = np.array([label != 0 for label in self.labels])
        chosen = rng.choice(len(truth), self.batch, p=self._odds(truth))
        frames = np.stack([augmented(self.planes[i], self.augmentation, rng) for i in chosen])
        share = float(truth.mean()) if self.defect_share is None else self.defect_share
        return _labelled(frames, truth[chosen], (0.5 / (1 - share), 0.5 / share))

    def _odds(self, truth: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How likely each frame is drawn, (n,), summing to 1."""
        if self.defect_share is None:
            return np.full(len(truth), 1 / len(truth))
        defects = int(truth.sum())
        good_odds = (1 - self.defect_share) / (len(truth) - defects)
        return np.where(truth, self.defect_share / defects, good_odds)


@dataclass(frozen=True, slots=True)
class EveryFrame:
    """All frames as they are, in slices of one fixed order that mixes the classes: what validation sees."""

    planes: Sequence[Plane16]
    labels: Sequence[int]
    batch: int

    def __post_init__(self) -> None:
        _check(self.planes, self.labels)

    @property
    def batches(self) -> int:
        """How many slices there are: `FitSpec.validation_batches`."""
        return math.ceil(len(self.planes) / self.batch)

    def at(self, step: int) -> Labelled:
        """Slice `step` (they repeat), both classes counting the same; slices differ by at most a frame."""
        order = np.random.default_rng(0).permutation(len(self.planes))
        chosen = np.array_split(order, self.batches)[step % self.batches]
        frames = np.stack([self.planes[i].astype(np.float32) for i in chosen])
        truth = np.array([self.labels[i] != 0 for i in chosen])
        return _labelled(frames, truth, class_weights(self.labels))


def class_weights(labels: Sequence[int]) -> tuple[float, float]:
    """Weights of (good, defect) that make both classes count the same: n / (2 · n of the class).

    Raises:
        DataError: one class is missing.
    """
    defects = sum(label != 0 for label in labels)
    goods = len(labels) - defects
    if not (goods and defects):
        raise _one_class(goods, defects)
    return len(labels) / (2 * goods), len(labels) / (2 * defects)


def classification(reconstruction_weight: float) -> Objective:
    """The objective: squared residual, weighed, plus class-weighted cross-entropy.

    Answers are (reconstruction (n, 1, s, s), log-odds (n,)), batches `Labelled`.
    """

    def objective(answers: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        reconstruction, logits = answers
        frames, labels, weights = batch
        entropy = functional.binary_cross_entropy_with_logits(logits, labels, weight=weights)
        return reconstruction_weight * functional.mse_loss(reconstruction, frames) + entropy

    return objective


def augmented(plane: Plane16, how: ClassAugmentation, rng: np.random.Generator) -> FloatImage:
    """One random variant of a square plane (s, s): float32 in 0..1, borders mirrored."""
    x: FloatImage = plane.astype(np.float32)
    if how.quarter_turns:
        x = np.rot90(x, int(rng.integers(4)))
    if how.flips and rng.random() < 0.5:
        x = x[:, ::-1]
    if how.flips and rng.random() < 0.5:
        x = x[::-1]
    if how.rotation_deg or how.shift_ratio or how.zoom_ratio:
        x = _moved(np.ascontiguousarray(x), how, rng)
    if how.gain_ratio or how.offset:
        x = (x - 0.5) * np.float32(_around(rng, 1.0, how.gain_ratio)) + np.float32(0.5)
        x = x + np.float32(_around(rng, 0.0, how.offset))
    if how.noise:
        level = np.float32(rng.uniform(0, how.noise))
        x = x + level * rng.standard_normal(x.shape, dtype=np.float32)
    return np.clip(x, 0.0, 1.0)


def _moved(x: FloatImage, how: ClassAugmentation, rng: np.random.Generator) -> FloatImage:
    side = x.shape[0]
    centre = (side - 1) / 2
    angle, zoom = _around(rng, 0.0, how.rotation_deg), _around(rng, 1.0, how.zoom_ratio)
    matrix = cv2.getRotationMatrix2D((centre, centre), angle, zoom)
    matrix[:, 2] += np.array([_around(rng, 0.0, how.shift_ratio * side) for _ in range(2)])
    return cv2.warpAffine(  # type: ignore[return-value]  # float32 in, float32 out
        x, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def _around(rng: np.random.Generator, centre: float, width: float) -> float:
    return float(rng.uniform(centre - width, centre + width))


def split_64_16_20(groups: Sequence[str], labels: Sequence[Hashable], seed: int) -> ThreeWay:
    """Whole groups to train, validation and test, 64 : 16 : 20 of the frames of each label.

    `groups` and `labels` are those of the frames, one each. A group with several labels counts as its rarest.
    The result depends on the seed and on which frames there are, not on their order.

    Raises:
        DataError: a label has fewer than three groups, so that one side would never see it.
    """
    frequency = {label: list(labels).count(label) for label in set(labels)}
    sizes: dict[str, int] = {}
    stratum: dict[str, Hashable] = {}
    for group, label in zip(groups, labels, strict=True):
        sizes[group] = sizes.get(group, 0) + 1
        rarest = min((stratum.get(group, label), label), key=lambda one: (frequency[one], repr(one)))
        stratum[group] = rarest
    sides: tuple[list[str], list[str], list[str]] = ([], [], [])
    rng = np.random.default_rng(seed)
    for label in sorted(set(stratum.values()), key=repr):
        names = sorted(name for name, own in stratum.items() if own == label)
        if len(names) < len(SHARES):
            raise DataError(
                f"{len(names)} part{'s' * (len(names) != 1)} of class {label!r}: train, validation and test "
                "need one each at least",
                hint="give more frames of that class, or set the split column by hand",
                reason="too_few_frames",
            )
        for name, side in zip(names, _sides([sizes[name] for name in names], rng), strict=True):
            sides[side].append(name)
    train, validation, test = (tuple(sorted(side)) for side in sides)
    return ThreeWay(train, validation, test)


def _sides(sizes: Sequence[int], rng: np.random.Generator) -> list[int]:
    """0, 1 or 2 for each group, in random order always to the side that lacks most; none stays empty."""
    chosen = [0] * len(sizes)
    total, have = sum(sizes), [0] * len(SHARES)
    order = [int(k) for k in rng.permutation(len(sizes))]
    for left, k in zip(range(len(order), 0, -1), order, strict=True):
        empty = [side for side, frames in enumerate(have) if frames == 0]
        open_sides = empty if left <= len(empty) else range(len(SHARES))
        side = max(open_sides, key=lambda side: SHARES[side] * total - have[side])
        chosen[k], have[side] = side, have[side] + sizes[k]
    return chosen


def _labelled(frames: FloatImage, truth: NDArray[np.bool_], weights: tuple[float, float]) -> Labelled:
    """Frames (n, s, s) with their truth and the weights of (good, defect)."""
    weight = np.where(truth, weights[1], weights[0]).astype(np.float32)
    return (
        torch.from_numpy(frames[:, None]),
        torch.from_numpy(truth.astype(np.float32)),
        torch.from_numpy(weight),
    )


def _check(planes: Sequence[Plane16], labels: Sequence[int]) -> None:
    """Raise DataError unless there are frames of both classes, a label each."""
    defects = sum(label != 0 for label in labels)
    if len(planes) != len(labels) or not defects or defects == len(labels):
        raise _one_class(len(labels) - defects, defects)


def _one_class(goods: int, defects: int) -> DataError:
    return DataError(
        f"{goods} good frames and {defects} defects: a classifier learns from both",
        hint="give a manifest with rows of both labels on every side of the split",
        reason="too_few_frames",
    )
