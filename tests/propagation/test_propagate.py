"""A property of every sample by itself, with a mean and a spread that follow, and errors that name the samples."""

import ase
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from springs import springs

from bnn_jax import InputError, propagate
from bnn_jax.properties import FailedSamplesWarning, relax, relaxed_geometry

STIFFNESS = (10.0, 20.0, 60.0)
WATER = systems.water()
QUIET = {"progress": False}


def energies():
    """Of water: its three pairs, by their stiffness."""
    lengths = WATER.get_all_distances()[np.triu_indices(3, 1)]
    return np.array(STIFFNESS) / 2 * np.sum((lengths - 1) ** 2 * (1 - lengths / 3) ** 2)


def test_by_calculators_and_on_the_device():
    predictor = springs(WATER, STIFFNESS)

    def by_calculator(calculator):
        atoms = WATER.copy()
        atoms.calc = calculator
        return {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}

    found = propagate(predictor, by_calculator, **QUIET)
    shift = found.draws["energy"] - energies()
    np.testing.assert_allclose(shift, shift[0], atol=1e-5)  # the atomic shifts
    assert found.std["energy"] == pytest.approx(energies().std(ddof=1), rel=1e-5)
    assert found.mean["forces"].shape == (3, 3) and found.draws["forces"].shape == (3, 3, 3)
    np.testing.assert_allclose(found.mean["forces"], predictor.predict(WATER).forces, atol=1e-5)
    assert found.samples.tolist() == [0, 1, 2]

    on_device = propagate(predictor, lambda energy: energy(jnp.asarray(WATER.positions)), WATER)
    np.testing.assert_allclose(on_device.draws, energies(), rtol=1e-5)
    assert on_device.mean == pytest.approx(energies().mean(), rel=1e-5)


def test_one_sample_has_no_spread():
    found = propagate(springs(WATER, (20.0,)), lambda energy: energy(jnp.asarray(WATER.positions)), WATER)
    assert found.std == 0 and found.draws.shape == (1,)


def test_samples_that_fail():
    predictor, numbers = springs(WATER, STIFFNESS), iter(range(100))

    def fails_once(failing, how):
        def fn(_):
            if next(numbers) % 3 == failing:
                return how()
            return np.ones(2)

        return fn

    def refuses():
        raise InputError("no minimum.")

    with pytest.raises(InputError, match=r"failed for samples 1 of 3 \(of sample 1: it is not finite\)"):
        propagate(predictor, fails_once(1, lambda: np.array([1.0, np.nan])), **QUIET)
    with pytest.warns(FailedSamplesWarning, match="failed for samples 1 of 3 .* they are left out"):
        found = propagate(predictor, fails_once(1, lambda: np.array([1.0, np.nan])), allow_failed=True, **QUIET)
    assert found.samples.tolist() == [0, 2] and found.draws.shape == (2, 2)
    with pytest.warns(FailedSamplesWarning, match="of sample 2: no minimum"):
        found = propagate(predictor, fails_once(2, refuses), allow_failed=True, **QUIET)
    assert found.samples.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"another shape for sample 2 than for sample 0, \(3,\) instead of\s+\(2,\)"):
        propagate(predictor, fails_once(2, lambda: np.ones(3)), **QUIET)
    with pytest.raises(InputError, match="failed for samples 0, 1, 2 of 3"):
        propagate(predictor, lambda _: np.nan, allow_failed=True, **QUIET)
    numbers = iter(range(100))
    with pytest.raises(InputError, match=r"The property failed for sample 0: no minimum"):
        propagate(predictor, fails_once(0, refuses), **QUIET)


def test_every_sample_comes_to_rest_where_its_springs_do():
    """A molecule of one length, whatever the stiffness: no spread, and no spread by turning."""
    start = ase.Atoms("N2", [[0, 0, 0], [0.7, 0.6, 0.9]])
    found = relaxed_geometry(springs(start, STIFFNESS), start, max_force=1e-3, **QUIET)
    lengths = np.linalg.norm(found.draws["positions"][:, 0] - found.draws["positions"][:, 1], axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-3)
    assert found.std["positions"].max() < 1e-3
    direction = start.positions[1] / np.linalg.norm(start.positions[1])
    np.testing.assert_allclose(found.mean["positions"][1] - found.mean["positions"][0], direction, atol=1e-3)


def test_what_does_not_come_to_rest():
    start = ase.Atoms("N2", [[0, 0, 0], [0.7, 0.6, 0.9]])
    calculator = springs(start)
    from bnn_jax import BNNCalculator

    with pytest.raises(InputError, match="N2 is not at rest after 1 steps: the largest force is still"):
        relax(start, BNNCalculator(calculator), num_steps=1)
    with pytest.raises(InputError, match="no cell of three vectors to relax"):
        relax(start, BNNCalculator(calculator), cell=True)
