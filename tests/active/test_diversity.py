"""Choices among candidates: far from each other, and of good quality."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from bnn_jax.active.diversity import determinantal, k_centres
from bnn_jax.types import InputError


def radius(features: np.ndarray, chosen: np.ndarray) -> float:
    return float(cdist(features, features[list(chosen)]).min(axis=1).max())


def test_centres_cover_within_twice_the_best() -> None:
    for seed in range(5):
        features = np.random.default_rng(seed).normal(size=(12, 2))
        best = min(radius(features, c) for c in itertools.combinations(range(12), 3))
        assert radius(features, k_centres(features, 3)) <= 2 * best + 1e-12


def test_what_is_known_is_not_chosen_again() -> None:
    features = np.array([[0.0], [0.1], [5.0], [9.0]])
    assert k_centres(features, 2, known=np.array([[0.0], [9.0]])).tolist()[0] == 2
    assert k_centres(features, 2, first=1).tolist() == [1, 3]
    assert sorted(k_centres(features, 9).tolist()) == [0, 1, 2, 3]


def test_copies_are_chosen_once() -> None:
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(4, 3))
    features = np.repeat(distinct, 5, axis=0) + 1e-6 * rng.normal(size=(20, 3))
    for chosen in (k_centres(features, 4), determinantal(features, np.ones(20), 4)):
        assert sorted(np.asarray(chosen) // 5) == [0, 1, 2, 3]


def test_the_greedy_choice_is_that_of_determinants() -> None:
    rng = np.random.default_rng(1)
    features, quality = rng.normal(size=(7, 2)), rng.uniform(0.5, 2, 7)
    distances = cdist(features, features)
    width = np.median(distances[np.triu_indices(7, 1)])
    kernel = np.exp(-0.5 * (distances / width) ** 2) * np.outer(quality, quality)
    wanted: list[int] = []
    for _ in range(4):
        rest = [i for i in range(7) if i not in wanted]
        wanted.append(max(rest, key=lambda i: np.linalg.det(kernel[np.ix_([*wanted, i], [*wanted, i])])))
    assert determinantal(features, quality, 4).tolist() == wanted


def test_quality_decides_between_equally_new() -> None:
    features = np.array([[0.0], [10.0], [10.0]])
    assert determinantal(features, np.array([1.0, 1.0, 2.0]), 2).tolist() == [2, 0]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="0 candidates were to be chosen"):
        k_centres(np.zeros((2, 1)), 0)
    with pytest.raises(InputError, match="must be positive"):
        determinantal(np.zeros((2, 1)), np.array([1.0, 0.0]), 1)
