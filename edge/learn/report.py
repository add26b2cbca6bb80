"""`report.html`: what was learned from what, and how far its thresholds can be trusted; in one file."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from edge import __version__
from edge.artifacts import write_atomic
from edge.calibrate import Calibrated, CalibrationFrame
from edge.dataset import frames
from edge.decode import Limits
from edge.infer.bundle import Bundle
from edge.infer.runtime import Runtime
from edge.judge.calibration import frames_needed
from edge.learn.charts import loss_curve, score_histogram
from edge.pipeline import Inspector
from edge.types import FloatImage

TEMPLATES = Path(__file__).parent / "templates"
WORST_FRAMES = 6
PICTURE_SIDE_PX = 420
PACKAGES = ("numpy", "opencv-python-headless", "openvino", "torch", "onnx")


@dataclass(frozen=True, slots=True)
class Picture:
    """A good frame that scored high, with its map laid over it, as data: URLs."""

    path: str
    page: int
    view: str
    score: float  # 1.0 is the view's threshold
    frame: str
    overlay: str


def write_report(
    file: Path,
    *,
    bundle: Bundle,
    calibrated: Calibrated | None,
    runtime: Runtime,
    limits: Limits,
    value_range: tuple[float, float] | None,
    curve: Sequence[tuple[int, float, float]],
    agreement: Mapping[str, float | str],
    left_out: Sequence[str],
) -> Path:
    """Render the report and write it as one self-contained file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html").render(
        manifest=bundle.manifest,
        training=bundle.manifest.training,
        uses=_uses(bundle.manifest.training["frames"]),
        digest=bundle.digest,
        calibration=calibrated and calibrated.calibration,
        views=_views(calibrated) if calibrated else [],
        shortfalls=calibrated.shortfalls() if calibrated else [],
        needed=frames_needed(calibrated.calibration.false_reject) if calibrated else 0,
        worst=_worst(bundle, calibrated, runtime, limits, value_range) if calibrated else [],
        curve=loss_curve(curve, bundle.manifest.training["best_step"]),
        agreement=agreement,
        left_out=left_out,
        environment=environment_of_this_machine(),
    )
    write_atomic(file, text.encode())
    return file


def _uses(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """One row a view: how many frames each use has of it."""
    views = sorted({view for of_use in counts.values() for view in of_use})
    return [{"view": view} | {use: counts[use].get(view, 0) for use in counts} for view in views]


def _views(calibrated: Calibrated) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "limits": limits,
            "median": float(np.median(limits.scores)) / limits.threshold,
            "highest": max(limits.scores) / limits.threshold,
            "chart": score_histogram(limits.scores, limits.threshold),
        }
        for name, limits in calibrated.calibration.views.items()
    ]


def _worst(
    bundle: Bundle,
    calibrated: Calibrated,
    runtime: Runtime,
    limits: Limits,
    value_range: tuple[float, float] | None,
) -> list[Picture]:
    """The good calibration frames nearest to their threshold, or beyond it."""
    views = calibrated.calibration.views

    def relative(frame: CalibrationFrame) -> float:
        return frame.good.raw / views[frame.good.view].threshold

    inspector = Inspector(bundle, runtime)
    pictures = []
    for entry in sorted(calibrated.frames, key=relative, reverse=True)[:WORST_FRAMES]:
        pages = frames([entry.sample], bundle.manifest.preprocess, limits, value_range)
        plane = next(frame.plane for _, frame in pages if frame.image.page == entry.page)
        (score,) = inspector.score([plane])
        overlay = heat(plane, score.map, views[entry.good.view].pixel_threshold)
        pictures.append(
            Picture(
                path=entry.sample.path,
                page=entry.page,
                view=entry.good.view,
                score=relative(entry),
                frame=_data_url(np.repeat((plane[..., None] * 255).astype(np.uint8), 3, axis=2)),
                overlay=_data_url(overlay),
            )
        )
    return pictures


def heat(
    plane: FloatImage, values: FloatImage, pixel_threshold: float
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The map over the plane: clear at 0, all colour at twice the pixel threshold; (h, w, 3) uint8 BGR."""
    strength = np.clip(values / (2 * pixel_threshold), 0, 1)
    colour = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    alpha = 0.75 * strength[..., None]
    return np.asarray((1 - alpha) * plane[..., None] * 255 + alpha * colour, np.uint8)


def _data_url(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    factor = min(1.0, PICTURE_SIDE_PX / max(picture.shape[:2]))
    if factor < 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]  # uint8 in and out
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def environment_of_this_machine() -> dict[str, str]:
    """What the bundle was made with: versions, CPU, system."""
    found = {"edge": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"CPU": _cpu(), "system": platform.platform()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
