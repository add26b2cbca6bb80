"""Which precisions may judge a recipe: bf16 where the CPU has it, and int8, made from calibration frames."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edge.calibrate import learned_id
from edge.dataset import Sample, Unreadable, frames
from edge.decode import Limits
from edge.errors import EdgeError
from edge.infer.bundle import MODEL, Bundle
from edge.infer.compile import open_runtime
from edge.infer.openvino import OpenVinoRuntime, can_compute, cpu_identity
from edge.infer.precisions import (
    INT8_MODEL,
    Agreement,
    AgreementLimits,
    Precisions,
    save_precisions,
)
from edge.infer.runtime import Runtime
from edge.judge.calibration import Calibration
from edge.learn.agreement import Reference
from edge.learn.progress import Event, Listener
from edge.learn.quantise import RECIPES, quantise, windows_of
from edge.pipeline import Inspector
from edge.types import Frame

WINDOW_FRAMES = 12  # that ranges are measured on; in memory together
MOST_FRAMES = 100  # that are held to fp32: more say little more


@dataclass(frozen=True, slots=True)
class Source:
    """Calibration frames and how to read them."""

    samples: Sequence[Sample]
    limits: Limits
    value_range: tuple[float, float] | None = None

    def frames(
        self, bundle: Bundle, most: int, unreadable: list[Unreadable] | None = None
    ) -> Iterator[Frame]:
        """At most so many that were not learned from; what cannot be read is left out, and listed."""
        unreadable = [] if unreadable is None else unreadable
        spec, learned = bundle.manifest.preprocess, set(bundle.manifest.training.get("learned_from", ()))
        for _, frame in frames(self.samples, spec, self.limits, self.value_range, unreadable, bundle.folder):
            if learned_id(frame.image.sha256) not in learned:
                yield frame
                most -= 1
            if not most:
                return


def accelerate(
    bundle: Bundle,
    calibration: Calibration,
    source: Source,
    *,
    seed: int = 0,
    limits: AgreementLimits = AgreementLimits(),
    listen: Listener,
) -> Precisions:
    """Measure each precision against fp32 and write down which may judge (`edge.infer.precisions`).

    Raises:
        CannotWriteError: it cannot be written.
        BundleError: the bundle's own network does not run.
    """
    fp32 = open_runtime(bundle, precision="fp32")
    plants = bundle.manifest.training.get("truth", "none") == "none"
    unreadable: list[Unreadable] = []
    seen = [(f.grey.shape, f.grey.dtype.name) for f in source.frames(bundle, MOST_FRAMES, unreadable)]
    for one in unreadable:
        listen(Event("precision", f"left out: {one} ({one.reason})"))
    held, sizes = len(seen), {(shape[0], shape[1]) for shape, _ in seen}
    now = "fp32"

    def counted() -> Iterator[Frame]:
        for done, frame in enumerate(source.frames(bundle, MOST_FRAMES)):
            listen(Event("precision", f"{now}, frame {done + 1} of {held}", done / held))
            yield frame

    reference = Reference(
        Inspector(bundle, fp32, calibration), counted, count=held,
        pixels=max((math.prod(size) for size in sizes), default=0), plants=plants, seed=seed, limits=limits,
    )  # fmt: skip

    def agreement_of(name: str, runtime: Runtime) -> Agreement:
        nonlocal now
        now = name
        found = reference.agreement_of(runtime)
        listen(Event("precision", f"{name} {'may' if found.accepted else 'may not'} judge: {found.why}"))
        return found

    agreements: dict[str, Agreement] = {}
    if can_compute("bf16"):
        runtime = OpenVinoRuntime(bundle.read(MODEL), origin=bundle.model_file, precision="bf16")
        agreements["bf16"] = agreement_of("bf16", runtime)
    else:
        agreements["bf16"] = Agreement(accepted=False, why="the CPU that measured has no bf16 instructions")
    onnx, agreements["int8"] = _int8(bundle, source, seed, agreement_of, listen)
    made = Precisions(
        bundle_sha256=bundle.digest,
        calibration_sha256=calibration.digest,
        int8_sha256=hashlib.sha256(onnx).hexdigest() if onnx is not None else "",
        device=cpu_identity(),
        plane_px=sizes.pop() if len(sizes) == 1 else None,
        plane_kind=seen[0][1] if len({kind for _, kind in seen}) == 1 else "float32",
        limits=limits,
        agreements=agreements,
    )
    return save_precisions(bundle.folder, made, onnx)


def _int8(
    bundle: Bundle,
    source: Source,
    seed: int,
    agreement_of: Callable[[str, Runtime], Agreement],
    listen: Listener,
) -> tuple[bytes | None, Agreement]:
    """The first way to quantise whose scores agree; the last one's figures where none does."""
    held = list(source.frames(bundle, WINDOW_FRAMES))
    found = Agreement(accepted=False, why="no calibration frame can be read")
    if not held:
        return None, found
    windows = windows_of(held, bundle.manifest.preprocess.tiles, seed)
    onnx = None
    for recipe in RECIPES:
        listen(Event("precision", f"int8: {recipe.name}"))
        try:
            onnx = quantise(bundle.read(MODEL), windows, recipe)
            runtime = OpenVinoRuntime(onnx, origin=bundle.folder / INT8_MODEL, precision="int8")
            found = agreement_of("int8", runtime)
        except EdgeError as error:
            found = Agreement(accepted=False, why=error.message)
            listen(Event("precision", f"int8 cannot be had: {error.message}"))
            return None, found
        if found.accepted:
            break
    return onnx, found
