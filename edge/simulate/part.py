"""A simulated machined bracket under six cameras: frames that vary as real ones do, with exact defect masks.

The bracket is a height map per face (signed distances, so edges are chamfered and smooth at any size), shaded
by a directional light, seen through a perspective camera, and degraded by optics and sensor. Everything
random comes from the generator that is passed in, so a frame is reproduced by its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError
from edge.simulate.defects import DEFECTS, Flaw, paint
from edge.types import FloatImage

Matrix = NDArray[np.float64]
Face = Literal["front", "back"]

OVERSAMPLING = 2  # surface pixels per frame pixel, so that the camera's resampling does not alias
FIELD = (2.67, 2.0)  # what a frame shows at least, in part units: the plate is 2.0 × 1.36
HOLES = ((-0.80, -0.48), (0.80, -0.48), (-0.80, 0.48), (0.80, 0.48))  # centres, in part units
THICKNESS = 0.14  # of the plate, in part units
CAMERA_DISTANCE = 4.5  # in part units: mild perspective
SHOT_NOISE = 1.1e-4  # variance of a full-scale signal: about 9,000 electrons
READ_NOISE = 0.004  # standard deviation, of full scale


@dataclass(frozen=True, slots=True)
class View:
    """One camera and lamp: where they stand and how bright the scene is, all in 0..1 of full scale."""

    face: Face
    roll_deg: float
    tilt_deg: tuple[float, float]  # about x, about y
    light_deg: tuple[float, float]  # azimuth, elevation above the surface
    ambient: float
    diffuse: float
    gloss: float
    background: float
    grain: float  # standard deviation of the brushing, relative


VIEWS = (
    View("front", 0, (0, 0), (35, 68), 0.20, 0.50, 0.10, 0.06, 0.018),
    View("front", 11, (26, -6), (175, 38), 0.16, 0.66, 0.22, 0.10, 0.024),
    View("front", -13, (-8, 28), (-20, 34), 0.14, 0.66, 0.18, 0.05, 0.026),
    View("back", 0, (0, 0), (90, 60), 0.12, 0.30, 0.06, 0.70, 0.016),
    View("back", 19, (-24, 8), (-120, 45), 0.24, 0.55, 0.12, 0.22, 0.022),
    View("back", -9, (8, -30), (10, 27), 0.12, 0.80, 0.20, 0.06, 0.028),
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A frame and its truth."""

    pixels: NDArray[np.uint8 | np.uint16]  # (h, w)
    mask: NDArray[np.uint8]  # (h, w), 255 where the defect is, otherwise 0


@dataclass(frozen=True, slots=True)
class Surface:
    """One face of the bracket, in surface pixels."""

    height: FloatImage  # (h, w), part units
    solid: FloatImage  # (h, w) 0..1: material seen from above
    flat: NDArray[np.bool_]  # (h, w): far enough from every edge for a defect to start
    px_per_unit: float


def render(
    rng: np.random.Generator,
    view: int,
    defect: str | None,
    size: tuple[int, int] = (256, 192),
    bits: Literal[8, 16] = 8,
) -> Rendered:
    """Render one frame of a new bracket.

    Args:
        rng: all that varies from frame to frame: pose, lamp, brushing, gain, noise, the defect.
        view: camera, 1..6.
        defect: one of `DEFECTS`, or None for a good part.
        size: of the frame, (width, height) in pixels, at least 64×48.
        bits: 8 gives uint8, 16 gives uint16; both use the whole scale.

    Raises:
        UsageError: no such view or defect, or a frame too small to show the part.
    """
    if not 1 <= view <= len(VIEWS):
        raise UsageError(f"no view {view}", hint=f"the bracket is seen from views 1 to {len(VIEWS)}")
    if defect is not None and defect not in DEFECTS:
        raise UsageError(f"no defect {defect!r}", hint=f"choose one of {', '.join(DEFECTS)}")
    if size[0] < 64 or size[1] < 48:
        raise UsageError(f"a frame of {size[0]}×{size[1]} is too small", hint="ask for at least 64×48 pixels")
    spec = VIEWS[view - 1]
    surface = _surface(spec.face, size)
    flaw = paint(rng, defect, surface.solid, surface.flat, surface.px_per_unit)
    shade = _shade(rng, spec, surface, flaw)
    scene, mask = _photograph(rng, spec, surface, shade, flaw, size)
    return Rendered(expose(rng, scene, bits), mask)


# --- the part ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _surface(face: Face, size: tuple[int, int]) -> Surface:
    """The height map of a face; the same for all frames, so it is computed once a size."""
    w, h = size[0] * OVERSAMPLING, size[1] * OVERSAMPLING
    px_per_unit = min(w / FIELD[0], h / FIELD[1])
    x = ((np.arange(w, dtype=np.float32) + 0.5 - w / 2) / px_per_unit)[None, :]
    y = ((np.arange(h, dtype=np.float32) + 0.5 - h / 2) / px_per_unit)[:, None]
    if face == "back":
        x = -x  # the same plate, turned over
    outline = _box(x, y, (0, 0), (1.0, 0.68), 0.12)
    bore = _disc(x, y, (-0.26, 0), 0.19)
    holes = np.minimum.reduce([_disc(x, y, centre, 0.075) for centre in HOLES])
    slot = _box(x, y, (0.46, 0), (0.075, 0.26), 0.074)
    distance = np.maximum(outline, -np.minimum.reduce([bore, holes, slot]))  # < 0 inside the material
    relief = _relief(face, x, y)
    height = _step(-distance, 0.045) * 0.05 + relief
    solid = np.clip(0.5 - distance * px_per_unit, 0, 1).astype(np.float32)
    slope = np.hypot(*np.gradient(cv2.GaussianBlur(height, (0, 0), 0.01 * px_per_unit)))
    quiet = cv2.dilate((slope > 1e-4).astype(np.uint8), _ellipse(0.025 * px_per_unit)) == 0
    return Surface(height, solid, quiet & (distance < -0.07), px_per_unit)


def _relief(face: Face, x: FloatImage, y: FloatImage) -> FloatImage:
    """What is milled into a face: a boss and two ribs in front, a pocket and a groove behind."""
    sink = np.minimum.reduce([_disc(x, y, centre, 0.13) for centre in HOLES])
    relief = -0.04 * _step(-sink, 0.05)
    if face == "front":
        relief = relief + 0.07 * _step(-_disc(x, y, (-0.26, 0), 0.33), 0.05)
        for sy in (-1, 1):
            relief = relief + 0.035 * _step(-_box(x, y, (0.06, sy * 0.50), (0.50, 0.035), 0.03), 0.03)
    else:
        relief = relief - 0.06 * _step(-_box(x, y, (0.46, 0), (0.24, 0.42), 0.08), 0.05)
        ring = np.abs(_disc(x, y, (-0.26, 0), 0.34)) - np.float32(0.025)
        relief = relief - 0.03 * _step(-ring, 0.03)
    return np.asarray(relief, np.float32)


def _disc(x: FloatImage, y: FloatImage, centre: tuple[float, float], radius: float) -> FloatImage:
    return np.asarray(np.hypot(x - centre[0], y - centre[1]) - radius, np.float32)


def _box(
    x: FloatImage, y: FloatImage, centre: tuple[float, float], half: tuple[float, float], radius: float
) -> FloatImage:
    """Signed distance to a box with rounded corners."""
    qx = np.abs(x - centre[0]) - (half[0] - radius)
    qy = np.abs(y - centre[1]) - (half[1] - radius)
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return np.asarray(outside + np.minimum(np.maximum(qx, qy), 0) - radius, np.float32)


def _step(distance: FloatImage, width: float) -> FloatImage:
    """0 outside, 1 deeper inside than `width`, smooth between."""
    t = np.clip(distance / width, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _ellipse(radius_px: float) -> NDArray[np.uint8]:
    side = 2 * math.ceil(radius_px) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


# --- the light --------------------------------------------------------------------------------------------


def _shade(rng: np.random.Generator, spec: View, surface: Surface, flaw: Flaw) -> FloatImage:
    """Brightness of every surface pixel: Blinn-Phong over the height map, times brushing and the flaw."""
    azimuth = math.radians(spec.light_deg[0] + rng.normal(0, 1.5))
    elevation = math.radians(spec.light_deg[1] + rng.normal(0, 0.7))
    across = math.cos(elevation)
    light = np.array([across * math.cos(azimuth), across * math.sin(azimuth), math.sin(elevation)])
    half = light + np.array([0, 0, 1])  # between the lamp and the camera, which looks straight down
    half /= np.linalg.norm(half)
    dy, dx = np.gradient((surface.height + flaw.height) * surface.px_per_unit)
    norm = np.sqrt(dx * dx + dy * dy + 1)
    facing = np.clip((light[2] - light[0] * dx - light[1] * dy) / norm, 0, None)
    glint = np.clip((half[2] - half[0] * dx - half[1] * dy) / norm, 0, 1) ** 24
    lit = spec.ambient + spec.diffuse * facing * rng.normal(1, 0.012) + spec.gloss * glint
    occlusion = cv2.GaussianBlur(surface.height, (0, 0), 0.05 * surface.px_per_unit) - surface.height
    lit = lit * (1 - 3.0 * np.clip(occlusion, 0, 0.08))
    return np.asarray(lit * _brushing(rng, spec, surface) * flaw.reflectance, np.float32)


def _brushing(rng: np.random.Generator, spec: View, surface: Surface) -> FloatImage:
    """Relative brightness of a ground surface: fine lines along x, and soft clouds."""
    h, w = surface.height.shape
    fine = rng.standard_normal((h, w), np.float32)
    lines = cv2.GaussianBlur(fine, (0, 0), sigmaX=0.16 * surface.px_per_unit, sigmaY=0.8)
    clouds = cv2.resize(rng.standard_normal((6, 8), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    return np.asarray(1 + spec.grain * lines / lines.std() + 0.010 * clouds, np.float32)


# --- the camera -------------------------------------------------------------------------------------------


def _photograph(
    rng: np.random.Generator,
    spec: View,
    surface: Surface,
    shade: FloatImage,
    flaw: Flaw,
    size: tuple[int, int],
) -> tuple[FloatImage, NDArray[np.uint8]]:
    """The scene on the sensor in 0..1, (h, w), and the flaw's mask in the same pixels."""
    # the fixture has stops, so the pose is bounded: ±0.3° of roll, about ±½ pixel at the default size
    pose = (rng.uniform(-0.3, 0.3), rng.uniform(-0.006, 0.006), rng.uniform(-0.006, 0.006))
    top = _projection(spec, pose, 0.0, surface, size)
    bottom = _projection(spec, pose, THICKNESS, surface, size)
    smooth = np.asarray(cv2.GaussianBlur(shade, (0, 0), 0.4 * OVERSAMPLING), np.float32)
    face, seen = _warp(smooth, top, size), _warp(surface.solid, top, size)
    body = np.maximum(seen, _warp(surface.solid, bottom, size))
    background = _background(rng, spec, body)
    wall = spec.ambient * 0.8 + 0.12 * spec.diffuse
    scene = background * (1 - body) + wall * (body - seen) + face * seen
    scene = cv2.GaussianBlur(scene * _falloff(spec, size), (0, 0), 0.6)
    mask = (_warp(flaw.cover, top, size) > 0.4) & (seen > 0.5)
    return np.asarray(scene, np.float32), mask.astype(np.uint8) * 255


def _projection(
    spec: View, pose: tuple[float, float, float], depth: float, surface: Surface, size: tuple[int, int]
) -> Matrix:
    """The homography from surface pixels to frame pixels, for a plane `depth` units below the face."""
    h, w = surface.height.shape
    corners_px = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    flat = (corners_px - (w / 2, h / 2)) / surface.px_per_unit
    roll = math.radians(spec.roll_deg + pose[0])
    about_x, about_y = (math.radians(angle) for angle in spec.tilt_deg)
    c, s = math.cos(roll), math.sin(roll)
    rotation_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = math.cos(about_x), math.sin(about_x)
    rotation_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = math.cos(about_y), math.sin(about_y)
    rotation_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    points = np.column_stack([flat, np.full(4, depth)]) @ (rotation_y @ rotation_x @ rotation_z).T
    points[:, :2] += pose[1:]
    zoom = 0.94 * surface.px_per_unit / OVERSAMPLING * CAMERA_DISTANCE
    on_sensor = points[:, :2] * zoom / (CAMERA_DISTANCE + points[:, 2:]) + (size[0] / 2, size[1] / 2)
    return np.asarray(cv2.getPerspectiveTransform(corners_px, on_sensor.astype(np.float32)), np.float64)


def _warp(plane: FloatImage, homography: Matrix, size: tuple[int, int]) -> FloatImage:
    return np.asarray(cv2.warpPerspective(plane, homography, size, flags=cv2.INTER_LINEAR), np.float32)


def _background(rng: np.random.Generator, spec: View, body: FloatImage) -> FloatImage:
    """The fixture below the part, with the part's soft shadow on it unless it is itself a lamp."""
    h, w = body.shape
    cloth = cv2.GaussianBlur(rng.standard_normal((h, w), np.float32), (0, 0), 1.2)
    shadow = cv2.GaussianBlur(body, (0, 0), h / 24) if spec.background < 0.5 else np.zeros_like(body)
    return np.asarray(spec.background * (1 + 0.03 * cloth) * (1 - 0.5 * shadow), np.float32)


def _falloff(spec: View, size: tuple[int, int]) -> FloatImage:
    """Brighter towards the lamp, darker in the corners of the lens."""
    x = np.linspace(-1, 1, size[0], dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, size[1], dtype=np.float32)[:, None]
    azimuth = math.radians(spec.light_deg[0])
    slant = 0.12 * math.cos(math.radians(spec.light_deg[1]))
    return np.asarray(
        (1 + slant * (math.cos(azimuth) * x + math.sin(azimuth) * y)) * (1 - 0.06 * (x * x + y * y))
    )


def expose(
    rng: np.random.Generator, scene: FloatImage, bits: Literal[8, 16]
) -> NDArray[np.uint8 | np.uint16]:
    """What a sensor makes of a scene: gain, offset, shot and read noise, then the digitiser.

    Args:
        rng: gain (σ 1.5 %), offset (σ 0.3 % of full scale) and noise.
        scene: (h, w) float32, 1 is full scale.
        bits: 8 gives uint8, 16 gives uint16; both use the whole scale.
    """
    signal = scene * rng.normal(1, 0.015) + rng.normal(0, 0.003)
    noise = np.sqrt(SHOT_NOISE * np.clip(signal, 0, 1) + READ_NOISE**2)
    signal = np.clip(signal + noise * rng.standard_normal(scene.shape, np.float32), 0, 1)
    if bits == 8:
        return np.asarray(np.rint(signal * 255), np.uint8)
    return np.asarray(np.rint(signal * 65535), np.uint16)
