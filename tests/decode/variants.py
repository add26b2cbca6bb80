"""One file of every format and variant with the picture it must become: what the contract suite runs over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import uid

from tests.decode import builders as make
from tests.decode.builders import Pixels


@dataclass(frozen=True)
class Variant:
    name: str
    build: Callable[[], bytes]
    pixels: Pixels  # of the first page
    bits: int
    low: float
    high: float
    tolerance: int = 0
    pages: int = 1


def png_variants() -> list[Variant]:
    found = []
    for bits in (1, 2, 4, 8, 16):
        pixels = make.grey(bits)
        found.append(_full(f"grey{bits}", lambda p=pixels, b=bits: make.png(p, bits=b), pixels, bits))
    for bits in (8, 16):
        rgb, alpha = make.colour(bits), make.grey(bits, seed=9)[..., None]
        rgba, grey_alpha = np.concatenate([rgb, alpha], axis=2), np.concatenate([rgb[..., :1], alpha], axis=2)
        found += [
            _full(f"rgb{bits}", lambda p=rgb, b=bits: make.png(p, bits=b, colour_type=2), rgb, bits),
            _full(f"rgba{bits}", lambda p=rgba, b=bits: make.png(p, bits=b, colour_type=6), rgb, bits),
            _full(
                f"greyalpha{bits}",
                lambda p=grey_alpha, b=bits: make.png(p, bits=b, colour_type=4),
                rgb[..., 0],
                bits,
            ),
        ]
    palette = make.grey(8, height=16, width=3, seed=5)
    indices = make.grey(4)
    found += [
        _full("palette4", lambda: make.png_palette(indices, palette, bits=4), palette[indices], 8),
        _full(
            "palette4_transparent",
            lambda: make.png_palette(indices, palette, bits=4, transparency=b"\x80\0"),
            palette[indices],
            8,
        ),
    ]
    grey8 = make.grey(8)
    for chunk, content in ((b"tRNS", b"\0\x80"), (b"sBIT", b"\x05")):
        extra = make.png_chunk(chunk, content)
        found.append(_full(f"grey8_{chunk.decode()}", lambda e=extra: make.png(grey8, extra=e), grey8, 8))
    return _prefixed("png", found)


def jpeg_variants() -> list[Variant]:
    ramp, ramp12 = make.smooth(), make.smooth(12)
    rgb = np.stack([ramp, ramp[::-1], 255 - ramp], axis=-1)
    noise = make.grey(16)
    return _prefixed(
        "jpeg",
        [
            _full("grey8", lambda: make.jpeg(ramp), ramp, 8, tolerance=4),
            _full("rgb8", lambda: make.jpeg(rgb), rgb, 8, tolerance=12),
            _full("exif_rotated", lambda: make.jpeg(ramp, exif_orientation=6), ramp, 8, tolerance=4),
            _full("grey12", lambda: make.jpeg(ramp12, bitspersample=12), ramp12, 12, tolerance=16),
            _full("lossless16", lambda: make.jpeg(noise, lossless=True, bitspersample=16), noise, 16),
        ],
    )


def bmp_variants() -> list[Variant]:
    grey, rgb = make.grey(), make.colour()
    return _prefixed(
        "bmp",
        [
            _full("grey8", lambda: make.bmp(grey), grey, 8),
            _full("rgb24", lambda: make.bmp(rgb), rgb, 8),
            _full("rgb24_top_down", lambda: make.bmp_top_down(rgb), rgb, 8),
        ],
    )


def tiff_variants() -> list[Variant]:
    grey8, grey12, grey16 = make.grey(8), make.grey(12), make.grey(16)
    signed, rgb, rgb16 = make.grey(16, signed=True), make.colour(), make.colour(16)
    ramp = make.smooth()
    real = np.linspace(0, 1, 40 * 50, dtype=np.float32).reshape(40, 50)
    found = [
        _full("grey8", lambda: make.tiff(grey8), grey8, 8),
        _full("grey16", lambda: make.tiff(grey16), grey16, 16),
        _full("grey16_big_endian", lambda: make.tiff(grey16, byteorder=">"), grey16, 16),
        _full("grey16_bigtiff", lambda: make.tiff(grey16, bigtiff=True), grey16, 16),
        _full(
            "grey16_bigtiff_big_endian", lambda: make.tiff(grey16, bigtiff=True, byteorder=">"), grey16, 16
        ),
        _full("grey12", lambda: make.tiff(grey12, bitspersample=12), grey12, 12),
        _full("rgb8", lambda: make.tiff(rgb), rgb, 8),
        _full(
            "rgb16_planar",
            lambda: make.tiff(np.moveaxis(rgb16, 2, 0), photometric="rgb", planarconfig="separate"),
            rgb16,
            16,
        ),
        Variant("int16", lambda: make.tiff(signed), signed, 16, -32768, 32767),
        Variant("white_is_zero", lambda: make.tiff(grey16, photometric="miniswhite"), grey16, 16, 65535, 0),
        Variant("float32", lambda: make.tiff(real), real, 32, 0, 1),
        Variant(
            "float32_declared",
            lambda: make.tiff(real * 7 - 2, extratags=[(340, 11, 1, -2.0, True), (341, 11, 1, 5.0, True)]),
            real * 7 - 2,
            32,
            -2,
            5,
        ),
        Variant(
            "min_max_sample",
            lambda: make.tiff(grey16, extratags=[(280, 3, 1, 100, True), (281, 3, 1, 4095, True)]),
            grey16,
            16,
            100,
            4095,
        ),
        _full("tiles", lambda: make.tiff(grey16, tile=(16, 16)), grey16, 16),
        _full("jpeg", lambda: make.tiff(ramp, compression="jpeg", rowsperstrip=16), ramp, 8, tolerance=8),
        _full(
            "pages", lambda: make.tiff(grey8, make.grey(8, seed=1), make.grey(8, seed=2)), grey8, 8, pages=3
        ),
    ]
    for compression in ("lzw", "deflate", "zstd", "packbits"):
        for predictor in (False, True) if compression != "packbits" else (False,):
            options: dict[str, Any] = {"compression": compression, "predictor": predictor, "rowsperstrip": 8}
            found.append(
                _full(
                    f"{compression}{'_predicted' * predictor}",
                    lambda o=options: make.tiff(grey16, **o),
                    grey16,
                    16,
                )
            )
    return _prefixed("tiff", found)


def dicom_variants() -> list[Variant]:
    found = []
    for syntax in make.LOSSLESS:
        for bits, signed in ((8, False), (12, False), (16, False), (12, True), (16, True)):
            for photometric in ("MONOCHROME1", "MONOCHROME2"):
                pixels = make.grey(bits, signed=signed)
                low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
                if photometric == "MONOCHROME1":
                    low, high = high, low
                options = {"bits": bits, "photometric": photometric}
                found.append(
                    Variant(
                        f"{syntax.keyword}_{'s' if signed else 'u'}{bits}_{photometric}",
                        lambda p=pixels, s=syntax, o=options: make.dicom(p, s, **o),
                        pixels,
                        bits,
                        low,
                        high,
                    )
                )
        rgb = make.colour()
        found.append(
            _full(
                f"{syntax.keyword}_rgb", lambda s=syntax, p=rgb: make.dicom(p, s, photometric="RGB"), rgb, 8
            )
        )
    ramp, ramp12 = make.smooth(), make.smooth(12)
    frames = [make.grey(12, seed=seed) for seed in range(3)]
    for syntax in (uid.ExplicitVRLittleEndian, uid.JPEGLosslessSV1, uid.RLELossless):
        build: Callable[..., bytes] = lambda s=syntax: make.dicom(frames, s, bits=12)  # noqa: E731 - like its peers
        found.append(_full(f"{syntax.keyword}_frames", build, frames[0], 12, pages=3))
    found += [
        _full("jpeg_baseline", lambda: make.dicom(ramp, uid.JPEGBaseline8Bit), ramp, 8, tolerance=3),
        _full(
            "jpeg_extended12",
            lambda: make.dicom(ramp12, uid.JPEGExtended12Bit, bits=12),
            ramp12,
            12,
            tolerance=16,
        ),
        _full(
            "jpegls_near",
            lambda: make.dicom(ramp12, uid.JPEGLSNearLossless, bits=12),
            ramp12,
            12,
            tolerance=2,
        ),
    ]
    return _prefixed("dicom", found)


def all_variants() -> list[Variant]:
    return [*png_variants(), *jpeg_variants(), *bmp_variants(), *tiff_variants(), *dicom_variants()]


def _full(
    name: str, build: Callable[[], bytes], pixels: Pixels, bits: int, *, tolerance: int = 0, pages: int = 1
) -> Variant:
    """A variant of unsigned samples that use their declared depth."""
    return Variant(name, build, pixels, bits, 0, 2**bits - 1, tolerance, pages)


def _prefixed(prefix: str, variants: list[Variant]) -> list[Variant]:
    return [Variant(**{**vars(variant), "name": f"{prefix}-{variant.name}"}) for variant in variants]
