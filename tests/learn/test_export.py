"""torch → ONNX → OpenVINO: the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edge.errors import BundleError
from edge.infer.bundle import write_bundle
from edge.infer.compile import open_runtime, prove
from edge.learn.export import golden_pair, to_onnx
from edge.learn.models import MODELS
from edge.preprocess import PreprocessSpec

QUICK = ("fragment-cae", "fragment-ae")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(MODELS)]
)
def test_runtime_gives_what_torch_gave(tmp_path: Path, name: str) -> None:
    kind = MODELS[name]
    torch.manual_seed(3)
    network = kind.finish(kind.build(2).eval())
    shape = kind.size_px or (130, 90)
    planes = [np.random.default_rng(0).random(shape[::-1], dtype=np.float32).astype(np.float16)]
    tiles, answers = golden_pair(network, planes, kind.tiles, seed=1)
    assert tiles.shape == (2, 1, kind.tiles.size_px, kind.tiles.size_px)
    assert len(answers) == 2
    data = to_onnx(network, kind.tiles.size_px)

    def bundle(golden: np.ndarray) -> float:  # type: ignore[type-arg]
        written = write_bundle(
            tmp_path, name="r", model=name, preprocess=PreprocessSpec(tiles=kind.tiles), score=kind.score,
            output="reconstruction", onnx=data, golden=(tiles, golden), training={},
        )  # fmt: skip
        return prove(written, open_runtime(written, precision="fp32"))

    assert bundle(answers) < 1e-4
    with pytest.raises(BundleError, match="differs"):
        bundle(answers + np.float32(0.01))


def test_model_is_one_file_with_a_free_batch_and_no_traces_of_this_machine() -> None:
    data = to_onnx(MODELS["fragment-cae"].build(1), 64)
    model = onnx.load_from_string(data)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 1, 64, 64]
    assert model.opset_import[0].version >= 17
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert b"/edge/learn/" not in data
