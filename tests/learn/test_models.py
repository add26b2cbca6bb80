"""Networks: sizes in, sizes out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge.learn.models import MODELS
from edge.learn.models.cae import Cae, CaeConfig
from edge.learn.models.fragment_cae import FragmentCae, FragmentCaeConfig

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Dropout2d)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_answers_are_planes_of_the_tile_or_its_centre_in_the_range_of_grey(name: str) -> None:
    kind = MODELS[name]
    network = kind.finish(kind.build(3).eval()).eval()
    side = kind.tiles.size_px
    with torch.no_grad():
        answers = network(torch.rand(1, 1, side, side))
    assert answers.shape[:2] == (1, 3 if kind.names_classes else 1)
    assert answers.shape[2] == answers.shape[3]
    assert answers.shape[2] in (side, kind.tiles.keep_px)
    assert 0 <= float(answers.min()) <= float(answers.max()) <= 1
    assert kind.window_px <= kind.tiles.size_px


def test_cae_has_the_thirty_one_layers_of_system_b() -> None:
    layers = sum(isinstance(module, LAYERS) for module in Cae(CaeConfig()).modules())
    poolings = len(CaeConfig().channels) - 1
    assert layers + poolings == 31


def test_latent_of_the_fragment_network_holds_less_than_its_fragment() -> None:
    with torch.no_grad():
        network = FragmentCae(FragmentCaeConfig()).eval()
        latent = network.latent(network.down(torch.rand(1, 1, 64, 64)))
    assert latent.shape == (1, FragmentCaeConfig().latent, 8, 8)
    assert latent.numel() <= 64 * 64 / 8
