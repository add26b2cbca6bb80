"""Compiled networks on disk, with the real OpenVINO: used when they are ours to the byte, else made again."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.infer import openvino
from edge.infer.bundle import MODEL, Bundle
from edge.infer.cache import KEPT, LEFTOVER_S, SUFFIX, CompiledCache
from edge.infer.compile import open_runtime, prove
from edge.infer.openvino import OpenVinoRuntime
from tests.sites import PX, blurring_bundle, blurring_network

MADE_FOR = {"network": "ab" * 32, "runtime": "r", "version": "1", "device": "cpu"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return blurring_bundle(tmp_path_factory.mktemp("engines") / "blur")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> CompiledCache:
    return CompiledCache(tmp_path / "compiled", notes.append)


def opened(bundle: Bundle, cache: CompiledCache, **how: str | int) -> OpenVinoRuntime:
    """As a start of the daemon does it, held to the golden pair."""
    runtime = open_runtime(bundle, cache=cache.folder, note=cache.note, **how)  # type: ignore[arg-type]
    assert isinstance(runtime, OpenVinoRuntime)
    assert prove(bundle, runtime) < 1e-5
    return runtime


def files(cache: CompiledCache) -> list[Path]:
    return sorted(cache.folder.iterdir())


def test_the_second_start_compiles_nothing(bundle: Bundle, cache: CompiledCache, notes: list[str]) -> None:
    assert not opened(bundle, cache).from_cache
    again = opened(bundle, cache)
    assert again.from_cache
    assert again.precision == "fp32"
    assert notes == []
    tiles = np.random.default_rng(1).random((3, 1, PX, PX), np.float32)
    (compiled,) = opened(bundle, CompiledCache(cache.folder / "other")).infer([tiles])
    (imported,) = again.infer([tiles])
    np.testing.assert_array_equal(imported, compiled)


def test_any_flipped_byte_of_a_compiled_network_is_noticed_before_use(
    cache: CompiledCache, notes: list[str]
) -> None:
    """Every byte of the line and of the network, one bit each."""
    compiled = np.random.default_rng(0).bytes(1500)
    cache.store(MADE_FOR, compiled)
    whole = cache.file(MADE_FOR).read_bytes()
    assert cache.load(MADE_FOR) == compiled
    for position in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[position] ^= 1 << position % 8
        cache.file(MADE_FOR).write_bytes(spoiled)
        assert cache.load(MADE_FOR) is None, position
        assert not cache.file(MADE_FOR).exists()
    assert len(notes) == len(whole)


def test_a_compiled_network_cut_short_or_with_bytes_after_it_is_noticed(cache: CompiledCache) -> None:
    cache.store(MADE_FOR, b"network" * 100)
    whole = cache.file(MADE_FOR).read_bytes()
    for spoiled in (*(whole[:length] for length in range(len(whole))), whole + b"\0", whole + whole):
        cache.file(MADE_FOR).write_bytes(spoiled)
        assert cache.load(MADE_FOR) is None, len(spoiled)


@pytest.mark.parametrize("key", ["network", "runtime", "version", "device"])
def test_a_compiled_network_made_for_something_else_is_not_used_under_any_name(
    cache: CompiledCache, notes: list[str], key: str
) -> None:
    other = MADE_FOR | {key: "another"}
    cache.store(other, b"foreign")
    cache.file(other).rename(cache.file(MADE_FOR))
    assert cache.load(MADE_FOR) is None
    assert "made for something else" in notes[0]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_start_with_a_damaged_compiled_network_compiles_again_and_says_so(
    bundle: Bundle, cache: CompiledCache, notes: list[str], share: float
) -> None:
    opened(bundle, cache)
    (file,) = files(cache)
    spoiled = bytearray(file.read_bytes())
    spoiled[int(share * (len(spoiled) - 1))] ^= 4
    file.write_bytes(spoiled)
    assert not opened(bundle, cache).from_cache
    assert "compiled again: damaged" in notes[0]
    assert opened(bundle, cache).from_cache


@pytest.mark.parametrize("what", ["get_version", "cpu_identity"])
def test_another_version_or_cpu_compiles_again_and_removes_what_the_old_one_kept(
    bundle: Bundle, cache: CompiledCache, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    opened(bundle, cache)
    before = files(cache)
    monkeypatch.setattr(openvino.ov if what == "get_version" else openvino, what, lambda: "another")
    assert not opened(bundle, cache).from_cache
    assert len(files(cache)) == 1
    assert files(cache) != before


def test_each_number_of_threads_has_its_own(bundle: Bundle, cache: CompiledCache) -> None:
    opened(bundle, cache)
    assert not opened(bundle, cache, threads=1).from_cache
    assert opened(bundle, cache, threads=1).from_cache
    assert opened(bundle, cache).from_cache


def test_precisions_do_not_share_one(bundle: Bundle, cache: CompiledCache) -> None:
    if not openvino.has_fast_bf16():
        assert os.environ.get("EDGE_REQUIRE_ALL") != "1", "needs a CPU with bf16"
        pytest.skip("this CPU has no bf16")
    opened_ = open_runtime(bundle, cache=cache.folder, precision="bf16")
    assert opened_.precision == "bf16"
    assert not opened(bundle, cache).from_cache
    assert len(files(cache)) == 2


def test_a_compiled_network_that_fails_the_golden_pair_is_compiled_again(
    bundle: Bundle, cache: CompiledCache, notes: list[str]
) -> None:
    """A whole file with the right line, but the network of another bundle in it."""
    made_for = opened(bundle, cache).made_for(PX, PX)
    other = CompiledCache(cache.folder.parent / "other")
    foreign = OpenVinoRuntime(blurring_network(side=5), origin=Path("other.onnx"), cache=other)
    foreign.warm(PX, PX)
    compiled = other.load(foreign.made_for(PX, PX))
    assert compiled is not None
    cache.store(made_for, compiled)
    assert not opened(bundle, cache).from_cache
    assert "differs from the learned network" in notes[0]


@pytest.mark.parametrize("garbage", [b"", b"nonsense", bytes(1000)])
def test_a_compiled_network_that_openvino_cannot_read_is_compiled_again(
    bundle: Bundle, cache: CompiledCache, notes: list[str], garbage: bytes
) -> None:
    cache.store(opened(bundle, cache).made_for(PX, PX), garbage)
    assert not opened(bundle, cache).from_cache
    assert "OpenVINO cannot read it" in notes[0]


def test_without_a_place_for_it_an_engine_is_compiled_each_time_and_that_is_said(
    bundle: Bundle, cache: CompiledCache, notes: list[str]
) -> None:
    cache.folder.write_bytes(b"a file where the folder should be")
    assert not opened(bundle, cache).from_cache
    assert "every start compiles" in notes[-1]


def test_a_full_disk_costs_the_kept_network_and_nothing_else(
    bundle: Bundle, cache: CompiledCache, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert not opened(bundle, cache).from_cache
    assert "No space left" in notes[0]
    assert files(cache) == []
    assert not opened(bundle, cache).from_cache


def test_only_the_last_used_are_kept(cache: CompiledCache) -> None:
    wanted = [MADE_FOR | {"network": f"{n:064x}"} for n in range(KEPT + 3)]
    for age, made_for in enumerate(wanted[:-1]):
        cache.store(made_for, b"network")
        os.utime(cache.file(made_for), (age, age))
    assert cache.load(wanted[2]) == b"network"  # used now
    cache.store(wanted[-1], b"network")
    assert len(files(cache)) == KEPT
    assert cache.load(wanted[3]) is None
    assert cache.load(wanted[2]) == cache.load(wanted[-1]) == b"network"


def test_leftovers_are_removed_and_what_others_keep_there_is_not(cache: CompiledCache) -> None:
    old_layout = cache.folder / "0123456789abcdef"
    old_layout.mkdir(parents=True)
    (old_layout / "1.blob").write_bytes(b"x")
    interrupted, writing = cache.folder / ".a.compiled.7.tmp", cache.folder / ".b.compiled.8.tmp"
    for file in (interrupted, writing, cache.folder / "notes.txt"):
        file.write_bytes(b"x")
    long_ago = time.time() - 2 * LEFTOVER_S
    os.utime(interrupted, (long_ago, long_ago))
    theirs = MADE_FOR | {"runtime": "another", "version": "7"}
    cache.store(theirs, b"network")
    cache.store(MADE_FOR, b"network")
    assert {file.name for file in files(cache)} == {
        writing.name, "notes.txt", cache.file(theirs).name, cache.file(MADE_FOR).name,
    }  # fmt: skip
    assert cache.file(MADE_FOR).suffix == SUFFIX


@pytest.fixture
def replaced_after_check(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bundle]:
    """A bundle whose network is swapped for another one right after it was read."""
    mine = blurring_bundle(tmp_path / "engines" / "blur")
    real = OpenVinoRuntime.__init__

    def swap_first(self: OpenVinoRuntime, onnx: bytes, **how: object) -> None:
        mine.model_file.write_bytes(blurring_network(side=5))
        real(self, onnx, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenVinoRuntime, "__init__", swap_first)
    yield mine
    assert mine.model_file.read_bytes() != bundle.read(MODEL)


def test_what_is_compiled_is_what_was_checked_even_if_the_file_changes_in_between(
    replaced_after_check: Bundle, cache: CompiledCache
) -> None:
    opened(replaced_after_check, cache)
