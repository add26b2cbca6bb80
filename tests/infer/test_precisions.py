"""Which precisions may judge: bound to engine and thresholds, and what `auto` makes of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edge.errors import BundleError, UnavailableError
from edge.infer import compile as compiling
from edge.infer.bundle import MODEL, Bundle
from edge.infer.compile import open_runtime, pixels_per_s, prove, window_of
from edge.infer.openvino import OpenVinoRuntime, Plan
from edge.infer.precisions import (
    INT8_MODEL,
    Agreement,
    Precisions,
    load_precisions,
    save_precisions,
    tolerant,
)
from tests.sites import PX, blurring_bundle

CALIBRATION = "c" * 64


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return blurring_bundle(tmp_path / "blur")


def found(bundle: Bundle, **accepted: bool) -> Precisions:
    """As if measured; "int8" is the very same network, which OpenVINO takes as one."""
    onnx = bundle.read(MODEL)
    agreements = {
        name: Agreement(accepted=yes, why="as measured", frames=9, golden_difference=0.3)
        for name, yes in accepted.items()
    }
    return save_precisions(
        bundle.folder,
        Precisions(
            bundle_sha256=bundle.digest,
            calibration_sha256=CALIBRATION,
            int8_sha256=hashlib.sha256(onnx).hexdigest(),
            agreements=agreements,
        ),
        onnx,
    )


def test_what_was_measured_is_loaded_again(bundle: Bundle) -> None:
    saved = found(bundle, int8=True, bf16=False)
    assert load_precisions(bundle, CALIBRATION) == saved
    assert saved.accepted == ("int8",)


def test_nothing_measured_is_no_error(bundle: Bundle) -> None:
    assert load_precisions(bundle, CALIBRATION) is None


def test_a_new_calibration_or_engine_makes_it_void(bundle: Bundle, tmp_path: Path) -> None:
    found(bundle, int8=True)
    with pytest.raises(BundleError, match="another calibration"):
        load_precisions(bundle, "d" * 64)
    manifest = bundle.manifest.model_copy(update={"digest": "e" * 64})
    with pytest.raises(BundleError, match="another engine") as refused:
        load_precisions(bundle.model_copy(update={"manifest": manifest}), CALIBRATION)
    assert "edge compile" in (refused.value.hint or "")


def test_a_changed_document_or_network_is_refused(bundle: Bundle) -> None:
    saved = found(bundle, int8=False)
    file = bundle.folder / "precisions.json"
    file.write_text(file.read_text().replace('"accepted": false', '"accepted": true'))
    with pytest.raises(BundleError, match="edited by hand"):
        load_precisions(bundle, CALIBRATION)
    (bundle.folder / INT8_MODEL).write_bytes(b"another network")
    with pytest.raises(BundleError, match="damaged"):
        saved.read_int8(bundle.folder)


def test_int8_that_is_asked_for_needs_a_network_that_may_judge(bundle: Bundle) -> None:
    with pytest.raises(UnavailableError, match="no int8 network") as refused:
        open_runtime(bundle, precision="int8")
    assert "edge compile" in (refused.value.hint or "")
    with pytest.raises(UnavailableError, match="may not judge: as measured"):
        open_runtime(bundle, precision="int8", precisions=found(bundle, int8=False))
    runtime = open_runtime(bundle, precision="int8", precisions=found(bundle, int8=True))
    assert runtime.precision == "int8"


def test_auto_takes_the_fastest_that_may_judge_and_remembers_it(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, Plan]] = []

    def rate(runtime: OpenVinoRuntime, *_: object) -> float:
        measured.append((runtime.precision, runtime.plan))
        return {"fp32": 1e6, "int8": 3e6}[runtime.precision] * (2 if runtime.plan.streams == 1 else 1)

    monkeypatch.setattr(compiling, "pixels_per_s", rate)
    notes: list[str] = []
    how = {"precisions": found(bundle, int8=True), "cache": tmp_path / "compiled", "note": notes.append}
    first = open_runtime(bundle, **how)  # type: ignore[arg-type]
    assert isinstance(first, OpenVinoRuntime)
    assert (first.precision, first.plan.streams) == ("int8", 1)
    assert "int8 is the fastest that may judge" in notes[0]
    tried = len(measured)
    assert open_runtime(bundle, **how).precision == "int8"  # type: ignore[arg-type]
    assert len(measured) == tried, "measured once a machine"
    refused = found(bundle, int8=False)
    assert open_runtime(bundle, precisions=refused, cache=tmp_path / "compiled").precision == "fp32"


def test_an_int8_network_that_cannot_be_read_any_more_leaves_fp32_to_judge(bundle: Bundle) -> None:
    precisions, notes = found(bundle, int8=True), list[str]()
    (bundle.folder / INT8_MODEL).unlink()
    runtime = open_runtime(bundle, precisions=precisions, note=notes.append)
    assert runtime.precision == "fp32"
    assert "int8 cannot be had" in notes[0]


def test_fewer_bits_may_differ_at_the_golden_pair_as_much_as_when_they_were_accepted(bundle: Bundle) -> None:
    assert bundle.tolerance_of("int8") == pytest.approx(0.2)
    held = tolerant(bundle, found(bundle, int8=True))
    assert held.tolerance_of("int8") == pytest.approx(1.25 * 0.3)
    assert held.tolerance_of("fp32") == bundle.tolerance_of("fp32")
    assert tolerant(bundle, found(bundle, int8=False)).tolerance_of("int8") == pytest.approx(0.2)


def test_the_network_is_ready_for_the_size_that_frames_have(bundle: Bundle) -> None:
    precisions = found(bundle, int8=True).model_copy(update={"plane_px": (200, 300)})
    assert window_of(bundle, precisions) == (PX, PX)
    tiles = bundle.manifest.preprocess.tiles.model_copy(update={"whole_px": 32})
    spec = bundle.manifest.preprocess.model_copy(update={"tiles": tiles})
    whole = bundle.model_copy(update={"manifest": bundle.manifest.model_copy(update={"preprocess": spec})})
    assert window_of(whole, precisions) == (224, 320)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_stored_tiles_are_scaled_by_the_runtime(bundle: Bundle, kind: str) -> None:
    runtime = OpenVinoRuntime(bundle.read(MODEL), origin=bundle.model_file)
    stored = np.random.default_rng(1).integers(0, np.iinfo(kind).max, (2, 1, PX, PX)).astype(kind)
    scaled = (stored / np.iinfo(kind).max).astype(np.float32)
    of_stored, of_scaled = runtime.infer([stored, scaled])
    np.testing.assert_allclose(of_stored, of_scaled, atol=1e-6)


def test_tiles_of_several_sizes_come_back_in_order(bundle: Bundle) -> None:
    runtime = OpenVinoRuntime(bundle.read(MODEL), origin=bundle.model_file)
    rng = np.random.default_rng(2)
    sizes = [(32, 32), (64, 32), (32, 32), (40, 48), (24, 24), (88, 32), (32, 32)]
    tiles = [rng.random((1, 1, *size), np.float32) for size in sizes]
    together = list(runtime.infer(tiles))
    for one, answer in zip(tiles, together, strict=True):
        (alone,) = runtime.infer([one])
        np.testing.assert_array_equal(answer, alone)


def test_tiles_that_may_not_be_written_to_are_taken(bundle: Bundle) -> None:
    """As planes come from decode workers."""
    runtime = OpenVinoRuntime(bundle.read(MODEL), origin=bundle.model_file)
    tiles = np.random.default_rng(3).integers(0, 255, (1, 1, PX, PX), np.uint8)
    (expected,) = runtime.infer([tiles.copy()])
    tiles.flags.writeable = False
    (answer,) = runtime.infer([tiles])
    np.testing.assert_array_equal(answer, expected)


def test_tiles_that_cannot_be_computed_cost_no_request(bundle: Bundle) -> None:
    runtime = OpenVinoRuntime(bundle.read(MODEL), origin=bundle.model_file)
    good = np.full((1, 1, PX, PX), 0.5, np.float32)
    for _ in range(8):  # more often than there are requests
        with pytest.raises((RuntimeError, ValueError)):
            list(runtime.infer([np.zeros((1, 3, PX, PX), np.float32)]))
    assert len(list(runtime.infer([good, good, good, good]))) == 4


def test_speed_is_pixels_a_second(bundle: Bundle) -> None:
    runtime = OpenVinoRuntime(bundle.read(MODEL), origin=bundle.model_file)
    assert pixels_per_s(runtime, (PX, PX), 0.05) > PX * PX
    assert prove(bundle, runtime) < 1e-5
