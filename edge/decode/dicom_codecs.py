"""A pydicom decoding plugin over imagecodecs: JPEG, JPEG lossless, JPEG 2000, RLE; pyjpegls: JPEG-LS.

pydicom's own choice for JPEG lossless and 12-bit JPEG is pylibjpeg-libjpeg, which is GPL, and its RLE
decoder is Python. libjpeg-turbo 3 decodes the lossless processes at 2 to 16 bits, and is fuzzed upstream,
which imagecodecs' jpegsof3 is not. The interface is pydicom's documented one for plugins: `is_available`,
`DECODER_DEPENDENCIES` and a function that turns one encoded frame into bytes.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import imagecodecs
import jpeg_ls  # type: ignore[import-untyped]  # it publishes no types
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

from edge.decode.jpeg import check_ends, decode_pixels, frame_header
from edge.errors import DataError

PLUGIN = "imagecodecs"

_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
SYNTAXES = (*_JPEG, *_JPEG_LS, *_JPEG_2000, uid.RLELossless)

_SIZ = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream: SOC, then the SIZ segment

DECODER_DEPENDENCIES = {syntax: ("numpy", "imagecodecs") for syntax in SYNTAXES}


def is_available(syntax: str) -> bool:
    """Asked by pydicom when the plugin is added."""
    return syntax in DECODER_DEPENDENCIES


@functools.cache
def register() -> None:
    """Make the plugin known to pydicom, once."""
    for syntax in SYNTAXES:
        get_decoder(syntax).add_plugin(PLUGIN, (__name__, "decode_frame"))


def decode_frame(encoded: bytes, runner: DecodeRunner) -> bytes:
    """One frame's samples, little endian, in the order pydicom is told through the runner's options.

    The size is checked first: the budget was for what the data set says, not for what the frame says.
    """
    syntax = runner.transfer_syntax
    if syntax == uid.RLELossless:
        return _rle(encoded, runner)
    if syntax in _JPEG_2000:
        return _jpeg_2000(encoded, runner)
    if syntax in _JPEG_LS:
        return _jpeg_ls(encoded, runner)
    return _jpeg(encoded, runner)


def _jpeg(encoded: bytes, runner: DecodeRunner) -> bytes:
    """Samples as coded: pydicom converts colours, by the data set's photometric interpretation."""
    check_ends(encoded)  # libjpeg fills what is missing with grey
    header = frame_header(encoded)
    _check_size(header.width, header.height, runner)
    if header.components == 1:
        pixels = decode_pixels(encoded, header)
    else:
        runner.set_option("planar_configuration", 0)
        pixels = np.asarray(imagecodecs.jpeg8_decode(encoded, colorspace="YCBCR", outcolorspace="YCBCR"))
    return _samples(pixels, runner.bits_allocated // 8)


def _jpeg_2000(encoded: bytes, runner: DecodeRunner) -> bytes:
    _check_size(*_jpeg_2000_size(encoded), runner)
    pixels = np.asarray(imagecodecs.jpeg2k_decode(encoded))
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")  # OpenJPEG has undone the transform
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return _samples(pixels, pixels.dtype.itemsize)


def _jpeg_2000_size(encoded: bytes) -> tuple[int, int]:
    """(width, height) from the SIZ segment (ITU-T T.800, A.5.1): extent less offset."""
    at = encoded.find(_SIZ)
    if at < 0 or at + 24 > len(encoded):
        raise DataError("the coded frame is not a JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", encoded, at + 8)
    return right - left, bottom - top


def _jpeg_ls(encoded: bytes, runner: DecodeRunner) -> bytes:
    """As pydicom's own plugin does it, but after a look at the size."""
    header = frame_header(encoded)
    _check_size(header.width, header.height, runner)
    samples, info = jpeg_ls.decode_pixel_data(encoded)
    if info["components"] > 1:
        runner.set_option("planar_configuration", 0 if info["interleave_mode"] else 1)
    runner.set_option("bits_allocated", 8 if info["bits_per_sample"] <= 8 else 16)
    return bytes(samples)


def _rle(encoded: bytes, runner: DecodeRunner) -> bytes:
    """PS3.5 annex G: a PackBits segment for each byte of a sample, the most significant first, by planes.

    Not imagecodecs.dicomrle_decode: it reads beyond damaged segments and takes the process with it.
    """
    samples, sample_bytes = runner.samples_per_pixel, runner.bits_allocated // 8
    pixels = runner.rows * runner.columns
    count, *starts = struct.unpack_from("<16I", encoded)
    if count != samples * sample_bytes or count > len(starts):
        raise DataError(f"{count} RLE segments, where {samples * sample_bytes} are needed")
    planes = np.empty((count, pixels), np.uint8)
    for plane, start, end in zip(planes, starts, [*starts[1:count], len(encoded)], strict=False):
        segment = imagecodecs.packbits_decode(encoded[start:end])
        if len(segment) < pixels:
            raise DataError(f"an RLE segment of {len(segment)} pixels, where {pixels} are needed")
        if any(segment[pixels + 1 :]):  # one may come of the padding to even length
            raise DataError(f"an RLE segment of {len(segment)} pixels, where {pixels} are expected")
        plane[:] = np.frombuffer(segment, np.uint8, pixels)
    if samples > 1:
        runner.set_option("planar_configuration", 1)
    return planes.reshape(samples, sample_bytes, pixels)[:, ::-1].transpose(0, 2, 1).tobytes()


def _check_size(width: int, height: int, runner: DecodeRunner) -> None:
    if (width, height) != (runner.columns, runner.rows):
        raise DataError(
            f"the coded frame has {width}×{height} pixels, the header says {runner.columns}×{runner.rows}"
        )


def _samples(pixels: NDArray[Any], sample_bytes: int) -> bytes:
    """Little-endian samples of a width; values are kept."""
    if pixels.dtype.itemsize != sample_bytes:
        pixels = pixels.astype(f"{pixels.dtype.kind}{sample_bytes}")
    return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
