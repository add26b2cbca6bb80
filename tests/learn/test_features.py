"""Features and distances: what is fitted is what numpy says, and a planted defect stands out."""

from __future__ import annotations

import cv2
import numpy as np
import openvino as ov
import pytest
import torch

from edge.errors import DataError
from edge.learn.export import to_onnx
from edge.learn.labels import LabelledPlane
from edge.learn.models.anomaly_unet import AnomalyUNet, AnomalyUNetConfig
from edge.learn.models.features import (
    AnyOf,
    BankConfig,
    Distance,
    FeatureDistance,
    FeaturesConfig,
    FilterBank,
    Nearest,
    Placed,
    features_of,
    fit,
    gabor_filters,
)
from edge.learn.models.sorts import silhouette, sorts_of
from edge.types import FloatImage

SIDE = 96
DISTANCES: tuple[Distance, ...] = ("gaussian", "aligned", "memory")
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def config(distance: Distance, **changes: object) -> FeaturesConfig:
    size_px = SIDE if distance == "aligned" else 0
    return FeaturesConfig(distance, size_px=size_px, remembered=64, **changes)  # type: ignore[arg-type]


def part(seed: int, shift: tuple[int, int] = (0, 0)) -> FloatImage:
    """A plate with a slot and a hole that always lie at the same place, under noise."""
    y, x = np.mgrid[:SIDE, :SIDE] - np.array(shift)[:, None, None]
    plane = 0.6 - 0.3 * ((abs(y - 30) < 5) & (abs(x - 48) < 30)) - 0.4 * (np.hypot(y - 66, x - 30) < 11)
    noise = np.random.default_rng(seed).normal(0, 0.02, plane.shape)
    return np.clip(plane + noise, 0, 1).astype(np.float32)


def texture(seed: int) -> FloatImage:
    """Fine grain without a place of its own."""
    rng = np.random.default_rng(seed)
    return np.clip(0.5 + 0.4 * cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 1.5), 0, 1).astype(
        np.float32
    )


def good(distance: Distance, seed: int) -> FloatImage:
    """What each distance is for."""
    return part(seed) if distance == "aligned" else texture(seed)


def labelled(*planes: FloatImage) -> list[LabelledPlane]:
    return [LabelledPlane(p.astype(np.float16), np.zeros(p.shape, np.uint8)) for p in planes]


def fitted(distance: Distance, seed: int = 0, **changes: object) -> FeatureDistance:
    network = FeatureDistance(config(distance, **changes))
    fit(network, labelled(*(good(distance, k) for k in range(8))), seed)
    return network


def answer(network: FeatureDistance, plane: FloatImage) -> FloatImage:
    with torch.no_grad():
        return network(torch.from_numpy(plane)[None, None])[0, 0].numpy()  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=DISTANCES)
def network(request: pytest.FixtureRequest) -> FeatureDistance:
    return fitted(request.param)


def test_map_is_as_large_as_the_tile_and_between_0_and_1(network: FeatureDistance) -> None:
    values = answer(network, good(network.config.distance, 20))
    assert values.shape == (SIDE, SIDE)
    assert 0 <= values.min() <= values.max() <= 1


def test_planted_scratch_stands_out_from_its_surroundings_and_from_good_frames(
    network: FeatureDistance,
) -> None:
    plane = good(network.config.distance, 20)
    scratched = plane.copy()
    scratched[60:62, 60:84] += 0.35
    values, before = answer(network, scratched), answer(network, plane)
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    assert 52 <= y < 70
    assert 52 <= x < 92
    assert values[56:66, 58:86].mean() > 2 * np.median(values)
    assert values.max() > 1.2 * before.max()


def test_good_frames_that_were_not_learned_stay_below_half_but_for_few_places(
    network: FeatureDistance,
) -> None:
    values = np.stack([answer(network, good(network.config.distance, k)) for k in range(30, 36)])
    assert (values > 0.5).mean() < 0.02
    assert np.median(values) < 0.15


def test_what_is_exported_answers_as_torch_does(network: FeatureDistance) -> None:
    plane = good(network.config.distance, 20)
    tiles = np.stack([plane, plane[::-1], 1 - plane])[:, None]
    core = ov.Core()
    compiled = core.compile_model(core.read_model(to_onnx(network, SIDE)), "CPU", EXACT)
    with torch.no_grad():
        np.testing.assert_allclose(compiled(tiles)[0], network(torch.from_numpy(tiles)).numpy(), atol=1e-4)


def test_only_the_aligned_distance_misses_a_hole_that_is_not_there() -> None:
    undrilled = part(20)
    undrilled[50:82, 14:46] = part(20)[50:82, 60:92]  # good texture of another place
    hole = (slice(54, 78), slice(18, 42))
    assert answer(fitted("aligned"), undrilled)[hole].max() > 0.9
    memory = FeatureDistance(config("memory"))
    fit(memory, labelled(*(part(k) for k in range(8))), 0)
    assert answer(memory, undrilled)[hole].max() < 0.7


@pytest.mark.parametrize("shift", [(2, 0), (-2, 2), (0, -4), (4, 4)])
def test_part_that_lies_a_few_pixels_beside_is_nearer_than_one_without_its_hole(
    shift: tuple[int, int],
) -> None:
    undrilled = part(20)
    undrilled[50:82, 14:46] = part(20)[50:82, 60:92]
    tolerant, strict = fitted("aligned"), fitted("aligned", tolerance=0, play_px=0)
    moved = part(20, shift)
    assert answer(tolerant, moved).max() < answer(tolerant, undrilled).max()

    def excess(network: FeatureDistance) -> float:  # over a good frame
        with torch.no_grad():
            pair = network.squared(torch.from_numpy(np.stack([moved, part(20)]))[:, None])
        return float(pair[0].max() / pair[1].max())

    assert excess(tolerant) < 0.5 * excess(strict)


def test_gaussian_distance_is_numpys_mahalanobis() -> None:
    network = fitted("gaussian")

    def rows(plane: FloatImage) -> np.ndarray:  # type: ignore[type-arg]
        around = np.pad(plane.astype(np.float16).astype(np.float32), 64, mode="reflect")
        found = network.features(torch.from_numpy(around)[None, None])[0, :, 8:-8, 8:-8]
        return found.flatten(1).double().numpy().T  # type: ignore[no-any-return]

    learned = np.concatenate([rows(texture(k)) for k in range(8)])
    off = rows(texture(20)) - learned.mean(0)
    wanted = np.einsum("ki,ij,kj->k", off, np.linalg.inv(np.cov(learned.T, bias=True)), off) / off.shape[1]
    with torch.no_grad():
        z = network.distance(
            network.whitened(torch.from_numpy(np.pad(texture(20), 64, mode="reflect"))[None, None])
        )
    found = z[0, 0, 8:-8, 8:-8].flatten().numpy() / off.shape[1]
    assert np.corrcoef(found, wanted)[0, 1] > 0.98  # correlations are shrunk a little
    assert np.median(found / wanted) == pytest.approx(1, abs=0.1)


def test_nearest_is_brute_force() -> None:
    rng = np.random.default_rng(0)
    nearest = Nearest(20, 5)
    nearest.places.copy_(torch.from_numpy(rng.normal(size=(20, 5))))
    z = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    wanted = np.square(z[:, None] - nearest.places.numpy()[None, :, :, None, None]).sum(2).min(1)
    np.testing.assert_allclose(nearest(torch.from_numpy(z))[:, 0].numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tolerance", [0, 1, 2])
def test_placed_is_brute_force_over_a_places_neighbours(tolerance: int) -> None:
    rng = np.random.default_rng(tolerance)
    side, channels = 5, 3
    placed = Placed(side, channels, tolerance)
    placed.means.copy_(torch.from_numpy(rng.normal(size=placed.means.shape)))
    placed.roots.copy_(torch.from_numpy(rng.normal(size=placed.roots.shape)))
    z = rng.normal(size=(2, channels, side, side)).astype(np.float32)
    found = placed(torch.from_numpy(z))[:, 0].numpy()
    means, roots = placed.means.numpy(), placed.roots.numpy()
    for n in range(2):
        for i in range(side):
            for j in range(side):
                near = [
                    np.square(roots[p, q] @ (z[n, :, i, j] - means[p, q])).sum()
                    for p in range(max(0, i - tolerance), min(side, i + tolerance + 1))
                    for q in range(max(0, j - tolerance), min(side, j + tolerance + 1))
                ]
                assert found[n, i, j] == pytest.approx(min(near), rel=1e-4)


@pytest.mark.parametrize("distance", DISTANCES)
def test_same_planes_and_seed_give_the_same_network(distance: Distance) -> None:
    first, again = fitted(distance, seed=5).state_dict(), fitted(distance, seed=5).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_seed_remembers_other_places() -> None:
    first, other = fitted("memory", seed=5), fitted("memory", seed=6)
    assert not torch.equal(first.distance.places, other.distance.places)  # type: ignore[arg-type]


def test_one_frame_of_texture_is_enough() -> None:
    network = FeatureDistance(config("memory"))
    fit(network, labelled(part(0)), 0)
    assert 0 < float(network.scale) < float("inf")


def test_planes_that_are_no_multiple_of_the_stride_or_smaller_than_their_surroundings_are_learned() -> None:
    network = FeatureDistance(config("memory"))
    fit(network, labelled(part(0)[:37, :50], part(1)[:20, :21], part(2)[:5, :6]), 0)
    assert np.isfinite(answer(network, part(3))).all()


def test_unfitted_network_finds_nothing() -> None:
    assert answer(FeatureDistance(config("memory")), part(0)).max() == 0


def test_too_few_frames_for_an_object_are_refused_with_a_way_out() -> None:
    network = FeatureDistance(config("aligned"))
    with pytest.raises(DataError, match="2 frames") as error:
        fit(network, labelled(part(0), part(1)), 0)
    assert "features-memory" in str(error.value.hint)
    with pytest.raises(DataError, match="no frames"):
        fit(network, [], 0)
    with pytest.raises(DataError, match="not of 96"):
        fit(network, labelled(*[part(0)[:88]] * 3), 0)


def test_aligned_network_needs_a_size_on_the_grid() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        FeatureDistance(FeaturesConfig("aligned", size_px=100))


def test_filters_are_blind_to_grey_and_of_norm_1() -> None:
    filters = gabor_filters(BankConfig())
    np.testing.assert_allclose(filters.sum((1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(np.square(filters).sum((1, 2)), 1)


def test_every_stride_gives_its_grid() -> None:
    for stride_px in (2, 4, 8, 16):
        bank = FilterBank(BankConfig(stride_px=stride_px))
        assert bank(torch.rand(2, 1, 64, 32)).shape == (2, bank.channels, 64 // stride_px, 32 // stride_px)


def test_learned_encoder_gives_features_and_keeps_its_weights() -> None:
    torch.manual_seed(0)
    encoder = AnomalyUNet(AnomalyUNetConfig(channels=(4, 6, 8))).eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    network = features_of(encoder, config("gaussian"))
    fit(network, labelled(*(texture(k) for k in range(4))), 0)
    scratched = texture(20)
    scratched[60:62, 60:84] += 0.4
    with torch.no_grad():
        pair = network.squared(torch.from_numpy(np.stack([texture(20), scratched]))[:, None])[:, 0, 7, 8:10]
    assert float(pair[1].min()) > 2 * float(pair[0].max())
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def turned(seed: int) -> FloatImage:
    """The same part from the other side: a second sort of frames."""
    return np.ascontiguousarray(part(seed)[::-1, ::-1])


def two_sorts(count: int) -> list[LabelledPlane]:
    """In turn, as views of a part come."""
    return labelled(*(shown(k) for k in range(count) for shown in (part, turned)))


def test_sorts_of_frames_are_told_apart_whatever_their_brightness_and_order() -> None:
    planes = labelled(*(0.5 * shown(k) + 0.1 * (k % 4) for k in range(5) for shown in (part, turned)))
    for most in (2, 3, 4, 20):
        found = [{id(plane) for plane in sort} for sort in sorts_of(planes, most, 0)]
        wanted = [{id(plane) for plane in planes[start::2]} for start in (0, 1)]
        assert sorted(found, key=min) == sorted(wanted, key=min)


def test_frames_that_differ_by_noise_alone_are_one_sort() -> None:
    for count in (6, 10, 24):
        assert len(sorts_of(labelled(*(part(k) for k in range(count))), 4, 0)) == 1


@pytest.mark.parametrize("clusters", [1, 2, 3, 5])
def test_silhouette_is_scikit_learns(clusters: int) -> None:
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(clusters)
    points = rng.normal(size=(20, 3)).astype(np.float32)
    labels = np.concatenate([np.arange(clusters), rng.integers(clusters, size=20 - clusters)])
    wanted = silhouette_score(points, labels) if clusters > 1 else 0.0
    assert silhouette(points, labels) == pytest.approx(wanted, abs=1e-6)


def test_a_sort_of_fewer_than_three_frames_is_given_up_and_none_is_lost() -> None:
    planes = labelled(*(part(k) for k in range(6)), turned(0), turned(1))
    for seed in range(5):
        for most in (2, 3, 4, 8):
            found = sorts_of(planes, most, seed)
            assert sorted(id(plane) for sort in found for plane in sort) == sorted(map(id, planes))
            assert min(map(len, found)) >= 3


@pytest.mark.parametrize(
    "planes", [labelled(*[part(0)] * 7), labelled(*[np.zeros((SIDE, SIDE), np.float32)] * 7)]
)
def test_equal_frames_are_sorted_somehow(planes: list[LabelledPlane]) -> None:
    assert sum(map(len, sorts_of(planes, 4, 2**40))) == 7


def test_fewer_than_six_frames_are_one_sort() -> None:
    assert len(sorts_of(two_sorts(2), 4, 0)) == 1


def test_each_sort_of_frames_has_its_own_gaussians() -> None:
    """One model for both sides knows neither: a hole of one side may then lie at the other's."""
    network, single = FeatureDistance(config("aligned", kinds=2)), FeatureDistance(config("aligned"))
    for one in (network, single):
        fit(one, two_sorts(6), 0)
    assert isinstance(network.distance, AnyOf)
    assert len(network.distance.kinds) == 2
    undrilled = part(20)
    undrilled[50:82, 14:46] = part(20)[50:82, 60:92]
    for shown in (part(20), turned(20)):
        assert answer(network, shown).max() < 0.6
    assert answer(network, undrilled)[54:78, 18:42].max() > 0.9
    assert answer(single, undrilled)[54:78, 18:42].max() < answer(network, undrilled)[54:78, 18:42].max()


@pytest.mark.parametrize("distance", ["memory", "aligned"])
def test_views_that_come_in_turn_are_measured_on_both(distance: Distance) -> None:
    """Every other frame is the same view: learned from one alone, the other would seem infinitely far."""
    in_turn, one_after_another = (FeatureDistance(config(distance, kinds=2)) for _ in range(2))
    planes = two_sorts(6)
    fit(in_turn, planes, 0)
    fit(one_after_another, planes[::2] + planes[1::2], 0)
    assert float(in_turn.scale) == pytest.approx(float(one_after_another.scale), rel=0.3)
    scratched = part(20)
    scratched[60:62, 60:84] += 0.35
    assert answer(in_turn, scratched)[56:66, 58:86].max() > 0.5


@pytest.mark.slow
def test_more_sorts_than_there_are_do_no_harm_and_are_exported() -> None:
    several, one = FeatureDistance(config("aligned", kinds=4)), FeatureDistance(config("aligned"))
    planes = labelled(*(part(k) for k in range(5)))
    for network in (several, one):
        fit(network, planes, 0)
    assert isinstance(several.distance, AnyOf)
    assert len(several.distance.kinds) == 1
    np.testing.assert_array_equal(answer(several, part(20)), answer(one, part(20)))
    two = FeatureDistance(config("aligned", kinds=4))
    fit(two, two_sorts(4), 0)
    tiles = np.stack([part(20), turned(21), 1 - part(22)])[:, None]
    core = ov.Core()
    for network in (several, two):
        compiled = core.compile_model(core.read_model(to_onnx(network, SIDE)), "CPU", EXACT)
        with torch.no_grad():
            wanted = network(torch.from_numpy(tiles)).numpy()
        np.testing.assert_allclose(compiled(tiles)[0], wanted, atol=1e-4)
