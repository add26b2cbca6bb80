"""Engine bundles: a folder with `bundle.json`, `model.onnx` and a golden pair. Models are data: nothing in a
bundle is executed or unpickled, and a bundle whose digests do not match is refused."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge import __version__
from edge.artifacts import read_signed_json, write_atomic, write_signed_json
from edge.errors import BundleError
from edge.preprocess import PreprocessSpec
from edge.types import FRAGMENT_STATISTICS, FloatImage

MANIFEST = "bundle.json"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
MASK_MODEL = "mask.onnx"  # finds the foreground, before the network that judges
MASK_GOLDEN = "mask_golden.npz"
MEAN_MASKS = "mean_masks.npz"
EXPLAIN_MODEL = "explain.onnx"  # activations and gradients of a classifier, for class activation maps

# Largest difference to the golden answer (grey levels in 0..1) a runtime may show, by precision
GOLDEN_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.03, "int8": 0.2}


FRAME_STATISTICS = ("peak", "top", "mean", "max", "std", "rmse", "area", "level")


class ScoreSpec(BaseModel):
    """How a network's answer becomes a score map and one number a frame."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    map: Literal["l2", "l1", "ssim", "msgms", "probability"] = "ssim"
    smooth_px: float = Field(0.0, ge=0)  # standard deviation of a Gaussian over the map
    statistic: Literal[
        "peak", "top", "mean", "max", "std", "rmse", "area", "level", "sum", "min", "mse", "absmax"
    ] = "peak"
    peak_px: int = Field(16, ge=1)  # peak: the largest mean over a window of this side
    top_ratio: float = Field(0.01, gt=0, le=1)  # top: the mean of this share of the pixels, the highest
    min_area_px: int = Field(0, ge=0)  # of the plane: level: the highest that a region so large reaches
    # what has a score: the frame, each object of its foreground (the frame has the worst), or each fragment
    of: Literal["frame", "object", "fragment"] = "frame"
    fragment_smooth_px: float = Field(0.0, ge=0)  # fragment: of a Gaussian over the signed residual

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        known = FRAGMENT_STATISTICS if self.of == "fragment" else FRAME_STATISTICS
        if self.statistic not in known:
            raise ValueError(f"statistic {self.statistic} of a {self.of}: there are {', '.join(known)}")
        return self


class BundleManifest(BaseModel):
    """`bundle.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_: Literal["edge/bundle/1"] = Field("edge/bundle/1", alias="schema")
    name: str
    model: str  # which network: cae, fragment-cae, …
    created: str
    edge_version: str
    preprocess: PreprocessSpec
    preprocess_digest: str
    output: Literal["reconstruction", "probability"] = "reconstruction"
    classes: tuple[str, ...] = ()  # of the answer's channels; empty: one, of any anomaly
    score: ScoreSpec
    files: dict[str, str]  # name → sha256
    golden_tolerance: dict[str, float] = GOLDEN_TOLERANCE
    training: dict[str, Any] = {}
    digest: str = ""


class Bundle(BaseModel):
    """A bundle that was checked: the manifest, and where its files are.

    The golden pair stays in memory: an engine is held to it at any time, also after its folder was replaced.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    manifest: BundleManifest
    golden_file: bytes = Field(repr=False)
    measured_tolerance: dict[str, float] = {}  # by precision, of this very network

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def tolerance_of(self, precision: str) -> float:
        """Largest difference to the golden answers that a runtime may show; 0 where none is known."""
        usual = self.manifest.golden_tolerance.get(precision, 0.0)
        return max(usual, self.measured_tolerance.get(precision, 0.0))

    @property
    def model_file(self) -> Path:
        return self.folder / MODEL

    def golden(self) -> tuple[FloatImage, FloatImage]:
        """(tiles, answers): (n, 1, size, size) and (n, channels, s, s) float32."""
        return read_pair(self.folder / GOLDEN, self.golden_file)

    def read(self, name: str) -> bytes:
        """A file's bytes: the very ones that the manifest lists, whatever happened since it was loaded.

        Raises:
            BundleError: they are not, or the file cannot be read.
        """
        return read_listed(self.folder, name, self.manifest.files.get(name, ""))

    def has(self, name: str) -> bool:
        """Whether the bundle has that file."""
        return name in self.manifest.files


def read_listed(folder: Path, name: str, sha256: str) -> bytes:
    """A bundle's file, read once: what is used is what was checked.

    Raises:
        BundleError: it cannot be read, or has not that sha256.
    """
    file = folder / name
    if file.parent != folder or not file.is_file():
        raise BundleError(f"{file}: missing from the bundle", hint="copy the whole folder again")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}", hint="check permissions") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{file}: damaged, its sha256 is not the bundle's", hint="copy it again")
    return data


def read_pair(file: Path, data: bytes) -> tuple[FloatImage, FloatImage]:
    """The tiles and answers of a golden pair; `file` is where the bytes are from.

    Raises:
        BundleError: they are no golden pair.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as pair:
            return pair["tiles"].astype(np.float32), pair["answers"].astype(np.float32)
    except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{file}: no golden pair: {error}", hint="learn the recipe again") from None


def read_mean_masks(data: bytes) -> dict[str, FloatImage]:
    """View → the share of good frames whose mask covers each pixel, (h, w) float32 in 0..1."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        views = [str(view) for view in stored["views"]]
        return {view: stored[f"mask_{k}"].astype(np.float32) / 255 for k, view in enumerate(views)}


def pack_mean_masks(means: Mapping[str, FloatImage]) -> bytes:
    """Mean masks as the bytes of an .npz, a byte a pixel; rounded down, so that no share grows."""
    file = io.BytesIO()
    planes: dict[str, Any] = {
        f"mask_{k}": np.floor(mean * 255).astype(np.uint8) for k, mean in enumerate(means.values())
    }
    np.savez_compressed(file, views=np.array(list(means), np.str_), **planes)
    return file.getvalue()


def pack_pair(golden: tuple[FloatImage, FloatImage]) -> bytes:
    """A golden pair as the bytes of an .npz."""
    pair = io.BytesIO()
    np.savez_compressed(pair, tiles=golden[0], answers=golden[1])
    return pair.getvalue()


def load_bundle(folder: Path) -> Bundle:
    """Read and check a bundle: schema, every file's sha256, and the digests over the manifest and the spec.

    Raises:
        BundleError: with what is wrong and what to do.
    """
    manifest = read_signed_json(folder / MANIFEST, BundleManifest)
    if manifest.preprocess.digest != manifest.preprocess_digest:
        raise BundleError(
            f"{folder / MANIFEST}: the preprocessing is not the one this bundle was learned with",
            hint="learn the recipe again with this version of edge, or install the one that learned it",
        )
    for needed in (MODEL, GOLDEN):
        if needed not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: lists no {needed}", hint="learn or copy it again")
    for name, expected in manifest.files.items():
        read_listed(folder, name, expected)
    _check_mask_files(folder, manifest)
    golden = read_listed(folder, GOLDEN, manifest.files[GOLDEN])
    return Bundle(folder=folder, manifest=manifest, golden_file=golden)


def _check_mask_files(folder: Path, manifest: BundleManifest) -> None:
    """The preprocessing says which network or masks it needs; they must be those, and no others."""
    mask = manifest.preprocess.mask
    method = mask.method if mask is not None else ""
    needed = {"unet": (MASK_MODEL, MASK_GOLDEN), "mean": (MEAN_MASKS,)}.get(method, ())
    there = {name for name in (MASK_MODEL, MASK_GOLDEN, MEAN_MASKS) if name in manifest.files}
    fits = not needed or (mask is not None and manifest.files.get(needed[0]) == mask.file_sha256)
    if there != set(needed) or not fits:
        raise BundleError(
            f"{folder / MANIFEST}: its masks need {' and '.join(needed) or 'no files'}, and it lists "
            f"{', '.join(sorted(there)) or 'none'}" + ("" if fits else ", of another digest"),
            hint="learn or copy it again",
        )


def write_bundle(
    folder: Path,
    *,
    name: str,
    model: str,
    preprocess: PreprocessSpec,
    score: ScoreSpec,
    output: Literal["reconstruction", "probability"],
    onnx: bytes,
    golden: tuple[FloatImage, FloatImage],
    training: Mapping[str, Any],
    classes: Sequence[str] = (),
    extra: Mapping[str, bytes] | None = None,
    now: datetime | None = None,
) -> Bundle:
    """Write a bundle, its manifest last: half-written, it is refused.

    In a folder that holds a bundle already, that one is spoiled as soon as the first file is replaced. So
    `edge learn` writes into a fresh folder and swaps it in whole (`edge.renewal`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {MODEL: onnx, GOLDEN: pack_pair(golden), **(extra or {})}
    for file, data in contents.items():
        write_atomic(folder / file, data)
    manifest = BundleManifest(
        name=name,
        model=model,
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        edge_version=__version__,
        preprocess=preprocess,
        preprocess_digest=preprocess.digest,
        output=output,
        classes=tuple(classes),
        score=score,
        files={file: hashlib.sha256(data).hexdigest() for file, data in contents.items()},
        training=dict(training),
    )
    write_signed_json(folder / MANIFEST, manifest)
    return load_bundle(folder)
