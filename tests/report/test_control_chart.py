"""The control chart: every batch at its place, and well-formed whatever names hold."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from edge.judge.spc import Point, Reference, chart
from edge.record.batches import BatchRow
from edge.report.control_chart import HEIGHT, WIDTH, control_chart

SVG = "{http://www.w3.org/2000/svg}"


def points(*levels: float, sigma: float | None = 0.2) -> tuple[Point, ...]:
    rows = [BatchRow("B", "", 16, 16 * level, 16 * level**2, 0, 0) for level in levels]
    return chart(rows, Reference(0.02, sigma, 40))


def drawn(found: tuple[Point, ...], labels: list[str]) -> ElementTree.Element:
    return ElementTree.fromstring(control_chart(found, labels, [16] * len(labels), "of r", standalone=True))


def test_every_batch_is_a_dot_and_what_is_out_of_control_a_diamond() -> None:
    root = drawn(points(1.0, 1.0, 1.0, 1.0, 0.75), ["B1", "B2", "B3", "B4", "B5"])
    dots, diamonds = root.findall(f"{SVG}circle"), root.findall(f"{SVG}path")
    assert (len(dots), len(diamonds)) == (9, 1)
    title = str(diamonds[0].findtext(f"{SVG}title"))
    assert title.startswith("B5: nQI 0.750 of 16 frames, limits 0.8")
    assert title.endswith("out of control: below_limit")
    assert len([rect for rect in root.iter(f"{SVG}rect")]) == 10  # limits of each batch, in both panels


def test_higher_is_further_up() -> None:
    root = drawn(points(1.0, 1.1), ["B1", "B2"])
    low, high = root.findall(f"{SVG}circle")[:2]
    assert float(str(high.get("cy"))) < float(str(low.get("cy")))
    assert float(str(high.get("cx"))) > float(str(low.get("cx")))


def test_without_limits_there_are_no_bands() -> None:
    root = drawn(points(1.0, 5.0, sigma=None), ["B1", "B2"])
    assert root.findall(f"{SVG}rect") == []
    assert root.findall(f"{SVG}path") == []


@given(
    st.lists(st.tuples(st.text(max_size=30), st.floats(1e-6, 1e6)), min_size=1, max_size=40),
    st.one_of(st.none(), st.floats(1e-6, 10)),
)
def test_it_is_xml_inside_its_frame_whatever_names_and_values(
    batches: list[tuple[str, float]], sigma: float | None
) -> None:
    root = drawn(points(*(level for _, level in batches), sigma=sigma), [name for name, _ in batches])
    assert not {element.tag.removeprefix(SVG) for element in root.iter()} & {"script", "foreignObject"}
    for dot in root.findall(f"{SVG}circle"):
        assert 0 <= float(str(dot.get("cx"))) <= WIDTH
        assert 0 <= float(str(dot.get("cy"))) <= HEIGHT
