"""Which stored DICOM values mean 0 and 1: depth, rescale, window and photometric interpretation.

Pixels stay as stored. The window is a statement about rescaled values (PS3.3 C.11.2), so it is taken back
through the rescale; a negative slope or MONOCHROME1 turns low and high around.
"""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from edge.errors import DataError


def declared_range(dataset: Dataset, frame: int, bits: int, signed: bool) -> tuple[float, float]:
    """(low, high): the stored values of a grey frame that mean 0 and 1.

    The window where there is a usable one (the first of several), else all values of `bits`. VOI LUT
    sequences and SIGMOID windows are not linear and so are left out: the full depth is used then.

    Raises:
        DataError: "unreadable": the rescale slope is 0 or not a number.
    """
    slope, intercept = _rescale(dataset, frame)
    window = _window(dataset, frame)
    if window is None:
        low, high = full_range(bits, signed)
        if slope < 0:
            low, high = high, low
    else:
        low, high = ((value - intercept) / slope for value in window)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        low, high = high, low
    return low, high


def full_range(bits: int, signed: bool) -> tuple[float, float]:
    """The smallest and largest value of a sample."""
    if signed:
        return -float(2 ** (bits - 1)), float(2 ** (bits - 1) - 1)
    return 0.0, float(2**bits - 1)


def _rescale(dataset: Dataset, frame: int) -> tuple[float, float]:
    if dataset.get("ModalityLUTSequence"):
        return 1.0, 0.0  # the table was applied to the pixels already
    holder = _functional_group(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = _number(holder, "RescaleSlope"), _number(holder, "RescaleIntercept")
    if slope is None or intercept is None:
        return 1.0, 0.0
    if slope == 0:
        raise DataError("RescaleSlope is 0", hint="mend the scanner's DICOM export")
    return slope, intercept


def _window(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """The rescaled values that mean 0 and 1 (PS3.3 C.11.2.1.2 and, for LINEAR_EXACT, C.11.2.1.3.2)."""
    holder = _functional_group(dataset, frame, "FrameVOILUTSequence")
    center, width = _number(holder, "WindowCenter"), _number(holder, "WindowWidth")
    if center is None or width is None:
        return None
    match str(holder.get("VOILUTFunction") or "LINEAR"):
        case "LINEAR" if width > 1:  # a width of 1 is a threshold, not a range
            return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        case "LINEAR_EXACT" if width > 0:
            return center - width / 2, center + width / 2
    return None


def _functional_group(dataset: Dataset, frame: int, keyword: str) -> Dataset:
    """Where a frame's values are: its own group, the shared one (PS3.3 C.7.6.16), or the data set."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*own[frame : frame + 1], *shared[:1]]:
        if items := group.get(keyword):
            return items[0]  # type: ignore[no-any-return]  # pydicom's items are not typed
    return dataset


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of an element; None where it is missing, empty or not finite."""
    value: Any = dataset.get(keyword)
    if isinstance(value, MultiValue | list):
        value = value[0] if value else None
    if value is None or value == "":
        return None
    number = float(value)
    return number if math.isfinite(number) else None
