"""Small inline SVG charts for the report: the loss over the steps, the scores of a view beside its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 360, 120
BIN = 0.05  # of a histogram, in thresholds
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 16, 22


def score_histogram(scores: Sequence[float], threshold: float) -> Markup:
    """Raw scores of good frames relative to the threshold, with the threshold as a line at 1."""
    relative = np.asarray(scores, np.float64) / threshold
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
    line = _x(1 / top)
    parts.append(f'<line class="limit" x1="{line:.1f}" x2="{line:.1f}" y1="{TOP - 3}" y2="{_y(0)}"/>')
    parts.append(f'<text class="limit" x="{line:.1f}" y="{TOP - 7}" text-anchor="middle">threshold</text>')
    for tick in np.arange(0.0, top, 0.25):
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


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _svg(parts: Sequence[str], title: str) -> Markup:
    base = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(0)}" y2="{_y(0)}"/>'
    body = "".join((base, *parts))
    # numbers and our own words only: nothing in it comes from file names
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{body}</svg>')


def curves(lines: Sequence[tuple[str, Sequence[float], Sequence[float]]], title: str) -> Markup:
    """Curves of shares over shares, each (CSS class, x values, y values) with all values in 0..1."""
    parts = []
    for kind, xs, ys in lines:
        points = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    for tick in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{_x(tick):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{tick:g}</text>')
    return _svg(parts, title)


def score_strip(good: Sequence[float], defect: Sequence[float]) -> Markup:
    """Normalised scores of good frames (below) and defect frames (above), the threshold as a line at 1."""
    top = max(2.0, *good, *defect) * 1.05
    parts = []
    for kind, scores, level in (("dot", good, 0.3), ("dot above", defect, 0.75)):
        for number, score in enumerate(scores):
            y = _y(level + 0.2 * ((number * 0.618) % 1.0 - 0.5))  # spread, so that equal scores show
            parts.append(f'<circle class="{kind}" cx="{_x(score / top):.1f}" cy="{y:.1f}" r="2.6"/>')
    line = _x(1 / top)
    parts.append(f'<line class="limit" x1="{line:.1f}" x2="{line:.1f}" y1="{TOP - 3}" y2="{_y(0)}"/>')
    parts.append(f'<text class="limit" x="{line:.1f}" y="{TOP - 7}" text-anchor="middle">threshold</text>')
    step = max(0.5, round(top / 8 * 2) / 2)
    for tick in np.arange(0.0, top, step):
        parts.append(f'<text x="{_x(tick / top):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{tick:g}</text>')
    return _svg(parts, f"scores of {len(good)} good and {len(defect)} defect frames")
