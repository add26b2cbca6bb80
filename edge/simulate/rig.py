"""Where the cameras of a rendered inspection stand: a path around the part, a pair, small pose errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError

Vector = NDArray[np.float64]  # (3,) metres; z is up

BASELINE_M = 0.05  # between the two cameras of a pair
NEAREST_M = 0.5  # from the part's centre; larger parts are seen from further away
DISTANCE_IN_RADII = 6.0
MARGIN = 1.12  # what a frame shows, relative to the sphere around the part
MAX_VIEWS = 360

# limits of the pose errors, each drawn evenly between minus and plus this
AZIMUTH_ERROR_DEG = 1.0
ELEVATION_ERROR_DEG = 1.0
ROLL_ERROR_DEG = 1.0
AIM_ERROR = 0.03  # of the part's radius, in each axis: the part is not put down twice at the same place


@dataclass(frozen=True, slots=True)
class Path3D:
    """A turn around the part: `views` angles, evenly spread; the elevation goes evenly from first to last.

    Raises:
        UsageError: no views, more than 360, or an elevation that is not above the table.
    """

    views: int = 24
    elevation_deg: tuple[float, float] = (30.0, 30.0)
    cameras: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.views <= MAX_VIEWS:
            raise UsageError(f"--views {self.views}: 1 to {MAX_VIEWS} views", hint="such as 24")
        if self.cameras not in (1, 2):
            raise UsageError(f"--cameras {self.cameras}: one camera or a pair", hint="1 or 2")
        if not all(5 <= angle <= 85 for angle in self.elevation_deg):
            raise UsageError("--elevation is from 5 to 85 degrees", hint="such as 30, or 15:60")

    def angles_deg(self, view: int) -> tuple[float, float]:
        """Azimuth and elevation of view 1, 2, …"""
        first, last = self.elevation_deg
        share = (view - 1) / max(1, self.views - 1)
        return 360 * (view - 1) / self.views, first + share * (last - first)

    def name(self, view: int, camera: int) -> str:
        """ "07" for one camera; "07a" (left) and "07b" (right) for a pair."""
        return f"{view:02d}" + ("" if self.cameras == 1 else "ab"[camera])


@dataclass(frozen=True, slots=True)
class PoseError:
    """How far a view is from where it should be."""

    azimuth_deg: float = 0.0
    elevation_deg: float = 0.0
    roll_deg: float = 0.0
    aim: tuple[float, float, float] = (0.0, 0.0, 0.0)  # shares of the part's radius


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera; `fov_deg` is the angle of view of the frame's smaller side."""

    origin_m: Vector
    target_m: Vector
    up: Vector
    fov_deg: float


def draw_error(rng: np.random.Generator) -> PoseError:
    """A pose error within the limits above."""
    azimuth, elevation, roll, *aim = rng.uniform(-1, 1, 6)
    x, y, z = (float(value) * AIM_ERROR for value in aim)
    return PoseError(
        float(azimuth) * AZIMUTH_ERROR_DEG,
        float(elevation) * ELEVATION_ERROR_DEG,
        float(roll) * ROLL_ERROR_DEG,
        (x, y, z),
    )


def distance_m(radius_m: float) -> float:
    """From the cameras to the part's centre."""
    return max(NEAREST_M, DISTANCE_IN_RADII * radius_m)


def cameras(path: Path3D, view: int, centre_m: Vector, radius_m: float, error: PoseError) -> list[Camera]:
    """The camera of a view, or the pair: left and right of it, both aimed at the same point.

    Args:
        path: angles, and how many cameras.
        view: 1, 2, …
        centre_m: of the sphere around the part.
        radius_m: of that sphere; the angle of view is such that it fits into the frame with a margin.
        error: the pair moves as one: the baseline never changes.
    """
    azimuth, elevation = path.angles_deg(view)
    back = direction(azimuth + error.azimuth_deg, elevation + error.elevation_deg)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    target = centre_m + np.array(error.aim) * radius_m
    middle = target + distance_m(radius_m) * back
    roll = math.radians(error.roll_deg)
    up = math.cos(roll) * np.cross(back, right) + math.sin(roll) * right
    fov = 2 * math.degrees(math.asin(MARGIN * radius_m / distance_m(radius_m)))
    offsets = (0.0,) if path.cameras == 1 else (-BASELINE_M / 2, BASELINE_M / 2)
    return [Camera(middle + offset * right, target, up, fov) for offset in offsets]


def direction(azimuth_deg: float, elevation_deg: float) -> Vector:
    """The unit vector that points there from the part; azimuth 0 is +x, counted towards +y."""
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    across = math.cos(elevation)
    return np.array([across * math.cos(azimuth), across * math.sin(azimuth), math.sin(elevation)])


def project(camera: Camera, points_m: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 3) points → (n, 2) x, y in pixels of a frame of (width, height); pixel centres are at .5."""
    ahead = camera.target_m - camera.origin_m
    ahead = ahead / np.linalg.norm(ahead)
    right = np.cross(ahead, camera.up)
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    seen = (points_m - camera.origin_m) @ np.column_stack([right, down, ahead])
    focal_px = min(size) / 2 / math.tan(math.radians(camera.fov_deg) / 2)
    return np.asarray(seen[:, :2] / seen[:, 2:] * focal_px + np.array(size) / 2)
