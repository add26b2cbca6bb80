"""Rectification: four corners become the picture's, and boxes find their way back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DataError
from edge.preprocess.rectify import edges_to_frame, homography_from_points, rectify
from edge.types import FloatImage, Placement

TILTED = ((40.0, 30.0), (220.0, 50.0), (200.0, 190.0), (20.0, 150.0))
SIZE = (200, 140)

offsets = st.floats(-25, 25)
quads = st.tuples(*[st.tuples(offsets, offsets)] * 4).map(
    lambda moves: [
        (x + dx, y + dy)
        for (x, y), (dx, dy) in zip([(50, 50), (350, 50), (350, 250), (50, 250)], moves, strict=True)
    ]
)


def board(height: int = 240, width: int = 260, step: int = 20) -> FloatImage:
    rows, columns = np.ogrid[:height, :width]
    return (((rows // step + columns // step) % 2) * 0.6 + 0.2).astype(np.float32)


def where(homography: np.ndarray, point: tuple[float, float]) -> tuple[float, float]:  # type: ignore[type-arg]
    x, y, w = homography @ [*point, 1.0]
    return x / w, y / w


@given(quads, st.integers(20, 900), st.integers(20, 900))
def test_the_four_points_become_the_corners(
    points: list[tuple[float, float]], width: int, height: int
) -> None:
    homography = homography_from_points(points, (width, height))
    corners = [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]
    found = [where(homography, point) for point in points]
    np.testing.assert_allclose(found, corners, atol=0.01)


def test_points_far_from_the_origin_are_as_exact() -> None:
    points = [(x + 9000, y + 7000) for x, y in TILTED]
    homography = homography_from_points(points, SIZE)
    np.testing.assert_allclose(where(homography, points[2]), (199, 139), atol=0.01)


def test_the_frames_own_corners_change_nothing() -> None:
    plane = board()
    homography = homography_from_points([(0, 0), (259, 0), (259, 239), (0, 239)], (260, 240))
    np.testing.assert_allclose(rectify(plane, homography, (260, 240)), plane, atol=1e-4)


def test_a_tilted_board_is_square_again() -> None:
    flat = board(140, 200)
    homography = homography_from_points(TILTED, SIZE)
    seen = cv2.warpPerspective(flat, np.linalg.inv(homography), (260, 240)).astype(np.float32)
    again = rectify(seen, homography, SIZE)
    assert again.shape == flat.shape
    assert np.abs(again - flat)[3:-3, 3:-3].mean() < 0.05
    assert np.corrcoef(again[3:-3, 3:-3].ravel(), flat[3:-3, 3:-3].ravel())[0, 1] > 0.95


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    plane = np.zeros((400, 400), np.float32)
    plane[:, ::4] = 1.0  # every fourth column; sampled at every eighth it would be all or nothing
    homography = homography_from_points([(0, 0), (399, 0), (399, 399), (0, 399)], (50, 50))
    small = rectify(plane, homography, (50, 50))
    np.testing.assert_allclose(small[2:-2, 2:-2], 0.25, atol=0.1)


def test_beyond_the_frame_is_black() -> None:
    homography = homography_from_points([(-2, 10), (148, 10), (148, 100), (-2, 100)], (151, 91))
    seen = rectify(np.ones((120, 150), np.float32), homography, (151, 91))
    assert (seen[:, :2] == 0).all()
    assert (seen[:, 2:] == 1).all()


@pytest.mark.parametrize(("shape", "share"), [((50, 60), "98%"), ((240, 160), "30%"), ((240, 205), "4%")])
def test_looking_beyond_the_frame_is_refused(shape: tuple[int, int], share: str) -> None:
    homography = homography_from_points(TILTED, SIZE)
    with pytest.raises(DataError, match=f"{share} of it beyond the frame's {shape[1]} × {shape[0]} px"):
        rectify(np.ones(shape, np.float32), homography, SIZE)


@pytest.mark.parametrize(("size_px", "samples"), [((500, 500), 8), ((3000, 4000), 2), ((9000, 8000), 1)])
def test_what_is_sampled_at_once_is_bounded(
    size_px: tuple[int, int], samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    warped: list[tuple[int, int]] = []

    def warp(plane: FloatImage, _: object, size: tuple[int, int], **options: object) -> FloatImage:
        warped.append(size)
        return np.zeros((size_px[1], size_px[0]), np.float32)

    monkeypatch.setattr(cv2, "warpPerspective", warp)
    monkeypatch.setattr(cv2, "resize", lambda plane, *rest, **options: plane)
    width, height = size_px
    frame = np.broadcast_to(np.float32(0), (height * 8, width * 8))
    rectify(frame, np.diag([1 / 8, 1 / 8, 1.0]), size_px)
    assert warped == [(width * samples, height * samples)]


@given(quads, st.integers(0, 180), st.integers(0, 80), st.integers(1, 100), st.integers(1, 60))
def test_a_box_in_the_frame_holds_all_that_the_rectified_box_shows(
    points: list[tuple[float, float]], x: int, y: int, w: int, h: int
) -> None:
    homography = homography_from_points(points, (300, 150))
    placement = Placement(edges_to_frame(homography), 400, 300)
    left, top, width, height = placement.box((x, y, w, h))
    inverse = np.linalg.inv(homography)
    for pixel in [(x, y), (x + w - 1, y), (x, y + h - 1), (x + w - 1, y + h - 1)]:
        px, py = where(inverse, pixel)
        assert left - 0.51 <= px <= left + width - 0.49
        assert top - 0.51 <= py <= top + height - 0.49


@given(quads, st.integers(0, 180), st.integers(0, 80), st.integers(1, 100), st.integers(1, 60))
def test_a_box_to_the_frame_and_back_holds_itself(
    points: list[tuple[float, float]], x: int, y: int, w: int, h: int
) -> None:
    placement = Placement(edges_to_frame(homography_from_points(points, (300, 150))), 400, 300)
    left, top, width, height = placement.inverse_box(placement.box((x, y, w, h)))
    assert left <= x < x + w <= left + width
    assert top <= y < y + h <= top + height


@given(st.integers(0, 90), st.integers(0, 70), st.integers(1, 50), st.integers(1, 40))
def test_where_nothing_is_rectified_boxes_stay(x: int, y: int, w: int, h: int) -> None:
    placement = Placement(edges_to_frame(np.eye(3)), 140, 110)
    assert placement.box((x, y, w, h)) == placement.inverse_box((x, y, w, h)) == (x, y, w, h)


def test_a_box_found_in_the_rectified_picture_lies_on_the_defect_in_the_frame() -> None:
    frame = np.zeros((240, 260), np.float32)
    frame[100:106, 120:128] = 1.0
    homography = homography_from_points(TILTED, SIZE)
    box = cv2.boundingRect((rectify(frame, homography, SIZE) > 0.5).astype(np.uint8))
    x, y, w, h = Placement(edges_to_frame(homography), 260, 240).box(box)  # type: ignore[arg-type]
    assert x <= 120 <= 128 <= x + w
    assert y <= 100 <= 106 <= y + h
    assert w * h < 4 * 48


def test_a_box_is_cut_to_the_frame() -> None:
    homography = homography_from_points([(-50, -50), (50, -50), (50, 50), (-50, 50)], (101, 101))
    assert Placement(edges_to_frame(homography), 40, 30).box((0, 0, 101, 101)) == (0, 0, 40, 30)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([(0, 0), (50, 0), (100, 0), (0, 100)], "top right is on a line"),
        ([(0, 0), (0, 0), (100, 100), (0, 100)], "top left is on a line"),
        ([(0, 0), (0, 0), (0, 0), (0, 0)], "on a line"),
        ([(0, 0), (100, 100), (100, 0), (0, 100)], "crosses itself"),
        ([(0, 0), (0, 100), (100, 100), (100, 0)], "anticlockwise"),
        ([(0, 0), (100, 0), (20, 20), (0, 100)], "bottom right is inside the triangle"),
        ([(0, 0), (100, 0), (100, float("nan")), (0, 100)], "not four finite"),
        ([(0, 0), (100, 0), (0, 100)], "not four finite"),
        ([(0, 0), (100, 0), (0, 100, 3), (0, 1)], "not four finite"),
    ],
)
def test_degenerate_points_are_refused_by_name(points: list[tuple[float, ...]], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        homography_from_points(points, SIZE)
    assert caught.value.hint
    if len(points) == 4:
        assert "bottom left (" in str(caught.value)


@pytest.mark.parametrize("size", [(1, 50), (0, 0), (40_000, 50)])
def test_a_size_that_cannot_be_made_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="cannot be made"):
        homography_from_points(TILTED, size)


@pytest.mark.parametrize(
    "homography", [np.zeros((3, 3)), np.ones((3, 3)), np.eye(2), np.full((3, 3), np.nan)]
)
def test_a_homography_that_cannot_be_inverted_is_refused(homography: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match="homography"):
        rectify(board(), homography, SIZE)


def test_a_horizon_in_the_picture_is_refused() -> None:
    through = np.array([[1.0, 0, 0], [0, 1, 0], [0.01, 0, 1.0]])
    with pytest.raises(DataError, match="horizon"):
        rectify(board(), through, SIZE)


@pytest.mark.parametrize("shape", [(2, 2), (2, 3)])
def test_a_tiny_plane_is_rectified_too(shape: tuple[int, int]) -> None:
    assert rectify(np.ones(shape, np.float32), np.eye(3), (2, 2)).shape == (2, 2)
