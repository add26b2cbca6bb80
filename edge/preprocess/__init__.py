"""Declared pixels → the plane the engine sees: one path for learning, calibration, daemon and evaluation."""

from edge.preprocess.plane import to_plane
from edge.preprocess.spec import Clahe, PreprocessSpec, TileSpec
from edge.preprocess.tiles import Tiling

__all__ = ["Clahe", "PreprocessSpec", "TileSpec", "Tiling", "to_plane"]
