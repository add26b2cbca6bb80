"""`edge learn` in its place: a network that blurs, real in everything but its learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference

from edge.accuracy.learning import Learner
from edge.artifacts import sha256_of
from edge.calibrate import calibrate_recipe, learned_id
from edge.dataset import read_manifest
from edge.decode import Limits
from edge.infer.bundle import ScoreSpec, write_bundle
from edge.infer.compile import open_runtime
from edge.preprocess import PreprocessSpec, TileSpec
from tests.sites import PX, blurring_network


class Blurring:
    """Call it as `Learner.learn`; `calls` are those it had, `fails` what it raises for a model."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, list[str]]] = []  # model, seed, paths
        self.fails: dict[str, Exception] = {}
        self.also_learned: Sequence[Path] = ()  # what it has no business to look at
        self.forgets = False

    def __call__(
        self, learner: Learner, manifest: Path, recipe: str, model: str, seed: int, config: Path
    ) -> Mapping[str, Any]:
        samples = read_manifest(manifest)
        self.calls.append((model, seed, [s.file.name for s in samples]))
        if model in self.fails:
            raise self.fails[model]
        half = {s.part for s in samples[: len(samples) // 2]}
        learned = [s.file for s in samples if s.part in half] + list(self.also_learned)
        tiles = np.random.default_rng(0).random((2, 1, PX, PX), np.float32)
        reference = onnx.reference.ReferenceEvaluator(onnx.load_from_string(blurring_network()))
        bundle = write_bundle(
            config.parent / "engines" / recipe,
            name=recipe,
            model="blur",
            preprocess=PreprocessSpec(tiles=TileSpec(size_px=PX, keep_px=PX, step_px=PX // 2)),
            score=ScoreSpec(map="l1", statistic="peak", peak_px=4),
            output="reconstruction",
            onnx=blurring_network(),
            golden=(tiles, reference.run(None, {"tiles": tiles})[0]),
            training={
                "learned_from": [] if self.forgets else [learned_id(sha256_of(f)) for f in learned],
                "seconds": 60.0,
                "steps": 10,
            },
        )
        calibrate_recipe(
            samples, bundle, open_runtime(bundle), config.parent / "calibration" / f"{recipe}.json",
            recipe=recipe, false_reject=learner.false_reject, too_few="pool", limits=Limits(10**8, 8),
        )  # fmt: skip
        return {"why": "it is the only one"}
