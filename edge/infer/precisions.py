"""Which precisions may judge: `precisions.json` beside a bundle, with what was measured of each.

A network that is computed in fewer bits scores a little differently. It may judge only if, on calibration
frames, it ranks them as fp32 does, gives their verdicts, and tells planted defects from good frames as well.
`edge learn` and `edge compile` measure that and write it down; the document is bound to the bundle and to the
calibration whose thresholds gave the verdicts. Where it is missing or of another calibration, fp32 judges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edge.artifacts import read_signed_json, write_atomic, write_signed_json
from edge.errors import BundleError
from edge.infer.bundle import Bundle, read_listed

FILE = "precisions.json"
INT8_MODEL = "model.int8.onnx"
SLACK = 1.25  # of a golden difference: other CPUs round otherwise
FASTEST_FIRST = ("int8", "bf16")  # what is tried beside fp32


class AgreementLimits(BaseModel):
    """How far scores of a precision may be from those of fp32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spearman: float = 0.999  # at least: rank correlation of the scores of calibration frames
    flips: float = 0.001  # at most: share of them with another verdict
    auroc_change: float = 0.002  # at most: of good frames against the same with planted defects


class Agreement(BaseModel):
    """What was measured of one precision against fp32, and whether it may judge."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accepted: bool
    why: str  # for people
    frames: int = 0
    spearman: float | None = None
    flips: int = 0
    planted: int = 0  # defects
    auroc_change: float | None = None
    golden_difference: float | None = None  # largest, of the bundle's golden pair


class Precisions(BaseModel):
    """`precisions.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal["edge/precisions/1"] = Field("edge/precisions/1", alias="schema")
    bundle_sha256: str
    calibration_sha256: str
    int8_sha256: str = ""  # of model.int8.onnx; empty: there is none
    device: str = ""  # that measured
    plane_px: tuple[int, int] | None = None  # height, width, where all calibration frames have the same
    plane_kind: str = "float32"  # type of their grey values
    limits: AgreementLimits = AgreementLimits()
    agreements: dict[str, Agreement]
    digest: str = ""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Precisions beside fp32 that may judge, fastest first."""
        return tuple(p for p in FASTEST_FIRST if p in self.agreements and self.agreements[p].accepted)

    def read_int8(self, folder: Path) -> bytes:
        """The int8 network: the very bytes that were measured.

        Raises:
            BundleError: they are not, or the file cannot be read.
        """
        return read_listed(folder, INT8_MODEL, self.int8_sha256)


def tolerant(bundle: Bundle, precisions: Precisions | None) -> Bundle:
    """The bundle with golden tolerances as they were measured.

    Near an edge of a probability map, answers in fewer bits may differ a lot: they shall differ no more than
    they did when their scores were held to those of fp32.
    """
    agreements = precisions.agreements.items() if precisions is not None else ()
    found = {
        name: SLACK * one.golden_difference
        for name, one in agreements
        if one.accepted and one.golden_difference is not None
    }
    return bundle.model_copy(update={"measured_tolerance": found})


def load_precisions(bundle: Bundle, calibration_sha256: str) -> Precisions | None:
    """What was measured with this bundle and these thresholds; None where nothing was.

    Raises:
        BundleError: the document is damaged, or was measured with others.
    """
    file = bundle.folder / FILE
    if not file.exists():
        return None
    found = read_signed_json(file, Precisions)
    if found.bundle_sha256 != bundle.digest or found.calibration_sha256 != calibration_sha256:
        what = "engine" if found.bundle_sha256 != bundle.digest else "calibration"
        raise BundleError(
            f"{file}: was measured with another {what}",
            hint=f"edge compile --recipe {bundle.manifest.name} --frames GOOD_FRAMES measures again",
        )
    return found


def save_precisions(folder: Path, precisions: Precisions, int8_onnx: bytes | None) -> Precisions:
    """Write the int8 network, if there is one, and then the document that names it.

    Raises:
        CannotWriteError: one of them cannot be written.
    """
    if int8_onnx is not None:
        write_atomic(folder / INT8_MODEL, int8_onnx)
    write_signed_json(folder / FILE, precisions)
    return read_signed_json(folder / FILE, Precisions)
