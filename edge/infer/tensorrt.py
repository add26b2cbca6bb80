"""The NVIDIA runtime: TensorRT 10 and 11, by its native API.

An engine is built from the bundle's ONNX for one shape of batches, and kept: building takes minutes, loading
a moment. Types come from the file (networks are strongly typed), so precision is decided in `onnx_graphs`.
Stored 8- and 16-bit tiles are scaled on the device by a second, tiny engine before the network's own, so
that one engine of the network serves every type of tile.

Everything that needs the driver is behind `TrtApi` (`tensorrt_native`); the rest is tested without one.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge.errors import BundleError, UnavailableError
from edge.infer.bundle import MODEL, Bundle
from edge.infer.cache import CompiledCache, Note, no_note
from edge.infer.streams import STREAMS, Slot, StreamedRuntime, prove_stored_tiles

PRECISIONS = ("fp32", "fp16", "int8")
VERSIONS = ("10", "11")
STORED = ("uint8", "uint16")  # types of tiles that are scaled on the device
BEAT_S = 5.0  # how often a build says that it goes on: systemd's start time is extended by it
INSTALL = 'pip install "edge-inspect[tensorrt]", or set device = "cpu" under [runtime]'


class TrtApi(Protocol):
    """What is needed of TensorRT and the driver; errors of the device are UnavailableError."""

    version: str  # TensorRT's
    device: str  # the GPU's name, its compute capability, the driver's version

    def build(self, onnx: bytes, timing: bytes, progress: Note) -> tuple[bytes, bytes]:
        """An ONNX file of fixed shape → the serialised engine, and the timing cache with what was learned.

        Raises:
            BundleError: TensorRT cannot build it.
        """

    def load(self, engine: bytes) -> object:
        """A serialised engine, ready for slots.

        Raises:
            ValueError: TensorRT does not take it.
        """

    def slot(self, network: Any, scalings: Mapping[str, Any]) -> Slot:
        """A stream with buffers for the network; `scalings`: type of stored tiles → what scales them."""


def open_on_tensorrt(
    bundle: Bundle,
    *,
    precision: str,
    cache: CompiledCache | None,
    note: Note = no_note,
    progress: Note = no_note,
    int8: bytes | None = None,
    windows_px: Sequence[tuple[int, int]] = (),
    api: TrtApi | None = None,
) -> TensorRtRuntime:
    """A bundle's network on the first visible GPU, its engines for the bundle's tiles built or loaded.

    The caller holds it to the golden pair (`prove`). `progress` hears from a build every few seconds. `int8`
    is the network with explicit quantisation, as `edge compile` writes it and has held it to its calibration;
    `windows_px` are further sizes of tiles (height, width) that engines are wanted for before a frame comes.

    Raises:
        UnavailableError: TensorRT, the driver or a working GPU is missing, or the precision.
        BundleError: the engine cannot be built, or scales stored tiles wrongly.
    """
    chosen = "fp16" if precision == "auto" else precision
    if chosen not in PRECISIONS or (chosen == "int8" and int8 is None):
        why = "there is no int8 network" if chosen == "int8" else "there are fp32, fp16 and int8"
        raise UnavailableError(
            f"{bundle.folder}: precision {precision} cannot be had with TensorRT: {why}",
            hint='run `edge compile`, or set precision = "fp16" under [runtime]',
            retryable=False,
        )
    runtime = TensorRtRuntime(
        native_api(note) if api is None else api,
        int8 if chosen == "int8" and int8 is not None else bundle.read(MODEL),
        origin=bundle.model_file,
        precision=chosen,
        cache=cache,
        note=note,
        progress=progress,
    )
    size_px = bundle.manifest.preprocess.tiles.size_px
    for window in dict.fromkeys([(size_px, size_px), *windows_px]):
        runtime.warm(*window)
    prove_stored_tiles(runtime, bundle.golden()[0], bundle.tolerance_of(chosen), bundle.folder)
    return runtime


class TensorRtRuntime(StreamedRuntime):
    """A network built by TensorRT for this GPU; `made_for` are the keys of the engines in use."""

    def __init__(
        self,
        api: TrtApi,
        onnx: bytes,
        *,
        origin: Path,
        precision: str,
        cache: CompiledCache | None = None,
        note: Note = no_note,
        progress: Note = no_note,
    ) -> None:
        super().__init__("tensorrt", precision, self._open)
        self._api, self._origin, self._cache = api, origin, cache
        self._note, self._progress = note, progress
        self._digest = hashlib.sha256(onnx).hexdigest()
        self._onnx = _typed(onnx, precision)
        self.made_for: dict[tuple[int, ...], Mapping[str, str]] = {}  # batch, height, width → key
        self._built_here: set[tuple[int, ...]] = set()

    @property
    def from_cache(self) -> bool:
        """Whether an engine in use was built by an earlier start."""
        return any(shape not in self._built_here for shape in self.made_for)

    def distrust(self, why: str) -> None:
        """Forget all engines, and discard what was kept of them; they are built again when needed."""
        self.close()
        for made_for in self.made_for.values():
            if self._cache is not None:
                self._cache.discard(made_for, why)
        self.made_for.clear()
        self._built_here.clear()

    def _network(self, *shape: int) -> bytes:
        from edge.infer.onnx_graphs import with_shape

        return with_shape(self._onnx, *shape)

    def _open(self, batch: int, height: int, width: int) -> Sequence[Slot]:
        from edge.infer.onnx_graphs import scaling_network

        shape = batch, height, width
        scalings = {}
        for stored in STORED:
            graph = scaling_network(np.dtype(stored), *shape)
            scalings[stored], _ = self._engine(graph, hashlib.sha256(graph).hexdigest(), shape)
        graph = self._network(*shape)
        network, before = self._engine(graph, self._digest, shape)
        self.made_for[shape] = self._made_for(graph, self._digest, shape)
        if not before:
            self._built_here.add(shape)
        return [self._api.slot(network, scalings) for _ in range(STREAMS)]

    def _made_for(self, onnx: bytes, network: str, shape: tuple[int, ...]) -> Mapping[str, str]:
        return {
            "network": network,
            "graph": hashlib.sha256(onnx).hexdigest(),  # what the network was made into, and for which shape
            "shape": "x".join(map(str, shape)),
            "precision": self.precision if network == self._digest else "fp32",  # scaling is the same for all
            "runtime": self.name,
            "version": self._api.version,
            "device": self._api.device,
        }

    def _engine(self, onnx: bytes, network: str, shape: tuple[int, ...]) -> tuple[object, bool]:
        """An engine, and whether it was built before."""
        made_for = self._made_for(onnx, network, shape)
        if (loaded := self._built_before(made_for)) is not None:
            return loaded, True
        timing = {key: made_for[key] for key in ("runtime", "version", "device")} | {"network": "timing"}
        known = b"" if self._cache is None else self._cache.load(timing) or b""
        with beating(
            f"TensorRT builds {self._origin.parent.name} for {made_for['shape']}", self._progress
        ) as say:
            engine, learned = self._api.build(onnx, known, say)
        try:
            loaded = self._api.load(engine)
        except ValueError as error:
            raise BundleError(
                f"{self._origin}: TensorRT does not take the engine it has just built: {error}",
                hint='set device = "cpu" under [runtime]',
            ) from None
        if self._cache is not None:
            self._cache.store(made_for, engine)
            self._cache.store(timing, learned)
        return loaded, False

    def _built_before(self, made_for: Mapping[str, str]) -> object | None:
        """What an earlier start built; put aside if it does not load, or ended the process that tried."""
        if self._cache is None or (engine := self._cache.load(made_for)) is None:
            return None
        trying = self._cache.file(made_for).with_suffix(".loading")
        why = "loading it ended an earlier start" if trying.exists() else ""
        if not why:
            with contextlib.suppress(OSError):  # a read-only cache: nothing to put aside then
                trying.touch()
            try:
                return self._api.load(engine)
            except ValueError as error:
                why = f"TensorRT cannot load it: {error}"
            finally:
                with contextlib.suppress(OSError):
                    trying.unlink()
        self._quarantine(self._cache, made_for, why)
        return None

    def _quarantine(self, cache: CompiledCache, made_for: Mapping[str, str], why: str) -> None:
        """Out of the way, and kept for whoever looks into it: the last one only, engines are large."""
        file = cache.file(made_for)
        with contextlib.suppress(OSError):
            for old in file.parent.glob("*.quarantined"):
                old.unlink()
            file.rename(file.with_suffix(".quarantined"))
        with contextlib.suppress(OSError):
            file.with_suffix(".loading").unlink()
        cache.discard(made_for, why)


def _typed(onnx: bytes, precision: str) -> bytes:
    from edge.infer.onnx_graphs import symmetric_int8, to_half

    if precision == "fp16":
        return to_half(onnx, "fp16")
    return symmetric_int8(onnx) if precision == "int8" else onnx


@contextlib.contextmanager
def beating(what: str, progress: Note, beat_s: float = BEAT_S) -> Iterator[Note]:
    """Says every few seconds that something long goes on, whether or not it says so itself.

    What is yielded takes the step it has come to. The sentences come from a thread of their own.
    """
    started_s, over = time.monotonic(), threading.Event()
    step = [""]

    def say() -> None:
        progress(f"{what}{step[0]}, {time.monotonic() - started_s:.0f} s so far")

    def beat() -> None:
        while not over.wait(beat_s):
            say()

    def take(sentence: str) -> None:
        step[0] = f": {sentence}"

    say()
    thread = threading.Thread(target=beat, name="tensorrt-build", daemon=True)
    thread.start()
    try:
        yield take
    finally:
        over.set()
        thread.join()


def native_api(note: Note = no_note) -> TrtApi:
    """TensorRT as installed, on the first GPU that CUDA_VISIBLE_DEVICES leaves visible.

    Raises:
        UnavailableError: it is not installed, too old or too new, or there is no GPU that works.
    """
    try:
        import onnx  # noqa: F401  # of the extra, too: graphs are rewritten with it
        import tensorrt as trt
    except ImportError as error:
        raise UnavailableError(f"TensorRT cannot be used: {error}", hint=INSTALL, retryable=False) from None
    version = str(getattr(trt, "__version__", ""))  # its stubs alone look like an empty package
    if not version:
        raise UnavailableError("TensorRT is not installed", hint=INSTALL, retryable=False)
    if version.split(".")[0] not in VERSIONS:
        raise UnavailableError(
            f"TensorRT {version} is installed, and 10 or 11 is needed", hint=INSTALL, retryable=False
        )
    try:
        from edge.infer.tensorrt_native import NativeTrt
    except ImportError as error:  # the CUDA bindings
        raise UnavailableError(f"CUDA cannot be used: {error}", hint=INSTALL, retryable=False) from None
    return NativeTrt(note)
