"""Frames rendered from a mesh: all views of some parts, their exact foreground masks, and manifests."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from edge.errors import CannotWriteError, UsageError
from edge.simulate.mesh import Shape
from edge.simulate.part import expose
from edge.simulate.rig import Path3D, cameras, draw_error
from edge.simulate.scene import Material, Studio, described, draw_lamp, draw_look
from edge.simulate.truth import MANIFEST, write_file, write_table
from edge.types import FloatImage, Mask

FOREGROUND = "foreground.csv"
POSES = "poses.jsonl"
SMALLEST = (32, 24)
MOST_PX = 64_000_000


@dataclass(frozen=True, slots=True)
class RenderSpec:
    """What is rendered of a mesh.

    Raises:
        UsageError: numbers that make no sense.
    """

    path: Path3D = field(default_factory=Path3D)
    parts: int = 1
    size: tuple[int, int] = (1024, 768)  # width, height
    samples: int = 16  # of a pixel
    bits: Literal[8, 16] = 8
    material: Material | None = None  # None: any
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size[0] < SMALLEST[0] or self.size[1] < SMALLEST[1] or math.prod(self.size) > MOST_PX:
            raise UsageError(
                f"--size {self.size[0]}x{self.size[1]}: too small or too large",
                hint=f"from {SMALLEST[0]}x{SMALLEST[1]} to {MOST_PX // 1_000_000} million pixels",
            )
        if self.parts < 1 or self.seed < 0:
            raise UsageError("--parts is at least 1 and --seed at least 0", hint="mend the number")

    @property
    def frames(self) -> int:
        return self.parts * self.path.views * self.path.cameras


@dataclass(frozen=True, slots=True)
class View:
    """One rendered frame and all that is true of it."""

    part: str
    name: str
    scene: FloatImage  # (h, w), 1 is full scale: before the sensor
    pixels: Any  # (h, w) uint8 or uint16
    foreground: Mask  # (h, w)
    pose: dict[str, Any]  # camera, pose error, look and lamp, as JSON


@dataclass(frozen=True, slots=True)
class Rendered:
    """What was written."""

    manifest: Path
    foreground: Path
    frames: int
    seconds: float


def views(shape: Shape, spec: RenderSpec) -> Iterator[View]:
    """Every frame of every part, one after the other; the same spec gives the same ones.

    Raises:
        UnavailableError: the extra `render` is not installed. UsageError: a number of samples.
    """
    with Studio(shape, spec.size, spec.samples) as studio:
        for part in range(1, spec.parts + 1):
            look = draw_look(np.random.default_rng([spec.seed, part, 0]), spec.material)
            for number in range(1, spec.path.views + 1):
                rng = np.random.default_rng([spec.seed, part, number])
                error = draw_error(rng)
                lamp = draw_lamp(rng, look, spec.path.angles_deg(number)[0])
                for index, camera in enumerate(
                    cameras(spec.path, number, shape.centre_m, shape.radius_m, error)
                ):
                    seed = int(rng.integers(2**31))
                    scene = studio.picture(camera, look, lamp, seed)
                    pose = {
                        "origin_m": camera.origin_m.tolist(),
                        "target_m": camera.target_m.tolist(),
                        "up": camera.up.tolist(),
                        "fov_deg": camera.fov_deg,
                        "error": asdict(error),
                    }
                    yield View(
                        part=f"P{part:06d}",
                        name=spec.path.name(number, index),
                        scene=scene,
                        pixels=expose(rng, scene, spec.bits),
                        foreground=studio.silhouette(camera, seed),
                        pose=pose | described(look, lamp),
                    )


def render_set(
    shape: Shape, out: Path, spec: RenderSpec, on_frame: Callable[[int], bool] = lambda done: True
) -> Rendered:
    """Write `frames/` and `foreground/` (PART_VIEW.png), their two manifests, and `poses.jsonl`.

    In `manifest.csv` all frames are good and no mask is given: there it would mean a defect. In
    `foreground.csv`, for learning masks, the mask is the part.

    Args:
        shape: of the part.
        out: the folder.
        spec: what to render.
        on_frame: called with the number of frames written; False ends it, and what is written stays usable.

    Raises:
        CannotWriteError: the folder has a manifest, or the disk does not take the files.
        UnavailableError, UsageError: as `views`.
    """
    for name in (MANIFEST, FOREGROUND):
        if (out / name).exists():
            raise CannotWriteError(f"{out / name} exists", hint="choose another folder", retryable=False)
    started_s = time.monotonic()
    rows: list[dict[str, str]] = []
    poses: list[str] = []
    for view in views(shape, spec):
        name = f"{view.part}_{view.name}.png"
        frame, mask = f"frames/{name}", f"foreground/{name}"
        write_file(out / frame, cv2.imencode(".png", view.pixels)[1].tobytes())
        write_file(out / mask, cv2.imencode(".png", view.foreground.astype(np.uint8) * 255)[1].tobytes())
        rows.append({"path": frame, "label": "good", "mask": mask, "view": view.name, "part": view.part})
        poses.append(json.dumps({"path": frame, **view.pose}))
        if not on_frame(len(rows)):
            break
    write_file(out / POSES, ("\n".join(poses) + "\n").encode())
    write_table(out / FOREGROUND, rows)
    write_table(out / MANIFEST, [{**row, "mask": ""} for row in rows])
    return Rendered(out / MANIFEST, out / FOREGROUND, len(rows), time.monotonic() - started_s)
