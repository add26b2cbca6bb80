"""A part's shape from a CAD export: metres, standing on the table, with normals that keep its edges sharp."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError, MissingInputError, UnavailableError, UsageError

UNITS_M = {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "inch": 0.0254}
FORMATS = ("stl", "obj", "ply", "off", "glb", "gltf")
CREASE_DEG = 35.0  # faces that meet at less are one curved surface
MAX_FACES = 5_000_000

INSTALL = 'pip install "edge-inspect[render]"'


@dataclass(frozen=True, slots=True)
class Shape:
    """Triangles in metres: centred over the origin, the lowest point on z = 0."""

    vertices: NDArray[np.float64]  # (n, 3)
    faces: NDArray[np.int64]  # (m, 3)

    @property
    def centre_m(self) -> NDArray[np.float64]:
        """The middle of the bounding box."""
        return np.asarray((self.vertices.min(axis=0) + self.vertices.max(axis=0)) / 2)

    @property
    def radius_m(self) -> float:
        """Of the smallest sphere around that centre which holds all vertices."""
        return float(np.linalg.norm(self.vertices - self.centre_m, axis=1).max())


def load_shape(file: Path, unit: str = "mm") -> Shape:
    """Read a mesh file (STL, OBJ, PLY, OFF, GLB): z is up, as drawn.

    Args:
        file: the mesh; several bodies become one.
        unit: of its coordinates, a key of `UNITS_M`: most formats do not say it.

    Raises:
        UsageError: an unknown unit. MissingInputError: no such file.
        DataError: not a mesh, damaged, or without a face.
        UnavailableError: trimesh is not installed.
    """
    if unit not in UNITS_M:
        raise UsageError(f"--unit {unit}: unknown", hint=f"choose one of {', '.join(UNITS_M)}")
    if not file.is_file():
        raise MissingInputError(f"{file}: no such mesh", hint="check the path after --mesh")
    known = f"edge renders {', '.join(FORMATS)}; export one of them from the CAD system"
    if file.suffix.lower().lstrip(".") not in FORMATS:
        raise DataError(f"{file}: not a mesh that can be read", hint=known)
    loaded = _load(file, known)
    vertices = np.asarray(loaded.vertices, np.float64)
    faces = np.asarray(loaded.faces, np.int64)
    if len(faces) == 0 or len(vertices) == 0:
        raise DataError(f"{file}: there is no face in it", hint=known)
    if len(faces) > MAX_FACES:
        raise DataError(f"{file}: {len(faces)} faces", hint=f"export it coarser, below {MAX_FACES}")
    corners = vertices[faces.ravel()]
    if not np.isfinite(corners).all() or np.ptp(corners, axis=0).max() <= 0:
        raise DataError(f"{file}: its coordinates are not those of a body", hint=known)
    return standing(vertices * UNITS_M[unit], faces)


def standing(vertices_m: NDArray[np.float64], faces: NDArray[np.int64]) -> Shape:
    """The shape on the table: its bounding box centred over the origin, its lowest point on z = 0."""
    used, renumbered = np.unique(faces, return_inverse=True)
    vertices = vertices_m[used]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    foot = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    return Shape(vertices - foot, renumbered.reshape(faces.shape).astype(np.int64))


def corner_normals(shape: Shape, crease_deg: float = CREASE_DEG) -> NDArray[np.float64]:
    """Unit normals of every corner of every face, (m, 3, 3): smooth over curved surfaces, sharp at edges.

    Each is the mean, weighted by area, of the normals of the faces around the corner's vertex that meet this
    face at less than `crease_deg`.
    """
    a, b, c = (shape.vertices[shape.faces[:, k]] for k in range(3))
    weighted = np.cross(b - a, c - a)  # twice the area long
    length = np.linalg.norm(weighted, axis=1, keepdims=True)
    unit = weighted / np.where(length > 0, length, 1)
    corner = shape.faces.ravel()
    order = np.argsort(corner, kind="stable")
    vertex, face = corner[order], order // 3
    total = weighted[face].copy()
    most = math.cos(math.radians(crease_deg))
    step = 1
    while (at := np.flatnonzero(vertex[:-step] == vertex[step:])).size:  # corners `step` apart at one vertex
        at = at[np.einsum("ij,ij->i", unit[face[at]], unit[face[at + step]]) > most]
        total[at] += weighted[face[at + step]]
        total[at + step] += weighted[face[at]]
        step += 1
    size = np.linalg.norm(total, axis=1, keepdims=True)
    smooth = np.where(size > 0, total / np.where(size > 0, size, 1), unit[face])
    normals = np.empty_like(smooth)
    normals[order] = smooth
    return normals.reshape(-1, 3, 3)


def _load(file: Path, known: str) -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise UnavailableError(
            f"rendering needs trimesh: {error}", hint=INSTALL, reason="extra_missing", retryable=False
        ) from None
    try:
        loaded = trimesh.load_mesh(str(file), process=True)
    except OSError as error:
        raise MissingInputError(f"{file}: cannot be read: {error}", hint="check its permissions") from None
    except Exception as error:  # a parser of many formats raises whatever its input leads to
        raise DataError(f"{file}: not a mesh: {type(error).__name__}: {error}", hint=known) from None
    if not isinstance(loaded, trimesh.Trimesh):
        raise DataError(f"{file}: not a mesh of triangles", hint=known)
    return loaded
