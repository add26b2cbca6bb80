"""Frames rendered from a mesh; skipped without the extra `render`, unless EDGE_REQUIRE_ALL=1."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.dataset import read_manifest
from edge.errors import CannotWriteError, DataError, MissingInputError, UnavailableError, UsageError
from edge.simulate import rig
from edge.simulate.cad import RenderSpec, views
from edge.simulate.mesh import Shape, load_shape, standing
from edge.simulate.rig import Camera, Path3D, PoseError, cameras, project
from edge.simulate.scene import Look, Studio, draw_lamp, draw_look, without_fireflies
from tests.simulate.test_commands import run

SIZE = (96, 72)


@pytest.fixture
def extra() -> None:
    """Skip where mitsuba or trimesh is missing; fail where EDGE_REQUIRE_ALL=1."""
    missing = [name for name in ("mitsuba", "trimesh") if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed (pip install 'edge-inspect[render]')"
        if os.environ.get("EDGE_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def mesh(extra: None, tmp_path: Path) -> Path:
    """A cylinder beside a box, in millimetres."""
    import trimesh

    box = trimesh.creation.box([40, 30, 12])
    box.apply_translation([0, 0, 6])
    post = trimesh.creation.cylinder(8, 20, sections=24)
    post.apply_translation([8, 0, 22])
    file = tmp_path / "part.stl"
    trimesh.util.concatenate([box, post]).export(file)
    return file


def cube(side_m: float) -> Shape:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float) * side_m
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
    faces += [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    return standing(corners, np.array(faces))


def one_camera(shape: Shape, view: int = 2) -> Camera:
    return cameras(Path3D(7, cameras=1), view, shape.centre_m, shape.radius_m, PoseError(0.4, -0.3, 0.7))[0]


def test_a_set_is_written_with_its_truth(mesh: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--mesh", mesh, "--views", 3, "--size", "96x72", "--spp", 4, "--seed", 2, "--json")
    summary = json.loads(run("render", *arguments, "--out", out))
    assert summary["frames"] == summary["planned"] == 6
    good, foreground = read_manifest(out / "manifest.csv"), read_manifest(out / "foreground.csv")
    assert [s.view for s in good] == ["01a", "01b", "02a", "02b", "03a", "03b"]
    assert {(s.label, s.mask, s.part) for s in good} == {("good", None, "P000001")}
    assert [s.file for s in foreground] == [s.file for s in good]
    poses = [json.loads(line) for line in (out / "poses.jsonl").read_text().splitlines()]
    for sample, pose in zip(foreground, poses, strict=True):
        frame = cv2.imread(str(sample.file), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED)
        assert frame.shape == mask.shape == (72, 96)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.05 < (mask > 127).mean() < 0.8
        assert frame.std() > 3, "nothing to be seen"
        assert abs(pose["error"]["azimuth_deg"]) <= rig.AZIMUTH_ERROR_DEG
    again = tmp_path / "again"
    run("render", *arguments, "--out", again)
    for file in sorted(out.rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (again / file.relative_to(out)).read_bytes(), file
    with pytest.raises(CannotWriteError, match="exists"):
        run("render", *arguments, "--out", out)


def test_parts_differ_in_look_and_16_bits_are_16_bits(extra: None) -> None:
    spec = RenderSpec(path=Path3D(1, cameras=1), parts=2, size=SIZE, samples=4, bits=16)
    first, second = views(cube(0.03), spec)
    assert first.pixels.dtype == np.uint16
    assert first.pose["look"] != second.pose["look"]
    assert (first.part, second.part) == ("P000001", "P000002")


def test_the_mask_is_the_silhouette_of_the_picture(extra: None) -> None:
    """In a black world where only the part glows, its pixels are the lit ones."""
    shape = cube(0.03)
    camera = one_camera(shape)
    with Studio(shape, SIZE, 16) as studio:
        mask = studio.silhouette(camera, seed=5)
        glowing = {"type": "ply", "filename": str(studio._file), "emitter": {"type": "area", "radiance": 1.0}}
        # a part that glows evenly reads its share of the pixel
        picture = studio._render(camera, {"type": "path", "max_depth": 1}, {"part": glowing}, seed=5)[0]
    assert np.array_equal(mask, picture / picture.max() >= 0.5)


def test_the_mask_is_where_geometry_puts_the_part(extra: None) -> None:
    """A convex part covers the hull of its projected corners: without the renderer, 8×8 points a pixel."""
    shape, fine = cube(0.03), 8
    camera = one_camera(shape)
    with Studio(shape, SIZE, 64) as studio:
        mask = studio.silhouette(camera, seed=1)
    hull = cv2.convexHull(np.float32(project(camera, shape.vertices, SIZE)))[:, 0]
    x, y = ((np.arange(n * fine) + 0.5) / fine for n in SIZE)
    ends = np.roll(hull, -1, axis=0)
    sides = [
        (bx - ax) * (y[:, None] - ay) - (by - ay) * (x[None, :] - ax)
        for (ax, ay), (bx, by) in zip(hull, ends, strict=True)
    ]
    inside = np.all(np.array(sides) >= 0, axis=0) | np.all(np.array(sides) <= 0, axis=0)
    cover = inside.reshape(SIZE[1], fine, SIZE[0], fine).mean(axis=(1, 3))
    sure = np.abs(cover - 0.5) > 0.06
    assert sure.mean() > 0.97
    assert np.array_equal(mask[sure], cover[sure] >= 0.5)


@pytest.mark.parametrize("material", ["plastic", "metal", "paint"])
def test_every_material_is_lit_and_not_burnt_out(extra: None, material: str) -> None:
    shape, rng = cube(0.03), np.random.default_rng(1)
    look: Look = draw_look(rng, material)  # type: ignore[arg-type]
    with Studio(shape, SIZE, 16) as studio:
        camera = one_camera(shape)
        scene = studio.picture(camera, look, draw_lamp(rng, look, 60.0), seed=1)
        mask = studio.silhouette(camera, seed=1)
    assert scene.dtype == np.float32
    assert np.isfinite(scene).all()
    assert scene[mask].mean() > 0.01
    assert (scene[mask] > 1).mean() < 0.3


def test_stray_samples_go_and_glints_stay() -> None:
    scene = np.full((20, 20), 0.2, np.float32)
    scene[4, 4] = 30
    scene[10:14, 10:14] = 0.9
    clean = without_fireflies(scene)
    assert clean[4, 4] < 0.3
    assert (clean[11:13, 11:13] == np.float32(0.9)).all()


def test_units_and_bad_meshes(mesh: Path, tmp_path: Path) -> None:
    assert load_shape(mesh).radius_m == pytest.approx(load_shape(mesh, "m").radius_m / 1000)
    assert load_shape(mesh).vertices[:, 2].min() == 0
    with pytest.raises(UsageError):
        load_shape(mesh, "parsec")
    with pytest.raises(MissingInputError):
        load_shape(tmp_path / "none.stl")
    for name, content in (
        ("text.stl", b"solid nothing\nendsolid"),
        ("empty.stl", b""),
        ("cut.stl", mesh.read_bytes()[:500]),
        ("points.obj", b"v 0 0 0\nv 1 0 0\n"),
        ("flat.obj", b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n"),
        ("nan.obj", b"v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n"),
        ("broken.ply", b"ply nonsense\n"),
        ("part.step", b"ISO-10303-21;"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load_shape(tmp_path / name)


@pytest.mark.parametrize("wrong", [("--spp", 24), ("--size", "8x8"), ("--bits", 12), ("--elevation", "up")])
def test_options_that_make_no_sense_are_refused(
    mesh: Path, tmp_path: Path, wrong: tuple[object, ...]
) -> None:
    with pytest.raises(UsageError):
        run("render", "--mesh", mesh, "--views", 1, "--out", tmp_path / "out", *wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["mitsuba", "trimesh"])
def test_without_the_extra_it_says_what_to_install(
    mesh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnavailableError, match=r"edge-inspect\[render\]"):
        run("render", "--mesh", mesh, "--out", tmp_path / "out")
