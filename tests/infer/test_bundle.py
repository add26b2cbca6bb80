import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.errors import BundleError, UnavailableError
from edge.infer.bundle import Bundle, ScoreSpec, load_bundle, write_bundle
from edge.infer.compile import open_runtime, prove
from edge.infer.openvino import has_fast_bf16
from edge.preprocess import MaskSpec, PreprocessSpec, TileSpec
from edge.testing import FakeRuntime, fake_bundle

PX = 16


def halving_network() -> bytes:
    """answer = tiles / 2"""
    shape = ["n", 1, PX, PX]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["tiles", "half"], ["answers"])],
        "half",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, shape)],
        [helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    tiles = np.random.default_rng(0).random((3, 1, PX, PX), np.float32)
    return write_bundle(
        tmp_path / "half",
        name="half",
        model="test",
        preprocess=PreprocessSpec(tiles=TileSpec(size_px=PX, keep_px=PX, step_px=PX)),
        score=ScoreSpec(),
        output="reconstruction",
        onnx=halving_network(),
        golden=(tiles, tiles / 2),
        training={"seed": 1},
    )


def test_a_bundle_comes_back_as_written(bundle: Bundle) -> None:
    again = load_bundle(bundle.folder)
    assert again == bundle
    assert len(again.digest) == 64
    tiles, answers = again.golden()
    np.testing.assert_allclose(answers, tiles / 2)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "bundle.json"])
def test_any_flipped_byte_is_noticed(bundle: Bundle, name: str) -> None:
    file = bundle.folder / name
    data = bytearray(file.read_bytes())
    for position in range(0, len(data), max(1, len(data) // 40)):
        data[position] ^= 1
        file.write_bytes(data)
        with pytest.raises(BundleError):
            load_bundle(bundle.folder)
        data[position] ^= 1


def test_a_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.folder / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"golden\.npz: missing"):
        load_bundle(bundle.folder)


def test_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="edge learn"):
        load_bundle(tmp_path / "none")


def test_a_file_outside_the_bundle_is_refused(bundle: Bundle) -> None:
    from edge.artifacts import write_signed_json

    files = {**bundle.manifest.files, "../outside": "0" * 64}
    write_signed_json(bundle.folder / "bundle.json", bundle.manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleError, match="outside"):
        load_bundle(bundle.folder)


def test_openvino_gives_the_golden_answers_for_any_number_of_tiles(bundle: Bundle, tmp_path: Path) -> None:
    runtime = open_runtime(bundle, device="cpu", precision="fp32", cache=tmp_path / "cache")
    assert (runtime.name, runtime.precision) == ("openvino", "fp32")
    assert prove(bundle, runtime) < 1e-6
    batches = [np.random.default_rng(n).random((n, 1, PX, PX), np.float32) for n in (1, 5, 2, 7, 1, 1, 3)]
    for tiles, answers in zip(batches, runtime.infer(batches), strict=True):
        np.testing.assert_allclose(answers, tiles / 2, atol=1e-6)
    assert list(runtime.infer([])) == []
    assert list((tmp_path / "cache").iterdir())


def test_bf16_is_within_the_bundles_tolerance_or_refused_where_the_cpu_lacks_it(bundle: Bundle) -> None:
    if has_fast_bf16():
        assert open_runtime(bundle, precision="bf16").precision == "bf16"
    else:
        with pytest.raises(UnavailableError, match="bf16"):
            open_runtime(bundle, precision="bf16")


def test_a_runtime_that_does_not_agree_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="differs from the learned network"):
        prove(bundle, FakeRuntime(lambda tiles: tiles * 0.6))
    with pytest.raises(BundleError, match="differs"):
        prove(bundle, FakeRuntime(lambda tiles: tiles * np.nan))


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot compile"):
        open_runtime(fake_bundle(tmp_path / "b"))


@pytest.mark.parametrize(
    ("device", "precision"), [("tensorrt", "auto"), ("torch-cuda", "auto"), ("cpu", "fp16"), ("cpu", "int8")]
)
def test_what_this_machine_cannot_do_is_said(bundle: Bundle, device: str, precision: str) -> None:
    with pytest.raises(UnavailableError, match=r"runtime|precision"):
        open_runtime(bundle, device=device, precision=precision)


def test_a_bundle_of_other_preprocessing_is_refused(bundle: Bundle) -> None:
    from edge.artifacts import write_signed_json

    other = bundle.manifest.model_copy(update={"preprocess": PreprocessSpec(scale=0.5)})
    write_signed_json(bundle.folder / "bundle.json", other)
    assert json.loads((bundle.folder / "bundle.json").read_text())["preprocess"]["scale"] == 0.5
    with pytest.raises(BundleError, match="preprocessing"):
        load_bundle(bundle.folder)


def test_an_abandoned_call_leaves_no_request_busy(bundle: Bundle) -> None:
    runtime = open_runtime(bundle)
    tiles = np.zeros((1, 1, PX, PX), np.float32)

    def failing() -> Iterator[np.ndarray]:
        yield from [tiles] * 6
        raise RuntimeError("a frame that cannot be cut")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="cannot be cut"):
            list(runtime.infer(failing()))
        answers = runtime.infer([tiles] * 9)
        next(answers)
        answers.close()
    assert len(list(runtime.infer([tiles] * 5))) == 5


@pytest.mark.parametrize(
    ("method", "files", "digest"),
    [
        ("unet", ("mask.onnx",), "right"),
        ("unet", ("mask.onnx", "mask_golden.npz"), "wrong"),
        ("mean", (), "right"),
        (None, ("mask.onnx", "mask_golden.npz"), "right"),
    ],
)
def test_a_bundle_whose_masks_lack_their_files_or_have_others_is_refused(
    bundle: Bundle, method: str | None, files: tuple[str, ...], digest: str
) -> None:
    from edge.artifacts import write_signed_json

    sha256 = hashlib.sha256(b"network").hexdigest()
    for name in files:
        (bundle.folder / name).write_bytes(b"network")
    named = sha256 if digest == "right" else "0" * 64
    mask = None if method is None else MaskSpec.model_validate({"method": method, "file_sha256": named})
    spec = bundle.manifest.preprocess.model_copy(update={"mask": mask})
    changes = {
        "preprocess": spec,
        "preprocess_digest": spec.digest,
        "files": {**bundle.manifest.files, **dict.fromkeys(files, sha256)},
    }
    write_signed_json(bundle.folder / "bundle.json", bundle.manifest.model_copy(update=changes))
    with pytest.raises(BundleError, match="its masks need"):
        load_bundle(bundle.folder)


def test_signals_arrive_after_another_thread_dropped_a_runtime(bundle: Bundle) -> None:
    """OpenVINO's CPU plugin takes the main thread's signal stack along when it is unloaded elsewhere."""
    code = """
import os, signal, sys, threading
from pathlib import Path
from edge.infer.bundle import load_bundle
from edge.infer.compile import open_runtime

held = [open_runtime(load_bundle(Path(sys.argv[1])))]
dropping = threading.Thread(target=held.clear)
dropping.start()
dropping.join()
arrived = []
signal.signal(signal.SIGHUP, lambda *_: arrived.append(1))
os.kill(os.getpid(), signal.SIGHUP)
assert arrived
"""
    subprocess.run([sys.executable, "-c", code, str(bundle.folder)], check=True, timeout=60)
