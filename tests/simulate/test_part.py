"""The renderer: reproducible, true to its masks, and separable where a person sees a difference."""

import cv2
import numpy as np
import pytest

from edge.errors import UsageError
from edge.simulate.defects import DEFECTS
from edge.simulate.part import VIEWS, render

ALL_VIEWS = range(1, len(VIEWS) + 1)


@pytest.mark.parametrize("view", ALL_VIEWS)
def test_the_same_seed_renders_the_same_frame_and_another_seed_another(view: int) -> None:
    first, again, other = (render(np.random.default_rng(seed), view, None).pixels for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("size", [(256, 192), (64, 48), (120, 200), (400, 100)])
def test_frames_have_the_size_and_depth_asked_for(size: tuple[int, int]) -> None:
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        frame = render(np.random.default_rng(0), 2, "stain", size, bits)  # type: ignore[arg-type]
        assert frame.pixels.shape == frame.mask.shape == (size[1], size[0])
        assert frame.pixels.dtype == dtype


def test_16_bits_show_the_same_picture_as_8() -> None:
    fine, coarse = (render(np.random.default_rng(5), 1, "pit", bits=bits) for bits in (16, 8))
    assert np.array_equal(np.rint(fine.pixels / 257).astype(np.uint8), coarse.pixels)
    assert np.array_equal(fine.mask, coarse.mask)


def test_good_parts_have_empty_masks() -> None:
    assert not any(render(np.random.default_rng(1), view, None).mask.any() for view in ALL_VIEWS)


@pytest.mark.parametrize("defect", sorted(DEFECTS))
@pytest.mark.parametrize("view", ALL_VIEWS)
def test_a_defect_changes_the_pixels_under_its_mask(view: int, defect: str) -> None:
    """Against the mean of good frames: what is left beside the mask is pose, brushing and noise."""
    good = np.mean([_good(view, other) for other in range(4)], axis=0)
    for seed in range(4):
        frame = render(np.random.default_rng([seed, view]), view, defect)
        assert set(np.unique(frame.mask)) == {0, 255}
        assert 8 <= np.count_nonzero(frame.mask) < 0.05 * frame.mask.size
        inside = frame.mask > 0
        ring = cv2.dilate(frame.mask, np.ones((9, 9), np.uint8)) > 0
        ring &= cv2.dilate(frame.mask, np.ones((3, 3), np.uint8)) == 0
        change = np.abs(frame.pixels - good)
        assert change[inside].mean() > 1.5 * change[ring].mean()


def _good(view: int, seed: int) -> np.ndarray:
    return render(np.random.default_rng([99, seed, view]), view, None).pixels.astype(np.float32)


def test_views_differ_more_than_frames_of_one_view() -> None:
    frames = {view: [_good(view, seed) for seed in range(3)] for view in ALL_VIEWS}
    within = max(np.abs(a - b).mean() for group in frames.values() for a in group for b in group)
    across = min(np.abs(frames[a][0] - frames[b][0]).mean() for a in ALL_VIEWS for b in ALL_VIEWS if a != b)
    assert across > 3 * within


@pytest.mark.parametrize("view", ALL_VIEWS)
def test_defects_stand_out_against_forty_good_frames(view: int) -> None:
    """A linear stand-in for an autoencoder (8 principal components) ranks defects above good frames."""
    good = np.stack([_good(view, seed) for seed in range(40)]).reshape(40, -1) / 255
    mean = good.mean(axis=0)
    basis = np.linalg.svd(good - mean, full_matrices=False)[2][:8]

    def score(pixels: np.ndarray) -> float:
        residual = pixels.reshape(-1) / 255 - mean
        residual = residual - (residual @ basis.T) @ basis
        return float(cv2.blur(residual.reshape(pixels.shape) ** 2, (5, 5)).max())

    fresh = [score(_good(view, seed)) for seed in range(100, 110)]
    bad = [
        score(render(np.random.default_rng([7, seed, view]), view, defect).pixels)
        for defect in DEFECTS
        for seed in range(3)
    ]
    assert np.mean([b > g for b in bad for g in fresh]) > 0.97


@pytest.mark.parametrize(
    ("view", "defect", "size"),
    [(0, None, (256, 192)), (7, None, (256, 192)), (1, "rust", (256, 192)), (1, None, (32, 32))],
)
def test_what_cannot_be_rendered_is_refused(view: int, defect: str | None, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        render(np.random.default_rng(0), view, defect, size)
