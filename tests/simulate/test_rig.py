"""Camera paths and meshes: limits hold, pairs are 5 cm apart, parts are in sight, edges stay sharp."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import UsageError
from edge.simulate import rig
from edge.simulate.mesh import corner_normals, standing
from edge.simulate.rig import Path3D, PoseError, cameras, draw_error, project


@given(seed=st.integers(0, 10_000))
def test_pose_errors_keep_their_limits(seed: int) -> None:
    error = draw_error(np.random.default_rng(seed))
    assert abs(error.azimuth_deg) <= rig.AZIMUTH_ERROR_DEG
    assert abs(error.elevation_deg) <= rig.ELEVATION_ERROR_DEG
    assert abs(error.roll_deg) <= rig.ROLL_ERROR_DEG
    assert max(map(abs, error.aim)) <= rig.AIM_ERROR


@given(
    seed=st.integers(0, 10_000),
    view=st.integers(1, 24),
    radius=st.floats(0.001, 2),
    low=st.floats(5, 85),
    high=st.floats(5, 85),
    size=st.sampled_from([(96, 72), (72, 96), (64, 64)]),
)
@settings(max_examples=80)
def test_the_part_is_whole_in_every_frame_of_every_pair_5_cm_apart(
    seed: int, view: int, radius: float, low: float, high: float, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    centre = np.array([0, 0, radius])
    sphere = rng.normal(size=(300, 3))
    sphere = centre + radius * sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
    pair = cameras(Path3D(24, (low, high)), view, centre, radius, draw_error(rng))
    assert np.linalg.norm(pair[1].origin_m - pair[0].origin_m) == pytest.approx(rig.BASELINE_M)
    for camera in pair:
        seen = project(camera, sphere, size)
        assert seen.min() >= 0
        assert (seen <= np.array(size)).all()


def test_the_path_goes_around_at_its_elevation_and_the_left_camera_is_left() -> None:
    path, centre = Path3D(4, (20, 50)), np.zeros(3)
    for view, (azimuth, elevation) in enumerate([(0, 20), (90, 30), (180, 40), (270, 50)], start=1):
        left, right = cameras(path, view, centre, 0.01, PoseError())
        middle = (left.origin_m + right.origin_m) / 2
        assert np.degrees(np.arctan2(middle[1], middle[0])) % 360 == pytest.approx(azimuth)
        assert np.degrees(np.arcsin(middle[2] / np.linalg.norm(middle))) == pytest.approx(elevation)
        nearer = (0.3 * middle)[
            None
        ]  # what is nearer than the point aimed at stands further right from the left
        assert project(left, nearer, (64, 64))[0, 0] > project(right, nearer, (64, 64))[0, 0]


def test_views_are_named_by_number_and_camera() -> None:
    assert [Path3D(24).name(7, camera) for camera in (0, 1)] == ["07a", "07b"]
    assert Path3D(24, cameras=1).name(7, 0) == "07"


@pytest.mark.parametrize(
    "wrong", [{"views": 0}, {"views": 361}, {"cameras": 3}, {"elevation_deg": (0.0, 30.0)}]
)
def test_impossible_paths_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Path3D(**wrong)  # type: ignore[arg-type]


def test_a_shape_stands_centred_on_the_table_and_loses_stray_vertices() -> None:
    vertices = np.array([[1.0, 1, 5], [3, 1, 5], [1, 5, 9], [99, 99, 99]])
    shape = standing(vertices, np.array([[0, 1, 2]]))
    assert len(shape.vertices) == 3
    assert shape.vertices.min(axis=0).tolist() == [-1, -2, 0]
    assert shape.vertices.max(axis=0).tolist() == [1, 2, 4]
    assert shape.radius_m == pytest.approx(3)


@pytest.mark.parametrize(("fold_deg", "smooth"), [(20.0, True), (50.0, False)])
def test_normals_are_smooth_over_curves_and_sharp_at_edges(fold_deg: float, smooth: bool) -> None:
    turn = np.radians(fold_deg)
    fold = np.array([[0.0, 0, 0], [0, 1, 0], [-1, 0, 0], [np.cos(turn), 0, -np.sin(turn)]])
    normals = corner_normals(standing(fold, np.array([[0, 1, 2], [1, 0, 3]])))
    assert np.allclose(np.linalg.norm(normals, axis=2), 1)
    assert np.allclose(normals[0, 0], normals[1, 1]) == smooth  # at the vertex that both share
    assert np.allclose(normals[0, 2], [0, 0, 1])  # where a face is alone
