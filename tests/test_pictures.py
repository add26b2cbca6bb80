"""Pictures of verdicts from files of any kind, through real decode workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.config import load
from edge.decode.workers import DecodeWorkers
from edge.errors import MissingInputError
from edge.pictures import CHANGED, GONE, Pictures
from edge.pipeline import Inspector, PrepareJob, prepare_file
from edge.record.queries import StoredVerdict
from edge.testing import FakeRuntime, fake_bundle
from edge.web.pictures import TILE_PX, Tiles, levels
from tests.decode.builders import dicom
from tests.sites import write_config


class Rig:
    """A configured site with a folder of frames, and workers as the daemon has them."""

    def __init__(self, folder: Path, workers: DecodeWorkers[PrepareJob]) -> None:
        settings = load(write_config(folder, 1, 2))
        self.incoming, self.state = folder / "incoming", settings.paths.state
        self.bundle = fake_bundle(folder / "bundle")
        inspectors = {"blur": Inspector(self.bundle, FakeRuntime())}
        self.pictures = Pictures(settings, inspectors, workers, self.state / "evidence")

    def stored(self, name: str, data: bytes, shape: tuple[int, int], **more: Any) -> StoredVerdict:
        (self.incoming / name).parent.mkdir(parents=True, exist_ok=True)
        (self.incoming / name).write_bytes(data)
        image = {
            "path": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "width": shape[1],
            "height": shape[0],
        }
        payload = {
            "resultId": "R1", "resultType": "frame", "recipeId": "blur", "view": None, "image": image,
            "model": {"sha256": self.bundle.digest}, "evidence": None, **more,
        }  # fmt: skip
        return StoredVerdict(payload, "scanner", name)


@pytest.fixture(scope="module")
def workers() -> Iterator[DecodeWorkers[PrepareJob]]:
    workers: DecodeWorkers[PrepareJob]
    workers = DecodeWorkers(prepare_file, workers=1, timeout_s=20, memory_bytes=2 * 2**30)
    yield workers
    workers.close()


@pytest.fixture
def rig(tmp_path: Path, workers: DecodeWorkers[PrepareJob]) -> Rig:
    return Rig(tmp_path, workers)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_sixteen_bits_are_shown_by_their_declared_range(rig: Rig) -> None:
    pixels = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(30, 40)
    shown = rig.pictures.picture(rig.stored("a.png", png(pixels), (30, 40)), "original")
    assert shown.dtype == np.uint8
    np.testing.assert_allclose(shown, pixels / 257, atol=1)


def test_colours_are_shown_as_colours(rig: Rig) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    shown = rig.pictures.picture(rig.stored("a.png", png(pixels), (30, 40)), "original")
    np.testing.assert_allclose(shown, pixels, atol=1)  # BGR, as OpenCV has them


def test_a_dicom_is_shown(rig: Rig) -> None:
    pixels = np.linspace(0, 4095, 40 * 30).astype(np.uint16).reshape(30, 40)
    shown = rig.pictures.picture(rig.stored("a.dcm", dicom(pixels, bits=12), (30, 40)), "original")
    assert shown.shape == (30, 40)
    assert np.ptp(shown) > 200


def test_a_frame_that_changed_or_went_says_so(rig: Rig) -> None:
    stored = rig.stored("a.png", png(np.zeros((30, 40), np.uint8)), (30, 40))
    (rig.incoming / "a.png").write_bytes(png(np.ones((30, 40), np.uint8)))
    with pytest.raises(MissingInputError, match=CHANGED):
        rig.pictures.picture(stored, "original")
    (rig.incoming / "a.png").unlink()
    with pytest.raises(MissingInputError, match=GONE):
        rig.pictures.picture(stored, "original")
    assert rig.pictures.layers(stored, rig.pictures.geometry(stored))["original"]["why"] == GONE


@pytest.mark.parametrize("folder", ["reviewed", "evidence"])
def test_a_copy_that_was_kept_stands_for_a_frame_that_went(rig: Rig, folder: str) -> None:
    stored = rig.stored("a.png", png(np.full((30, 40), 7, np.uint8)), (30, 40), evidence="2026-11-20/R1")
    name = f"{stored.payload['image']['sha256']}.png" if folder == "reviewed" else "2026-11-20/R1/frame.png"
    copy = rig.state / folder / name
    copy.parent.mkdir(parents=True)
    (rig.incoming / "a.png").rename(copy)
    assert rig.pictures.picture(stored, "original").max() == 7
    copy.write_bytes(png(np.full((30, 40), 8, np.uint8)))
    with pytest.raises(MissingInputError, match=CHANGED):
        rig.pictures.picture(stored, "original")


def test_bytes_that_are_no_picture_cost_nothing(rig: Rig) -> None:
    for data in (
        b"not a picture",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        png(np.zeros((30, 40), np.uint8))[:-20],
    ):
        with pytest.raises(MissingInputError):
            rig.pictures.picture(rig.stored("a.png", data, (30, 40)), "original")
    assert (
        rig.pictures.picture(rig.stored("a.png", png(np.ones((3, 4), np.uint8)), (3, 4)), "original").max()
        == 1
    )


@pytest.mark.parametrize("said", ["../..", "/etc", "..", ".", "2026-11-20/../../..", "link"])
def test_evidence_elsewhere_is_no_evidence(rig: Rig, said: str) -> None:
    (rig.state / "evidence").mkdir(parents=True)
    secret = rig.state.parent
    cv2.imwrite(str(secret / "heatmap.png"), np.zeros((5, 5), np.uint8))
    cv2.imwrite(str(rig.state / "heatmap.png"), np.zeros((5, 5), np.uint8))
    (rig.state / "evidence" / "link").symlink_to(secret)
    stored = rig.stored("a.png", png(np.zeros((30, 40), np.uint8)), (30, 40), evidence=said)
    with pytest.raises(MissingInputError):
        rig.pictures.picture(stored, "map")


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/hostname", ""])
def test_a_path_out_of_the_source_is_not_followed(rig: Rig, path: str) -> None:
    data = png(np.zeros((30, 40), np.uint8))
    (rig.incoming.parent / "secret.png").write_bytes(data)
    stored = replace(rig.stored("a.png", data, (30, 40)), path=path)
    (rig.incoming / "a.png").unlink()
    with pytest.raises(MissingInputError, match=GONE):
        rig.pictures.picture(stored, "original")


def test_a_plane_of_another_model_is_not_made_anew(rig: Rig) -> None:
    data = png(np.zeros((30, 40), np.uint8))
    assert rig.pictures.picture(rig.stored("a.png", data, (30, 40)), "preprocessed").shape == (30, 40)
    stored = rig.stored("a.png", data, (30, 40), model={"sha256": "another"})
    with pytest.raises(MissingInputError, match="no longer in use"):
        rig.pictures.picture(stored, "preprocessed")
    assert rig.pictures.geometry(stored).plane_to_frame is None


def test_evidence_of_older_versions_has_sizes_too(rig: Rig) -> None:
    stored = rig.stored("a.png", png(np.zeros((30, 40), np.uint8)), (30, 40), evidence="d/R1")
    (rig.state / "evidence" / "d" / "R1").mkdir(parents=True)
    cv2.imwrite(str(rig.state / "evidence" / "d" / "R1" / "heatmap.png"), np.zeros((15, 20), np.uint8))
    layers = rig.pictures.layers(stored, rig.pictures.geometry(stored))
    assert (layers["map"]["width"], layers["map"]["height"], layers["map"]["why"]) == (20, 15, None)
    assert json.dumps(layers)


# tiles


def opened(data: bytes) -> np.ndarray[Any, Any]:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture


class OneOf:
    """One picture, that counts how often it was got."""

    def __init__(self, picture: np.ndarray[Any, Any]) -> None:
        self.picture_, self.got = picture, 0

    def picture(self, result_id: str, layer: str) -> np.ndarray[Any, Any]:
        self.got += 1
        if result_id == "none":
            raise MissingInputError("gone")
        return self.picture_


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (513, 512), (700, 1300), (5, 2000)])
def test_tiles_put_together_are_the_picture(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    source = OneOf(picture)
    tiles = Tiles(source)
    rows = []
    for y in range(-(-shape[0] // TILE_PX)):
        row = [tiles.tile("R", "map", 0, x, y) for x in range(-(-shape[1] // TILE_PX))]
        rows.append(np.hstack([opened(one) for one in row]))
    np.testing.assert_array_equal(np.vstack(rows), picture)
    assert source.got == 1
    top = levels(shape[1], shape[0]) - 1
    last = opened(tiles.tile("R", "map", top, 0, 0))
    assert max(last.shape) <= TILE_PX
    for place in ((top, 1, 0), (top, 0, 1), (top + 1, 0, 0)):
        with pytest.raises(MissingInputError):
            tiles.tile("R", "map", *place)


def test_what_cannot_be_had_is_not_asked_for_again_at_once() -> None:
    now = [0.0]
    source = OneOf(np.zeros((5, 5), np.uint8))
    tiles = Tiles(source, clock=lambda: now[0])
    for _ in range(3):
        with pytest.raises(MissingInputError):
            tiles.whole("none", "original", 100)
    assert source.got == 1
    now[0] = 31.0
    with pytest.raises(MissingInputError):
        tiles.whole("none", "original", 100)
    assert source.got == 2


def test_decoded_pictures_never_fill_the_memory() -> None:
    source = OneOf(np.zeros((3000, 4000), np.uint8))
    tiles = Tiles(source)
    for number in range(12):
        tiles.tile(f"R{number}", "preprocessed", 0, 0, 0)
        assert tiles._levels.bytes <= 96 * 2**20
    assert source.got == 12
