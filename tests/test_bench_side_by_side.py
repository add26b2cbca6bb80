"""The parts of the benches that hold edge against others: what they time is what they say they time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import networks, origin_way, peer, peer_page, roofline
from bench.alone import quiet, shipped, spread
from bench.context import FailedError
from edge.infer.precisions import Agreement

TELLS = """import json, time
for k in range({lines}):
    print(json.dumps({{"k": k}}), flush=True)
    time.sleep(0.05)
"""


def told(tmp_path: Path, code: str, exit_codes: tuple[int, ...] = (0,)) -> dict[str, object]:
    return peer.observe([sys.executable, "-c", code], tmp_path, os.environ, exit_codes)


def test_frames_per_s_count_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    found = told(tmp_path, TELLS.format(lines=5))
    assert [line["k"] for line in found["lines"]] == [0, 1, 2, 3, 4]  # type: ignore[attr-defined]
    assert 2 < float(str(found["frames_per_s"])) <= 20
    assert 0 < float(str(found["first_s"])) < 10


def test_the_highest_resident_memory_is_seen_after_it_is_given_back(tmp_path: Path) -> None:
    small = told(tmp_path, TELLS.format(lines=2))
    large = told(tmp_path, "x = bytearray(200_000_000)\ndel x\n" + TELLS.format(lines=2))
    assert float(str(large["memory_mb"])) > float(str(small["memory_mb"])) + 150


@pytest.mark.parametrize("code", ["raise SystemExit(3)", TELLS.format(lines=1)])
def test_a_side_that_fails_or_says_too_little_fails_the_bench(tmp_path: Path, code: str) -> None:
    with pytest.raises(FailedError):
        told(tmp_path, code)


def test_a_verdict_that_is_not_ok_is_no_failure(tmp_path: Path) -> None:
    assert told(tmp_path, TELLS.format(lines=2) + "raise SystemExit(1)", (0, 1))["lines"]


def side(precision: str, **figures: float) -> dict[str, object]:
    usual = {
        "predict_ms": 30.0, "bare_ms": 25.0, "ratio": 1.2, "first_s": 5.0, "frames_per_s": 20.0,
        "memory_mb": 1000.0, "other_cores": 0.0, "run_frames_per_s": 30.0, "run_pss_mb": 300.0,
        "decode_ms": 1.0, "preprocess_ms": 1.0, "infer_ms": 1.0, "judge_ms": 1.0,
    }  # fmt: skip
    return {**usual, **figures, "precision": precision, "scores": {"a": 0.5, "b": 0.25}}


def page(**figures: float) -> str:
    rounds = {
        ("anomaly-unet", "peer"): [side("fp32")],
        ("anomaly-unet", "fp32"): [side("fp32", **figures)],
    }
    asked = peer_page.Asked(100, 1, ("anomaly-unet",), ("fp32",), Path("peer"), False)
    return "\n".join(peer_page.section({"rounds": rounds, "refused": {}, "sizes_mb": {"peer": 1.0}}, asked))


def test_an_aim_that_is_missed_is_called_so() -> None:
    assert "(aim 1.1: missed)" in page(ratio=1.11)
    assert "(aim 0.33: missed)" in page(first_s=2.0)
    assert "(aim 0.50: missed)" in page(memory_mb=600.0)


def test_an_aim_that_is_reached_is_called_so() -> None:
    text = page(ratio=1.09, first_s=1.0, memory_mb=400.0)
    assert "missed" not in text
    assert text.count(": met)") == 3


def test_rounds_that_others_disturbed_are_left_out_unless_all_were() -> None:
    still, loud = {"other_cores": 0.1}, {"other_cores": 0.9}
    assert quiet([loud, still]) == [still]
    assert quiet([loud, loud]) == [loud, loud]


def test_only_what_the_shipped_limits_let_in_is_said_to_be_let_in() -> None:
    good = Agreement(accepted=True, why="", frames=100, spearman=0.9995, flips=0, auroc_change=0.001)
    assert shipped(good)
    for change in ({"spearman": 0.998}, {"spearman": None}, {"flips": 1}, {"auroc_change": 0.003}):
        assert not shipped(good.model_copy(update=change)), change


def test_spread_is_median_and_both_ends() -> None:
    assert spread([3.0, 1.0, 2.5]) == "2.5 (1.0–3.0)"


def test_the_origins_tiles_put_together_are_the_plane() -> None:
    plane = np.random.default_rng(0).random((512, 768), np.float32)
    np.testing.assert_array_equal(origin_way.origin_answer(plane, lambda tile: tile), plane)


def test_the_origins_score_is_the_root_of_the_mean_square() -> None:
    plane = np.full((8, 8), 0.75, np.float32)
    assert origin_way.origin_score("cae", plane, plane - np.float32(0.25)) == pytest.approx(0.25)


def test_every_mosaic_has_the_cameras_size_and_is_another_one() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (70, 100), np.uint8)
    made = [origin_way.mosaic(picture, number) for number in range(8)]
    assert {m.shape for m in made} == {(2832, 4248)}
    assert len({m.tobytes() for m in made}) == 8


def test_scores_of_the_same_frames_are_compared_relatively() -> None:
    assert origin_way.agreement({"a": 2.0, "b": 1.0}, {"a": 2.1, "c": 9.0}) == pytest.approx(0.05)


def test_the_peers_graph_pads_crops_and_scores_by_the_maximum() -> None:
    frame = torch.rand(1, 1, 20, 33).expand(1, 3, 20, 33)
    seen = []

    class Same(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            return x

    score, found = networks.WholeFrame(Same(), 16)(frame)
    assert seen == [(1, 1, 32, 48)]
    assert torch.equal(found, frame[:, :1])
    assert torch.equal(score, frame[:, :1].amax().reshape(1))


def test_operations_of_a_layer_are_counted_twice_per_product() -> None:
    assert roofline.convolution(4, 8, 3).flop == 2 * 8 * 8 * 4 * 4 * 9
    assert roofline.product(16).flop == 2 * 16**3


@pytest.mark.parametrize("shape", [roofline.convolution(4, 8, 3), roofline.product(16)])
@pytest.mark.parametrize("quantised", [False, True])
def test_a_chain_of_layers_keeps_its_shape(shape: roofline.Shape, quantised: bool) -> None:
    model = roofline.layers(shape, quantised=quantised)
    assert tuple(model.output(0).shape) == shape.input
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert kinds.count("FakeQuantize") == (2 * roofline.CHAIN if quantised else 0)


def test_the_higher_of_two_peaks_counts_for_each_precision() -> None:
    one = {"fp32": roofline.Peak(2.0, "a"), "int8": roofline.Peak(5.0, "b")}
    other = {"fp32": roofline.Peak(3.0, "c"), "int8": roofline.Peak(4.0, "d")}
    assert roofline.higher(one, other) == {"fp32": roofline.Peak(3.0, "c"), "int8": roofline.Peak(5.0, "b")}


def test_the_peers_script_needs_nothing_of_ours() -> None:
    source = (Path(peer.__file__).parent / "peer_anomalib.py").read_text()
    assert "import edge" not in source
    assert "from edge" not in source
    assert "from bench" not in source
    assert f"\nTURN = {peer.TURN} " in source
