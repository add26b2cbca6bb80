"""Reports for people: self-contained HTML files, no scripts, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from edge import __version__
from edge.options import relative_score
from edge.types import FloatImage

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_SIDE_PX = 420
GIT_S = 5.0
PACKAGES = ("numpy", "opencv-python-headless", "openvino", "nncf", "torch", "onnx")


def render(template: str, **values: Any) -> str:
    """A page from one of the templates beside this file; a value it lacks is an error, not a gap."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["relative"] = relative_score
    return environment.get_template(template).render(**values)


def heat(
    plane: FloatImage, values: FloatImage, pixel_threshold: float
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The map over the plane, from half the pixel threshold (clear) to twice it; (h, w, 3) uint8 BGR."""
    strength = np.clip((values / pixel_threshold - 0.5) / 1.5, 0, 1)
    colour = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    alpha = 0.75 * strength[..., None]
    return np.asarray((1 - alpha) * plane[..., None] * 255 + alpha * colour, np.uint8)


def data_url(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """A picture as a small JPEG inside the page."""
    factor = min(1.0, PICTURE_SIDE_PX / max(picture.shape[:2]))
    if factor < 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]  # uint8 in and out
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def environment_of_this_machine() -> dict[str, str]:
    """What the bundle was made with: versions, CPU, system."""
    found = {"edge": " ".join(filter(None, (__version__, _commit()))), "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"CPU": _cpu(), "system": platform.platform()}


def command_line() -> str:
    """What was typed; empty where edge is not run by its own command."""
    name = Path(sys.argv[0]).name
    return shlex.join(["edge", *sys.argv[1:]]) if name in ("edge", "__main__.py") else ""


def _commit() -> str:
    """What git says of the sources, where edge runs from them."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, timeout=GIT_S, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or not its repository: a version is enough
        return ""
    return f"(sources {found.stdout.strip()})"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
