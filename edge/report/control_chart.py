"""The control chart of a recipe's view as SVG: nQI of each batch above, its EWMA below, each with its limits.

Colours come from the classes: of the page it stands in, or of `STYLE` where it is a file of its own. What is
out of control has another shape too, not only another colour.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from edge.judge.spc import Limits, Point

WIDTH, HEIGHT = 640, 250
LEFT, RIGHT = 44, 10
PANELS = ((18, 118, "nQI"), (148, 224, "EWMA"))  # top, bottom, name
MOST_LABELS = 6
LABEL_CHARACTERS = 14
STYLE = """
  .control { background: #fff; color: #1d2733; font: 10px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
  .control text { fill: #5d6b7a; } .control .band { fill: #2c7fb8; fill-opacity: .13; }
  .control .centre { stroke: #5d6b7a; stroke-dasharray: 4 3; }
  .control .trend { fill: none; stroke: #2c7fb8; }
  .control .dot { fill: #2c7fb8; } .control .out { fill: #c0392b; }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure over the batches, and how to bring values to pixels."""

    values: Sequence[float]
    limits: Sequence[Limits | None]
    rules: Sequence[bool]
    top: int
    bottom: int
    name: str

    def scale(self) -> tuple[float, float, Callable[[float], float]]:
        """(lowest, highest value shown, value → y)."""
        shown = [1.0, *self.values]
        shown += [side for limits in self.limits if limits for side in (limits.lower, limits.upper)]
        low, high = min(shown), max(shown)
        pad = max(0.05 * (high - low), 0.005)
        low, high = max(0.0, low - pad), high + pad
        return low, high, lambda value: self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def control_chart(
    points: Sequence[Point],
    labels: Sequence[str],
    frames: Sequence[int],
    title: str,
    *,
    standalone: bool = False,
) -> str:
    """The chart of batches in their order; `labels` and `frames` are their names and sizes.

    It is well-formed XML whatever the names hold.
    """
    smoothed = [{rule for rule in point.rules if rule.startswith("ewma")} for point in points]
    shewhart = Panel(
        [point.nqi for point in points],
        [point.limits for point in points],
        [bool(set(point.rules) - rules) for point, rules in zip(points, smoothed, strict=True)],
        *PANELS[0],
    )
    ewma = Panel(
        [point.ewma for point in points],
        [point.ewma_limits for point in points],
        [bool(rules) for rules in smoothed],
        *PANELS[1],
    )
    said = [_said(point, label, n) for point, label, n in zip(points, labels, frames, strict=True)]
    body = [*_panel(shewhart, said), *_panel(ewma, said), *_labels(labels)]
    style = f"<style>{STYLE}</style>" if standalone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="control" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f"aria-label={quoteattr(printable(title))}>{style}{''.join(body)}</svg>"
    )


def printable(text: str) -> str:
    """Text as XML can hold it: names come from files, and may hold anything."""
    return re.sub(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _panel(panel: Panel, said: Sequence[str]) -> list[str]:
    low, high, y = panel.scale()
    count = len(panel.values)
    half = _step(count) / 2
    parts = [f'<text x="{LEFT}" y="{panel.top - 5}">{panel.name}</text>']
    for at, limits in enumerate(panel.limits):  # each batch has limits of its own width
        if limits is not None:
            parts.append(
                f'<rect class="band" x="{_x(at, count) - half:.1f}" width="{2 * half:.1f}" '
                f'y="{y(limits.upper):.1f}" height="{y(limits.lower) - y(limits.upper):.1f}"/>'
            )
    parts.append(f'<line class="centre" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(1):.1f}" y2="{y(1):.1f}"/>')
    line = " ".join(f"{_x(at, count):.1f},{y(value):.1f}" for at, value in enumerate(panel.values))
    parts.append(f'<polyline class="trend" points="{line}"/>')
    for at, (value, out) in enumerate(zip(panel.values, panel.rules, strict=True)):
        x, level = _x(at, count), y(value)
        shape = (
            f'<path class="out" d="M{x:.1f} {level - 6:.1f}l6 6l-6 6l-6 -6z">'
            if out
            else f'<circle class="dot" cx="{x:.1f}" cy="{level:.1f}" r="3">'
        )
        parts.append(f"{shape}<title>{escape(said[at])}</title></{'path' if out else 'circle'}>")
    marks = {y(1.0): 1.0}
    for value in (low, high):
        if all(abs(y(value) - other) > 12 for other in marks):
            marks[y(value)] = value
    for level, value in marks.items():
        parts.append(f'<text x="{LEFT - 6}" y="{level + 3:.1f}" text-anchor="end">{value:.3g}</text>')
    return parts


def _labels(labels: Sequence[str]) -> list[str]:
    every = -(-len(labels) // MOST_LABELS) or 1
    parts = []
    for at, label in enumerate(labels):
        if (len(labels) - 1 - at) % every:
            continue
        short = label if len(label) <= LABEL_CHARACTERS else label[: LABEL_CHARACTERS - 1] + "…"
        x = _x(at, len(labels))
        anchor = "end" if x > WIDTH - 50 else "start" if x < LEFT + 30 else "middle"
        text = escape(printable(short))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{text}</text>')
    return parts


def _said(point: Point, label: str, frames: int) -> str:
    limits, around = point.limits, point.ewma_limits
    text = f"{label}: nQI {point.nqi:.3f} of {frames} frames"
    if limits is not None and around is not None:
        text += (
            f", limits {limits.lower:.3f} to {limits.upper:.3f}; EWMA {point.ewma:.3f}, "
            f"limits {around.lower:.3f} to {around.upper:.3f}"
        )
    if point.rules:
        text += f"; out of control: {', '.join(point.rules)}"
    return printable(text)


def _step(count: int) -> float:
    return (WIDTH - LEFT - RIGHT) / max(1, count)


def _x(at: int, count: int) -> float:
    return LEFT + (at + 0.5) * _step(count)
