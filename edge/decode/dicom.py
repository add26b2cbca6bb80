"""DICOM: the stream is walked to the end of the pixel data, then pydicom decodes.

Uncompressed grey samples in the machine's byte order are not copied: pixels are a view of the file's bytes.
Pixels stay as stored, with unused bits (old overlays) masked or sign-extended; see dicom_range.py for what
they mean. Exceptions, because nothing else makes sense of them: a modality LUT is applied, colour becomes
RGB, a palette is applied. Every frame is a page. Tags travel along as text, to name frames by.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import Decoder as PixelDecoder
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import UID

from edge.decode import dicom_codecs, dicom_stream
from edge.decode.decoder import Limits, Size
from edge.decode.dicom_range import declared_range, full_range
from edge.errors import DataError
from edge.types import Picture

MAX_TAGS = 512
MAX_TAG_CHARS = 256

_TEXT_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH",
     "SL", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UR", "US", "UT", "UV"]
)  # fmt: skip
_INFLATED_SLACK_BYTES = 64 * 2**20  # besides pixels: tables, thumbnails, private elements


@dataclass(frozen=True, slots=True)
class _Layout:
    """The Image Pixel module (PS3.3 C.7.6.3) of a data set."""

    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str


class DicomDecoder:
    """A DICOM file; see edge.decode.decoder.Decoder."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        self._stream = dicom_stream.open_stream(data, 8 * limits.max_pixels + _INFLATED_SLACK_BYTES)
        *_, self._pixels = _elements(self._stream)
        self._layout = _layout(self._read(with_pixels=False))

    @property
    def size(self) -> Size:
        layout = self._layout
        pixels = layout.rows * layout.columns * layout.frames
        return Size(f"{layout.columns}×{layout.rows}", pixels, layout.frames)

    def check_complete(self) -> None:
        end = self._stream.end(self._pixels)
        if end == self._pixels.start:
            raise _no_pixels("the pixel data is empty")
        layout = self._layout
        if self._pixels.length is None:  # encapsulated: the walk came to the delimiter
            offsets = (self._stream.header(self._pixels.start).length or 0) // 4  # PS3.5 A.4: of each frame
            if offsets > layout.frames:
                raise dicom_stream.damaged(f"{offsets} frames are stored, {layout.frames} announced")
            return
        samples = 2 if layout.photometric == "YBR_FULL_422" else layout.samples
        needed = layout.rows * layout.columns * layout.frames * samples * layout.bits_allocated // 8
        behind = self._stream.data[self._pixels.start + needed : end]
        # zeros may be padding; anything else are rows or frames that the header does not know
        if self._pixels.length < needed or (len(behind) > 1 and behind.count(0) < len(behind)):
            raise dicom_stream.damaged(
                f"{self._pixels.length} bytes of pixel data, where {needed} are needed"
            )

    def pictures(self) -> list[Picture]:
        decoder = _pixel_decoder(self._stream.syntax)
        if decoder.is_encapsulated != (self._pixels.length is None):
            raise dicom_stream.damaged("the pixel data is not stored as the transfer syntax says")
        dataset = self._read(with_pixels=False)
        tags = _tags(dataset)
        plain = self._plain(dataset)
        if plain is not None:
            photometric = self._layout.photometric
            return [
                _picture(dataset, self._layout, number, pixels, photometric, tags)
                for number, pixels in enumerate(plain)
            ]
        dataset = self._read(with_pixels=True)
        frames = decoder.iter_array(
            dataset,
            indices=range(self._layout.frames),
            decoding_plugin=dicom_codecs.PLUGIN if self._stream.syntax in dicom_codecs.SYNTAXES else "",
        )
        return [
            _picture(dataset, self._layout, number, pixels, str(now["photometric_interpretation"]), tags)
            for number, (pixels, now) in enumerate(frames)
        ]

    def _plain(self, dataset: Dataset) -> NDArray[Any] | None:
        """(frames, h, w): a read-only view of the stream, where grey samples lie in it as they are.

        None for all that pydicom must arrange or complain of first; bytes in big-endian words are among it.
        """
        layout, order = self._layout, self._stream.order
        spare_bits = layout.bits_allocated - layout.bits_stored
        needed = ("SamplesPerPixel", "PixelRepresentation")
        if (
            self._pixels.length is None
            or layout.samples != 1
            or layout.photometric not in ("MONOCHROME1", "MONOCHROME2")
            or (layout.bits_allocated, order) not in ((8, "<"), (16, "<"), (16, ">"))
            or (layout.signed and spare_bits)
            or any(dataset.get(keyword) is None for keyword in needed)
        ):
            return None
        kind = np.dtype(f"{order}{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}")
        shape = layout.frames, layout.rows, layout.columns
        stored = np.frombuffer(self._stream.data, kind, math.prod(shape), offset=self._pixels.start)
        if spare_bits and stored.max() >> layout.bits_stored:  # old overlays in bits that are not used
            return None
        return np.require(stored, requirements=["ALIGNED"]).reshape(shape)

    def _read(self, *, with_pixels: bool) -> Dataset:
        """The data set up to the pixel data; what comes behind that never matters."""
        stream = self._stream
        stop_at = dicom_stream.PIXEL_DATA + (1 if with_pixels else 0)
        source = io.BytesIO(stream.data)
        source.seek(stream.start)
        dataset = read_dataset(
            source,
            not stream.explicit,
            stream.order == "<",
            stop_when=lambda tag, vr, length: tag >= stop_at,
        )
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(stream.syntax)
        return dataset


def _elements(stream: dicom_stream.Stream) -> list[dicom_stream.Element]:
    elements = list(stream.elements())
    if not elements or elements[-1].tag != dicom_stream.PIXEL_DATA:
        # with an image's rows but without its pixels, it may have been cut off between two elements
        may_grow = any(element.tag == dicom_stream.ROWS for element in elements)
        raise _no_pixels("there is no integer pixel data", retryable=may_grow)
    return elements


def _pixel_decoder(syntax: str) -> PixelDecoder:
    dicom_codecs.register()
    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        raise DataError(
            f"DICOM transfer syntax {syntax} ({UID(syntax).name}) is not read",
            hint="export uncompressed, RLE, JPEG, JPEG lossless, JPEG-LS or JPEG 2000",
            reason="unsupported_transfer_syntax",
        )
    return decoder


def _layout(dataset: Dataset) -> _Layout:
    """Raises DataError: "unreadable" when something is missing, "unsupported_format" for other depths."""
    needed = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation")
    if missing := [keyword for keyword in needed if dataset.get(keyword) is None]:
        raise DataError(f"DICOM without {', '.join(missing)}", hint="mend the scanner's DICOM export")
    layout = _Layout(
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        frames=max(1, int(dataset.get("NumberOfFrames") or 1)),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        bits_allocated=int(dataset.BitsAllocated),
        bits_stored=int(dataset.BitsStored),
        signed=bool(dataset.get("PixelRepresentation") or 0),
        photometric=str(dataset.PhotometricInterpretation),
    )
    if not layout.rows or not layout.columns:
        raise dicom_stream.damaged(f"{layout.columns}×{layout.rows} pixels")
    high_bit = int(dataset.get("HighBit", layout.bits_stored - 1))
    if (
        layout.bits_allocated not in (8, 16, 32)
        or not 1 <= layout.bits_stored <= layout.bits_allocated
        or high_bit != layout.bits_stored - 1
        or layout.samples not in (1, 3)
    ):
        raise DataError(
            f"DICOM with {layout.samples} samples of {layout.bits_stored} in {layout.bits_allocated} bits, "
            f"highest bit {high_bit}, is not read",
            hint="export 8 to 16 bits, grey or RGB",
            reason="unsupported_format",
        )
    return layout


def _picture(
    dataset: Dataset,
    layout: _Layout,
    frame: int,
    stored: NDArray[Any],
    photometric: str,
    tags: Mapping[str, str],
) -> Picture:
    bits, signed = layout.bits_stored, layout.signed
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        low, high = full_range(bits, False)
    elif layout.samples == 3 and photometric == "RGB":
        low, high = full_range(bits, signed)
    elif layout.samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2"):
        if dataset.get("ModalityLUTSequence"):
            stored = apply_modality_lut(stored.astype(np.int32), dataset)  # int32: indices must not wrap
            bits, signed = int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]), False
        low, high = declared_range(dataset, frame, bits, signed)
    else:
        raise DataError(
            f"DICOM with {layout.samples} samples of {photometric} is not read",
            hint="export MONOCHROME1, MONOCHROME2, RGB or YBR_FULL",
            reason="unsupported_format",
        )
    narrow = np.int16 if stored.dtype == np.int8 else stored.dtype.newbyteorder("=")
    pixels = np.ascontiguousarray(stored, dtype=narrow)
    return Picture(pixels, bits, low, high, page=frame, pages=layout.frames, tags=tags)


def _tags(dataset: Dataset) -> dict[str, str]:
    """Keyword → text of the short elements at top level; several values are joined by a backslash."""
    tags: dict[str, str] = {}
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            if not element.keyword or element.VR not in _TEXT_VRS:
                continue
            value = element.value
            text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
        except Exception:  # one unreadable tag, of whatever kind, must not cost the frame
            continue
        if value is not None and text and len(text) <= MAX_TAG_CHARS and len(tags) < MAX_TAGS:
            tags[element.keyword] = text
    return tags


def _no_pixels(what: str, *, retryable: bool = False) -> DataError:
    return DataError(
        f"DICOM: {what}", hint="only DICOM images can be inspected", reason="no_pixels", retryable=retryable
    )
