"""Declared pixels → the plane the engine sees: one path for learning, calibration, daemon and evaluation."""

from edge.preprocess.plane import Aids, Prepared, prepare, to_plane
from edge.preprocess.spec import Clahe, MaskSpec, PreprocessSpec, Rectify, TileSpec
from edge.preprocess.tiles import Tiling

__all__ = [
    "Aids",
    "Clahe",
    "MaskSpec",
    "Prepared",
    "PreprocessSpec",
    "Rectify",
    "TileSpec",
    "Tiling",
    "prepare",
    "to_plane",
]
