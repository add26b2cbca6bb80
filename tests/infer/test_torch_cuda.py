"""torch's runtime: on the CPU all of it but streams and graphs; the rest where there is a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edge.errors import BundleError, UnavailableError
from edge.infer import streams, torch_cuda
from edge.infer.bundle import Bundle
from edge.infer.compile import prove
from edge.infer.onnx_torch import OnnxNetwork
from edge.infer.streams import StreamedRuntime, prove_stored_tiles
from edge.infer.torch_cuda import open_on_torch_cuda, scaled
from edge.types import FloatImage
from tests.infer.networks import network
from tests.sites import PX, blurring_bundle

BATCH = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return blurring_bundle(tmp_path_factory.mktemp("engines") / "blur")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LARGEST_BATCH", BATCH)


def on_cpu(bundle: Bundle, precision: str = "fp32") -> StreamedRuntime:
    return open_on_torch_cuda(bundle, precision=precision, device="cpu")


def tiles(count: int, seed: int = 0) -> FloatImage:
    return np.random.default_rng(seed).random((count, 1, PX, PX), np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_it_gives_the_golden_answers(bundle: Bundle, precision: str) -> None:
    runtime = on_cpu(bundle, precision)
    assert (runtime.name, runtime.precision) == ("torch-cuda", precision)
    difference = prove(bundle, runtime)
    assert difference < {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}[precision]
    assert precision == "fp32" or difference > 1e-5  # it really is half


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_stored_level_is_scaled_as_on_the_host(dtype: Any) -> None:
    greatest = np.iinfo(dtype).max
    levels = np.arange(greatest + 1).astype(dtype)
    found = scaled(torch_cuda._as_torch(levels)).numpy()
    np.testing.assert_allclose(found, levels / greatest, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stored_tiles_give_the_answers_of_their_shares(bundle: Bundle, dtype: Any) -> None:
    greatest = np.iinfo(dtype).max
    stored = np.rint(tiles(3) * greatest).astype(dtype)
    there, here = on_cpu(bundle).infer([stored, stored.astype(np.float32) / np.float32(greatest)])
    assert there.shape == (3, 1, PX, PX)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)


def test_scaling_that_is_wrong_is_noticed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    right = scaled
    signed = lambda t: t if t.dtype == torch.float32 else right(t).clamp(max=0.5)  # noqa: E731
    monkeypatch.setattr(torch_cuda, "scaled", signed)
    with pytest.raises(BundleError, match="scales 8-bit tiles wrongly"):
        on_cpu(bundle)


def test_tiles_the_network_does_not_take_are_said(bundle: Bundle) -> None:
    folding = OnnxNetwork(network("frequency-unet"))  # of the size it was exported for
    with pytest.raises(BundleError, match="does not take tiles of 64×62"):
        torch_cuda._open(folding, torch.device("cpu"), bundle, 1, 64, 62)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_precisions_that_cannot_be_had_are_unavailable(bundle: Bundle, precision: str) -> None:
    with pytest.raises(UnavailableError) as raised:
        on_cpu(bundle, precision)
    assert not raised.value.retryable


def test_a_fault_of_the_device_when_it_is_opened_is_unavailable(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_tiles: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(torch_cuda, "scaled", lost)
    with pytest.raises(UnavailableError, match="illegal memory access was encountered") as raised:
        on_cpu(bundle)
    assert raised.value.message.endswith("was encountered")
    assert raised.value.exit_code == 69


def test_a_fault_of_the_device_while_it_works_is_an_error_and_no_answer(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = on_cpu(bundle)

    def lost(_tiles: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: unspecified launch failure")

    with monkeypatch.context() as patched:
        patched.setattr(torch_cuda, "scaled", lost)
        with pytest.raises(RuntimeError, match="launch failure"):
            list(runtime.infer([tiles(2)]))
    assert prove(bundle, runtime) < 1e-5


def test_without_a_gpu_it_says_so_and_what_to_do(bundle: Bundle) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: see the tests below")
    with pytest.raises(UnavailableError) as raised:
        open_on_torch_cuda(bundle, precision="auto")
    assert raised.value.exit_code == 69
    assert not raised.value.retryable
    assert "nvidia-smi" in raised.value.hint


# The real thing


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_really_the_golden_answers_in_order(bundle: Bundle, precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU, and torch built for it")  # no failure: it cannot be installed
    runtime = open_on_torch_cuda(bundle, precision=precision)
    tolerance = bundle.manifest.golden_tolerance[precision]
    assert prove(bundle, runtime) <= tolerance
    prove_stored_tiles(runtime, tiles(BATCH), tolerance, "here")
    batches = [tiles(1 + i % BATCH, seed=i) for i in range(50)]
    for batch, found in zip(batches, runtime.infer(batches), strict=True):
        (expected,) = on_cpu(bundle).infer([batch])
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
