"""Networks for benches whose speed is the question, not what they find: learned for moments, or not at all.

Batch normalisation has the statistics of real windows either way, so that no activation is denormal, infinite
or dead, which would make a network faster or slower than a learned one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import openvino as ov
import torch
from torch import Tensor, nn

from edge.infer.bundle import Bundle, ScoreSpec, write_bundle
from edge.learn.datasets import Plane16, Windows
from edge.learn.export import OPSET, golden_pair, to_onnx
from edge.learn.fit import Fit, FitSpec
from edge.learn.labels import LabelledPlane
from edge.learn.models import MODELS, ModelKind, Task
from edge.learn.models.anomaly_unet import AnomalyMap, AnomalyUNet, AnomalyUNetConfig
from edge.preprocess import PreprocessSpec, TileSpec
from edge.types import FloatImage

SEED = 1
WARM_STEPS = 4


def learned(kind: ModelKind, planes: Sequence[LabelledPlane], tiles: TileSpec, steps: int) -> nn.Module:
    """A network after a few steps on these planes (good frames, unlabelled); `kind.finish` it for export."""
    task = Task(planes=planes, tiles=tiles, classes=1, seed=SEED)
    spec = FitSpec(
        kind.loss, kind.learning_rate, minutes=0, steps=steps, seed=SEED,
        validation_batches=kind.validation_batches, patience=0,
    )  # fmt: skip
    torch.manual_seed(SEED)
    network = kind.build(1)
    kind.prepare(network, planes)
    unchanged = Task(planes=planes, tiles=tiles, classes=1, seed=SEED + 1, varied=False)
    fit = Fit(
        network, spec, kind.batches(kind, task), kind.batches(kind, unchanged),
        objective=kind.objective(kind.loss, planes),
    )  # fmt: skip
    fit.run()
    network.eval()
    return network


def warmed(kind: ModelKind, planes: Sequence[LabelledPlane]) -> nn.Module:
    """What of a network is exported, with random weights and statistics of real windows; what is learned in
    closed form is learned."""
    torch.manual_seed(SEED)
    network = kind.build(1)
    kind.prepare(network, planes)
    if kind.closed_form is not None:
        kind.closed_form(network, planes, SEED)
    else:
        _warm(network, windows([one.plane for one in planes], kind.tiles, kind.window_px or 64))
        if kind.complete is not None:
            kind.complete(network, planes, SEED, kind.tiles)
    return kind.finish(network.eval()).eval()


def _warm(network: nn.Module, batches: Sequence[Tensor]) -> None:
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)


def windows(planes: Sequence[Plane16], tiles: TileSpec, side_px: int, batch: int = 8) -> list[Tensor]:
    """A few batches of (batch, 1, side, side) float32 in 0..1, the same ones every time."""
    made = Windows(planes, tiles, side_px, batch, "flips", SEED)
    return [made.at(step) for step in range(WARM_STEPS)]


def labelled(planes: Sequence[FloatImage]) -> list[LabelledPlane]:
    """Planes (h, w) in 0..1 of good frames, as networks learn from them."""
    halves = [plane.astype("float16") for plane in planes]
    return [LabelledPlane(plane, torch.zeros(plane.shape, dtype=torch.uint8).numpy()) for plane in halves]


def write_engine(
    folder: Path, network: nn.Module, planes: Sequence[LabelledPlane], preprocess: PreprocessSpec,
    score: ScoreSpec, *, model: str, output: str,
) -> Bundle:  # fmt: skip
    """The bundle `folder`, as `edge learn` would leave it but for its report."""
    return write_bundle(
        folder, name=folder.name, model=model, preprocess=preprocess, score=score,
        output="probability" if output == "probability" else "reconstruction",
        onnx=to_onnx(network, preprocess.tiles.size_px),
        golden=golden_pair(network, [one.plane for one in planes], preprocess.tiles, SEED), training={},
    )  # fmt: skip


class LightMap(AnomalyMap):
    """As `AnomalyMap`, but each answer stands for fold × fold pixels: next to nothing to compute."""

    def forward(self, tiles: Tensor) -> Tensor:
        """(n, 1, h, w) → (n, 1, h, w) in 0..1."""
        folded = nn.functional.conv2d(tiles, self.fold_weights, stride=self.fold, padding=self.fold)
        small = torch.sigmoid(self.network.from_folded(folded))
        return nn.functional.interpolate(small, scale_factor=float(self.fold), mode="nearest")


LIGHT = replace(
    MODELS["anomaly-unet"],
    build=lambda classes: AnomalyUNet(AnomalyUNetConfig(fold=4, channels=(16, 32))),
    finish=lambda network: LightMap(cast(AnomalyUNet, network)),
)


class WholeFrame(nn.Module):
    """A network as anomalib exports its own: colour frame in, `pred_score` and `anomaly_map` out.

    All three channels of a grey frame are the same; sides are mirrored up to a multiple of `multiple_px`.
    The score is the map's maximum. Normalisation, labels and masks, which its own exports have, are left out.
    """

    def __init__(self, network: nn.Module, multiple_px: int) -> None:
        super().__init__()
        self.network, self.multiple_px = network, multiple_px

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, h, w) in 0..1 → (1,) and (1, 1, h, w)."""
        height, width = frame.shape[2:]
        more = -width % self.multiple_px, -height % self.multiple_px
        padded = nn.functional.pad(frame[:, :1], (0, more[0], 0, more[1]), mode="reflect")
        found = self.network(padded)[:, :, :height, :width]
        return found.amax(dim=(1, 2, 3)), found


def write_whole(file: Path, network: nn.Module, size_px: tuple[int, int], multiple_px: int) -> None:
    """OpenVINO's files (fp32) of a network for whole frames of (width, height), as the peer reads them."""
    width, height = size_px
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls
        program = torch.onnx.export(
            WholeFrame(network, multiple_px).eval(), (torch.zeros(1, 3, height, width),), dynamo=True,
            input_names=["image"], output_names=["pred_score", "anomaly_map"], opset_version=OPSET,
            verbose=False,
        )  # fmt: skip
    assert program is not None, "dynamo export without a file gives a program"
    ov.save_model(ov.Core().read_model(program.model_proto.SerializeToString()), file, compress_to_fp16=False)
