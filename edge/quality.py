"""Quality over batches as it is shown: what is stored, put on its control chart, for page, metrics, files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge.judge.spc import LEAST_REFERENCE_FRAMES, Limits, Point, Reference, chart
from edge.record.batches import BatchRow, ChartRow
from edge.timestamps import utc_text

# An EWMA with λ = 0.2 has forgotten what lies so many batches back: 0.8^500 = 3e-49
MEMORY = 500
ALL = 1_000_000_000


class BatchStore(Protocol):
    """Where batches are kept: `edge.record.store.Store` and `edge.record.reader.BatchReader`."""

    def spc_charts(self, recipe: str | None = None, view: str | None = None) -> list[ChartRow]: ...

    def spc_batches(self, chart: ChartRow, last: int) -> list[BatchRow]: ...


@dataclass(frozen=True, slots=True)
class ControlChart:
    """A recipe's view over its batches, one at least, oldest first."""

    row: ChartRow
    batches: tuple[BatchRow, ...]
    points: tuple[Point, ...]

    @property
    def in_control(self) -> bool | None:
        """Whether the latest batch is; None where there are no limits."""
        return None if self.row.sigma is None else self.points[-1].in_control

    @property
    def why_no_limits(self) -> str:
        """What a person is told where there are none; empty where there are."""
        if self.row.sigma is not None:
            return ""
        if self.row.reference_frames < LEAST_REFERENCE_FRAMES:
            return f"fewer than {LEAST_REFERENCE_FRAMES} calibration frames ({self.row.reference_frames})"
        return "all calibration frames have the same score"

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.row.recipe}, view {self.row.view}" if self.row.view else self.row.recipe


def control_charts(
    store: BatchStore, recipe: str | None = None, view: str | None = None, last: int = ALL
) -> list[ControlChart]:
    """The charts of a recipe and view (None: all) under their latest calibration; the last batches of each.

    A batch's point does not depend on how many are asked for.
    """
    found = [_control_chart(store, row, last) for row in store.spc_charts(recipe, view)]
    return [of for of in found if of.points]


def _control_chart(store: BatchStore, row: ChartRow, last: int) -> ControlChart:
    batches = store.spc_batches(row, last + MEMORY)
    points = chart(batches, Reference(row.mean, row.sigma, row.reference_frames))
    return ControlChart(row, tuple(batches[-last:]), points[-last:])


def document(of: ControlChart) -> dict[str, Any]:
    """What /api/v1/spc and `edge spc --json` say of a chart."""
    row = of.row
    return {
        "recipe": row.recipe,
        "view": row.view,
        "calibrationSha256": row.calibration,
        "reference": {"meanRaw": row.mean, "sigma": row.sigma, "frames": row.reference_frames},
        "inControl": of.in_control,
        "updatedAt": utc_text(row.updated_unix_s, "milliseconds"),
        "points": [_point(batch, point) for batch, point in zip(of.batches, of.points, strict=True)],
    }


COLUMNS = ("recipe", "view", "batch", "day", "frames", "nqi", "deviation", "lower", "upper", "ewma",
           "ewmaLower", "ewmaUpper", "rules", "firstAt", "lastAt", "calibrationSha256")  # fmt: skip


def table(charts: Iterable[ControlChart]) -> Iterable[list[Any]]:
    """Rows below `COLUMNS`, one a batch and view; None is an empty cell."""
    for of in charts:
        said = document(of)
        for point in said["points"]:
            cells = said | point | {"rules": " ".join(point["rules"])}
            yield [cells[name] for name in COLUMNS]


def _point(batch: BatchRow, point: Point) -> dict[str, Any]:
    return {
        "batch": batch.batch,
        "day": batch.day,
        "frames": batch.frames,
        "nqi": point.nqi,
        "deviation": point.deviation,
        **_sides(point.limits, "lower", "upper"),
        "ewma": point.ewma,
        **_sides(point.ewma_limits, "ewmaLower", "ewmaUpper"),
        "rules": list(point.rules),
        "firstAt": utc_text(batch.first_unix_s, "milliseconds"),
        "lastAt": utc_text(batch.last_unix_s, "milliseconds"),
    }


def _sides(limits: Limits | None, lower: str, upper: str) -> dict[str, float | None]:
    if limits is None:
        return {lower: None, upper: None}
    return {lower: limits.lower, upper: limits.upper}


def draw(of: ControlChart, *, standalone: bool = False) -> str:
    """The chart as SVG."""
    from edge.report.control_chart import control_chart

    labels: Sequence[str] = [batch.label for batch in of.batches]
    frames = [batch.frames for batch in of.batches]
    return control_chart(of.points, labels, frames, f"control chart of {of.name}", standalone=standalone)


class QualityView:
    """What the page and the API ask of a store."""

    def __init__(self, store: BatchStore) -> None:
        self._store = store

    def documents(self, recipe: str | None, view: str | None, last: int) -> list[dict[str, Any]]:
        """Charts of a recipe and view (None: all), with the last batches of each."""
        return [document(found) for found in control_charts(self._store, recipe, view, last)]

    def svg(self, recipe: str, view: str, last: int) -> str | None:
        """The chart of one view, or None where there is none."""
        found = control_charts(self._store, recipe, view, last)
        return draw(found[0]) if found else None
