"""Charts: numbers at the right places, and valid XML."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from edge.report.charts import (
    MOST_POINTS,
    area_scatter,
    curves,
    f_chart,
    interval_bar,
    loss_curve,
    score_histogram,
)


def test_histogram_counts_every_frame_and_shows_those_above_the_threshold() -> None:
    scores = [0.4, 0.5, 0.5, 0.6, 1.3]
    root = ElementTree.fromstring(score_histogram(scores, 1.0))
    bars = [bar for bar in root.iter("rect")]
    titles = [str(bar.findtext("title")) for bar in bars]
    assert sum(int(title.split()[0]) for title in titles) == len(scores)
    assert [bar.get("class") for bar in bars].count("bar above") == 1


def test_loss_curve_marks_the_best_and_leaves_out_what_is_not_finite() -> None:
    root = ElementTree.fromstring(loss_curve([(10, 0.5, 0.6), (20, math.nan, 0.5), (30, 0.2, 0.3)], 30))
    assert [len(str(line.get("points")).split()) for line in root.iter("polyline")] == [2, 2]
    assert len(list(root.iter("circle"))) == 1
    assert loss_curve([], 0).startswith("<p>")


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (p.split(",") for p in str(line.get("points")).split())]


def test_f_chart_steps_down_to_nothing_above_the_highest_score() -> None:
    root = ElementTree.fromstring(f_chart([1.5, 0.5], [0.4, 0.9], [0.3, 0.8]))
    f2, f1 = (points(line) for line in root.iter("polyline"))
    xs, ys = zip(*f1, strict=True)
    assert list(xs) == sorted(xs)
    assert len(set(ys)) == 3  # 0.9 up to 0.5, 0.4 up to 1.5, then 0
    assert ys[0] < ys[2] < ys[-1]  # upwards is less
    (limit,) = (line for line in root.iter("line") if line.get("class") == "limit")
    assert f1[1][0] < float(str(limit.get("x1"))) < f1[3][0]  # the calibrated threshold lies between the two
    assert f2[0][1] > f1[0][1]


def test_f_chart_does_not_fall_before_the_scores_end() -> None:
    """Scores beyond the chart's right edge hold the curve up to it."""
    root = ElementTree.fromstring(f_chart([50.0, 0.5], [0.5, 0.9], [0.5, 0.9]))
    last = [points(line)[-1] for line in root.iter("polyline")]
    floor = max(float(str(line.get("y1"))) for line in root.iter("line"))
    assert all(y < floor - 50 for _, y in last)


def test_area_scatter_has_a_dot_a_frame_at_its_share_and_score() -> None:
    root = ElementTree.fromstring(area_scatter([(0.2, 0.5), (0.6, 0.5)], [(0.4, 3.0)]))
    left, right, defect = root.iter("circle")
    assert defect.get("class") == "dot above"
    assert left.get("cy") == right.get("cy")
    assert float(str(left.get("cx"))) < float(str(defect.get("cx"))) < float(str(right.get("cx")))
    (limit,) = (line for line in root.iter("line") if line.get("class") == "limit")
    assert float(str(defect.get("cy"))) < float(str(limit.get("y1"))) < float(str(left.get("cy")))


def test_an_interval_bar_holds_its_figure() -> None:
    root = ElementTree.fromstring(interval_bar(0.9, 0.8, 1.0))
    (dot,) = root.iter("circle")
    (line,) = (line for line in root.iter("line") if line.get("class") == "range")
    low, at, high = (float(str(v)) for v in (line.get("x1"), dot.get("cx"), line.get("x2")))
    assert low < at < high


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    share = [i / 9999 for i in range(10_000)]
    (line,) = ElementTree.fromstring(curves([("validation", share, share)], "ROC")).iter("polyline")
    assert len(points(line)) <= MOST_POINTS
    assert points(line)[0][0] < points(line)[-1][0]
    assert points(line)[-1][1] < 20
