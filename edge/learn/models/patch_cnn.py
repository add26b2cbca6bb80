"""The patch classifier of system A, and the same network as a dense map of a whole frame.

A patch goes through levels of convolutions without padding, each level ended by a 2×2 max-pooling, and
through a dense layer to one logit. As every layer is a convolution (the dense one as large as what is left of
the patch), the learned weights also run over whole tiles: see `DensePatchCnn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class PatchCnnConfig:
    """What the network is built from."""

    patch_px: int  # odd, so that a patch has a centre pixel
    channels: tuple[tuple[int, ...], ...]  # of the convolutions, by level
    kernels: tuple[tuple[int, ...], ...]  # their sides in pixels of the level
    dense: int = 64
    dropout: float = 0.5
    normalised: bool = False  # batch normalisation between convolution and ReLU

    def __post_init__(self) -> None:
        if self.patch_px % 2 == 0:
            raise ValueError(f"patch_px is {self.patch_px}, which has no centre pixel: use an odd number")
        if [len(level) for level in self.channels] != [len(level) for level in self.kernels]:
            raise ValueError("channels and kernels name different numbers of convolutions")
        if self.left_px < 1:
            raise ValueError(f"nothing is left of a patch of {self.patch_px} px after {self.kernels}")

    @property
    def left_px(self) -> int:
        """Side of what is left of a patch after the last pooling; the dense layer is as large."""
        side = self.patch_px
        for level in self.kernels:
            side = (side - sum(kernel - 1 for kernel in level)) // 2
        return side

    @property
    def seen_px(self) -> int:
        """Side of the part of a patch that the answer depends on, from its first pixel: a pooling leaves out
        the last row and column of an odd side."""
        side = self.left_px
        for level in reversed(self.kernels):
            side = 2 * side + sum(kernel - 1 for kernel in level)
        return side


ORIGIN = PatchCnnConfig(patch_px=29, channels=((16,), (32,), (64,)), kernels=((5,), (5,), (3,)))
"""As specified for system A: sides 29 → 25 → 12 → 8 → 4 → 2 → 1."""

WIDE = PatchCnnConfig(
    patch_px=49,
    channels=((16,), (32,), (64,), (64,)),
    kernels=((5,), (3,), (3,), (3,)),
    normalised=True,
)
"""A fourth level, and three times the area to judge by: sides 49 → 45 → 22 → 20 → 10 → 8 → 4 → 2 → 1."""


class PatchCnn(nn.Module):
    """(n, 1, patch, patch) float in 0..1 → logits of "the patch is a defect", (n,)."""

    def __init__(self, config: PatchCnnConfig) -> None:
        super().__init__()
        self.config = config
        widths = (1, *(width for level in config.channels for width in level))
        kernels = (kernel for level in config.kernels for kernel in level)
        layers = iter([
            _layer(i, o, kernel, config.normalised)
            for (i, o), kernel in zip(pairwise(widths), kernels, strict=True)
        ])  # fmt: skip
        self.levels = nn.ModuleList(
            [nn.ModuleList([next(layers) for _ in level]) for level in config.channels]
        )
        self.dense = nn.Conv2d(widths[-1], config.dense, config.left_px)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Conv2d(config.dense, 1, 1)

    def forward(self, patches: Tensor) -> Tensor:
        x = patches
        for level in self.levels:
            for layer in level:  # type: ignore[attr-defined]  # torch does not say what a ModuleList holds
                x = layer(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.dropout(torch.relu(self.dense(x)))  # (n, dense, 1, 1)
        logits: Tensor = self.head(x).flatten()
        return logits


def _layer(inputs: int, outputs: int, kernel: int, normalised: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, bias=not normalised)
    return nn.Sequential(convolution, *([nn.BatchNorm2d(outputs)] if normalised else []), nn.ReLU())


class DensePatchCnn(nn.Module):
    """A learned patch network over whole tiles: what it says of the patch about every pixel.

    (n, 1, T, T) float in 0..1 → probabilities (n, 1, K, K) with K = T − (patch − 1); the answer at (i, j) is
    that of the patch whose corner is there and whose centre is half a patch further. For evaluation only.

    At stride 1 the poolings may not leave pixels out. Each is done at its four shifts instead, which then go
    on side by side in the batch, and at the end the 4^levels small maps are interleaved ("shift and stitch":
    Sermanet et al., "OverFeat", 2014). Dilated layers give the same, but this needs nothing but plain
    convolutions and poolings, for which OpenVINO has its fastest code.

    With a stride only every stride-th patch is judged, the middle one of stride × stride pixels, which all
    get its answer. Powers of two in the stride are left to the first poolings, whose levels then need no
    shifts: much cheaper. Any other factor spares nothing.
    """

    def __init__(self, network: PatchCnn, stride: int = 1) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"a stride of {stride} px")
        self.network = network
        self.stride = stride
        self.pooled = 0  # levels whose pooling keeps its own stride
        while self.pooled < len(network.levels) and stride % (2 << self.pooled) == 0:
            self.pooled += 1

    def forward(self, tiles: Tensor) -> Tensor:
        network, config = self.network, self.network.config
        keep = tiles.shape[-1] - config.patch_px + 1
        spacing, every = 1 << self.pooled, self.stride >> self.pooled  # of the patches computed; kept of them
        first = min(self.stride // 2, keep - 1)
        count = -(-(keep - first) // self.stride)  # patches a row
        shifted = len(network.levels) - self.pooled
        computed = _up_to_multiple((count - 1) * every + 1, 1 << shifted)
        x = _resized(tiles[:, :, first:, first:], (computed - 1) * spacing + config.seen_px)
        for level, layers in enumerate(network.levels):
            for layer in layers:  # type: ignore[attr-defined]  # torch does not say what a ModuleList holds
                x = layer(x)
            x = nn.functional.max_pool2d(x, 2) if level < self.pooled else _pooled_at_each_shift(x)
        x = torch.sigmoid(network.head(torch.relu(network.dense(x))))
        x = _interleaved(x, shifted)[:, :, ::every, ::every]
        return _spread(x[:, :, :count, :count], self.stride, keep)


def _pooled_at_each_shift(x: Tensor) -> Tensor:
    """(n, c, s, s), s odd → (4n, c, (s − 1)/2, (s − 1)/2): from (0, 0), (0, 1), (1, 0) and (1, 1) on."""
    end = x.shape[-1] - 1
    shifts = [x[:, :, i : i + end, j : j + end] for i in (0, 1) for j in (0, 1)]
    return torch.cat([nn.functional.max_pool2d(shift, 2) for shift in shifts])


def _interleaved(x: Tensor, levels: int) -> Tensor:
    """(4^levels · n, c, s, s) → (n, c, 2^levels · s, 2^levels · s): undoes the shifts, the last one first."""
    for _ in range(levels):
        batch, channels, side = x.shape[0] // 4, x.shape[1], x.shape[-1]
        x = x.reshape(2, 2, batch, channels, side, side).permute(2, 3, 4, 0, 5, 1)
        x = x.reshape(batch, channels, 2 * side, 2 * side)
    return x


def _spread(x: Tensor, stride: int, side: int) -> Tensor:
    """Every answer over its stride × stride pixels; the last ones also over what is left of the side."""
    if stride == 1:
        return x
    nearest = (torch.arange(side) // stride).clamp(max=x.shape[-1] - 1)
    return x.index_select(2, nearest).index_select(3, nearest)


def _resized(x: Tensor, side: int) -> Tensor:
    """Cut, or continued by its last row and column, which only answers that are cut off again will see."""
    missing = side - x.shape[-1]
    if missing > 0:
        return nn.functional.pad(x, (0, missing, 0, missing), mode="replicate")
    return x[:, :, :side, :side]


def _up_to_multiple(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
