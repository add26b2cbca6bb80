"""Charts: numbers at the right places, and valid XML."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from edge.report.charts import loss_curve, score_histogram


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
