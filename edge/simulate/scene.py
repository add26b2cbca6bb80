"""What a rendered part is made of and how it is lit, drawn at random, and mitsuba's picture of it.

mitsuba 3 (Jakob et al., 2022), variant `scalar_rgb`: a plain path tracer. The `llvm` variants need an LLVM
library of a fitting version: with another one they end the process, which no error handling can catch.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import UnavailableError, UsageError
from edge.simulate.anomalies import perlin
from edge.simulate.mesh import INSTALL, Shape, corner_normals
from edge.simulate.rig import Camera, direction, distance_m
from edge.types import FloatImage, Mask

Material = Literal["plastic", "metal", "paint"]

MATERIALS: tuple[Material, ...] = ("plastic", "metal", "paint")
SAMPLES = (4, 16, 64, 256, 1024)  # of a pixel: the low-discrepancy sampler takes powers of four
MAX_DEPTH = 3  # lamp, one reflection between surfaces, camera: more is mostly noise
FIREFLY = 1.15
TABLE_PX = 256
TABLE_IN_DISTANCES = 8.0  # half a side: no camera sees its end

# limits of what is drawn for each part, evenly between the two
REFLECTANCE = (0.08, 0.75)
ROUGHNESS = {"plastic": (0.05, 0.30), "metal": (0.22, 0.45), "paint": (0.25, 0.70)}
METALS = ("Al", "Cr", "W", "Ni_palik")
TABLE_REFLECTANCE = (0.03, 0.45)
TABLE_CLOUDS = (0.0, 0.35)  # relative unevenness of the table's grey
LAMP_AZIMUTH_DEG = (-50.0, 50.0)  # from the camera; the lamp goes round with it
LAMP_ELEVATION_DEG = (40.0, 70.0)
LAMP_LEVEL = (0.7, 1.2)  # what a white surface that faces the lamp would read, of full scale
AMBIENT = (0.15, 0.40)  # what the lamp does not reach, of full scale
# and for each view, relative to that
FLICKER = 0.04
LAMP_ERROR_DEG = 1.5


@dataclass(frozen=True, slots=True)
class Look:
    """Material, table and light of one part."""

    material: Material
    metal: str
    reflectance: float
    roughness: float
    table_reflectance: float
    table_clouds: float
    table_seed: int
    lamp_azimuth_deg: float
    lamp_elevation_deg: float
    lamp_level: float
    ambient: float


def draw_look(rng: np.random.Generator, material: Material | None = None) -> Look:
    """A look within the limits above; `material` None: any of them."""
    kind = material or MATERIALS[int(rng.integers(len(MATERIALS)))]
    return Look(
        material=kind,
        metal=METALS[int(rng.integers(len(METALS)))],
        reflectance=float(rng.uniform(*REFLECTANCE)),
        roughness=float(rng.uniform(*ROUGHNESS[kind])),
        table_reflectance=float(rng.uniform(*TABLE_REFLECTANCE)),
        table_clouds=float(rng.uniform(*TABLE_CLOUDS)),
        table_seed=int(rng.integers(2**31)),
        lamp_azimuth_deg=float(rng.uniform(*LAMP_AZIMUTH_DEG)),
        lamp_elevation_deg=float(rng.uniform(*LAMP_ELEVATION_DEG)),
        lamp_level=float(rng.uniform(*LAMP_LEVEL)),
        ambient=float(rng.uniform(*AMBIENT)),
    )


@dataclass(frozen=True, slots=True)
class Lamp:
    """The spot light of one view."""

    azimuth_deg: float  # in the world
    elevation_deg: float
    level: float


def draw_lamp(rng: np.random.Generator, look: Look, camera_azimuth_deg: float) -> Lamp:
    """The look's lamp beside the camera of a view, with its small errors."""
    azimuth, elevation, level = rng.uniform(-1, 1, 3)
    return Lamp(
        camera_azimuth_deg + look.lamp_azimuth_deg + float(azimuth) * LAMP_ERROR_DEG,
        look.lamp_elevation_deg + float(elevation) * LAMP_ERROR_DEG,
        look.lamp_level * (1 + float(level) * FLICKER),
    )


class Studio:
    """A part in front of cameras. Use it as a context: the mesh waits in a temporary file for mitsuba.

    Raises:
        UnavailableError: mitsuba is not installed.
        UsageError: a number of samples that the sampler does not take.
    """

    def __init__(self, shape: Shape, size: tuple[int, int], samples: int) -> None:
        if samples not in SAMPLES:
            raise UsageError(f"--spp {samples}: a power of four is needed", hint=f"one of {SAMPLES}")
        self._mi = _mitsuba()
        self._shape = shape
        self._size = size
        self._samples = samples
        self._folder = tempfile.TemporaryDirectory(prefix="edge-render-")
        self._file = Path(self._folder.name) / "part.ply"
        self._file.write_bytes(ply(shape))

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def picture(self, camera: Camera, look: Look, lamp: Lamp, seed: int) -> FloatImage:
        """The scene, (h, w) float32, luminance relative to full scale, without the sensor's noise."""
        path = {"type": "path", "max_depth": MAX_DEPTH}
        return without_fireflies(self._render(camera, path, self._lit(look, lamp), seed)[0])

    def silhouette(self, camera: Camera, seed: int) -> Mask:
        """(h, w): where the part covers at least half of the pixel.

        The sampler's points depend on the seed only, so these are the very rays of a picture with that seed.
        """
        part = {"part": {"type": "ply", "filename": str(self._file)}}
        cover = self._render(camera, {"type": "depth"}, part, seed)[1]
        return np.asarray(cover >= 0.5)

    def _lit(self, look: Look, lamp: Lamp) -> dict[str, Any]:
        mi, centre = self._mi, self._shape.centre_m
        away = distance_m(self._shape.radius_m)
        origin = centre + away * direction(lamp.azimuth_deg, lamp.elevation_deg)
        side = TABLE_IN_DISTANCES * away
        # the pattern repeats every two radii: it is as fine beside a screw as beside a housing
        repeats = side / self._shape.radius_m
        table = {"type": "bitmap", "bitmap": mi.Bitmap(_table(look)[:, :, None]), "raw": True}
        table["to_uv"] = mi.ScalarTransform4f().scale([repeats, repeats, 1])
        return {
            "part": {"type": "ply", "filename": str(self._file), "bsdf": _bsdf(look)},
            "table": {
                "type": "rectangle",
                # a hair below the part: coplanar faces would flicker
                "to_world": mi.ScalarTransform4f()
                .translate([0, 0, -1e-4 * self._shape.radius_m])
                .scale([side, side, 1]),
                "bsdf": {"type": "diffuse", "reflectance": table},
            },
            "ambient": {"type": "constant", "radiance": look.ambient},
            "lamp": {
                "type": "spot",
                "to_world": mi.ScalarTransform4f().look_at(
                    list(origin), list(centre), _any_up(origin - centre)
                ),
                # radiance of a white Lambertian surface that faces it: I / (π d²)
                "intensity": lamp.level * float(np.pi) * away**2,
                "cutoff_angle": 4 * float(np.degrees(np.arcsin(self._shape.radius_m / away))),
            },
        }

    def _render(
        self, camera: Camera, integrator: dict[str, Any], things: dict[str, Any], seed: int
    ) -> tuple[FloatImage, FloatImage]:
        """Luminance and cover, (h, w) each."""
        look_at = self._mi.ScalarTransform4f().look_at(
            list(camera.origin_m), list(camera.target_m), list(camera.up)
        )
        film = {"type": "hdrfilm", "width": self._size[0], "height": self._size[1]}
        # a box filter keeps pixels apart: the picture does not depend on the order of threads
        film |= {"rfilter": {"type": "box"}, "pixel_format": "luminance_alpha", "component_format": "float32"}
        sensor = {"type": "perspective", "fov": camera.fov_deg, "fov_axis": "smaller", "to_world": look_at}
        sensor |= {"film": film, "sampler": {"type": "ldsampler", "sample_count": self._samples}}
        scene = self._mi.load_dict({"type": "scene", "integrator": integrator, "sensor": sensor, **things})
        planes = np.array(self._mi.render(scene, seed=seed), np.float32)
        return planes[:, :, 0], planes[:, :, 1]


def without_fireflies(scene: FloatImage) -> FloatImage:
    """A scene (h, w) whose single stray samples are gone: no pixel is brighter than FIREFLY × its 3×3 median.

    A path tracer finds the mirror image of a small lamp by chance: now and then, and then far too bright.
    Real glints of more than a few pixels are their own median, and stay.
    """
    return np.asarray(np.minimum(scene, FIREFLY * cv2.medianBlur(scene, 3) + 0.01), np.float32)


def ply(shape: Shape) -> bytes:
    """A binary PLY with a vertex for each corner, so that each face has its own normals."""
    corners = shape.vertices[shape.faces].reshape(-1, 3)
    normals = corner_normals(shape).reshape(-1, 3)
    vertices = np.hstack([corners, normals]).astype("<f4")
    names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n{names}"
        f"element face {len(shape.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(shape.faces), np.dtype([("count", "u1"), ("corners", "<i4", 3)]))
    faces["count"] = 3
    faces["corners"] = np.arange(len(vertices)).reshape(-1, 3)
    return header.encode() + vertices.tobytes() + faces.tobytes()


def described(look: Look, lamp: Lamp) -> dict[str, Any]:
    """Both as JSON."""
    return {"look": asdict(look), "lamp": asdict(lamp)}


def _bsdf(look: Look) -> dict[str, Any]:
    """A surface with two sides: the orientation of faces in CAD exports cannot be trusted."""
    surface: dict[str, Any]
    if look.material == "metal":
        surface = {"type": "roughconductor", "material": look.metal, "alpha": look.roughness}
    elif look.material == "plastic":
        surface = {"type": "roughplastic", "diffuse_reflectance": look.reflectance, "alpha": look.roughness}
    else:
        surface = {"type": "principled", "base_color": look.reflectance, "roughness": look.roughness}
    return {"type": "twosided", "surface": surface}


def _table(look: Look) -> FloatImage:
    """The table's grey, (n, n) float32; it does not repeat seamlessly, but mirrored it does."""
    rng = np.random.default_rng([look.table_seed, 0, 0])
    half = (TABLE_PX // 2, TABLE_PX // 2)
    clouds = perlin(half, 48, rng) + 0.5 * perlin(half, 14, rng) + 0.35 * perlin(half, 4, rng)
    mirrored = np.pad(clouds, ((0, half[0]), (0, half[1])), mode="symmetric")
    return np.asarray(
        np.clip(look.table_reflectance * (1 + look.table_clouds * mirrored), 0.01, 0.95), np.float32
    )


def _any_up(ahead: NDArray[np.float64]) -> list[float]:
    """A lamp is round: any direction not along its axis will do."""
    return [0.0, 0.0, 1.0] if np.hypot(ahead[0], ahead[1]) > 1e-3 * abs(ahead[2]) else [0.0, 1.0, 0.0]


def _mitsuba() -> Any:
    try:
        import mitsuba
    except ImportError as error:
        raise UnavailableError(
            f"rendering needs mitsuba: {error}", hint=INSTALL, reason="extra_missing", retryable=False
        ) from None
    mitsuba.set_variant("scalar_rgb")
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    return mitsuba
