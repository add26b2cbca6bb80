"""Decoders: for each format the shipped decoder against the other libraries that could read it.

`python -m bench.decoders` prints the section; of the libraries that are no dependency (isal, zlib-ng,
kornia-rs, pyvips, pyspng, pillow) those are tried that are installed. CPU time of the whole process is
counted, so that neither threads nor what else runs here make one look better than another.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import sys
import tempfile
import time
import unittest.mock
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import imagecodecs as typed_imagecodecs
import numpy as np
import pydicom
import simplejpeg
import tifffile
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLSLossless

from bench.context import Context, SkippedError
from bench.machine import OtherLoad
from bench.section import Section, render, table
from edge.decode import Limits, decode, png_rows

Pixels = NDArray[Any]
Read = Callable[[], Any]
imagecodecs: Any = typed_imagecodecs  # its annotations leave out that arrays are as good as bytes

ROUNDS = 9  # of each reader; they take turns, and the fastest of each counts
SHAPE = 2832, 4248  # 12 megapixels
NOISE = 150.0  # standard deviation of the synthetic frames, of 65535
LIMITS = Limits(10**8, 64)
SHIPPED, BEFORE = "**edge**", "edge, as it was"
FILTERS = ("None", "Sub", "Up", "Average", "Paeth")


@dataclass(frozen=True, slots=True)
class Case:
    """One file and what may read it."""

    format: str
    name: str
    data: bytes
    readers: Mapping[str, Read]
    before: str  # the reader that the ratio is to
    lossy: bool = False  # decoders may round differently


@dataclass(frozen=True, slots=True)
class Timing:
    """CPU milliseconds of a reader; None: it cannot, or gives other pixels."""

    case: Case
    reader: str
    ms: float | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Others:
    """The libraries that are no dependency, as far as they are installed."""

    modules: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def found(cls) -> Others:
        modules = {}
        for name in ("isal.isal_zlib", "zlib_ng.zlib_ng", "kornia_rs", "pyvips", "pyspng", "PIL.Image"):
            try:
                modules[name] = importlib.import_module(name)
            except ImportError:
                continue
        if "pyvips" in modules:
            modules["pyvips"].cache_set_max(0)  # else it decodes once and remembers
        return cls(modules)

    def readers(self, makers: Mapping[str, Callable[[Any], Read]]) -> dict[str, Read]:
        """Those of the readers whose library is there, by its name."""
        names = {"PIL.Image": "pillow"}
        return {
            f"{names.get(name, name.partition('.')[0])} *": make(self.modules[name])
            for name, make in makers.items()
            if name in self.modules
        }


def run(context: Context) -> Section:
    """Every format, then what inflating alone costs."""
    cv2.setNumThreads(1)  # as in the decode workers
    others, missing = Others.found(), list[str]()
    frame = _frame(*(SHAPE if not context.quick else (283, 424)))
    cases = [*_png(frame, others), *_tiff(frame), *_dicom(frame)]
    for make in (_real_png, _real_tiff, _real_jpeg):
        try:
            cases += make(context, others)
        except SkippedError as reason:
            missing.append(str(reason))
    rounds = context.size(ROUNDS, 1)
    timings = [timing for case in cases for timing in _measured(case, rounds, context)]
    inflating = _inflating(_pngs(frame), others, rounds)
    lines = [
        f"Synthetic frames are {frame.shape[1]}×{frame.shape[0]} grey pixels of 16 bits: a smooth field and "
        f"noise of {NOISE:g} standard deviation. CPU ms of the whole process, the fastest of {rounds} rounds "
        "in which the readers take turns, one OpenCV thread. The ratio is to *before*: what the product did "
        "until this bench, or still does through that library. `edge` is all of `edge.decode.decode`: "
        "completeness, checksums, budget and pixels; libraries only decode, from bytes in memory. Every "
        "reader's pixels equal edge's, or it has no figure. \\* is no dependency of the product. "
        f"{_versions(others)}",
        *(f"\nLeft out: {reason}." for reason in missing),
        "",
        *_table(timings),
        "",
        "Inflating alone, the zlib streams of the synthetic PNGs:",
        "",
        *_inflate_table(inflating),
    ]
    facts = {"timings": [(t.case.format, t.case.name, t.reader, t.ms, t.trouble) for t in timings]}
    return Section("Decoders: the shipped ones against others", lines, facts | {"inflate_ms": inflating})


# the files


def _frame(height: int, width: int) -> Pixels:
    """(h, w) uint16 as a scanner's: a smooth field and the noise of its sensor."""
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    smooth = 20_000 + 8_000 * np.sin(across / 900) + 6_000 * np.cos(down / 700)
    noise = np.random.default_rng(0).normal(0, NOISE, (height, width))
    frame: Pixels = np.clip(np.rint(smooth + noise), 0, 65535).astype(np.uint16)
    return frame


def _as_before(part: str, data: bytes) -> Read:
    """All of `decode` but for a part of it that came with this bench, and gives None for "not mine"."""

    def read() -> Pixels:
        with unittest.mock.patch(f"edge.decode.{part}", return_value=None):
            return decode(data, "frame", LIMITS)[0].pixels

    return read


def _pngs(frame: Pixels) -> dict[str, bytes]:
    return {
        "libpng, level 1": imagecodecs.png_encode(frame, level=1),
        "libpng, level 6": imagecodecs.png_encode(frame, level=6),
        "OpenCV": cv2.imencode(".png", frame)[1].tobytes(),
    }


def _png(frame: Pixels, others: Others) -> list[Case]:
    return [_png_case(f"16-bit frame, {name}", data, others) for name, data in _pngs(frame).items()]


def _png_case(name: str, data: bytes, others: Others) -> Case:
    whole = np.frombuffer(data, np.uint8)
    depth, shape = data[24], tuple(int.from_bytes(data[at : at + 4], "big") for at in (20, 16))
    readers: dict[str, Read] = {
        BEFORE: _as_before("png._by_rows", data),
        "imagecodecs.png_decode (libpng)": lambda: imagecodecs.png_decode(data),
        "imagecodecs.spng_decode": lambda: imagecodecs.spng_decode(data),
        "cv2.imdecode": lambda: cv2.imdecode(whole, cv2.IMREAD_UNCHANGED),
        "whole file as stored blocks to libpng": lambda: _stored_to_libpng(data),
    }
    if depth == 16:
        kornia = lambda m: lambda: m.io.decode_image_png_u16(data, shape, "mono")  # noqa: E731 - one of two
    else:
        kornia = lambda m: lambda: m.io.decode_image_png_u8(data, shape, "mono")  # noqa: E731
    makers: dict[str, Callable[[Any], Read]] = {
        "kornia_rs": kornia,
        "pyvips": lambda m: lambda: m.Image.new_from_buffer(data, "").numpy(),
        "pyspng": lambda m: lambda: m.load(data),
    }
    if depth == 8:
        makers["PIL.Image"] = lambda m: lambda: np.asarray(m.open(io.BytesIO(data)))
    readers |= others.readers(makers)
    return Case("PNG", f"{name} ({_filters(data)})", data, readers, BEFORE)


def _stored_to_libpng(data: bytes) -> Pixels:
    """What png_rows.py does by bands and only where it must, for the whole file at once."""
    header = data[16:29]
    height, width = (int.from_bytes(header[at : at + 4], "big") for at in (4, 0))
    rows = imagecodecs.deflate_decode(_stream(data), out=height * (1 + width * header[8] // 8))
    stored = imagecodecs.deflate_encode(rows, level=0)
    chunks = [
        png_rows._chunk(kind, part) for kind, part in ((b"IHDR", header), (b"IDAT", stored), (b"IEND", b""))
    ]
    pixels: Pixels = imagecodecs.png_decode(b"".join([data[:8], *chunks]))
    return pixels


def _stream(data: bytes) -> bytes:
    """The zlib stream of a PNG."""
    parts, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            parts.append(data[at + 8 : at + 8 + length])
        at += 12 + length
    return b"".join(parts)


def _filters(data: bytes) -> str:
    """Which filters a grey PNG's rows have, in percent."""
    rows = np.frombuffer(zlib.decompress(_stream(data)), np.uint8)
    kinds = Counter(rows.reshape(int.from_bytes(data[20:24], "big"), -1)[:, 0].tolist())
    shares = {FILTERS[kind]: round(100 * count / kinds.total()) for kind, count in sorted(kinds.items())}
    return ", ".join(f"{name} {share} %" for name, share in shares.items() if share)


def _tiff(frame: Pixels) -> list[Case]:
    def written(**options: Any) -> bytes:
        order = {"byteorder": options.pop("byteorder")} if "byteorder" in options else {}
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream, **order) as writer:
            writer.write(frame, metadata=None, photometric="minisblack", **options)
        return stream.getvalue()

    coded = {"predictor": True, "rowsperstrip": 64}
    return [
        _tiff_case("16-bit frame, raw", written()),
        _tiff_case("16-bit frame, raw, a strip a row", written(rowsperstrip=1)),
        _tiff_case("16-bit frame, raw, big-endian", written(byteorder=">")),
        _tiff_case("16-bit frame, deflate, predictor", written(compression="deflate", **coded)),
        _tiff_case("16-bit frame, LZW, predictor", written(compression="lzw", **coded)),
        _tiff_case("16-bit frame, zstd, predictor", written(compression="zstd", **coded), opencv=False),
    ]


def _tiff_case(name: str, data: bytes, *, opencv: bool = True) -> Case:
    def by_tifffile() -> Pixels:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            return np.ascontiguousarray(tiff.pages[0].asarray(maxworkers=1), dtype=None)

    whole = np.frombuffer(data, np.uint8)
    readers: dict[str, Read] = {
        BEFORE: _as_before("tiff._view", data),
        "tifffile": by_tifffile,
        "imagecodecs.tiff_decode (libtiff)": lambda: imagecodecs.tiff_decode(data),
    }
    if opencv:  # without zstd it says so on stderr, a dozen lines each time
        readers["cv2.imdecode (libtiff)"] = lambda: cv2.imdecode(whole, cv2.IMREAD_UNCHANGED)
    return Case("TIFF", name, data, readers, BEFORE)


def _dicom(frame: Pixels) -> list[Case]:
    deep = frame >> 4  # 12 bits in 16
    coded = get_encoder(JPEGLSLossless).encode(
        deep.tobytes(), rows=deep.shape[0], columns=deep.shape[1], samples_per_pixel=1, number_of_frames=1,
        bits_allocated=16, bits_stored=12, pixel_representation=0, photometric_interpretation="MONOCHROME2",
        planar_configuration=0,
    )  # fmt: skip
    return [
        _dicom_case("16-bit frame, raw", frame, 16, frame.tobytes(), ExplicitVRLittleEndian),
        _dicom_case("12-bit frame, raw", deep, 12, deep.tobytes(), ExplicitVRLittleEndian),
        _dicom_case(
            "16-bit frame, raw, big-endian", frame, 16, frame.byteswap().tobytes(), ExplicitVRBigEndian
        ),
        _dicom_case("12-bit frame, JPEG-LS", deep, 12, encapsulate([coded]), JPEGLSLossless),
    ]


def _dicom_case(name: str, pixels: Pixels, bits: int, stored: bytes, syntax: UID) -> Case:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = stored
    dataset["PixelData"].VR = "OB" if syntax == JPEGLSLossless else "OW"
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    data = stream.getvalue()
    readers: dict[str, Read] = {BEFORE: _as_before("dicom.DicomDecoder._plain", data)}
    readers["pydicom"] = lambda: pydicom.dcmread(io.BytesIO(data)).pixel_array
    if syntax == JPEGLSLossless:
        from pydicom.encaps import get_frame

        readers["imagecodecs.jpegls_decode (CharLS), frame alone"] = lambda: imagecodecs.jpegls_decode(
            get_frame(stored, 0, number_of_frames=1)
        )
    return Case("DICOM", name, data, readers, BEFORE)


def _real_png(context: Context, others: Others) -> list[Case]:
    found = []
    for dataset, pattern in (("weld_xray", "film/*.png"), ("casting_xray", "C0001/*.png")):
        file = max(context.dataset(dataset).glob(pattern), key=lambda file: (file.stat().st_size, file))
        found.append(_png_case(f"{dataset}/{file.name}", file.read_bytes(), others))
    return found


def _real_tiff(context: Context, _: Others) -> list[Case]:
    file = min((context.dataset("nanofibre_sem") / "good").glob("*.tif"))
    return [_tiff_case(f"nanofibre_sem/{file.name}, PackBits", file.read_bytes())]


def _real_jpeg(context: Context, others: Others) -> list[Case]:
    files = sorted(context.dataset("magnetic_tile").rglob("*.jpg"), key=lambda file: file.stat().st_size)
    data = files[-1].read_bytes()
    whole = np.frombuffer(data, np.uint8)
    colour = "GRAY" if simplejpeg.decode_jpeg_header(data)[2] == "Gray" else "RGB"
    grey = colour == "GRAY"
    jpeg_readers: dict[str, Read] = {
        "simplejpeg, strict": lambda: simplejpeg.decode_jpeg(data, colour, strict=True),
        "simplejpeg": lambda: simplejpeg.decode_jpeg(data, colour),
        "imagecodecs.jpeg8_decode": lambda: imagecodecs.jpeg8_decode(data),
        "cv2.imdecode": lambda: cv2.imdecode(whole, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB),
    } | others.readers({"PIL.Image": lambda m: lambda: np.asarray(m.open(io.BytesIO(data)))})
    pixels = decode(data, "jpeg", LIMITS)[0].pixels
    bmp = cv2.imencode(".bmp", pixels if grey else pixels[..., ::-1])[1].tobytes()
    stored = np.frombuffer(bmp, np.uint8)
    bmp_readers: dict[str, Read] = {
        "cv2.imdecode": lambda: cv2.imdecode(stored, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB),
        "imagecodecs.bmp_decode": lambda: imagecodecs.bmp_decode(bmp),
    } | others.readers({"PIL.Image": lambda m: lambda: np.asarray(m.open(io.BytesIO(bmp)))})
    name = f"magnetic_tile/{files[-1].name}"
    return [
        Case("JPEG", name, data, jpeg_readers, "simplejpeg, strict", lossy=True),
        Case("BMP", f"{name} as BMP", bmp, bmp_readers, "cv2.imdecode"),
    ]


# the measurement


def _measured(case: Case, rounds: int, context: Context) -> list[Timing]:
    """The readers of a case, edge first."""
    edge: Read = lambda: decode(case.data, "frame", LIMITS)[0].pixels  # noqa: E731 - a reader like the others
    pixels = edge()
    trouble = {reader: _trouble(read, pixels, case.lossy) for reader, read in case.readers.items()}
    able = {SHIPPED: edge} | {reader: read for reader, read in case.readers.items() if not trouble[reader]}
    ms: dict[str, float] = {}
    for _ in range(rounds):
        for reader, read in able.items():
            began_s = time.process_time()
            read()
            ms[reader] = min(ms.get(reader, np.inf), 1e3 * (time.process_time() - began_s))
    context.say(f"{case.format} {case.name}: { {reader: round(took, 2) for reader, took in ms.items()} }")
    return [Timing(case, reader, ms.get(reader), trouble.get(reader, "")) for reader in [SHIPPED, *trouble]]


def _trouble(read: Read, pixels: Pixels, lossy: bool) -> str:
    """Why a reader has no figure; empty when its pixels are edge's."""
    try:
        found = np.asarray(read())
    except Exception as error:  # whatever a library makes of a file that it does not read
        return f"fails: {type(error).__name__}"
    if found.size != pixels.size:
        return f"gives {found.shape} {found.dtype}"
    apart = np.abs(found.reshape(pixels.shape).astype(np.int64) - pixels.astype(np.int64)).max()
    return "" if apart <= (4 if lossy else 0) else "gives other pixels"


def _inflating(pngs: Mapping[str, bytes], others: Others, rounds: int) -> dict[str, dict[str, float]]:
    """CPU ms by file and library, into memory that is there already where the library can."""
    found: dict[str, dict[str, float]] = {}
    for name, data in pngs.items():
        stream = _stream(data)
        readers = _inflaters(stream, len(zlib.decompress(stream)), others)
        took = found.setdefault(name, {})
        for _ in range(rounds):
            for reader, read in readers.items():
                began_s = time.process_time()
                read()
                took[reader] = min(took.get(reader, np.inf), 1e3 * (time.process_time() - began_s))
    return found


def _inflaters(stream: bytes, size: int, others: Others) -> dict[str, Read]:
    into = np.empty(size, np.uint8)
    into[:] = 0  # pages that are there: else whoever comes first pays for them
    readers: dict[str, Read] = {
        "libdeflate (imagecodecs)": lambda: imagecodecs.deflate_decode(stream, out=into),
        "zlib (imagecodecs)": lambda: imagecodecs.zlib_decode(stream, out=into),
        "zlib-ng (imagecodecs)": lambda: imagecodecs.zlibng_decode(stream, out=into),
        "zlib (Python)": lambda: zlib.decompress(stream, bufsize=size),
    }
    optional: dict[str, Callable[[Any], Read]] = {
        "isal.isal_zlib": lambda module: lambda: module.decompress(stream, bufsize=size),
        "zlib_ng.zlib_ng": lambda module: lambda: module.decompress(stream, bufsize=size),
    }
    return readers | others.readers(optional)


# the tables


def _table(timings: list[Timing]) -> list[str]:
    before = {id(t.case): t.ms for t in timings if t.reader == t.case.before}
    rows = []
    for timing in timings:
        case, reference = timing.case, before[id(timing.case)]
        label = (
            f"{case.format}: {case.name}, {len(case.data) / 1e6:.2f} MB" if timing.reader == SHIPPED else ""
        )
        reader = f"{timing.reader}, *before*" if timing.reader == case.before else timing.reader
        if timing.ms is None:
            rows.append([label, reader, timing.trouble, ""])
        else:
            ratio = f"{timing.ms / reference:.2f}" if reference else ""
            rows.append([label, reader, f"{timing.ms:.2f}", ratio])
    return table(["file", "reader", "CPU ms", "ratio"], rows)


def _inflate_table(inflating: Mapping[str, Mapping[str, float]]) -> list[str]:
    readers = list(next(iter(inflating.values())))
    return table(
        ["library", *inflating], [[r, *(f"{took[r]:.1f}" for took in inflating.values())] for r in readers]
    )


def _versions(others: Others) -> str:
    packages = ["imagecodecs", "opencv-python-headless", "tifffile", "pydicom", "simplejpeg"]
    names = {"PIL": "pillow", "zlib_ng": "zlib-ng", "kornia_rs": "kornia-rs"}
    packages += [names.get(top, top) for top in (name.partition(".")[0] for name in others.modules)]
    return "Versions: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + "."


def main() -> int:
    """Print the section, as `python -m bench` prints those in its list."""
    from bench.__main__ import _circumstances, _parser

    asked = _parser().parse_args()
    load, began_s = OtherLoad(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edge-bench-decoders-") as folder:
        section = run(Context(Path(folder), quick=asked.quick))
    print(render("decoders", section, _circumstances("decoders", asked, load, began_s), []))
    return 0


if __name__ == "__main__":
    sys.exit(main())
