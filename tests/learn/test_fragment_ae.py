"""The fragment autoencoder: it draws shading on any level of grey, and nothing finer."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx
import pytest
import torch

from edge.learn.export import to_onnx
from edge.learn.fit import threads
from edge.learn.models.fragment_ae import GRID_PX, SIDE_PX, FragmentAe, FragmentAeConfig


@pytest.fixture(scope="module")
def network() -> FragmentAe:
    torch.manual_seed(0)
    return FragmentAe(FragmentAeConfig()).eval()


def fragments(n: int = 3) -> torch.Tensor:
    return torch.rand((n, 1, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(1))


def test_an_answer_has_the_shape_of_its_fragment(network: FragmentAe) -> None:
    with torch.no_grad():
        assert network(fragments(2)).shape == (2, 1, SIDE_PX, SIDE_PX)


def test_another_exposure_is_no_anomaly(network: FragmentAe) -> None:
    x = fragments() * 0.3
    with torch.no_grad():
        assert torch.allclose(network(x + 0.5), network(x) + 0.5, atol=1e-5)


def test_nothing_finer_than_the_grid_can_be_drawn(network: FragmentAe) -> None:
    """Between the centres of two cells an answer is a straight line."""
    with torch.no_grad():
        answer = deepcopy(network).double()(fragments().double())[:, 0].numpy()
    bend = np.abs(np.diff(answer, 2, axis=2))
    assert bend[:, :, GRID_PX // 2 :: GRID_PX].max() < 1e-9 * bend.max()


def test_it_learns_shading_and_not_a_cavity() -> None:
    torch.manual_seed(0)
    network, rng = FragmentAe(FragmentAeConfig((4, 8, 16), latent=4)), torch.Generator().manual_seed(0)
    ramp = torch.linspace(-1, 1, SIDE_PX)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    with threads(1):  # two only wait for each other on so little
        for _ in range(80):
            slopes = torch.rand((8, 2, 1, 1), generator=rng) - 0.5
            x = 0.5 + 0.5 * (slopes[:, :1] * ramp + slopes[:, 1:] * ramp[:, None])
            loss = (network(x) - x).square().mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    cavity = x.clone()
    cavity[:, :, 28:36, 28:36] -= 0.2
    with torch.no_grad():
        residual = cavity - network(cavity)
    inside = residual[:, :, 30:34, 30:34].mean()
    assert inside < -0.15
    assert residual[:, :, :8].abs().mean() < 0.3 * -inside


def test_it_can_be_exported(network: FragmentAe) -> None:
    graph = onnx.load_from_string(to_onnx(network, SIDE_PX)).graph
    assert [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim][1:] == [1, SIDE_PX, SIDE_PX]
