"""Any flipped, missing or foreign byte of a bundle or its calibration is noticed before use."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.external_data_helper import convert_model_to_external_data

from edge import config
from edge.artifacts import write_signed_json
from edge.errors import BundleError, ConfigError, EdgeError
from edge.infer.bundle import GOLDEN, MANIFEST, MODEL, Bundle, load_bundle, write_bundle
from edge.infer.compile import open_runtime
from edge.judge.calibration import Calibration, load_calibration, save_calibration
from edge.judge.judgement import judge
from edge.recipes import open_recipe
from edge.testing import fake_bundle, fake_calibration
from edge.types import Score
from tests.sites import blurring_network, make_recipe

FILES = (MANIFEST, MODEL, GOLDEN)


@dataclass(frozen=True)
class Made:
    """A recipe as `edge learn` leaves it."""

    site: Path

    @property
    def engine(self) -> Path:
        return self.site / "engines" / "blur"

    @property
    def calibration(self) -> Path:
        return self.site / "calibration" / "blur.json"

    def load(self) -> Calibration:
        return load_calibration(self.calibration, load_bundle(self.engine).digest)

    def copied(self, site: Path) -> Made:
        for name in ("engines", "calibration"):
            shutil.copytree(self.site / name, site / name)
        return Made(site)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Made:
    site = tmp_path_factory.mktemp("site")
    make_recipe(site)
    return Made(site)


@pytest.fixture
def made(pristine: Made, tmp_path: Path) -> Made:
    return pristine.copied(tmp_path)


def every_file(made: Made) -> dict[str, Path]:
    return {**{name: made.engine / name for name in FILES}, "calibration": made.calibration}


def refused(made: Made) -> str:
    with pytest.raises(BundleError) as caught:
        made.load()
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("name", [*FILES, "calibration"])
def test_any_flipped_byte_of_any_file_is_noticed(made: Made, name: str) -> None:
    file = every_file(made)[name]
    data = bytearray(file.read_bytes())
    with file.open("r+b", buffering=0) as stream:
        for position in range(len(data)):
            stream.seek(position)
            stream.write(bytes([data[position] ^ 1 << position % 8]))
            assert file.name in refused(made), position
            stream.seek(position)
            stream.write(bytes([data[position]]))
    made.load()  # as it was


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_other_bytes_in_any_file_are_noticed(pristine: Made, data: st.DataObject) -> None:
    """Runs overwritten, cut out, inserted or doubled: nothing but the very bytes loads."""
    file = data.draw(st.sampled_from(sorted(every_file(pristine).values())))
    whole = file.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 64)))
    filling = data.draw(st.binary(max_size=64) | st.just(whole[start:stop] * 2))
    spoiled = whole[:start] + filling + whole[stop:]
    try:
        file.write_bytes(spoiled)
        if spoiled == whole:
            pristine.load()
        else:
            refused(pristine)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", [*FILES, "calibration"])
def test_a_file_cut_short_anywhere_is_noticed(made: Made, name: str) -> None:
    file = every_file(made)[name]
    size = file.stat().st_size
    for length in sorted({size - 1, *range(size - 1, 0, -max(1, size // 150)), 0}, reverse=True):
        os.truncate(file, length)
        refused(made)


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_a_file_of_another_bundle_is_noticed(made: Made, tmp_path: Path, name: str) -> None:
    other = other_bundle(tmp_path / "other")
    shutil.copy(other.folder / name, made.engine / name)
    assert f"{name}: damaged" in refused(made)


def test_the_manifest_of_another_bundle_is_noticed(made: Made, tmp_path: Path) -> None:
    shutil.copy(other_bundle(tmp_path / "other").folder / MANIFEST, made.engine / MANIFEST)
    refused(made)


def test_a_calibration_of_another_bundle_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    other = other_bundle(tmp_path / "other")
    calibration = made.load()
    save_calibration(made.calibration, calibration.model_copy(update={"bundle_sha256": other.digest}))
    assert f"made for bundle {other.digest[:12]}" in refused(made)


def test_another_bundle_in_the_place_of_the_calibrated_one_is_refused(made: Made, tmp_path: Path) -> None:
    other = other_bundle(tmp_path / "other")
    shutil.rmtree(made.engine)
    shutil.copytree(other.folder, made.engine)
    assert "made for bundle" in refused(made)


def test_a_manifest_in_the_place_of_a_calibration_is_refused(made: Made) -> None:
    shutil.copy(made.engine / MANIFEST, made.calibration)
    refused(made)


def test_a_view_that_is_not_calibrated_is_never_ok(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path / "fake")
    calibration = fake_calibration(bundle, views=("01", "02"))
    for raw in (0.0, 0.1, 1e9, np.nan):
        assert judge(flat_score(raw), "03", calibration).evaluation == "NotDecidable"
        assert judge(flat_score(raw), "03", calibration).reasons == ("view_not_calibrated",)
        assert judge(flat_score(raw), None, calibration).evaluation == "NotDecidable"
    assert judge(flat_score(0.1), "01", calibration).evaluation == "OK"


def test_an_expected_view_that_is_not_calibrated_keeps_the_recipe_from_opening(made: Made) -> None:
    file = made.site / "config.toml"
    file.write_text('[recipe.blur]\nviews = ["01", "02", "03"]\n')
    with pytest.raises(ConfigError, match=r"recipe\.blur\.views expects 03"):
        open_recipe(config.load(file), "blur")


def test_files_behind_links_are_held_to_the_same_bytes(made: Made, tmp_path: Path) -> None:
    """A site may link its engines; what counts is what is read through the link."""
    kept = tmp_path / "kept"
    (made.engine / MODEL).rename(kept)
    (made.engine / MODEL).symlink_to(kept)
    made.load()
    kept.write_bytes(kept.read_bytes() + b"\0")
    assert "damaged" in refused(made)
    kept.unlink()
    assert "missing" in refused(made)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_without_being_read(made: Made, make: object) -> None:
    (made.engine / MODEL).unlink()
    make(made.engine / MODEL)  # type: ignore[operator]
    assert "model.onnx: missing" in refused(made)


def test_files_that_the_manifest_does_not_list_are_never_read(made: Made) -> None:
    """A report or a note beside the engine is no fault; it has no part in a verdict either."""
    (made.engine / "mask.onnx").write_bytes(b"not listed")
    (made.engine / "report.html").write_text("<p>")
    made.load()
    with pytest.raises(BundleError, match=r"mask\.onnx"):
        load_bundle(made.engine).read("mask.onnx")


def test_a_file_replaced_after_the_check_is_not_used(made: Made) -> None:
    bundle = load_bundle(made.engine)
    (made.engine / MODEL).write_bytes(blurring_network(side=5))
    with pytest.raises(BundleError, match=r"model\.onnx: damaged"):
        open_runtime(bundle)
    (made.engine / GOLDEN).write_bytes(b"")
    bundle.golden()  # stays in memory: the engine can be held to it at any time


def test_a_golden_pair_that_is_none_is_refused_though_its_sha256_is_right(tmp_path: Path) -> None:
    """A bundle that was put together wrongly: errors are of edge, never of a library."""
    bundle = fake_bundle(tmp_path / "fake")
    short = io.BytesIO()
    np.savez(short, tiles=np.zeros(1))
    pickled = io.BytesIO()
    np.savez(pickled, tiles=np.array([{}], object), answers=np.zeros(1))
    for data in (b"", b"PK\x03\x04 nonsense", bundle.golden_file[:200], short.getvalue(), pickled.getvalue()):
        with pytest.raises(BundleError, match="no golden pair"):
            bundle.model_copy(update={"golden_file": data}).golden()


def test_a_network_that_keeps_weights_in_another_file_is_refused(made: Made) -> None:
    """They would not be covered by the bundle's digests."""
    model = onnx.load_from_string(blurring_network())
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    file = made.engine / "external.onnx"
    onnx.save(model, file)
    openvino.Core().read_model(file)  # with its path it can be read
    bundle = load_bundle(made.engine)
    manifest = bundle.manifest
    wrong = write_bundle(
        made.engine, name=manifest.name, model=manifest.model, preprocess=manifest.preprocess,
        score=manifest.score, output=manifest.output, onnx=file.read_bytes(), golden=bundle.golden(),
        training={},
    )  # fmt: skip
    with pytest.raises(BundleError, match="cannot compile"):
        open_runtime(wrong)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "", ".", "..", "a/b", "a\0b"])
def test_no_name_in_a_manifest_leads_out_of_the_bundle(made: Made, name: str) -> None:
    manifest = load_bundle(made.engine).manifest
    files = {**manifest.files, name: manifest.files[MODEL]}
    write_signed_json(made.engine / MANIFEST, manifest.model_copy(update={"files": files}))
    with pytest.raises(EdgeError):
        load_bundle(made.engine)


def other_bundle(folder: Path) -> Bundle:
    """Valid in itself: a blur of another width."""
    tiles = np.random.default_rng(0).random((2, 1, 32, 32), np.float32)
    like = fake_bundle(folder / "like").manifest
    return write_bundle(
        folder / "blur", name="blur", model="blur", preprocess=like.preprocess, score=like.score,
        output="reconstruction", onnx=blurring_network(side=5), golden=(tiles, tiles), training={},
    )  # fmt: skip


def flat_score(raw: float) -> Score:
    """As of a frame of `write_frame`, whatever its score."""
    values = np.full((48, 64), min(raw, 0.1), np.float32)
    return Score(raw, values, {"peak": raw}, (0, 0, 4, 4), 0.5, 0.01, foreground_px=values.size)
