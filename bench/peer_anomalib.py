"""The peer's side of `bench.peer`, run by its own Python: nothing of edge is imported here.

`lines MODEL FOLDER` prints a JSON line for each frame as soon as it is predicted.
`timed MODEL FOLDER` prints one JSON object: milliseconds of predicting and of the bare model, by turns.
An option `--default-precision` leaves the precision to the runtime instead of fp32.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

TURN = 10  # frames predicted, then as many calls of the bare model
FP32 = {"INFERENCE_PRECISION_HINT": "f32"}


def main() -> None:
    """See above."""
    task, model, folder = (word for word in sys.argv[1:] if not word.startswith("--"))
    from anomalib.deploy import OpenVINOInferencer  # type: ignore[import-not-found]  # the peer's own environment has it

    config = None if "--default-precision" in sys.argv else FP32
    inferencer = OpenVINOInferencer(path=model, device="CPU", config=config)
    files = sorted(Path(folder).glob("*.png"))
    if task == "lines":
        for file in files:
            prediction = inferencer.predict(str(file))
            print(json.dumps({"name": file.name, "score": float(prediction.pred_score[0])}), flush=True)
    else:
        print(json.dumps(timed(inferencer, files)))


def timed(inferencer: Any, files: list[Path]) -> dict[str, Any]:
    """Every frame from its file to its prediction, and the same compiled model on a tensor that is ready."""
    import numpy as np

    tensor = np.random.default_rng(0).random(tuple(inferencer.model.input(0).shape), np.float32)
    request = inferencer.model.create_infer_request()
    for _ in range(3):  # warm
        inferencer.predict(str(files[0]))
        request.infer([tensor], share_inputs=True, share_outputs=True)
    predict_ms, bare_ms = [], []
    for start in range(0, len(files), TURN):
        turn = files[start : start + TURN]
        for file in turn:
            began_s = time.perf_counter()
            inferencer.predict(str(file))
            predict_ms.append(1e3 * (time.perf_counter() - began_s))
        for _ in turn:
            began_s = time.perf_counter()
            request.infer([tensor], share_inputs=True, share_outputs=True)
            bare_ms.append(1e3 * (time.perf_counter() - began_s))
    precision = inferencer.model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return {"predict_ms": predict_ms, "bare_ms": bare_ms, "precision": precision.replace("f32", "fp32")}


if __name__ == "__main__":
    main()
