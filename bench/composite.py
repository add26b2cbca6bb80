"""Turntable objects before real textures, with masks that are exact because the frames are made from them.

The turntable's frames are black around the object, so the object can be cut out; its dark parts (tyres,
glass, screws) are closed by a width that each object needs. A composite is: a texture's window, the object's
soft shadow, the object scaled, turned and shifted, a light gradient over all, blur, noise, 8 bits. Everything
follows from one seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.manifests import Row, read

SIZE_PX = 256  # the objects were taken at 128×128
TEXTURES = ("magnetic_tile", "commutator", "nanofibre_sem", "casting_xray")
TEST_TEXTURES = 3  # every third group of texture files is for testing only
PAD_PX = 20  # so that closing works at the frame's border


@dataclass(frozen=True, slots=True)
class CutOut:
    """How an object is told from its black background."""

    above: int  # grey levels of 255
    close_px: int  # gaps as wide as this are dark parts of the object


# Wood and card are bright everywhere, the socket has dark screws, the cars have black tyres and glass
CUT_OUTS: Mapping[str, CutOut] = {
    "obj02": CutOut(30, 7), "obj03": CutOut(6, 25), "obj05": CutOut(14, 7), "obj06": CutOut(6, 25),
    "obj07": CutOut(30, 7), "obj11": CutOut(30, 7), "obj14": CutOut(14, 7),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Object:
    """One view of a turntable object."""

    name: str
    view: str
    pixels: NDArray[np.float32]  # (128, 128) in 0..1
    mask: NDArray[np.float32]  # (128, 128): 1 on the object


@dataclass(frozen=True, slots=True)
class Composite:
    """A frame and its truth."""

    name: str  # of the object
    view: str
    texture: str  # which set
    frame: NDArray[np.uint8]  # (SIZE_PX, SIZE_PX)
    mask: NDArray[np.uint8]  # 255 on the object


def objects(turntable: Path) -> list[Object]:
    """All views of all objects, cut out."""
    return [
        Object(row.part, row.view, np.asarray(grey / 255, np.float32), cut_out(grey, CUT_OUTS[row.part]))
        for row in read(turntable)
        for grey in [_grey(Path(row.path))]
    ]


def cut_out(grey: NDArray[np.uint8], rule: CutOut) -> NDArray[np.float32]:
    """(h, w) mask of the object, 1 or 0: one piece, without holes, a pixel inside the outline, where the
    frame's own pixels are half background."""
    above = (cv2.medianBlur(grey, 3) > max(rule.above, float(np.percentile(grey, 2)) + 10)).astype(np.uint8)
    padded = np.pad(above, PAD_PX)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _ellipse(rule.close_px))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(closed), outlines, -1, (1.0,), cv2.FILLED)
    opened = cv2.morphologyEx(filled, cv2.MORPH_OPEN, _ellipse(5))
    _, labels, measured, _ = cv2.connectedComponentsWithStats(opened)
    largest = labels == 1 + np.argmax(measured[1:, cv2.CC_STAT_AREA])
    inside = cv2.erode(largest.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return inside[PAD_PX:-PAD_PX, PAD_PX:-PAD_PX].astype(np.float32)


def textures(datasets: Sequence[Path], *, test: bool) -> dict[str, list[Path]]:
    """The good frames that learning, or testing, may cut its textures from, by the name of their set.

    Frames of one part (the exposures of a tile) are never on both sides.
    """
    chosen = {}
    for dataset in datasets:
        rows = sorted((row for row in read(dataset) if row.label == "good"), key=lambda row: row.path)
        groups = sorted({_group(row) for row in rows})
        tested = set(groups[::TEST_TEXTURES])
        chosen[dataset.name] = [Path(row.path) for row in rows if (_group(row) in tested) == test]
    return chosen


def composites(
    shown: Sequence[Object], behind: Mapping[str, Sequence[Path]], count: int, seed: int, *,
    varied: bool = False,
) -> Iterator[Composite]:  # fmt: skip
    """`count` frames: every object as often as any other, every texture set too.

    With `varied`, for learning from few objects, half of them are stretched and painted as no real one is, so
    that what is learned is not how those few look.
    """
    shown = sorted(shown, key=lambda one: (one.view, one.name))  # neighbours are different objects
    sets = sorted(behind)
    order = np.random.default_rng((seed, 0)).permutation(count)
    for k in range(count):
        rng = np.random.default_rng((seed, 1, k))
        one = shown[int(order[k]) % len(shown)]
        texture_set = sets[k % len(sets)]
        files = behind[texture_set]
        texture = _texture(_grey(files[int(rng.integers(len(files)))]), rng)
        painted = _painted(one, _grey(_any(behind, rng)), rng) if varied and rng.random() < 0.5 else one
        frame, mask = _composed(painted, texture, rng)
        yield Composite(one.name, one.view, texture_set, frame, mask)


def _composed(
    one: Object, texture: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    pose = _pose(one.mask, rng)
    size = (SIZE_PX, SIZE_PX)
    alpha = np.clip(cv2.warpAffine(one.mask, pose, size, flags=cv2.INTER_LINEAR), 0, 1)
    # beyond the cut-out the object's edge goes on, so that no dark rim gives it away
    grown = _grown(one)
    pixels = cv2.warpAffine(grown, pose, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    frame = texture * _shadow(alpha, rng) * (1 - alpha) + pixels * rng.uniform(0.6, 1.1) * alpha
    frame = frame * _light(rng)
    blur_px = rng.uniform(0.0, 0.8)
    if blur_px > 0.3:
        frame = cv2.GaussianBlur(frame, (0, 0), blur_px)
    frame = frame + rng.normal(0, rng.uniform(0.0, 0.04), frame.shape)
    quantised = np.clip(np.rint(frame * 255), 0, 255).astype(np.uint8)
    return quantised, np.where(alpha > 0.5, 255, 0).astype(np.uint8)


def _painted(one: Object, grey: NDArray[np.uint8], rng: np.random.Generator) -> Object:
    """The object stretched, turned and mirrored, with another texture, fields and tone on its surface."""
    side = one.mask.shape[0]
    stretch = rng.uniform(0.6, 1.0, 2) * rng.choice([-1.0, 1.0], 2)
    shear = np.array([[1.0, rng.uniform(-0.3, 0.3)], [0.0, 1.0]])
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = 0.75 * turn @ shear @ np.diag(stretch)  # what was in the frame stays in it
    centre = np.full(2, (side - 1) / 2)
    pose = np.column_stack((linear, centre - linear @ centre))
    mask = cv2.warpAffine(one.mask, pose, (side, side)).astype(np.float32)
    pixels = cv2.warpAffine(_grown(one), pose, (side, side), borderMode=cv2.BORDER_REPLICATE)
    surface = cv2.resize(_texture(grey, rng), (side, side), interpolation=cv2.INTER_AREA)
    share = rng.uniform(0, 0.8) if rng.random() < 0.5 else 0.0
    pixels = (1 - share) * pixels + share * surface
    for _ in range(int(rng.integers(4))):  # printed fields, dark or bright
        y, x = rng.integers(0, side, 2)
        height, width = rng.integers(4, side // 2, 2)
        pixels[y : y + height, x : x + width] *= rng.uniform(0.2, 1.5)
    if rng.random() < 0.3:
        pixels = 1 - pixels
    toned = np.clip(pixels, 0, 1) ** rng.uniform(0.6, 1.8) * rng.uniform(0.5, 1.0)
    return Object(one.name, one.view, toned.astype(np.float32), mask)


def _any(behind: Mapping[str, Sequence[Path]], rng: np.random.Generator) -> Path:
    files = behind[sorted(behind)[int(rng.integers(len(behind)))]]
    return files[int(rng.integers(len(files)))]


def _pose(mask: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """2×3 affine: the object's longer side is 0.5 to 0.9 of the frame, turned by ±20°, all of it in sight."""
    x, y, width, height = cv2.boundingRect((mask > 0.5).astype(np.uint8))
    scale = rng.uniform(0.5, 0.9) * SIZE_PX / max(width, height)
    turn = cv2.getRotationMatrix2D((0.0, 0.0), rng.uniform(-20, 20), scale)
    corners = np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]], np.float64)
    turned = corners @ turn[:, :2].T
    low, high = turned.min(axis=0), turned.max(axis=0)
    room = np.maximum(SIZE_PX - (high - low), 0)
    turn[:, 2] = rng.uniform(0, 1, 2) * room - low
    return turn


def _grown(one: Object) -> NDArray[np.float32]:
    """The object's pixels, continued beyond its mask by those nearest to it."""
    background = (one.mask < 0.5).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(background, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    by_label = np.zeros(nearest.max() + 1, np.float32)
    by_label[nearest[background == 0]] = one.pixels[background == 0]
    return by_label[nearest]


def _shadow(alpha: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A factor for the background: soft, beside the object."""
    across, down = rng.uniform(-12, 12, 2)
    moved = cv2.warpAffine(alpha, np.array([[1, 0, across], [0, 1, down]], np.float64), alpha.shape[::-1])
    soft = cv2.GaussianBlur(moved, (0, 0), rng.uniform(3, 10))
    return (1 - rng.uniform(0.0, 0.6) * soft).astype(np.float32)


def _light(rng: np.random.Generator) -> NDArray[np.float32]:
    """Gain, and a gradient of up to ±30 % across the frame."""
    rows, columns = np.mgrid[-1 : 1 : SIZE_PX * 1j, -1 : 1 : SIZE_PX * 1j]
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    gradient = 1 + strength * (np.cos(angle) * columns + np.sin(angle) * rows) / np.sqrt(2)
    return (rng.uniform(0.75, 1.2) * gradient).astype(np.float32)


def _texture(grey: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """A window of a frame at a random zoom and orientation, (SIZE_PX, SIZE_PX) in 0..1."""
    side = int(min(*grey.shape, SIZE_PX * rng.uniform(0.7, 1.6)))
    y, x = (int(rng.integers(length - side + 1)) for length in grey.shape)
    window = grey[y : y + side, x : x + side].astype(np.float32) / 255
    window = np.rot90(window, int(rng.integers(4)))
    interpolation = cv2.INTER_AREA if side > SIZE_PX else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(window), (SIZE_PX, SIZE_PX), interpolation=interpolation)


def _group(row: Row) -> str:
    return row.part or row.path


def _grey(file: Path) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None, file
    return pixels.astype(np.uint8)


def _ellipse(side_px: int) -> NDArray[np.uint8]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side_px, side_px)).astype(np.uint8)
