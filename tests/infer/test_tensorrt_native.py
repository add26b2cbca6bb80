"""What calls NVIDIA's own packages, over doubles of them: addresses, sizes, order, waits, what is freed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge.errors import BundleError, UnavailableError
from edge.infer import streams
from edge.infer.bundle import Bundle
from edge.infer.cache import CompiledCache
from edge.infer.compile import open_runtime, prove
from edge.infer.tensorrt import TensorRtRuntime, native_api, open_on_tensorrt
from edge.types import as_float
from tests.infer.fake_cuda import FakeCuda, fake_tensorrt
from tests.infer.test_onnx_torch import one_node
from tests.sites import PX, blurring_bundle

BATCH = 3
Packages = tuple[FakeCuda, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return blurring_bundle(tmp_path_factory.mktemp("engines") / "blur")


@pytest.fixture(params=["10.15.1.29", "11.4.0.106"])
def packages(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FakeCuda, Any]]:
    """cuda.bindings.runtime and tensorrt, in place of whatever is installed."""
    cuda = FakeCuda()
    trt = fake_tensorrt(cuda, request.param)
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(streams, "LARGEST_BATCH", BATCH)
    sys.modules.pop("edge.infer.tensorrt_native", None)
    yield cuda, trt
    sys.modules.pop("edge.infer.tensorrt_native", None)
    importlib.invalidate_caches()


def opened(bundle: Bundle, **how: Any) -> TensorRtRuntime:
    return open_on_tensorrt(bundle, **({"precision": "fp32", "cache": None} | how))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_golden_answers_come_back_through_device_memory(
    packages: Packages, bundle: Bundle, precision: str
) -> None:
    assert prove(bundle, opened(bundle, precision=precision)) < {"fp32": 1e-5, "fp16": 0.01}[precision]
    assert packages[1].asked == [["TF32"]] * 3  # float32 is computed as such


def test_batches_of_all_types_and_sizes_in_order(packages: Packages, bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    runtime, cpu = opened(bundle), open_runtime(bundle, precision="fp32")
    batches: list[Any] = []
    for i in range(18):
        tiles = rng.random((1 + i % BATCH, 1, PX, PX), np.float32)
        batches.append((tiles, (tiles * 255).astype(np.uint8), (tiles * 65535).astype(np.uint16))[i % 3])
    before = packages[0].replays
    for batch, found in zip(batches, runtime.infer(batches), strict=True):
        np.testing.assert_allclose(found, next(cpu.infer([as_float(batch)])), rtol=0, atol=1e-5)
    assert packages[0].replays - before == len(batches)  # all of them as recorded graphs


def test_what_is_closed_gives_all_memory_back(packages: Packages, bundle: Bundle) -> None:
    cuda = packages[0]
    runtime = opened(bundle)
    assert cuda.memory
    assert cuda.graphs
    runtime.close()
    assert cuda.memory == {}
    assert cuda.graphs == 0


def test_a_lost_device_is_an_error_with_cudas_own_words(packages: Packages, bundle: Bundle) -> None:
    runtime = opened(bundle)
    packages[0].lost = True
    with pytest.raises(UnavailableError, match="cudaStreamSynchronize: cudaErrorIllegalAddress"):
        prove(bundle, runtime)
    runtime.close()  # must not raise


def test_without_a_gpu_it_is_unavailable(packages: Packages) -> None:
    packages[0].devices = 0
    with pytest.raises(UnavailableError, match="cudaErrorNoDevice") as raised:
        native_api()
    assert (raised.value.exit_code, raised.value.retryable) == (69, False)


def test_the_device_is_named_with_capability_and_driver(packages: Packages) -> None:
    api = native_api()
    assert api.device.startswith("Fake 1, compute capability 8.9, driver 13000")
    assert api.version == packages[1].__version__


def test_an_engine_is_kept_and_loaded_and_one_that_does_not_load_is_built_again(
    packages: Packages, bundle: Bundle, tmp_path: Path
) -> None:
    notes: list[str] = []
    cache = CompiledCache(tmp_path, notes.append)
    runtime = opened(bundle, cache=cache, note=notes.append)
    again = opened(bundle, cache=cache, note=notes.append)
    assert again.from_cache
    assert len(packages[1].asked) == 3
    (key,) = runtime.made_for.values()
    cache.store(key, b"no plan")
    assert not opened(bundle, cache=cache, note=notes.append).from_cache
    assert any("magic tag does not match" in note for note in notes)


def test_a_timing_cache_of_another_machine_is_started_anew(packages: Packages, bundle: Bundle) -> None:
    heard: list[str] = []
    model = one_node("Relu", {})
    _, timing = native_api().build(model, b"foreign", heard.append)
    assert packages[1].learned == [b"foreign", b""]
    assert timing == b"+"
    assert heard == ["Building, step 1 of 2"]


def test_why_a_network_cannot_be_built_is_told(packages: Packages) -> None:
    notes: list[str] = []
    api = native_api(notes.append)
    with pytest.raises(BundleError, match="no tactic for Selu"):
        api.build(one_node("Selu", {}), b"", notes.append)
    with pytest.raises(BundleError, match="cannot parse"):
        api.build(b"nonsense", b"", notes.append)
    assert "TensorRT: no tactic for Selu" in notes
    assert not any("nothing to see" in note for note in notes)


def test_without_cudas_package_it_is_unavailable(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(UnavailableError, match="CUDA cannot be used"):
        native_api()
