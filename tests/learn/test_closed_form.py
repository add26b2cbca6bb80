"""Gaussians and memories in closed form, against numpy, scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf as reference

from edge.learn.closed_form import coreset, gaussian, inverse_root, ledoit_wolf, whitening


def samples(seed: int, count: int, size: int) -> np.ndarray:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size)


def fourth(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(np.mean(np.square(x).sum(1) ** 2))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 8))
def test_correlations_in_pieces_are_shrunk_as_scikit_learn_does(seed: int, count: int, size: int) -> None:
    x = samples(seed, count, size)
    mean, covariance = gaussian(lambda: iter((x[:1], x[1 : count // 2 + 1], x[count // 2 + 1 :])))
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-9)
    std = x.std(0)
    np.testing.assert_allclose(covariance / std / std[:, None], reference(x / std)[0], rtol=1e-5, atol=1e-7)


def test_many_samples_give_numpys_covariance() -> None:
    x = samples(1, 50_000, 4)
    _, covariance = gaussian(lambda: iter((x,)))
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), rtol=2e-3, atol=2e-3)


def test_one_sample_gives_a_multiple_of_the_identity() -> None:
    x = np.array([[3.0, 4.0]])
    shrunk = ledoit_wolf(x.T @ x, fourth(x), 1)
    assert np.isfinite(shrunk).all()
    np.testing.assert_allclose(ledoit_wolf(np.eye(3) * 2, np.asarray(50.0), 1), np.eye(3) * 2)


def test_every_place_is_shrunk_as_it_would_be_alone() -> None:
    places = [samples(seed, 5, 3) for seed in range(4)]
    places = [x - x.mean(0) for x in places]
    together = ledoit_wolf(np.stack([x.T @ x / 5 for x in places]), np.stack([fourth(x) for x in places]), 5)
    for x, covariance in zip(places, together, strict=True):
        np.testing.assert_allclose(covariance, reference(x, assume_centered=True)[0], rtol=1e-9)


def test_units_of_features_make_no_difference() -> None:
    x, units = samples(3, 30, 4), np.array([0.1, 1.0, 2.0, 5.0])
    plain, scaled = gaussian(lambda: iter((x,))), gaussian(lambda: iter((x * units,)))
    z = (x - plain[0]) @ whitening(plain[1]).T
    again = (x * units - scaled[0]) @ whitening(scaled[1]).T
    np.testing.assert_allclose(again, z, rtol=1e-5, atol=1e-6)


def test_feature_that_never_varied_does_not_outweigh_the_others_when_it_does() -> None:
    x = samples(3, 30, 3)
    x[:, 1] = 0.25
    mean, covariance = gaussian(lambda: iter((x,)))
    x[0, 1] += 0.01 * x.std(0).mean()
    assert np.abs((x - mean) @ whitening(covariance).T).max() < 10


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_inverse_root_whitens(seed: int) -> None:
    covariance = np.cov(samples(seed, 200, 4).T)
    covariance += 0.01 * np.trace(covariance) * np.eye(4)  # no direction is below the least variance
    root = inverse_root(covariance)
    np.testing.assert_allclose(root @ covariance @ root.T, np.eye(4), atol=1e-6)


def test_direction_that_never_varies_does_not_become_infinite() -> None:
    assert np.isfinite(inverse_root(np.diag([1.0, 0.0]))).all()
    assert np.isfinite(inverse_root(np.zeros((2, 2)))).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_no_place_is_farther_from_the_memory_than_remembered_places_are_from_each_other(
    seed: int, count: int
) -> None:
    places = samples(seed, 40, 3)
    kept = coreset(places, count + 1)
    to_kept = np.linalg.norm(places[:, None] - kept[None], axis=2)
    among = np.linalg.norm(kept[:, None] - kept[None], axis=2)
    assert to_kept.min(1).max() <= among[~np.eye(len(kept), dtype=bool)].min() + 1e-6


def test_memory_larger_than_what_there_is_repeats() -> None:
    places = samples(0, 3, 2)
    assert {tuple(place) for place in coreset(places, 7)} == {tuple(place) for place in places}
