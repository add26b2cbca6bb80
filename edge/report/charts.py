"""Small inline SVG charts for the reports: losses, scores beside their limits, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 360, 120
TALL = 240  # of curves over two shares, which are read along both axes
BIN = 0.05  # of a histogram, in thresholds
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 16, 22
MARGIN = 26  # left of charts whose vertical axis has numbers
MOST_POINTS = 400  # of a curve: more than there are pixels to show them


MOST_RELATIVE = 5.0
LEAST, MOST = 0.02, 100.0  # of normalised scores beside each other


def score_histogram(scores: Sequence[float], threshold: float) -> Markup:
    """Raw scores of good frames relative to the threshold, with the threshold as a line at 1.

    What lies beyond MOST_RELATIVE is drawn there.
    """
    if not scores:
        return Markup("<p>no good frame</p>")
    relative = np.minimum(np.asarray(scores, np.float64) / threshold, MOST_RELATIVE)
    edges = np.arange(0, max(1.15, float(relative.max())) + BIN, BIN)
    # a score at an edge belongs below it: at the threshold a frame is still OK
    counts, _ = np.histogram(np.maximum(relative - 1e-9, 0), bins=edges)
    top = float(edges[-1])
    highest = max(1, int(counts.max()))
    parts = []
    for count, start, stop in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:  # the threshold is an edge, so a bar is on one side of it
            x, y = _x(start / top), _y(count / highest)
            kind = "bar above" if start > 1 - BIN / 2 else "bar"
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{_x(stop / top) - x - 1:.1f}" '
                f'height="{_y(0) - y:.1f}"><title>{count} frames, {start:.2f} to {stop:.2f}</title></rect>'
            )
    parts += _threshold_at(1 / top)
    for tick in np.arange(0.0, top, 0.25 if top < 2 else 1.0):
        parts.append(f'<text x="{_x(tick / top):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{tick:g}</text>')
    return _svg(parts, f"{len(scores)} scores relative to the threshold")


def loss_curve(curve: Sequence[tuple[int, float, float]], best_step: int) -> Markup:
    """Training and validation loss over the steps, the best validation marked; losses on a log scale."""
    usable = [point for point in curve if min(point[1:]) > 0 and all(map(math.isfinite, point[1:]))]
    if not usable:
        return Markup("<p>too short a run for a curve</p>")
    last = usable[-1][0]
    values = [math.log(value) for point in usable for value in point[1:]]
    low, high = min(values), max(values)
    span = max(high - low, 1e-6)

    def at(step: int, value: float) -> str:
        return f"{_x(step / last):.1f},{_y((math.log(value) - low) / span):.1f}"

    parts = [
        f'<polyline class="{kind}" points="{" ".join(at(p[0], p[column]) for p in usable)}"/>'
        for kind, column in (("train", 1), ("validation", 2))
    ]
    for point in usable:
        if point[0] == best_step:
            x, y = at(point[0], point[2]).split(",")
            parts.append(f'<circle class="best" cx="{x}" cy="{y}" r="3.5"><title>best</title></circle>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 5}">{math.exp(high):.3g}</text>')
    parts.append(f'<text x="{LEFT}" y="{_y(0) - 3}">{math.exp(low):.3g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step {last}</text>')
    return _svg(parts, "loss over the steps")


def curves(lines: Sequence[tuple[str, Sequence[float], Sequence[float]]], title: str) -> Markup:
    """Curves of shares over shares, each (CSS class, x values, y values) with all values in 0..1."""
    parts = _shares_upwards()
    for kind, xs, ys in lines:
        parts.append(_line(kind, xs, ys))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_tick(tick, f"{tick:g}"))
    return _svg(parts, title, TALL, MARGIN)


def f_chart(thresholds: Sequence[float], f1: Sequence[float], f2: Sequence[float]) -> Markup:
    """F1 (solid) and F2 (dashed) of the frames over the threshold, in units of the calibrated one.

    `thresholds` fall; each admits the scores at or above it.
    """
    top = max(2.0, min(1.1 * max(thresholds, default=0.0), 4.0))
    parts = _shares_upwards()
    for kind, values in (("train", f2), ("validation", f1)):
        xs, ys = _steps(np.asarray(thresholds)[::-1], np.asarray(values)[::-1], top)
        parts.append(_line(kind, xs / top, ys))
    parts += _threshold_at(1 / top, TALL, MARGIN)
    for tick in np.arange(0.0, top + 1e-9, 0.5):
        parts.append(_tick(tick / top, f"{tick:g}"))
    return _svg(parts, "F1 and F2 over the threshold", TALL, MARGIN)


def score_strip(good: Sequence[float], defect: Sequence[float]) -> Markup:
    """Normalised scores of good frames (below) and defect frames (above), the threshold as a line at 1."""
    top = max(2.0, *good, *defect) * 1.05
    parts = []
    for kind, scores, level in (("dot", good, 0.3), ("dot above", defect, 0.75)):
        for number, score in enumerate(scores):
            y = _y(level + 0.2 * ((number * 0.618) % 1.0 - 0.5))  # spread, so that equal scores show
            parts.append(f'<circle class="{kind}" cx="{_x(score / top):.1f}" cy="{y:.1f}" r="2.6"/>')
    parts += _threshold_at(1 / top)
    step = max(0.5, round(top / 8 * 2) / 2)
    for tick in np.arange(0.0, top, step):
        parts.append(f'<text x="{_x(tick / top):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{tick:g}</text>')
    return _svg(parts, f"scores of {len(good)} good and {len(defect)} defect frames")


def area_scatter(good: Sequence[tuple[float, float]], defect: Sequence[tuple[float, float]]) -> Markup:
    """Frames as dots: normalised score upwards, the foreground's share of the frame to the right.

    Each frame is (share, score); the threshold is the line at 1. A score that does not depend on how much is
    in sight shows the good frames as a level band.
    """
    shares = [share for share, _ in (*good, *defect)]
    low, high = min(shares, default=0.0), max(shares, default=1.0)
    low, high = max(0.0, low - 0.1 * (high - low) - 0.005), min(1.0, high + 0.1 * (high - low) + 0.005)
    top = max(1.5, *(score for _, score in (*good, *defect))) * 1.05
    parts = []
    for kind, frames in (("dot", good), ("dot above", defect)):
        for share, score in frames:
            x, y = _x((share - low) / (high - low), MARGIN), _y(score / top, TALL)
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>')
    line = _y(1 / top, TALL)
    right = WIDTH - RIGHT
    parts.append(f'<line class="limit" x1="{MARGIN}" x2="{right}" y1="{line:.1f}" y2="{line:.1f}"/>')
    parts.append(f'<text class="limit" x="{right}" y="{line - 4:.1f}" text-anchor="end">threshold</text>')
    for tick in np.arange(0.0, top, max(0.5, round(top / 6 * 2) / 2)):
        parts.append(_left_tick(tick / top, f"{tick:g}"))
    for place in (0.0, 0.5, 1.0):
        parts.append(_tick(place, f"{100 * (low + place * (high - low)):.3g} %"))
    return _svg(parts, "score over the foreground's share of the frame", TALL, MARGIN)


def old_and_new(same: Sequence[tuple[float, float]], flips: Sequence[tuple[float, float]]) -> Markup:
    """Frames as dots: normalised score of one recipe to the right, of the other upwards, thresholds at 1.

    Both on a log scale. Flips have another colour and shape; on the diagonal nothing changed. What lies
    beyond LEAST and MOST is drawn there.
    """
    values = [value for point in (*same, *flips) for value in point]
    low = max(LEAST, min([0.4, *values]) / 1.1)
    high = min(MOST, max([2.5, *values]) * 1.1)

    def at(value: float) -> float:
        return math.log(min(max(value, low), high) / low) / math.log(high / low)

    line = _y(at(1), TALL)
    parts = [
        f'<line class="axis" x1="{MARGIN}" y1="{_y(0, TALL)}" x2="{_x(1, MARGIN)}" y2="{_y(1, TALL)}"/>',
        f'<line class="limit" x1="{MARGIN}" x2="{WIDTH - RIGHT}" y1="{line:.1f}" y2="{line:.1f}"/>',
        *_threshold_at(at(1), TALL, MARGIN),
    ]
    for tick in (one * 10.0**power for power in range(-2, 3) for one in (1, 2, 5)):
        if low <= tick <= high:
            parts += [_left_tick(at(tick), f"{tick:g}"), _tick(at(tick), f"{tick:g}")]
    for old, new in same:
        x, y = _x(at(old), MARGIN), _y(at(new), TALL)
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2"/>')
    for old, new in flips:
        x, y = _x(at(old), MARGIN), _y(at(new), TALL)
        parts.append(f'<path class="flip" d="M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6"/>')
    return _svg(parts, f"new score over old score of {len(same) + len(flips)} frames", TALL, MARGIN)


def interval_bar(value: float, low: float, high: float) -> Markup:
    """A figure in 0..1 as a dot on its interval."""
    at = [4 + 152 * min(1.0, max(0.0, v)) for v in (value, low, high)]
    return Markup(
        '<svg class="interval" viewBox="0 0 160 14" role="img" '
        f'aria-label="{value:.3f}, {low:.3f} to {high:.3f}">'
        '<line class="axis" x1="4" x2="156" y1="7" y2="7"/>'
        f'<line class="range" x1="{at[1]:.1f}" x2="{at[2]:.1f}" y1="7" y2="7"/>'
        f'<circle class="best" cx="{at[0]:.1f}" cy="7" r="3.5"/></svg>'
    )


def _x(share: float, left: int = LEFT) -> float:
    return left + share * (WIDTH - left - RIGHT)


def _y(share: float, height: int = HEIGHT) -> float:
    return height - BOTTOM - share * (height - TOP - BOTTOM)


def _steps(scores: Floats, values: Floats, top: float) -> tuple[Floats, Floats]:
    """Corners from 0 to top: up to each score (rising) the value is its own, above the last one 0."""
    inside = int(np.searchsorted(scores, top))
    levels = np.append(values, 0.0)[: inside + 1]
    return np.concatenate([[0.0], np.repeat(scores[:inside], 2), [top]]), np.repeat(levels, 2)


def _line(kind: str, xs: Sequence[float] | Floats, ys: Sequence[float] | Floats) -> str:
    """A polyline in a tall chart; of a long one evenly chosen points."""
    kept = np.unique(np.linspace(0, max(0, len(xs) - 1), min(len(xs), MOST_POINTS)).astype(int)).tolist()
    points = " ".join(f"{_x(float(xs[i]), MARGIN):.1f},{_y(float(ys[i]), TALL):.1f}" for i in kept)
    return f'<polyline class="{kind}" points="{points}"/>'


def _shares_upwards() -> list[str]:
    """Numbers and faint lines for 0 to 1 along the vertical axis of a tall chart."""
    parts = []
    for tick in (0.25, 0.5, 0.75, 1.0):
        y = _y(tick, TALL)
        parts.append(f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_left_tick(tick, f"{tick:g}"))
    return parts


def _left_tick(share: float, text: str) -> str:
    return f'<text x="{MARGIN - 5}" y="{_y(share, TALL) + 3:.1f}" text-anchor="end">{text}</text>'


def _tick(share: float, text: str) -> str:
    anchor = "start" if share < 0.02 else "end" if share > 0.98 else "middle"
    return f'<text x="{_x(share, MARGIN):.1f}" y="{TALL - 8}" text-anchor="{anchor}">{text}</text>'


def _threshold_at(share: float, height: int = HEIGHT, left: int = LEFT) -> list[str]:
    x = _x(share, left)
    return [
        f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 3}" y2="{_y(0, height)}"/>',
        f'<text class="limit" x="{x:.1f}" y="{TOP - 7}" text-anchor="middle">threshold</text>',
    ]


def _svg(parts: Sequence[str], title: str, height: int = HEIGHT, left: int = LEFT) -> Markup:
    floor = _y(0, height)
    base = f'<line class="axis" x1="{left}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
    body = "".join((base, *parts))
    # numbers and our own words only: nothing in it comes from file names
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">{body}</svg>')
