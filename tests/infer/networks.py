"""Every network that edge can learn, as the ONNX file of a bundle: learned from noise, if at all."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
import torch

from edge.learn.export import to_onnx
from edge.learn.labels import LabelledPlane
from edge.learn.models import MODELS
from edge.types import FloatImage

QUICK = ("fragment-cae", "fragment-ae", "supervised-ae", "anomaly-unet")
SLEEPY = ("cae", "fragment-", "patch-", "supervised-")
BY_NAME = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(MODELS)]


def texture(height: int, width: int, seed: int) -> FloatImage:
    """Grain around middle grey."""
    grain = np.random.default_rng(seed).normal(0.5, 0.15, (height, width))
    return np.clip(grain, 0, 1).astype(np.float32)


def _wake(module: torch.nn.Module) -> None:
    """Unlearned, it answers nearly the same to everything, which would hide what a runtime does wrong: bring
    torch's first weights to the variance that goes through ReLUs unchanged (He et al. 2015)."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
                layer.weight *= 6**0.5


@cache  # 80 MB together
def network(name: str) -> bytes:
    """A kind's network, with what it keeps of good frames filled in, so that it answers more than zero."""
    kind = MODELS[name]
    torch.manual_seed(3)
    module = kind.build(2).eval()
    if name.startswith(SLEEPY):
        _wake(module)
    side = kind.tiles.size_px
    planes = [
        LabelledPlane(texture(side, side, seed).astype(np.float16), np.zeros((side, side), np.uint8))
        for seed in range(4)
    ]
    if kind.closed_form is not None:
        kind.closed_form(module, planes, 0)
    if kind.complete is not None:
        kind.complete(module, planes, 0, kind.tiles)
    return to_onnx(kind.finish(module), side)


def explainer(name: str) -> bytes | None:
    """What a kind's class activation maps are made from."""
    kind = MODELS[name]
    if kind.explain is None:
        return None
    torch.manual_seed(3)
    return to_onnx(kind.explain(kind.build(2).eval()), kind.tiles.size_px, ("activations", "gradients"))


def tiles_of(model: bytes, count: int = 2) -> FloatImage:
    """Tiles of the size a network is exported for."""
    side = onnx.load_from_string(model).graph.input[0].type.tensor_type.shape.dim[2].dim_value
    return np.stack([texture(side, side, 100 + seed)[None] for seed in range(count)])
