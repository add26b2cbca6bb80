"""Files of every format, made in memory from arrays: what scanners write, for whatever reads them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import JPEGLSLosslessEncoder, JPEGLSNearLosslessEncoder, RLELosslessEncoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

Pixels = NDArray[Any]
NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (*NATIVE, RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def grey(bits: int = 8, *, signed: bool = False, height: int = 37, width: int = 52, seed: int = 0) -> Pixels:
    """(height, width) noise over the full range of the depth, extremes included."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 and not signed else 2 if bits <= 16 else 4}"
    pixels = np.random.default_rng(seed).integers(low, high, (height, width), endpoint=True).astype(kind)
    pixels[0, :2] = low, high
    return pixels


def colour(bits: int = 8, *, height: int = 37, width: int = 52, seed: int = 0) -> Pixels:
    """(height, width, 3) noise over the full range of the depth."""
    return np.stack([grey(bits, height=height, width=width, seed=seed + c) for c in range(3)], axis=-1)


def smooth(bits: int = 8, *, height: int = 64, width: int = 80) -> Pixels:
    """(height, width) ramp, which lossy codecs hardly change."""
    ramp = np.add.outer(np.arange(height), np.arange(width)) / (height + width) * (2**bits - 1)
    return ramp.astype(np.uint8 if bits <= 8 else np.uint16)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: Pixels, *, bits: int = 8, colour_type: int = 0, extra: bytes = b"") -> bytes:
    """A PNG of (h, w) or (h, w, channels) samples, unfiltered; `extra` are chunks between IHDR and IDAT."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8)
    elif bits == 8:
        packed = rows.astype(np.uint8)
    else:
        digits = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(lines))
    return PNG_SIGNATURE + body + png_chunk(b"IEND", b"")


def png_of_rows(
    compressed: bytes,
    height: int,
    width: int,
    *,
    bits: int = 8,
    colour_type: int = 0,
    interlaced: bool = False,
) -> bytes:
    """A PNG around a zlib stream."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", compressed) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + chunks


def png_rows(samples: Pixels, filters: Sequence[int], *, bits: int = 8) -> bytes:
    """The rows of a PNG before compression: (h, w, channels) samples, row n filtered by type filters[n].

    Types are None, Sub, Up, Average and Paeth (PNG, 3rd edition, section 9.2).
    """
    height = len(samples)
    stored = np.ascontiguousarray(samples.astype(f">u{bits // 8}")).view(np.uint8).reshape(height, -1)
    beside = samples.shape[2] * bits // 8  # bytes to the pixel on the left
    padded = np.zeros((height + 1, stored.shape[1] + beside), np.int16)
    padded[1:, beside:] = stored
    left, up, corner = padded[1:, :-beside], padded[:-1, beside:], padded[:-1, :-beside]
    guesses = [np.zeros_like(up), left, up, (left + up) // 2, _paeth(left, up, corner)]
    lines = [
        bytes([kind]) + (stored[n] - guesses[kind][n]).astype(np.uint8).tobytes()
        for n, kind in enumerate(filters)
    ]
    return b"".join(lines)


def _paeth(left: Pixels, up: Pixels, corner: Pixels) -> Pixels:
    """Whichever of the three is nearest to left + up - corner, in this order (section 9.4)."""
    to_left, to_up, to_corner = (np.abs(left + up - corner - near) for near in (left, up, corner))
    nearest_up = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest_up)


def png_interlaced(samples: Pixels, *, bits: int = 8) -> bytes:
    """A grey PNG of (h, w) samples in the seven passes of Adam7 (section 8.1), unfiltered."""
    starts_and_steps = (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
    )  # fmt: skip
    passes = [samples[row::down, column::across] for row, column, down, across in starts_and_steps]
    lines = [png_rows(one[..., None], [0] * len(one), bits=bits) for one in passes if one.size]
    return png_of_rows(zlib.compress(b"".join(lines)), *samples.shape, bits=bits, interlaced=True)


def png_palette(indices: Pixels, palette: Pixels, *, bits: int = 8, transparency: bytes = b"") -> bytes:
    """A PNG of (h, w) indices into a (n, 3) uint8 palette."""
    extra = png_chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if transparency:
        extra += png_chunk(b"tRNS", transparency)
    return png(indices, bits=bits, colour_type=3, extra=extra)


def jpeg(pixels: Pixels, *, level: int = 95, exif_orientation: int | None = None, **options: Any) -> bytes:
    """A JPEG of (h, w) or (h, w, 3) RGB pixels, with an EXIF orientation where one is given."""
    data = bytes(imagecodecs.jpeg8_encode(pixels, level=level, **options))
    if exif_orientation is None:
        return data
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, exif_orientation, 0)
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + tag + struct.pack("<I", 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def bmp(pixels: Pixels) -> bytes:
    """A BMP of (h, w) or (h, w, 3) RGB uint8 pixels, as OpenCV writes it."""
    done, data = cv2.imencode(".bmp", pixels if pixels.ndim == 2 else pixels[..., ::-1])
    assert done
    return data.tobytes()


def bmp_top_down(pixels: Pixels) -> bytes:
    """A 24-bit BMP of (h, w, 3) RGB uint8 pixels whose first row is the top one."""
    height, width = pixels.shape[:2]
    padding = bytes(-width * 3 % 4)
    rows = b"".join(row.tobytes() + padding for row in pixels[..., ::-1])
    info = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54) + info + rows


def tiff(*pages: Pixels, **options: Any) -> bytes:
    """A TIFF with these pages; options are those of tifffile's `TiffWriter.write`, and byteorder, bigtiff."""
    layout = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    options.setdefault("photometric", "rgb" if pages[0].ndim == 3 else "minisblack")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **layout) as writer:
        for page in pages:
            writer.write(page, metadata=None, **options)
    return stream.getvalue()


def dicom(
    frames: Pixels | list[Pixels],
    syntax: UID = ExplicitVRLittleEndian,
    *,
    bits: int = 8,
    photometric: str = "MONOCHROME2",
    preamble: bool = True,
    **elements: Any,
) -> bytes:
    """A DICOM file of one or several (h, w) or (h, w, 3) frames; `elements` are set by keyword.

    Signed when the frames are; JPEG-LS near-lossless and lossy JPEG change the pixels.
    """
    pages = frames if isinstance(frames, list) else [frames]
    dataset = image_dataset(pages, bits=bits, photometric=photometric)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax in NATIVE:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        stored = b"".join(page.astype(_stored_type(page, bits, order)).tobytes() for page in pages)
        dataset.PixelData = stored + bytes(len(stored) % 2)
    else:
        dataset.PixelData = encapsulate([encoded(page, syntax, bits) for page in pages])
    dataset["PixelData"].VR = "OW" if bits > 8 and syntax in NATIVE else "OB"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return written(dataset, preamble=preamble)


def written(dataset: Dataset, *, preamble: bool = True) -> bytes:
    """The bytes of a data set, with its file meta information unless `preamble` is off."""
    stream = io.BytesIO()
    if preamble:
        dataset.save_as(stream, enforce_file_format=True)
    else:
        syntax = dataset.file_meta.TransferSyntaxUID
        del dataset.file_meta
        dataset.save_as(stream, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return stream.getvalue()


def image_dataset(pages: list[Pixels], *, bits: int, photometric: str = "MONOCHROME2") -> Dataset:
    """A secondary capture's data set that describes these frames, without pixel data."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.PatientID, dataset.ViewPosition, dataset.SeriesNumber = "P000123", "07", 3
    dataset.Rows, dataset.Columns = pages[0].shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 if bits <= 8 else 16, bits, bits - 1
    dataset.PixelRepresentation = int(pages[0].dtype.kind == "i")
    dataset.PhotometricInterpretation = photometric
    dataset.SamplesPerPixel = 1 if pages[0].ndim == 2 else 3
    if pages[0].ndim == 3:
        dataset.PlanarConfiguration = 0
    if len(pages) > 1:
        dataset.NumberOfFrames = len(pages)
    return dataset


def encoded(page: Pixels, syntax: UID, bits: int) -> bytes:
    """One frame, compressed as a transfer syntax says."""
    if syntax == JPEG2000Lossless:
        options = {"level": 0, "codecformat": "j2k", "reversible": True, "bitspersample": bits}
        return bytes(imagecodecs.jpeg2k_encode(page.astype(_stored_type(page, bits, "=")), **options))
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        predictor = 1 if syntax == JPEGLosslessSV1 else 6
        space = {"colorspace": "RGB", "outcolorspace": "RGB"} if page.ndim == 3 else {}
        unsigned = (page.astype(np.int32) & (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
        options = {"lossless": True, "predictor": predictor, "bitspersample": bits, **space}
        return bytes(imagecodecs.jpeg8_encode(unsigned, **options))
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        return bytes(imagecodecs.jpeg8_encode(page, level=98, bitspersample=bits))
    stored = page.astype(_stored_type(page, bits, "<"))
    encoder = {
        RLELossless: RLELosslessEncoder,
        JPEGLSLossless: JPEGLSLosslessEncoder,
        JPEGLSNearLossless: JPEGLSNearLosslessEncoder,
    }[syntax]
    near = {"jls_error": 2} if syntax == JPEGLSNearLossless else {}
    return encoder.encode(
        stored.tobytes(),
        rows=page.shape[0],
        columns=page.shape[1],
        samples_per_pixel=1 if page.ndim == 2 else 3,
        number_of_frames=1,
        bits_allocated=8 * stored.dtype.itemsize,
        bits_stored=bits,
        pixel_representation=int(page.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2" if page.ndim == 2 else "RGB",
        planar_configuration=0,
        **near,
    )


def _stored_type(page: Pixels, bits: int, order: str) -> np.dtype[Any]:
    return np.dtype(f"{page.dtype.kind}{1 if bits <= 8 else 2}").newbyteorder(order)
