"""Masks on planes that were resized or rectified: no defect that the plane shows is lost."""

from pathlib import Path

import numpy as np
import pytest

from edge.dataset import Sample
from edge.preprocess import Rectify
from edge.preprocess.plane import homography_of
from edge.preprocess.rectify import edges_to_frame
from edge.truth import Truth, on_plane, to_frame
from edge.types import Frame, ImageInfo

FULL = ((0.0, 0.0), (999.0, 0.0), (999.0, 599.0), (0.0, 599.0))


def rectified(size_px: tuple[int, int]) -> Frame:
    spec = Rectify(size_px=size_px, points={"*": FULL})
    matrix = edges_to_frame(homography_of(spec, None))
    width, height = size_px
    return Frame(ImageInfo("a", "", 1000, 600, 8), np.zeros((height, width), np.float32), to_frame=matrix)


@pytest.mark.parametrize("is_rectified", [True, False])
def test_a_small_defect_is_still_there_on_a_plane_that_shrinks(is_rectified: bool) -> None:
    frame = rectified((125, 75))
    if not is_rectified:
        frame = Frame(frame.image, frame.plane)
    rng = np.random.default_rng(0)
    for _ in range(30):
        y, x = rng.integers(20, 560), rng.integers(20, 960)
        defect = np.zeros((600, 1000), bool)
        defect[y : y + 4, x : x + 4] = True
        truth = Truth(Sample(Path("a"), "a", "defect"), defect).on_plane(frame)
        assert truth.any()
        rows, columns = np.nonzero(truth)
        assert abs(columns.mean() * 8 + 4 - (x + 2)) < 8
        assert abs(rows.mean() * 8 + 4 - (y + 2)) < 8


def test_a_mask_goes_to_the_plane_and_a_map_comes_back() -> None:
    frame = rectified((500, 300))
    mask = np.zeros((600, 1000), bool)
    mask[100:160, 300:420] = True
    back = to_frame(on_plane(mask, frame).astype(np.float32), frame) > 0.5
    assert (back & mask).sum() / (back | mask).sum() > 0.97


def test_the_truth_of_a_padded_frame_lies_where_the_frame_does() -> None:
    image = ImageInfo("a", "", 200, 600, 8)
    matrix = np.array([[3.0, 0.0, -150.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])  # 50 columns before it
    frame = Frame(image, np.zeros((200, 200), np.float32), to_frame=matrix)
    mask = np.zeros((600, 200), bool)
    mask[300:360, 90:120] = True
    rows, columns = np.nonzero(on_plane(mask, frame))
    assert (rows.min(), rows.max() + 1) == (100, 120)
    assert (columns.min(), columns.max() + 1) == (80, 90)
