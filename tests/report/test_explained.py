"""Planted defects and good neighbours in the reports: the numbers are there, and the drawing is sound."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import jinja2
import numpy as np

from edge.detectability import Curves, Detectability, Trial
from edge.judge.detection import fit_detection
from edge.neighbours import GoodPlane, gather
from edge.planted import CONTRASTS, SHAPES, SIZES_PX
from edge.report import TEMPLATES
from edge.report.detection_chart import Line, detection_chart
from edge.report.explained import detectability_view, similar


def found() -> Detectability:
    """Found where size times contrast is above 1; no line is found."""
    crop = np.full((96, 96), 128, np.uint8)
    curves = []
    for shape in SHAPES:
        trials = tuple(
            Trial(shape, size, size, c, c, 0.02, hit := shape != "line" and size * c > 1, hit, "f.png",
                  (0, 0, 5, 5), crop, (40, 40, 5, 5))
            for size in SIZES_PX[shape] for c in CONTRASTS for _ in range(3)
        )  # fmt: skip
        sizes, hits = [t.size_px for t in trials], [t.found for t in trials]
        fits = [
            fit_detection(sizes, levels, hits)
            for levels in ([t.contrast for t in trials], [t.relative for t in trials])
        ]
        curves.append(Curves(shape, trials, *fits))
    return Detectability(tuple(curves), 4, 1, 7, 12.0, 0, "bundle", "calibration")


def test_the_report_has_the_counts_the_sizes_and_what_is_not_bounded() -> None:
    page = "{% from 'explained.html' import detection %}"

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    result = found()
    text = environment.from_string(page + "{{ detection(it) }}").render(it=detectability_view(result))
    assert f"{result.planted} test defects" in text
    assert "a90/95" in text
    assert "learned from 1 of these frames" in text
    assert "7 more did not fit" in text
    figure = next(f for f in result.curves[0].sizes() if f.contrast == 0.08)
    assert figure.a90_px is not None
    assert 10 < figure.a90_px < 16
    assert f'<td class="n">{figure.a90}</td>' in text
    lines = text.split("<h3>Lines")[1]
    assert lines.count("not bounded") >= 2 * len(CONTRASTS)
    assert text.count("<svg") == len(SHAPES)
    assert "Missed, though large or strong" in lines
    assert "Found, though small or faint" not in lines


def test_curves_and_dots_are_where_their_shares_are() -> None:
    svg = detection_chart([Line("20", [(2, 0.0), (8, 0.5), (32, 1.0)], [(2, 0, 4), (32, 4, 4)])], 0.9)
    root = ElementTree.fromstring(svg)
    (points,) = (str(line.get("points")).split() for line in root.iter("polyline"))
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, point.split(","))) for point in points)
    assert abs((x1 - x0) - (x2 - x1)) < 0.2  # a logarithmic scale
    assert abs((y0 - y1) - (y1 - y2)) < 0.2
    dots = [(float(str(dot.get("cx"))), float(str(dot.get("cy")))) for dot in root.iter("circle")]
    assert dots == [(x0, y0), (x2, y2)]
    (wanted,) = (line for line in root.iter("line") if line.get("class") == "limit")
    assert y2 < float(str(wanted.get("y1"))) < y1


def test_names_of_curves_do_not_cover_each_other() -> None:
    lines = [Line(f"c{k}", [(2, 0.0), (32, 0.98)], []) for k in range(6)]
    root = ElementTree.fromstring(detection_chart(lines, 0.9))
    heights = sorted(float(str(t.get("y"))) for t in root.iter("text") if re.fullmatch(r"c\d", t.text or ""))
    assert len(heights) == 6
    assert min(np.diff(heights)) >= 9


def test_nothing_planted_is_said() -> None:
    assert detection_chart([], 0.9).startswith("<p>")


def test_the_place_comes_first_and_then_good_crops_with_their_sources() -> None:
    plane = np.random.default_rng(0).random((400, 400), np.float32)
    good = gather([GoodPlane("good<1>.png", "v", plane)], 1, most=20)
    place, *others = similar(good, plane, (40, 40, 8, 8), "v")
    assert place.is_place
    assert len(others) == 3
    assert all("good<1>.png at" in one.title for one in others)
    assert similar(None, plane, (40, 40, 8, 8), "v") == []
