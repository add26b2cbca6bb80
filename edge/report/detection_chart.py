"""Probability of detection over size, a curve for each contrast, with what was counted as dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 34, 46, 12, 34
TICKS_PX = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One contrast: its name, the fitted (size, probability), and the counted (size, found, of)."""

    name: str
    fitted: Sequence[tuple[float, float]]
    counted: Sequence[tuple[float, int, int]]


def detection_chart(lines: Sequence[Line], probability: float) -> Markup:
    """An SVG: sizes to the right on a logarithmic scale, the share found upwards, `probability` as a line.

    Fainter contrasts are drawn fainter. Names and numbers only: nothing in it comes from file names.
    """
    sizes = [size for line in lines for size, *_ in (*line.fitted, *line.counted)]
    if not sizes:
        return Markup("<p>nothing was planted</p>")
    low, high = math.log(min(sizes)), math.log(max(sizes))
    span = max(high - low, 1e-9)

    def x(size: float) -> float:
        return LEFT + (math.log(size) - low) / span * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    right, floor = WIDTH - RIGHT, y(0)
    parts = []
    for level in LEVELS:
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(level) + 3:.1f}" text-anchor="end">{level:.0%}</text>')
    for tick in TICKS_PX:
        if low - 1e-9 <= math.log(tick) <= high + 1e-9:
            at = f"{x(tick):.1f}"
            parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{floor:.1f}" y2="{floor + 4:.1f}"/>')
            parts.append(f'<text x="{at}" y="{floor + 14:.1f}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<text x="{(LEFT + right) / 2:.1f}" y="{HEIGHT - 4}" text-anchor="middle">size in px</text>'
    )
    wanted = y(probability)
    parts.append(f'<line class="limit" x1="{LEFT}" x2="{right}" y1="{wanted:.1f}" y2="{wanted:.1f}"/>')
    parts.append(f'<text class="limit" x="{LEFT + 3}" y="{wanted - 3:.1f}">{probability:.0%}</text>')
    taken: list[float] = []
    for k, line in enumerate(lines):
        faint = f'style="opacity:{(0.3 + 0.7 * (k + 1) / len(lines)):.2f}"'
        if line.fitted:
            points = " ".join(f"{x(size):.1f},{y(share):.1f}" for size, share in line.fitted)
            parts.append(f'<polyline class="validation" {faint} points="{points}"/>')
        for size, found, of in line.counted:
            parts.append(
                f'<circle class="dot" {faint} cx="{x(size):.1f}" cy="{y(found / of):.1f}" r="2.4">'
                f"<title>{line.name}, {size:.3g} px: {found} of {of} found</title></circle>"
            )
        last = line.fitted[-1][1] if line.fitted else None
        if last is None and line.counted:
            last = line.counted[-1][1] / line.counted[-1][2]
        if last is not None:
            taken.append(_free(y(last), taken))
            parts.append(f'<text x="{right + 5}" y="{taken[-1] + 3:.1f}">{line.name}</text>')
    body = "".join(parts)
    title = "probability of detection over size"
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{body}</svg>')


def _free(wanted: float, taken: Sequence[float]) -> float:
    """The height nearest to the wanted one where a name does not cover another."""
    steps = [wanted + sign * 10 * k for k in range(12) for sign in (1, -1)]
    inside = [at for at in steps if TOP <= at <= HEIGHT - BOTTOM]
    return next((at for at in inside if all(abs(at - other) >= 9.5 for other in taken)), wanted)
