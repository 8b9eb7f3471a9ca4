"""Averages of one trajectory for every sample: those that its own potential has."""

import ase.build
import numpy as np
import pytest
from springs import CUTOFF, springs

from bnn_jax import InputError
from bnn_jax.properties import ensemble_average, radial_distribution
from bnn_jax.properties.averages import FewFramesWarning
from bnn_jax.units import BOLTZMANN_EV_PER_KELVIN

KELVIN = 600.0
STIFFNESS = (24.0, 30.0, 36.0)
GRID = np.linspace(0.3, 2.0, 4001)


def density(stiffness: float):
    """Of the length of two atoms on a spring."""
    energy = stiffness / 2 * ((GRID - 1) * (1 - GRID / CUTOFF)) ** 2
    weights = GRID**2 * np.exp(-energy / (KELVIN * BOLTZMANN_EV_PER_KELVIN))
    return weights / weights.sum()


@pytest.fixture(scope="module")
def lengths():
    """Independent ones, under the mean of the samples' potentials."""
    rng = np.random.default_rng(0)
    return np.interp(rng.random(3000), np.cumsum(density(float(np.mean(STIFFNESS)))), GRID)


def frames_of(lengths):
    return [ase.Atoms("N2", [[0, 0, 0], [0, 0, length]]) for length in lengths]


def test_averages_are_those_of_each_potential(lengths):
    frames = frames_of(lengths)
    values = np.stack([lengths, lengths**2], axis=1)
    found = ensemble_average(springs(frames[0], STIFFNESS), frames, values, KELVIN)
    expected = np.array([[density(k) @ GRID, density(k) @ GRID**2] for k in STIFFNESS])
    errors = 4 * values.std(axis=0) / np.sqrt(found.effective_sizes[:, None])
    assert (np.abs(found.value.draws - expected) < errors).all()
    spread = expected.std(axis=0, ddof=1)
    np.testing.assert_allclose(found.value.std, spread, rtol=0.2)  # more than half of the noise is common
    np.testing.assert_allclose(found.as_sampled, values.mean(axis=0))
    middle = springs(frames[0], (30.0, 30.0))
    np.testing.assert_allclose(ensemble_average(middle, frames, values, KELVIN).effective_sizes, 3000, rtol=1e-4)


def test_cumulants_are_the_first_order(lengths):
    """Of potentials that differ ten times less they are wrong by a hundred times less."""
    frames = frames_of(lengths)
    differences = []
    for scale in (1.0, 0.1):
        predictor = springs(frames[0], tuple(30.0 + scale * np.array([-12.0, 0.0, 12.0])))
        weights, cumulants = (
            ensemble_average(predictor, frames, lengths, KELVIN, method).value.draws
            for method in ("weights", "cumulants")
        )
        differences.append(np.abs(weights - cumulants).max())
    assert 50 < differences[0] / differences[1] < 200


def test_few_frames_are_warned_of(lengths):
    frames = frames_of(lengths[:20])
    predictor = springs(frames[0], (1.0, 500.0))
    with pytest.warns(FewFramesWarning, match="Of 20 frames .* count for sample"):
        ensemble_average(predictor, frames, lengths[:20], KELVIN)
    with pytest.raises(InputError, match="There are 3 values of 20 frames"):
        ensemble_average(predictor, frames, lengths[:3], KELVIN)
    with pytest.raises(InputError, match="kelvin is 0"):
        ensemble_average(predictor, frames, lengths[:20], 0.0)


def test_radial_distribution():
    """A crystal's shells; and of atoms without order, one everywhere."""
    crystal = ase.build.bulk("Cu", "fcc", a=3.6, cubic=True)
    found = radial_distribution([crystal], 4.0, 40)
    shell = 4 / 3 * np.pi * (0.1 * np.arange(1, 41)) ** 3
    counts = found.values[0] * np.diff(np.concatenate([[0], shell])) * 4 / 3.6**3
    assert counts[:30].sum() == pytest.approx(12) and counts.sum() == pytest.approx(18)
    assert found.distances[counts[:30].argmax()] == pytest.approx(3.6 / 2**0.5, abs=0.05)
    salt = ase.build.bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    of_pair = radial_distribution([salt], 3.0, 30, (11, 17))
    shell = 4 / 3 * np.pi * (0.1 * np.arange(31)) ** 3
    assert (of_pair.values[0] * np.diff(shell) * 4 / 5.6**3).sum() == pytest.approx(6)
    rng = np.random.default_rng(0)
    gas = [ase.Atoms("Ar100", rng.random((100, 3)) * 10, cell=[10] * 3, pbc=True) for _ in range(20)]
    np.testing.assert_allclose(radial_distribution(gas, 6.0, 6).values.mean(axis=0)[2:], 0.99, atol=0.03)
    with pytest.raises(InputError, match="periodic in three directions"):
        radial_distribution([ase.Atoms("Ar")], 3.0)
    with pytest.raises(InputError, match="has no atoms of the elements"):
        radial_distribution([crystal], 3.0, pair=(29, 1))
