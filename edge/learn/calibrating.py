"""Thresholds of what was just learned: from frames kept for them, from folds, or a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edge.calibrate import Calibrated, Fold, calibrate_crossed, calibrate_recipe
from edge.calibrate_labelled import calibrate_labelled
from edge.errors import BundleError, UnavailableError
from edge.infer.bundle import Bundle, write_bundle
from edge.infer.compile import open_runtime, prove
from edge.infer.runtime import Runtime
from edge.learn.export import golden_pair, to_onnx
from edge.learn.few_defects import NO_OPERATING_POINT, RealDefects, recall_of
from edge.learn.fit import FitSpec
from edge.learn.fitting import FOLDS, fit_for, learned_network
from edge.learn.models import ModelKind
from edge.learn.prepare import Prepared, planes_for
from edge.learn.progress import Event, Listener
from edge.learn.request import LearnRequest
from edge.learn.specimens import Specimen
from edge.renewal import Renewal

GUESSED = (
    "good frames of one part: thresholds rest on what was learned from, and promise nothing; give "
    "`edge calibrate` other good frames before anything is judged by them"
)


def agreement_of(bundle: Bundle) -> tuple[Runtime, dict[str, float | str]]:
    """The fp32 runtime that calibrates, and how far each precision of this machine is from torch."""
    runtime = open_runtime(bundle, precision="fp32")
    agreement: dict[str, float | str] = {"fp32": prove(bundle, runtime)}
    try:
        agreement["bf16"] = prove(bundle, open_runtime(bundle, precision="bf16"))
    except (BundleError, UnavailableError) as error:
        agreement["bf16"] = error.message
    return runtime, agreement


def calibrate_for(
    request: LearnRequest,
    kind: ModelKind,
    held: Sequence[Specimen],
    real: RealDefects,
    bundle: Bundle,
    runtime: Runtime,
    renewal: Renewal,
    listen: Listener,
) -> Calibrated | None:
    if not request.calibrate or kind.truth == "foreground":
        return None
    samples = list({s.sample.path: s.sample for s in held}.values())
    rule = request.rule
    shared: dict[str, Any] = {
        "recipe": request.recipe,
        "limits": request.limits,
        "on_frame": lambda done, of: listen(Event("calibrate", f"frame {done + 1} of {of}", done / of)),
    }
    file = renewal.new_calibration
    defects = list({s.sample.path: s.sample for s in real.unlearned}.values())
    if kind.truth == "none" and (request.min_recall is None or not defects):
        calibrated = calibrate_recipe(
            samples, bundle, runtime, file, false_reject=rule.false_reject, threshold=rule.method, k=rule.k,
            quantile=rule.quantile, too_few=request.too_few, unseen_views=request.unseen_views,
            false_reject_part=request.false_reject_part, review_band=request.review_band, **shared,
        )  # fmt: skip
        if defects and (found := recall_of(defects, bundle, runtime, calibrated.calibration, request.limits)):
            listen(Event("calibrate", found.sentence()))
        if request.min_recall is not None:
            listen(Event("calibrate", "WARNING " + NO_OPERATING_POINT))
    else:
        calibrated = calibrate_labelled(
            [*samples, *defects], bundle, runtime, file, rule=rule, min_recall=request.min_recall, **shared
        )
    for sentence in calibrated.shortfalls():
        listen(Event("calibrate", f"WARNING {sentence}"))
    return calibrated


def calibrate_crossed_for(
    request: LearnRequest,
    ready: Prepared,
    spec: FitSpec,
    real: RealDefects,
    bundle: Bundle,
    renewal: Renewal,
    listen: Listener,
) -> Calibrated:
    """Every good frame is learned from, and scored by a network that has not learned from its part."""
    members = [*ready.uses["train"], *ready.uses["validation"]]
    groups = sorted({s.group for s in members})
    order = [groups[k] for k in np.random.default_rng((request.seed, 0xF01D)).permutation(len(groups))]
    count = min(FOLDS, len(groups))
    rule, folds = request.rule, []
    renewal.resume.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=renewal.resume) as folder:
        for number in range(count):
            held = set(order[number::count])
            left = [s for s in members if s.group not in held]
            uses = {"train": left, "validation": [], "calibration": []}
            task = replace(ready.task, planes=planes_for(ready.kind, left))
            listen(Event("learn", f"fold {number + 1} of {count}: {len(left)} frames learned from"))
            checkpoint = renewal.resume / f"fold{number}.pt"
            fit = fit_for(ready.kind, ready.name, ready.preprocess, task, spec, uses, real, checkpoint)
            fit.resume()
            network = learned_network(ready.kind, fit, task, listen)
            fit.save()  # so that a run that is continued learns no fold twice
            one = write_bundle(
                Path(folder) / str(number), name=request.recipe, model=ready.name,
                preprocess=ready.preprocess, score=bundle.manifest.score, output=ready.kind.output,
                onnx=to_onnx(network, ready.kind.tiles.size_px),
                golden=golden_pair(network, [s.labelled.plane for s in left], ready.kind.tiles, request.seed),
                training={"learned_from": sorted({s.digest for s in left})}, extra=ready.extra,
            )  # fmt: skip
            samples = list({s.sample.path: s.sample for s in members if s.group in held}.values())
            folds.append(Fold(samples, one, agreement_of(one)[0]))
        calibrated = calibrate_crossed(
            folds, bundle, renewal.new_calibration, recipe=request.recipe, false_reject=rule.false_reject,
            too_few=request.too_few, limits=request.limits, threshold=rule.method, k=rule.k,
            quantile=rule.quantile, unseen_views=request.unseen_views,
            false_reject_part=request.false_reject_part, review_band=request.review_band,
            on_frame=lambda done, of: listen(Event("calibrate", f"frame {done + 1} of {of}", done / of)),
        )  # fmt: skip
    for sentence in calibrated.shortfalls():
        listen(Event("calibrate", f"WARNING {sentence}"))
    return calibrated


def guess(
    request: LearnRequest,
    learned: Sequence[Specimen],
    bundle: Bundle,
    runtime: Runtime,
    renewal: Renewal,
    listen: Listener,
) -> Calibrated:
    """Thresholds from the only part there is, which was learned from: nothing is promised."""
    calibrated = calibrate_recipe(
        list({s.sample.path: s.sample for s in learned}.values()), bundle, runtime, renewal.new_calibration,
        recipe=request.recipe, false_reject=request.rule.false_reject, too_few="bound",
        limits=request.limits, learned_too=True,
        on_frame=lambda done, of: listen(Event("calibrate", f"frame {done + 1} of {of}", done / of)),
    )  # fmt: skip
    listen(Event("calibrate", "WARNING " + GUESSED))
    return calibrated
