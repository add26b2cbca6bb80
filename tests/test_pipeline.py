from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode import Limits
from edge.errors import IncompleteError
from edge.pipeline import Inspector, PrepareJob, answers, prepare_file
from edge.preprocess import PreprocessSpec, TileSpec
from edge.testing import FakeRuntime, fake_bundle, fake_calibration, write_frame

LIMITS = Limits(max_pixels=10**6, max_pages=4)


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=6),
    st.integers(1, 9),
    st.integers(1, 32),
)
def test_answers_come_back_in_order_whatever_the_batches(
    shapes: list[tuple[int, int]], batch: int, step: int
) -> None:
    rng = np.random.default_rng(0)
    planes = [rng.random(shape, np.float32) for shape in shapes]
    spec = PreprocessSpec(tiles=TileSpec(size_px=36, keep_px=32, step_px=step))
    runtime = FakeRuntime(lambda tiles: 1 - tiles, batch)
    out = list(answers(planes, spec, runtime))
    assert len(out) == len(planes)
    for plane, (same, answer) in zip(planes, out, strict=True):
        assert same is plane
        np.testing.assert_allclose(answer, 1 - plane, atol=1e-4)
    assert all(calls == batch for calls in runtime.calls[:-1])  # batches are filled across frames


def inspector(folder: Path) -> Inspector:
    bundle = fake_bundle(folder / "bundle")
    return Inspector(bundle, FakeRuntime(), fake_calibration(bundle))


def test_a_good_frame_is_ok_and_a_defect_is_found_where_it_is(tmp_path: Path) -> None:
    ready = inspector(tmp_path)
    files = [write_frame(tmp_path / "a.png"), write_frame(tmp_path / "b.png", defect=True, seed=1)]
    frames = [
        prepare_file(PrepareJob(f, f.name, None, ready.bundle.manifest.preprocess, LIMITS))[0] for f in files
    ]
    good, bad = ready.inspect(frames)
    assert good.judgement.evaluation == "OK"
    assert bad.judgement.evaluation == "NotOK"
    x, y, w, h = bad.judgement.defects[0].bbox
    assert (x, y, w, h) == (20, 10, 12, 12)
    assert bad.frame.image.bits == 8
    assert set(bad.frame.times_s) == {"decode_s", "preprocess_s"}


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    file = write_frame(tmp_path / "a.png")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(IncompleteError) as caught:
        prepare_file(PrepareJob(file, "a.png", None, PreprocessSpec(), LIMITS))
    assert caught.value.reason == "truncated"
