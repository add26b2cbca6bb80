"""TensorRT's runtime: what is ours of it over a double of NVIDIA's; the real thing where there is a GPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.errors import BundleError, EdgeError, UnavailableError
from edge.infer import streams
from edge.infer.bundle import Bundle
from edge.infer.cache import CompiledCache
from edge.infer.compile import open_runtime, prove
from edge.infer.streams import SHAPES_KEPT, STREAMS, prove_stored_tiles
from edge.infer.tensorrt import TensorRtRuntime, beating, native_api, open_on_tensorrt
from edge.types import FloatImage, TileArray, as_float
from tests.infer.fake_tensorrt import FakeTrt
from tests.sites import PX, blurring_bundle, blurring_network

BATCH = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return blurring_bundle(tmp_path_factory.mktemp("engines") / "blur")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LARGEST_BATCH", BATCH)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> CompiledCache:
    return CompiledCache(tmp_path / "compiled", notes.append)


def opened(bundle: Bundle, api: FakeTrt, cache: CompiledCache | None = None, **how: Any) -> TensorRtRuntime:
    note = (lambda _: None) if cache is None else cache.note
    return open_on_tensorrt(bundle, cache=cache, api=api, note=note, **({"precision": "fp32"} | how))


def tiles(count: int, side: int = PX, seed: int = 0) -> FloatImage:
    return np.random.default_rng(seed).random((count, 1, side, side), np.float32)


def key(runtime: TensorRtRuntime) -> Mapping[str, str]:
    """Of its last engine."""
    return list(runtime.made_for.values())[-1]


def quantised_blur() -> bytes:
    """The bundle's network with its input in 256 unsigned levels, as NNCF writes it."""
    model = onnx.load_from_string(blurring_network())
    stored = {"s": np.float32(1 / 255), "z": np.uint8(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items())
    for i, kind in enumerate(("QuantizeLinear", "DequantizeLinear")):
        ends = (["tiles", "levels"], ["levels", "back"])[i]
        model.graph.node.insert(i, helper.make_node(kind, [ends[0], "s", "z"], [ends[1]]))
    model.graph.node[2].input[0] = "back"
    return bytes(model.SerializeToString())


def engines(cache: CompiledCache) -> list[Path]:
    return sorted(cache.folder.glob("*.compiled"))


# Answers


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_gives_the_golden_answers(bundle: Bundle, precision: str) -> None:
    runtime = opened(bundle, FakeTrt(), precision=precision)
    assert (runtime.name, runtime.precision) == ("tensorrt", precision)
    assert prove(bundle, runtime) < (1e-5 if precision == "fp32" else 0.01)


def test_auto_is_half_precision(bundle: Bundle) -> None:
    assert opened(bundle, FakeTrt(), precision="auto").precision == "fp16"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stored_tiles_give_the_answers_of_their_shares(bundle: Bundle, dtype: Any) -> None:
    runtime = opened(bundle, FakeTrt())
    greatest = np.iinfo(dtype).max
    stored = np.rint(tiles(3) * greatest).astype(dtype)
    there, here = runtime.infer([stored, stored.astype(np.float32) / np.float32(greatest)])
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)


def test_many_batches_of_all_sizes_and_types_are_answered_in_order(bundle: Bundle) -> None:
    """With several streams, and batches that are not full."""
    rng = np.random.default_rng(1)
    runtime = opened(bundle, FakeTrt())
    given: list[TileArray] = []
    for i in range(40):
        batch = tiles(int(rng.integers(1, BATCH + 1)), seed=i)
        given.append((batch, (batch * 255).astype(np.uint8), (batch * 65535).astype(np.uint16))[i % 3])
    cpu = open_runtime(bundle, precision="fp32")
    alone = [np.concatenate(list(cpu.infer([as_float(batch)]))) for batch in given]
    for found, expected in zip(runtime.infer(iter(given)), alone, strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_answers_stay_when_the_stream_goes_on(bundle: Bundle) -> None:
    runtime = opened(bundle, FakeTrt())
    kept = list(runtime.infer([tiles(BATCH, seed=i) for i in range(2 * STREAMS)]))
    again = [next(runtime.infer([tiles(BATCH, seed=i)])) for i in range(2 * STREAMS)]
    np.testing.assert_array_equal(np.stack(kept), np.stack(again))


def test_as_many_batches_are_in_flight_as_there_are_streams(bundle: Bundle) -> None:
    api = FakeTrt()
    runtime = opened(bundle, api)
    taken: list[int] = []

    def source() -> Iterator[TileArray]:
        for i in range(10):
            taken.append(i)
            yield tiles(1, seed=i)

    answers = runtime.infer(source())
    next(answers)
    assert len(taken) == STREAMS + 1  # no more than can be worked on
    assert len(list(answers)) == 9
    assert api.most_in_flight == STREAMS
    assert api.in_flight == 0


def test_giving_up_half_way_leaves_every_stream_at_rest(bundle: Bundle) -> None:
    api = FakeTrt()
    runtime = opened(bundle, api)
    answers = runtime.infer([tiles(1, seed=i) for i in range(10)])
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert api.in_flight == 0
    assert len(list(runtime.infer([tiles(2)] * 7))) == 7


def test_more_tiles_than_a_batch_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="in one batch"):
        list(opened(bundle, FakeTrt()).infer([tiles(BATCH + 1)]))


def test_a_batch_is_smaller_the_larger_its_tiles() -> None:
    runtime = TensorRtRuntime(FakeTrt(), blurring_network(), origin=Path("m.onnx"), precision="fp32")
    sizes = [runtime.batch_of(side, 2 * side) for side in (16, 1024, 4096)]
    assert sizes == [BATCH, 2, 1]


def test_an_int8_network_is_made_symmetric_and_used(bundle: Bundle) -> None:
    api = FakeTrt()
    runtime = opened(bundle, api, precision="int8", int8=quantised_blur())
    assert runtime.precision == "int8"
    assert prove(bundle, runtime) < 0.02
    read = onnx.load_from_string(api.built[-1])
    zeros = {node.input[2] for node in read.graph.node if node.op_type == "QuantizeLinear"}
    kinds = {tensor.data_type for tensor in read.graph.initializer if tensor.name in zeros}
    assert kinds == {onnx.TensorProto.INT8}


# Engines kept


def test_the_second_start_builds_nothing(bundle: Bundle, cache: CompiledCache, notes: list[str]) -> None:
    first, second = FakeTrt(), FakeTrt()
    assert not opened(bundle, first, cache).from_cache
    assert len(first.built) == 3  # the network, and a scaling for each stored type
    runtime = opened(bundle, second, cache)
    assert runtime.from_cache
    assert second.built == []
    assert notes == []
    assert prove(bundle, runtime) < 1e-5


@pytest.mark.parametrize("what", ["version", "device", "precision", "network", "shape"])
def test_another_gpu_driver_version_precision_network_or_shape_builds_its_own(
    bundle: Bundle, cache: CompiledCache, tmp_path: Path, what: str
) -> None:
    made_for = key(opened(bundle, FakeTrt(), cache))
    other = FakeTrt()
    if what == "version":
        other.version = "11.4.0"
    if what == "device":
        other.device = "Fake 1, compute capability 8.9, driver 2"
    if what == "network":
        changed = TensorRtRuntime(
            other, blurring_network(side=5), origin=tmp_path / "m.onnx", precision="fp32", cache=cache
        )
        changed.warm(PX, PX)
        theirs = key(changed)
    elif what == "shape":
        theirs = key(opened(bundle, other, cache, windows_px=[(PX, 2 * PX)]))
    else:
        theirs = key(opened(bundle, other, cache, precision="fp16" if what == "precision" else "fp32"))
    assert other.built
    assert theirs[what] != made_for[what]
    assert cache.file(theirs) != cache.file(made_for)


def test_the_key_names_all_that_an_engine_depends_on(bundle: Bundle, cache: CompiledCache) -> None:
    made_for = key(opened(bundle, FakeTrt(), cache))
    assert made_for["network"] == bundle.manifest.files["model.onnx"]
    assert made_for["version"] == "10.15.1"
    assert "compute capability 8.9" in made_for["device"]
    assert "driver 1" in made_for["device"]
    assert made_for["precision"] == "fp32"
    assert made_for["shape"] == f"{BATCH}x{PX}x{PX}"
    assert cache.load(made_for) is not None


def test_what_was_timed_is_used_by_the_next_build(bundle: Bundle, cache: CompiledCache) -> None:
    first, second, other = FakeTrt(), FakeTrt(), FakeTrt(device="Fake 2")
    opened(bundle, first, cache)
    assert first.timings == [b"", b"timing of 1", b"timing of 2"]
    opened(bundle, second, cache, precision="fp16")
    assert second.timings[0] == b"timing of 3"
    opened(bundle, other, cache)
    assert other.timings[0] == b""  # of another device they say nothing


def test_an_engine_that_does_not_load_is_put_aside_and_built_again(
    bundle: Bundle, cache: CompiledCache, notes: list[str]
) -> None:
    made_for = key(opened(bundle, FakeTrt(), cache))
    cache.store(made_for, b"an engine of another build")
    api = FakeTrt()
    runtime = opened(bundle, api, cache)
    assert len(api.built) == 1
    assert not runtime.from_cache
    assert "TensorRT cannot load it: magic tag" in notes[0]
    (aside,) = cache.folder.glob("*.quarantined")
    assert aside.read_bytes().endswith(b"an engine of another build")
    assert opened(bundle, FakeTrt(), cache).from_cache


def test_an_engine_whose_loading_ended_the_process_is_not_loaded_again(
    bundle: Bundle, cache: CompiledCache, notes: list[str]
) -> None:
    """A library that crashes takes the process with it: the next start must not run into it again."""

    made_for = key(opened(bundle, FakeTrt(), cache))
    trying = cache.file(made_for).with_suffix(".loading")
    seen: list[bool] = []

    class Looking(FakeTrt):
        def load(self, engine: bytes) -> Any:
            seen.append(trying.exists())
            return super().load(engine)

    assert opened(bundle, Looking(), cache).from_cache
    assert seen[-1]  # the word is left while it loads …
    assert not trying.exists()  # … and taken back after
    trying.touch()  # as a killed process leaves it
    api = FakeTrt()
    assert not opened(bundle, api, cache).from_cache
    assert len(api.built) == 1
    assert "ended an earlier start" in notes[0]
    assert not trying.exists()


def test_any_flipped_byte_of_an_engine_costs_a_build(
    bundle: Bundle, cache: CompiledCache, notes: list[str]
) -> None:
    made_for = key(opened(bundle, FakeTrt(), cache))
    spoiled = bytearray(cache.file(made_for).read_bytes())
    spoiled[-100] ^= 1
    cache.file(made_for).write_bytes(spoiled)
    api = FakeTrt()
    assert not opened(bundle, api, cache).from_cache
    assert len(api.built) == 1
    assert "damaged" in notes[0]


def test_an_engine_that_answers_wrongly_is_built_again(
    bundle: Bundle, cache: CompiledCache, notes: list[str]
) -> None:
    """Whole, with the right key, and of another network: what the golden pair is for."""
    made_for = key(opened(bundle, FakeTrt(), cache))
    other = TensorRtRuntime(
        FakeTrt(), blurring_network(side=5), origin=Path("m.onnx"), precision="fp32", cache=cache
    )
    other.warm(PX, PX)
    foreign = cache.load(key(other))
    assert foreign is not None
    cache.store(made_for, foreign)
    api = FakeTrt()
    runtime = opened(bundle, api, cache)
    assert runtime.from_cache
    with pytest.raises(BundleError, match="differs from the learned network") as raised:
        prove(bundle, runtime)
    runtime.distrust(raised.value.message)
    assert all(slot.closed for slot in api.slots)
    assert prove(bundle, runtime) < 1e-5
    assert not runtime.from_cache
    assert len(api.built) == 1
    assert "differs from the learned network" in notes[0]


def test_without_a_cache_every_start_builds(bundle: Bundle) -> None:
    api = FakeTrt()
    opened(bundle, api)
    opened(bundle, api)
    assert len(api.built) == 6


def test_an_engine_that_cannot_be_loaded_right_after_it_was_built_is_said(bundle: Bundle) -> None:
    api = FakeTrt()
    api.refuses_to_load = True
    with pytest.raises(BundleError, match="does not take the engine it has just built"):
        opened(bundle, api)


def test_only_so_many_shapes_keep_their_memory(bundle: Bundle) -> None:
    api = FakeTrt()
    runtime = opened(bundle, api)
    for side in range(40, 40 + 8 * SHAPES_KEPT, 8):
        (answers,) = runtime.infer([tiles(2, side)])
        assert answers.shape == (2, 1, side, side)
    still = [slot for slot in api.slots if not slot.closed]
    assert len(still) == SHAPES_KEPT * STREAMS
    mixed = [tiles(1, side, seed=side) for side in (40, 48, 40, 64, 96, 40)]
    for batch, found in zip(mixed, runtime.infer(mixed), strict=True):
        assert found.shape == batch.shape


# Progress


def test_a_build_says_how_far_it_is(bundle: Bundle) -> None:
    heard: list[str] = []
    opened(bundle, FakeTrt(), progress=heard.append)
    assert len(heard) >= 3
    assert heard[0].startswith(f"TensorRT builds blur for {BATCH}x{PX}x{PX}")


def test_a_build_that_says_nothing_is_heard_of_all_the_same() -> None:
    heard: list[str] = []
    with beating("builds", heard.append, beat_s=0.01) as say:
        say("step 1 of 9")
        until_s = time.monotonic() + 30
        while len(heard) < 4 and time.monotonic() < until_s:
            time.sleep(0.005)
    assert len(heard) >= 4
    assert "builds: step 1 of 9, 0 s so far" in heard
    after = len(heard)
    time.sleep(0.05)
    assert len(heard) == after  # and then no more


def test_an_engine_that_is_there_needs_no_word(bundle: Bundle, cache: CompiledCache) -> None:
    heard: list[str] = []
    opened(bundle, FakeTrt(), cache)
    opened(bundle, FakeTrt(), cache, progress=heard.append)
    assert heard == []


# What goes wrong


def test_a_device_lost_while_it_works_is_an_error_and_no_answer(bundle: Bundle) -> None:
    api = FakeTrt()
    runtime = opened(bundle, api)
    answers = runtime.infer([tiles(1, seed=i) for i in range(10)])
    next(answers)
    api.lost = True
    with pytest.raises(UnavailableError, match="illegal memory access"):
        list(answers)
    with pytest.raises(UnavailableError):  # as the golden pair is tried next
        prove(bundle, runtime)
    api.lost = False  # a fault that passes
    assert prove(bundle, runtime) < 1e-5


def test_a_device_that_is_dead_when_opened_is_unavailable(bundle: Bundle) -> None:
    api = FakeTrt()
    api.lost = True
    with pytest.raises(UnavailableError) as raised:
        opened(bundle, api)
    assert raised.value.exit_code == 69


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_precisions_that_cannot_be_had_are_unavailable(bundle: Bundle, precision: str) -> None:
    with pytest.raises(UnavailableError) as raised:  # int8: nobody gave the network
        opened(bundle, FakeTrt(), precision=precision)
    assert not raised.value.retryable
    assert raised.value.hint


def test_scaling_that_reads_bytes_the_wrong_way_round_is_noticed(bundle: Bundle) -> None:
    class Swapped(FakeTrt):
        def slot(self, network: Any, scalings: Any) -> Any:
            right = scalings["uint16"]
            return super().slot(network, {**scalings, "uint16": lambda stored: right(stored.flip(-1))})

    with pytest.raises(BundleError, match="scales 16-bit tiles wrongly"):
        opened(bundle, Swapped())


def test_answers_that_are_no_numbers_are_noticed(bundle: Bundle) -> None:
    class Broken(FakeTrt):
        def slot(self, network: Any, scalings: Any) -> Any:
            return super().slot(lambda tiles: network(tiles) * np.nan, scalings)

    with pytest.raises(BundleError, match="differ by nan"):
        opened(bundle, Broken())


@pytest.mark.parametrize("missing", ["tensorrt", "onnx"])
def test_without_its_packages_it_says_so_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnavailableError) as raised:
        native_api()
    assert raised.value.exit_code == 69
    assert not raised.value.retryable
    assert "edge-inspect[tensorrt]" in raised.value.hint


@pytest.mark.parametrize(("version", "why"), [("8.6.1", "10 or 11 is needed"), ("", "not installed")])
def test_versions_that_are_not_known_are_refused(
    monkeypatch: pytest.MonkeyPatch, version: str, why: str
) -> None:
    module = ModuleType("tensorrt")
    if version:
        module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(UnavailableError, match=why):
        native_api()


# The real thing


@pytest.fixture
def real(tmp_path: Path) -> CompiledCache:
    """Where real engines are kept. Without a GPU no failure, even where all is required: none can be had."""
    try:
        native_api()
    except EdgeError as error:
        pytest.skip(f"needs an NVIDIA GPU and TensorRT 10 or 11: {error.message}")
    return CompiledCache(tmp_path / "compiled")


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_really_the_golden_answers_in_order_and_an_engine_kept(
    bundle: Bundle, real: CompiledCache, precision: str
) -> None:
    runtime = open_on_tensorrt(bundle, precision=precision, cache=real)
    assert prove(bundle, runtime) <= bundle.manifest.golden_tolerance[precision]
    batches = [tiles(1 + i % BATCH, seed=i) for i in range(50)]
    cpu = open_runtime(bundle, precision="fp32")
    for batch, found in zip(batches, runtime.infer(batches), strict=True):
        (expected,) = cpu.infer([batch])
        np.testing.assert_allclose(found, expected, rtol=0, atol=bundle.manifest.golden_tolerance[precision])
    assert engines(real)
    assert open_on_tensorrt(bundle, precision=precision, cache=real).from_cache


@pytest.mark.tensorrt
def test_really_stored_tiles_are_scaled(bundle: Bundle, real: CompiledCache) -> None:
    runtime = open_on_tensorrt(bundle, precision="fp32", cache=real)
    prove_stored_tiles(runtime, tiles(BATCH), 1e-5, "here")


@pytest.mark.tensorrt
@pytest.mark.slow
def test_really_every_network_of_ours_is_built_and_agrees(real: CompiledCache, tmp_path: Path) -> None:
    from edge.learn.models import MODELS
    from tests.infer.networks import network, tiles_of

    for name in sorted(MODELS):
        model = network(name)
        some = tiles_of(model)
        cpu_answers = _on_cpu(model, some)
        runtime = TensorRtRuntime(
            native_api(), model, origin=tmp_path / name / "model.onnx", precision="fp32", cache=real
        )
        (found,) = runtime.infer([some])
        np.testing.assert_allclose(found, cpu_answers, rtol=0, atol=1e-3, err_msg=name)


def _on_cpu(model: bytes, some: FloatImage) -> FloatImage:
    import torch

    from edge.infer.onnx_torch import OnnxNetwork

    with torch.no_grad():
        return np.asarray(OnnxNetwork(model)(torch.from_numpy(some)).numpy(), np.float32)
