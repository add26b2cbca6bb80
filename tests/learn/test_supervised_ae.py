"""The supervised autoencoder: its written-out gradient, and that what is exported says what torch says."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from edge.errors import DataError
from edge.learn.classes import NO_AUGMENTATION, ClassBatches, classification
from edge.learn.export import to_onnx
from edge.learn.fit import Fit, FitSpec, threads
from edge.learn.models.supervised_ae import (
    ORIGIN,
    SMALL,
    Evidence,
    Explain,
    SupervisedAe,
    SupervisedAeConfig,
    normalisation,
)

TINY = SupervisedAeConfig(size_px=16, channels=(4, 6), latent=5, hidden=7)


def network(seed: int = 0, config: SupervisedAeConfig = TINY) -> SupervisedAe:
    torch.manual_seed(seed)
    made = SupervisedAe(config)
    with torch.no_grad():
        for module in made.modules():  # statistics as after some learning, not those of a fresh layer
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                module.bias.normal_(0.2, 0.3)
        made.logit.weight.mul_(4)
        made.hidden.bias.uniform_(0, 0.5)  # so that some of it is alive whatever the seed
    return made.eval()


def frames(count: int = 3, side: int = 16, seed: int = 1) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [SMALL, ORIGIN], ids=["small", "origin"])
def test_answers_are_a_frame_of_the_same_size_in_range_and_one_number(config: SupervisedAeConfig) -> None:
    with torch.no_grad():
        drawn, logits = network(config=config)(frames(2, config.size_px))
    assert drawn.shape == (2, 1, config.size_px, config.size_px)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    assert logits.shape == (2,)


def test_feature_maps_of_both_presets_hold_fewer_numbers_than_the_frame() -> None:
    for config in (SMALL, ORIGIN):
        side = config.size_px >> len(config.channels)
        assert config.latent * side * side < config.size_px**2


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
@example(0)
def test_written_out_gradient_is_autograds(seed: int) -> None:
    made = network(seed)
    activations = made.encode(frames(seed=seed)).detach().double().requires_grad_()
    made.double()
    (expected,) = torch.autograd.grad(made.classify(activations).sum(), activations)
    torch.testing.assert_close(made.gradients(activations), expected, rtol=1e-9, atol=1e-12)
    assert seed or expected.abs().max() > 0


def test_gradient_of_large_activations_is_still_finite() -> None:
    made = network()
    activations = made.encode(frames()) * 1e4
    assert torch.isfinite(made.gradients(activations)).all()
    assert torch.isfinite(made.classify(activations)).all()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_maximum_of_the_evidence_is_the_frames_probability(seed: int) -> None:
    made = network(seed)
    tiles = frames(4, seed=seed)
    with torch.no_grad():
        evidence, (_, logits) = Evidence(made)(tiles), made(tiles)
    assert evidence.shape == tiles.shape
    assert float(evidence.min()) >= 0
    torch.testing.assert_close(evidence.amax((1, 2, 3)), torch.sigmoid(logits), rtol=1e-6, atol=0)


def test_evidence_is_flat_where_nothing_speaks_for_a_defect() -> None:
    made = network()
    with torch.no_grad():
        made.logit.weight.copy_(-made.logit.weight.abs())
        made.hidden.weight.abs_()  # every activation now lowers the log-odds
        evidence, (_, logits) = Evidence(made)(frames()), made(frames())
    torch.testing.assert_close(evidence, torch.sigmoid(logits)[:, None, None, None].expand_as(evidence))


def test_evidence_is_where_the_defect_is() -> None:
    made, spot = _learned_spots()
    with torch.no_grad():
        evidence = Evidence(made)(spot)[0, 0].numpy()
    y, x = np.average(np.indices(evidence.shape).reshape(2, -1), axis=1, weights=evidence.ravel())
    assert evidence.max() > 0.9
    assert abs(y - 10) < 4
    assert abs(x - 22) < 4


def _learned_spots() -> tuple[SupervisedAe, Tensor]:
    """A network that learned to find bright spots on a noisy ground, and a frame with a spot at (10, 22)."""
    rng = np.random.default_rng(0)
    planes = [rng.uniform(0.2, 0.4, (32, 32)).astype(np.float16) for _ in range(60)]
    for plane in planes[:30]:
        y, x = rng.integers(3, 29, 2)
        plane[y - 2 : y + 3, x - 2 : x + 3] = 0.9
    batches = ClassBatches(planes, [1] * 30 + [0] * 30, 16, NO_AUGMENTATION, seed=0)
    torch.manual_seed(0)
    made = SupervisedAe(TINY)
    made.normalise_by(*normalisation(planes))
    spec = FitSpec("l2", 1e-2, minutes=1, steps=80)
    with threads(1):
        Fit(made, spec, batches, batches, objective=classification(1.0)).run()
    spot = rng.uniform(0.2, 0.4, (1, 1, 32, 32)).astype(np.float32)
    spot[0, 0, 8:13, 20:25] = 0.9
    return made, torch.from_numpy(spot)


@pytest.mark.parametrize("kind", [Evidence, Explain])
def test_exported_graph_says_in_openvino_what_torch_says(kind: type[Evidence | Explain]) -> None:
    made = kind(network(3, SMALL)).eval()
    tiles = frames(3, SMALL.size_px)
    with torch.no_grad():
        expected = made(tiles)
    names = ("answers",) if kind is Evidence else ("activations", "gradients")
    graph = ov.Core().read_model(to_onnx(made, SMALL.size_px, names))
    compiled = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = compiled(tiles.numpy())
    assert tuple(output.any_name for output in compiled.outputs) == names
    expected = (expected,) if isinstance(expected, Tensor) else expected
    assert len(answers) == len(expected)
    for k, wanted in enumerate(expected):
        assert float(wanted.abs().max()) > 1e-3
        np.testing.assert_allclose(answers[k], wanted.numpy(), atol=1e-4)


def test_normalisation_is_that_of_all_pixels_and_ends_up_inside_the_network() -> None:
    rng = np.random.default_rng(0)
    planes = [rng.random((8, 8)).astype(np.float16), (rng.random((8, 8)) / 2).astype(np.float16)]
    mean, std = normalisation(planes)
    together = np.concatenate([plane.ravel() for plane in planes]).astype(np.float64)
    assert mean == pytest.approx(together.mean())
    assert std == pytest.approx(together.std())
    made = network()
    before = made.classify(made.encode(frames())).detach()
    made.normalise_by(mean, std)
    assert not torch.allclose(made.classify(made.encode(frames())), before)
    assert float(made.state_dict()["mean"]) == pytest.approx(mean)


def test_flat_training_frames_do_not_divide_by_nothing() -> None:
    made = network()
    made.normalise_by(*normalisation([np.full((8, 8), 0.5, np.float16)]))
    assert torch.isfinite(made(frames())[1]).all()


def test_no_frames_have_no_mean() -> None:
    with pytest.raises(DataError, match="no frames"):
        normalisation([])
