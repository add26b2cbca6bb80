"""The patch classifier: the origin's layers, and its dense map against patch by patch."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edge.learn.export import to_onnx
from edge.learn.models.patch_cnn import ORIGIN, WIDE, DensePatchCnn, PatchCnn, PatchCnnConfig

SMALL = PatchCnnConfig(patch_px=15, channels=((4,), (5, 6)), kernels=((4,), (3, 2)), dense=7, normalised=True)
"""Even kernels, a side (12 → 6 → 3 → 1) that pooling does not divide, two convolutions in a level."""


def learned(config: PatchCnnConfig, seed: int = 0) -> PatchCnn:
    """A network whose answers differ from patch to patch, as if learned."""
    torch.manual_seed(seed)
    network = PatchCnn(config).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        network(torch.rand(32, 1, config.patch_px, config.patch_px))  # statistics of the normalisation
    return network.eval()


def patch_by_patch(network: PatchCnn, tile: Tensor, stride: int = 1) -> Tensor:
    """(K, K) probabilities by cutting every patch of a (T, T) tile that the stride asks for."""
    side, middle = network.config.patch_px, stride // 2
    keep = tile.shape[-1] - side + 1
    starts = list(range(min(middle, keep - 1), keep, stride))
    nearest = [min(j // stride, len(starts) - 1) for j in range(keep)]
    patches = torch.stack([tile[None, y : y + side, x : x + side] for y in starts for x in starts])
    with torch.no_grad():
        judged = torch.sigmoid(network(patches)).reshape(len(starts), len(starts))
    return judged[nearest][:, nearest]


def densely(network: PatchCnn, tiles: Tensor, stride: int = 1) -> Tensor:
    with torch.no_grad():
        answers: Tensor = DensePatchCnn(network, stride).eval()(tiles)
    return answers


def test_origin_has_the_sides_and_layers_of_system_a() -> None:
    sides: list[tuple[int, ...]] = []
    network = PatchCnn(ORIGIN).eval()
    for convolution in (module for module in network.levels.modules() if isinstance(module, nn.Conv2d)):
        convolution.register_forward_hook(
            lambda _module, _inputs, output: sides.append(tuple(output.shape[1:]))
        )
    assert network(torch.rand(5, 1, 29, 29)).shape == (5,)
    assert sides == [(16, 25, 25), (32, 8, 8), (64, 2, 2)]
    assert (ORIGIN.left_px, network.dense.out_channels, network.dropout.p) == (1, 64, 0.5)


@pytest.mark.parametrize(("config", "keep_px"), [(ORIGIN, 21), (WIDE, 9), (SMALL, 30)])
def test_dense_map_says_what_every_patch_says(config: PatchCnnConfig, keep_px: int) -> None:
    network = learned(config)
    tiles = torch.rand(2, 1, keep_px + config.patch_px - 1, keep_px + config.patch_px - 1)
    answers = densely(network, tiles)
    assert answers.shape == (2, 1, keep_px, keep_px)
    assert answers.std() > 0.01, "a map without contrast shows nothing"
    for answer, tile in zip(answers, tiles, strict=True):
        assert (answer[0] - patch_by_patch(network, tile[0])).abs().max() < 1e-5


@settings(max_examples=20, deadline=None)
@given(stride=st.integers(1, 20), keep_px=st.integers(1, 24), seed=st.integers(0, 99))
def test_with_any_stride_each_pixel_has_its_nearest_judged_patch(
    stride: int, keep_px: int, seed: int
) -> None:
    network = learned(SMALL)
    tile = torch.rand(keep_px + 14, keep_px + 14, generator=torch.Generator().manual_seed(seed))
    answers = densely(network, tile[None, None], stride)
    assert answers.shape == (1, 1, keep_px, keep_px)
    assert (answers[0, 0] - patch_by_patch(network, tile, stride)).abs().max() < 1e-5


@pytest.mark.parametrize("stride", [1, 6])
def test_exported_dense_map_answers_alike_in_openvino(tmp_path: Path, stride: int) -> None:
    network, side = learned(ORIGIN), 29 + 27
    tiles = torch.rand(3, 1, side, side)
    file = tmp_path / "model.onnx"
    file.write_bytes(to_onnx(DensePatchCnn(network, stride), side))
    core = ov.Core()
    options = {ov.properties.hint.inference_precision(): ov.Type.f32}
    answers = core.compile_model(core.read_model(file), "CPU", options)(tiles.numpy())[0]
    assert answers.shape == (3, 1, 28, 28)
    for answer, tile in zip(answers, tiles, strict=True):
        assert np.abs(answer[0] - patch_by_patch(network, tile[0], stride).numpy()).max() < 1e-4


@pytest.mark.parametrize(("stride", "pooled"), [(1, 0), (2, 1), (3, 0), (4, 2), (6, 1), (8, 3), (16, 3)])
def test_powers_of_two_in_the_stride_are_left_to_the_poolings(stride: int, pooled: int) -> None:
    assert DensePatchCnn(PatchCnn(ORIGIN), stride).pooled == pooled


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"patch_px": 28, "channels": ((4,),), "kernels": ((3,),)}, "no centre"),
        ({"patch_px": 29, "channels": ((4,), (4,)), "kernels": ((3,),)}, "different numbers"),
        ({"patch_px": 7, "channels": ((4,), (4,)), "kernels": ((5,), (5,))}, "nothing is left"),
    ],
)
def test_patches_that_cannot_be_judged_are_refused(config: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PatchCnnConfig(**config)  # type: ignore[arg-type]


def test_a_stride_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="stride of 0"):
        DensePatchCnn(PatchCnn(SMALL), 0)
