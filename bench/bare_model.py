"""The engine alone: tiles through a compiled OpenVINO model as fast as it takes them. Its own process.

`python -m bench.bare_model MODEL TILES.npy BATCH PRECISION SECONDS` prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.properties.hint as hint

from edge.types import FloatImage

TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}


def tiles_per_s(model_file: Path, tiles: FloatImage, batch: int, precision: str, seconds: float) -> float:
    """Tiles a second over all streams of the CPU, whole batches only; tiles (n, 1, size, size) float32."""
    core = ov.Core()
    model = core.read_model(model_file)
    model.reshape([batch, *tiles.shape[1:]])
    options = {
        hint.performance_mode(): hint.PerformanceMode.THROUGHPUT,
        hint.inference_precision(): TYPES[precision],
    }
    requests = ov.AsyncInferQueue(core.compile_model(model, "CPU", options))
    batches = [
        ov.Tensor(np.ascontiguousarray(tiles[start : start + batch]), shared_memory=True)
        for start in range(0, len(tiles) - batch + 1, batch)
    ]
    for tensor in batches[: 2 * len(requests)]:  # warm
        requests.start_async({0: tensor})
    requests.wait_all()
    count, began_s = 0, time.monotonic()
    while time.monotonic() - began_s < seconds:
        for tensor in batches:
            requests.start_async({0: tensor})
        count += len(batches) * batch
    requests.wait_all()
    return count / (time.monotonic() - began_s)


if __name__ == "__main__":
    file, array, batch, precision, seconds = sys.argv[1:]
    rate = tiles_per_s(Path(file), np.load(array), int(batch), precision, float(seconds))
    print(json.dumps({"tiles_per_s": rate}))
