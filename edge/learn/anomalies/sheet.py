"""A contact sheet of what a segmenter of synthetic anomalies learns from, so that a person can see and judge
it.

Windows at their own size, three a cell: good, with anomalies, and with the outline of the label. Below them
rows of windows that only the light changes, which are learned as good, and the real defects that are used as
fills.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.learn.anomalies.batches import DONORS, AnomalyBatches
from edge.learn.anomalies.fills import DefectCrop
from edge.learn.anomalies.lighting import Lighting
from edge.learn.anomalies.mix import Painted, paint
from edge.report import render
from edge.types import FloatImage, Mask

SEED = 0x5EE7  # of the sheet's own choices, beside the batches' seed
LARGEST_PX, SMALLEST_PX = (
    192,
    96,
)  # side of a window on the sheet: larger ones are reduced, smaller ones enlarged
GAP_PX, MARGIN_PX = 10, 16
CAPTION_PX, HEADING_PX = 32, 30
LINE_PX = 15
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.38
REAL_CROPS = 24  # shown at most

# BGR
PAPER, INK, SOFT = (250, 249, 247), (51, 39, 29), (122, 107, 93)
LABEL = (60, 160, 255)
FRAME = (200, 195, 190)

Picture = NDArray[np.uint8]
NO_LIGHT = Lighting(gain=0, offset=0, field=0, stripes=0, blur_px=0, noise=0, gamma=0)


@dataclass(frozen=True, slots=True)
class Cell:
    """Windows over each other, with what they are."""

    windows: tuple[Picture, ...]  # (side, side, 3) each
    lines: tuple[str, ...]


def contact_sheet(batches: AnomalyBatches, rows: int = 6, columns: int = 8) -> bytes:
    """A PNG: `rows` × `columns` examples of what these batches hold, and a row of light alone.

    The same batches give the same sheet. It has nothing of the batches' own steps: its windows are further
    ones of the same kind.
    """
    picture = drawn_sheet(batches, rows, columns)
    done, data = cv2.imencode(".png", picture)
    assert done, "a picture in memory can be encoded"
    return bytes(data.tobytes())


def contact_page(batches: AnomalyBatches, rows: int = 6, columns: int = 8) -> str:
    """The sheet as a self-contained HTML page, with how often each shape and fill occurs."""
    mix = batches.plan.mix
    return render(
        "anomalies.html",
        sheet="data:image/png;base64," + base64.b64encode(contact_sheet(batches, rows, columns)).decode(),
        shapes=_shares(mix.shapes),
        fills=_shares(mix.fills),
        lighting=asdict(batches.plan.lighting),
    )


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Largest first, together 1."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in sorted(weights.items(), key=lambda item: -item[1])}


def drawn_sheet(batches: AnomalyBatches, rows: int, columns: int) -> Picture:
    """The sheet as (h, w, 3) BGR."""
    side, mix = batches.window_px, batches.plan.mix
    blocks = [
        _heading(
            f"What the network learns from: windows of {side} px. Top: good. Middle: with anomalies. "
            "Bottom: outline of the label it is to find.",
            f"{mix.share:.0%} of windows have an anomaly, {mix.second:.0%} of those a second; "
            "shapes and fills as named below each.",
        ),
        _table([_anomaly(batches, k) for k in range(rows * columns)], columns),
        _heading(
            "Learned as good: light and optics as they vary.",
            "Top: as it was taken. Bottom: under other light. The label is empty.",
        ),
        _table([_light(batches, k) for k in range(columns)], columns),
    ]
    if batches.crops:
        shown = batches.crops[:REAL_CROPS]
        blocks += [
            _heading(f"Real defects that are painted, too: {len(shown)} of {len(batches.crops)}.", ""),
            _table([Cell((_real(crop),), ()) for crop in shown], columns),
        ]
    width = max(block.shape[1] for block in blocks) + 2 * MARGIN_PX
    height = sum(block.shape[0] for block in blocks) + 2 * MARGIN_PX
    page = _paper(height, width)
    top = MARGIN_PX
    for block in blocks:
        page[top : top + block.shape[0], MARGIN_PX : MARGIN_PX + block.shape[1]] = block
        top += block.shape[0]
    return page


def example(batches: AnomalyBatches, number: int) -> tuple[FloatImage, Painted]:
    """A good window (under varied light, as the network sees it), and what is painted on it."""
    good = replace(batches, batch=1, plan=replace(batches.plan, mix=replace(batches.plan.mix, share=0.0)))
    at = (number + 1) * (DONORS + 1)
    window = _first(good, at)
    donors = [_first(good, at + k + 1) for k in range(DONORS)]
    rng = np.random.default_rng((batches.seed, SEED, number))
    return window, paint(window, rng, batches.plan.mix, donors, batches.crops)


def _first(batches: AnomalyBatches, step: int) -> FloatImage:
    # steps of the sheet are its own: beyond any that learning reaches
    windows, _ = batches.at(SEED * 1_000_003 + step)
    return np.asarray(windows[0, 0].numpy(), np.float32)


def _anomaly(batches: AnomalyBatches, number: int) -> Cell:
    window, painted = example(batches, number)
    side = _side(batches)
    if not painted.label.any():
        lines: tuple[str, ...] = ("nothing that would", "be seen: left good")
    else:
        lines = tuple(f"{shape}: {fill}" for shape, fill in painted.kinds)
    return Cell(
        (_shown(window, side), _shown(painted.window, side), _outlined(painted.window, painted.label, side)),
        lines[:2],
    )


def _light(batches: AnomalyBatches, number: int) -> Cell:
    plan = replace(batches.plan, mix=replace(batches.plan.mix, share=0.0))
    varied = replace(batches, batch=1, plan=plan)
    plain = replace(varied, plan=replace(plan, lighting=NO_LIGHT))
    side, step = _side(batches), -1 - number
    return Cell((_shown(_first(plain, step), side), _shown(_first(varied, step), side)), ())


def _side(batches: AnomalyBatches) -> int:
    return min(max(batches.window_px, SMALLEST_PX), LARGEST_PX)


def _shown(window: FloatImage, side: int) -> Picture:
    """(side, side, 3); at its own size where that is between the bounds."""
    gray = (np.clip(window, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(_resized(gray, side), cv2.COLOR_GRAY2BGR)  # type: ignore[return-value]  # uint8


def _real(crop: DefectCrop) -> Picture:
    """A real defect in a square, outlined."""
    height, width = crop.window.shape
    longest = max(height, width)
    window, cover = np.ones((longest, longest), np.float32), np.zeros((longest, longest), np.bool_)
    window[:height, :width], cover[:height, :width] = crop.window, crop.cover > 0.5
    return _outlined(window, cover, SMALLEST_PX)


def _outlined(window: FloatImage, label: Mask, side: int) -> Picture:
    """The window with a line around its label, not on it: hair-thin cracks stay in sight."""
    picture = _shown(window, side)
    seen = _resized(label.astype(np.uint8), side)
    around = cv2.dilate(seen, np.ones((5, 5), np.uint8)) - cv2.dilate(seen, np.ones((3, 3), np.uint8))
    picture[around > 0] = LABEL
    return picture


def _resized(values: Picture, side: int) -> Picture:
    if values.shape == (side, side):
        return values
    shrinks = max(values.shape) > side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return cv2.resize(values, (side, side), interpolation=method)  # type: ignore[return-value]  # uint8


def _table(cells: Sequence[Cell], columns: int) -> Picture:
    side = cells[0].windows[0].shape[0]
    stacked = max(len(cell.windows) for cell in cells)
    caption = CAPTION_PX if any(cell.lines for cell in cells) else 0
    tall = stacked * side + (stacked - 1) * 2 + caption + GAP_PX
    page = _paper(-(-len(cells) // columns) * tall, columns * (side + GAP_PX) - GAP_PX)
    for k, cell in enumerate(cells):
        row, column = divmod(k, columns)
        left, top = column * (side + GAP_PX), row * tall
        for n, window in enumerate(cell.windows):
            y = top + n * (side + 2)
            page[y : y + side, left : left + side] = window
        below = top + stacked * (side + 2) + 10
        for n, line in enumerate(cell.lines):
            _write(page[:, left : left + side], line, 0, below + n * LINE_PX, INK)
    return page


def _heading(title: str, text: str) -> Picture:
    (wide, _), _ = cv2.getTextSize(max(title, text, key=len), FONT, FONT_SCALE * 1.15, 1)
    page = _paper(HEADING_PX + (LINE_PX if text else 0), wide + 4)
    _write(page, title, 0, 14, INK, 1.15)
    _write(page, text, 0, 14 + LINE_PX + 3, SOFT, 1.05)
    return page


def _write(
    page: Picture, text: str, x: int, y: int, colour: tuple[int, int, int], scale: float = 1.0
) -> None:
    """In place; narrowed where it would not fit."""
    (wide, _), _ = cv2.getTextSize(text, FONT, FONT_SCALE * scale, 1)
    scale *= min(1.0, (page.shape[1] - x) / max(1, wide))
    part = np.ascontiguousarray(page)
    cv2.putText(part, text, (x, y), FONT, FONT_SCALE * scale, colour, 1, cv2.LINE_AA)
    page[:] = part


def _paper(height: int, width: int) -> Picture:
    page = np.empty((height, width, 3), np.uint8)
    page[:] = PAPER
    return page
