"""`report.html`: what was learned from what, and how far it can be trusted; one file, for an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from pydantic import BaseModel

from edge.artifacts import write_atomic
from edge.calibrate import BASIS, Calibrated, CalibrationFrame
from edge.dataset import frames
from edge.decode import Limits
from edge.detectability import Detectability
from edge.explain import fired, open_explainer
from edge.infer.bundle import MODEL, Bundle
from edge.infer.precisions import Precisions
from edge.infer.runtime import Runtime
from edge.judge.calibration import Calibration, ViewCalibration
from edge.judge.operating_point import lower_bound
from edge.judge.ranking import curve as ranked
from edge.judge.thresholds import frames_needed
from edge.learn.architecture import Architecture, architecture_of
from edge.learn.data_record import LEFT_OUT, DataRecord, counted, in_order
from edge.neighbours import open_neighbours
from edge.pipeline import Inspector, planes_of
from edge.report import command_line, data_url, environment_of_this_machine, heat, render
from edge.report.charts import curves, loss_curve, score_histogram
from edge.report.explained import Similar, detectability_view, similar

WORST_FRAMES = 6
SURE = 0.95


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame with its map laid over it, as data: URLs."""

    path: str
    page: int
    view: str
    score: float  # 1.0 is the view's threshold
    frame: str
    overlay: str
    fired: str  # which statistic, its value, and where
    similar: Sequence[Similar]  # the place itself, and the good crops most like it
    cams: Mapping[str, str]  # method → class activation map, of classifiers


def write_report(
    file: Path,
    *,
    bundle: Bundle,
    calibrated: Calibrated | None,
    runtime: Runtime,
    limits: Limits,
    curve: Sequence[tuple[int, float, float]],
    agreement: Mapping[str, float | str],
    left_out: Sequence[str],
    data: DataRecord | None = None,
    detectability: Detectability | None = None,
    precisions: Precisions | None = None,
) -> Path:
    """Render the report and write it as one self-contained file."""
    manifest, views = bundle.manifest, _views(calibrated) if calibrated else []
    text = render(
        "learned.html",
        manifest=manifest,
        training=manifest.training,
        uses=_uses(manifest.training["frames"]),
        data=data and _data(data),
        architecture=_architecture(bundle),
        preprocessing=_flat(manifest.preprocess),
        scoring=_flat(manifest.score),
        digest=bundle.digest,
        calibration=calibrated and calibrated.calibration,
        views=views,
        thresholds=_thresholds(views),
        sure=SURE,
        separation=_separation(calibrated) if calibrated else None,
        shortfalls=_grouped(calibrated.shortfalls()) if calibrated else [],
        needed=frames_needed(calibrated.calibration.false_reject) if calibrated else 0,
        worst=_worst(bundle, calibrated, runtime, limits) if calibrated else [],
        weakest=_weakest(bundle, calibrated, runtime, limits) if calibrated else [],
        curve=loss_curve(curve, manifest.training["best_step"]),
        agreement=agreement,
        precisions=precisions,
        detectability=detectability and detectability_view(detectability),
        left_out=left_out,
        environment=environment_of_this_machine(),
        command=command_line(),
    )
    write_atomic(file, text.encode())
    return file


def _uses(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """One row a view: how many frames each use has of it."""
    views = sorted({view for of_use in counts.values() for view in of_use})
    return [{"view": view} | {use: counts[use].get(view, 0) for use in counts} for view in views]


def _data(record: DataRecord) -> dict[str, Any]:
    """What the report says of the frames; the list itself is beside it."""
    used = record.used
    reasons: dict[str, int] = {}
    for row in record.rows:
        if row.role == LEFT_OUT:
            why = row.reason.partition(":")[0]
            reasons[why] = reasons.get(why, 0) + 1
    sizes = sorted({f"{row.width_px}×{row.height_px}" for row in used})
    return {
        "views": _joined(counted(record.rows)),
        "frames": len(used),
        "parts": len({row.part for row in used if row.part}),
        "defects": sum(row.label == "defect" for row in used),
        "bits": sorted({row.bits for row in used}),
        "sizes": sizes,
        "left_out": reasons,
        "digest": record.digest,
    }


def _architecture(bundle: Bundle) -> Architecture | None:
    """None of what is no network that can be read."""
    try:
        return architecture_of(bundle.read(MODEL), bundle.manifest.preprocess.tiles)
    except Exception:  # onnx raises protobuf's errors, its checker's and plain ones
        return None


def _flat(spec: BaseModel) -> dict[str, str]:
    """Every setting with its value, nested ones with dots."""
    found: dict[str, str] = {}

    def add(prefix: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                add(f"{prefix}{name}.", value)
            else:
                found[prefix + name] = "–" if value is None else str(value)

    add("", spec.model_dump())
    return found


def _views(calibrated: Calibrated) -> list[dict[str, Any]]:
    calibration = calibrated.calibration
    return [
        {
            "name": name,
            "limits": limits,
            "basis": BASIS[limits.basis],
            "sure": sure_bound(limits, calibration),
            "median": float(np.median(limits.scores or (0.0,))) / limits.threshold,
            "highest": max(limits.scores, default=0.0) / limits.threshold,
            "chart": score_histogram(limits.scores, limits.threshold),
        }
        for name, limits in sorted(calibration.views.items(), key=lambda view: in_order(view[0]))
    ]


def _thresholds(views: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table's rows."""
    return _joined(
        [
            {
                "view": view["name"],
                "frames": len(view["limits"].scores),
                "parts": view["limits"].parts_count,
                "threshold": view["limits"].threshold,
                "basis": f"{view['basis']}, {view['limits'].method}",
                "bound": view["limits"].false_reject_bound,
                "estimate": view["limits"].false_reject_estimate,
                "sure": view["sure"],
            }
            for view in views
        ]
    )


def _joined(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring views of which the same is said, as one row: "10 – 16"."""
    found: list[dict[str, Any]] = []
    for row in rows:
        rest = {name: value for name, value in row.items() if name != "view"}
        if found and found[-1]["rest"] == rest:
            found[-1]["to"] = row["view"]
        else:
            found.append({"from": row["view"], "to": row["view"], "rest": rest})
    return [
        {"view": one["from"] if one["from"] == one["to"] else f"{one['from']} – {one['to']}", **one["rest"]}
        for one in found
    ]


def _grouped(sentences: Sequence[str]) -> list[str]:
    """Sentences that say the same of several views, as one."""
    views: dict[str, list[str]] = {}
    for sentence in sentences:
        head, colon, rest = sentence.partition(": ")
        is_view = bool(colon) and head.startswith("view ")
        views.setdefault(rest if is_view else sentence, []).append(
            head.removeprefix("view ") if is_view else ""
        )
    return [
        said if not names[0] else f"view{'s' if len(names) > 1 else ''} {', '.join(names)}: {said}"
        for said, names in views.items()
    ]


def sure_bound(limits: ViewCalibration, calibration: Calibration) -> float | None:
    """The share of good parts that this very threshold rejects at most, at SURE confidence.

    The bound of conformal thresholds holds on average over calibrations; this one may have been lucky. The
    share that the r-th of n independent scores rejects has the distribution Beta(n + 1 − r, r), so that its
    upper limit is that of Clopper and Pearson for n − r rejected of n. A part counts once, by its highest
    score. None where the threshold is not at or above a score of the view's own good frames, or their
    network is not the one that judges.
    """
    if limits.basis not in ("view", "pool", "maximum") or calibration.procedure != "split":
        return None
    parts = range(len(limits.scores)) if limits.parts is None else limits.parts
    highest: dict[int, float] = {}
    for part, score in zip(parts, limits.scores, strict=True):
        highest[part] = max(score, highest.get(part, score))
    accepted = sum(score <= limits.threshold for score in highest.values())
    return 1.0 - lower_bound(accepted, len(highest), SURE)


def _separation(calibrated: Calibrated) -> dict[str, Any] | None:
    """How well scores of defect frames and of good ones are told apart; None without defect frames."""
    if not (calibrated.defects and calibrated.frames):
        return None
    views = calibrated.calibration.views
    both = (*calibrated.frames, *calibrated.defects)
    scores = [entry.good.raw / views[entry.good.view].threshold for entry in both]
    found = ranked(scores, [False] * len(calibrated.frames) + [True] * len(calibrated.defects))
    recall = found.true_positives / found.positives
    precision = found.true_positives / (found.true_positives + found.false_positives)
    rejects = found.false_positives / found.negatives
    roc: Markup = curves([("validation", [0.0, *rejects], [0.0, *recall])], "ROC")
    return {
        "good": len(calibrated.frames),
        "defects": len(calibrated.defects),
        "auroc": found.auroc(),
        "auprc": found.average_precision(),
        "roc": roc,
        "pr": curves([("validation", list(recall), list(precision))], "precision over recall"),
    }


def _worst(bundle: Bundle, calibrated: Calibrated, runtime: Runtime, limits: Limits) -> list[Picture]:
    """The good calibration frames nearest to their threshold, or beyond it."""
    show = _Shower(bundle, calibrated, runtime, limits)
    return [show(entry) for entry in sorted(calibrated.frames, key=show.relative)[: -WORST_FRAMES - 1 : -1]]


def _weakest(bundle: Bundle, calibrated: Calibrated, runtime: Runtime, limits: Limits) -> list[Picture]:
    """The defect calibration frames with the lowest scores."""
    show = _Shower(bundle, calibrated, runtime, limits)
    return [show(entry) for entry in sorted(calibrated.defects, key=show.relative)[:WORST_FRAMES]]


class _Shower:
    """Draws calibration frames, their maps, and why a classifier scored them as it did."""

    def __init__(self, bundle: Bundle, calibrated: Calibrated, runtime: Runtime, limits: Limits) -> None:
        self._views, self._limits = calibrated.calibration.views, limits
        self._inspector, self._explain = Inspector(bundle, runtime), open_explainer(bundle)
        self._good = open_neighbours(bundle)

    def relative(self, entry: CalibrationFrame) -> float:
        """Its score; 1.0 is the view's threshold."""
        return entry.good.raw / self._views[entry.good.view].threshold

    def __call__(self, entry: CalibrationFrame) -> Picture:
        bundle = self._inspector.bundle
        pages = frames([entry.sample], bundle.manifest.preprocess, self._limits, assets=bundle.folder)
        frame = next(frame for _, frame in pages if frame.image.page == entry.page)
        plane = frame.plane
        (score,) = self._inspector.score([planes_of(frame)])
        why = self._explain(plane) if self._explain else {}
        reason = fired(score, bundle.manifest.score, self._views[entry.good.view].threshold)
        return Picture(
            path=entry.sample.path,
            page=entry.page,
            view=entry.good.view,
            score=self.relative(entry),
            frame=data_url(np.repeat((plane[..., None] * 255).astype(np.uint8), 3, axis=2)),
            overlay=data_url(heat(plane, score.map, self._views[entry.good.view].pixel_threshold)),
            fired=reason.text(frame.placement),
            similar=similar(self._good, plane, reason.box, entry.good.view),
            cams={method: data_url(heat(plane, values, 0.5)) for method, values in why.items()},
        )
