"""Attacks: the objective of the paper, its ascent, and the limits that it keeps."""

import dataclasses
import itertools

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from posteriors import molecular_posterior, random_posterior
from systems import ammonia, labelled_series, silicon, water

from bnn_jax import Config, Dataset, fit
from bnn_jax.active.adversarial import Attack, adversarial, distance, uncertainty
from bnn_jax.compose import samples_fn
from bnn_jax.types import InputError, Prediction

TRAIN = Dataset.from_atoms(labelled_series(ammonia(), 6))
FREE = Attack(num_seeds=4, num_steps=30, max_energy=1e5, closest=0.0, rmsd=0.0, thermal_energy=10.0)


@pytest.fixture(scope="module")
def posterior():
    return molecular_posterior(ammonia(), num_samples=4)


def prediction(num_samples: int, **changes) -> Prediction:
    rng = np.random.default_rng(0)
    forces = jnp.asarray(rng.normal(size=(num_samples, 3, 3)))
    zeros = jnp.zeros((num_samples, 1))
    stds = jnp.full((num_samples, 3), 0.5)
    return Prediction(zeros, forces, None, zeros, stds, jnp.zeros((num_samples, 3)), None)._replace(**changes)


class TestUncertainty:
    def test_of_samples_it_is_their_variance(self) -> None:
        """Tan (2023), eq. 5: the sum over components of an atom is over 3 n."""
        found = prediction(5)
        forces = np.asarray(found.forces)
        wanted = sum(((forces[m] - forces.mean(axis=0)) ** 2).sum() / (3 * 3) for m in range(5)) / 4
        assert float(uncertainty(found)) == pytest.approx(wanted, rel=1e-6)

    def test_of_one_network_it_is_what_that_says(self) -> None:
        assert float(uncertainty(prediction(1))) == pytest.approx(0.25)
        own = prediction(1, forces_std_epistemic=jnp.full((1, 3, 3), 0.2))
        assert float(uncertainty(own)) == pytest.approx(0.04)

    def test_a_score_comes_first(self) -> None:
        assert float(uncertainty(prediction(1, score=jnp.asarray([[1.0, 2.0, 6.0]])))) == pytest.approx(3.0)


def objective(posterior, positions: np.ndarray, attack: Attack) -> float:
    """log p U by the plain functions."""
    found = samples_fn(posterior.predictor, ammonia())(jnp.asarray(positions, jnp.float32))
    return float(jnp.log(uncertainty(found)) - found.energy.mean() / (attack.thermal_energy * len(positions)))


def test_structures_are_those_that_were_asked_for(posterior) -> None:
    found = adversarial(posterior, TRAIN, FREE, seed=1)
    assert 1 <= len(found.structures) <= 4 and (found.objective > 1).all()
    assert (np.diff(found.objective) <= 0).all()
    shifts = dict(zip(posterior.statistics.species, posterior.statistics.shifts, strict=True))
    for i, structure in enumerate(found.structures):
        start = TRAIN[found.seeds[i]]
        gain = objective(posterior, structure.positions, FREE) - objective(posterior, start.positions, FREE)
        assert np.log(found.objective[i]) == pytest.approx(gain, abs=2e-2)
        predicted = posterior.predict(structure)
        assert found.energy[i] == pytest.approx(predicted.energy[0] - TRAIN.energy.min(), abs=1e-3)
        spread = np.var(predicted.forces_samples, axis=0, ddof=1).mean()
        assert found.uncertainty[i] == pytest.approx(spread, rel=1e-3)
        assert structure.numbers.tolist() == start.numbers.tolist()
    assert shifts  # the energies above are not above them


def test_the_first_step_of_adam_is_up_the_gradient_by_the_learning_rate(posterior) -> None:
    """In every coordinate, so that one step from a start says which way the gradient of p U points."""
    attack = dataclasses.replace(FREE, num_seeds=1, num_steps=1, learning_rate=1e-3)
    found = adversarial(posterior, TRAIN, attack, seed=2)
    start = TRAIN[found.seeds[0]].positions
    at = samples_fn(posterior.predictor, ammonia())

    def log_objective(positions):
        found = at(positions)
        return jnp.log(uncertainty(found)) - found.energy.mean() / (attack.thermal_energy * 4)

    gradient = np.asarray(jax.grad(log_objective)(jnp.asarray(start, jnp.float32)))
    clear = np.abs(gradient) > 1e-3 * np.abs(gradient).max()
    moved = found.structures[0].positions - start
    np.testing.assert_allclose(moved[clear], 1e-3 * np.sign(gradient)[clear], rtol=0.02, atol=2e-6)


def test_the_reading_of_the_code_sums_displacements_up(posterior) -> None:
    """After k steps of one size and direction the sum is that of k (k + 1) / 2 of them."""
    attack = dataclasses.replace(FREE, num_seeds=1, num_steps=4, learning_rate=1e-4)
    paper = adversarial(posterior, TRAIN, attack, seed=2)
    code = adversarial(posterior, TRAIN, dataclasses.replace(attack, update="code"), seed=2)
    start = TRAIN[paper.seeds[0]].positions
    ways = [np.abs(found.structures[0].positions - start).max() for found in (paper, code)]
    assert ways[0] == pytest.approx(4e-4, rel=0.05)
    assert ways[1] > 1.8 * ways[0]


def test_limits_are_kept(posterior) -> None:
    close = adversarial(
        posterior, TRAIN, dataclasses.replace(FREE, learning_rate=0.1, num_steps=60, closest=0.8), seed=1
    )
    assert len(close.structures)
    for structure in close.structures:
        distances = structure.get_all_distances()[np.triu_indices(4, 1)]
        assert distances.min() > 0.8 - 1e-6
    allowed = float(np.median(close.energy))
    low = adversarial(
        posterior, TRAIN, dataclasses.replace(FREE, learning_rate=0.1, max_energy=max(allowed, 0.1)), seed=1
    )
    assert (low.energy <= max(allowed, 0.1) + 1e-3).all()


def test_near_copies_are_left_out(posterior) -> None:
    many = dataclasses.replace(FREE, num_seeds=24, rmsd=1e-3)  # of six structures: seeds repeat, and repeats end alike
    found = adversarial(posterior, TRAIN, many, seed=0)
    assert 1 <= len(found.structures) <= 6
    pairs = itertools.combinations(found.structures, 2)
    assert all(distance(one, other) > 1e-3 for one, other in pairs)


@pytest.mark.slow
def test_several_compositions_and_a_cell() -> None:
    train = Dataset.from_atoms([*labelled_series(ammonia(), 3), *labelled_series(water(), 3)])
    posterior = random_posterior(train.to_atoms(), num_samples=2)
    found = adversarial(posterior, train, dataclasses.replace(FREE, num_seeds=6), seed=0)
    assert {str(each.symbols) for each in found.structures} == {"NH3", "OH2"} or len(found.structures) < 2
    crystal = Dataset.from_atoms(labelled_series(silicon(), 3))
    posterior = random_posterior(crystal.to_atoms(), num_samples=2)
    found = adversarial(posterior, crystal, dataclasses.replace(FREE, num_seeds=2, num_steps=5), seed=0)
    assert found.structures and all(each.pbc.all() for each in found.structures)


def test_distances() -> None:
    one = ammonia()
    other = one.copy()
    other.rotate(40, "x", center="COM")
    other.translate([1, 2, 3])
    assert distance(one, other) == pytest.approx(0, abs=1e-6)
    other.positions[0] += [0.3, 0, 0]
    assert 0.05 < distance(one, other) < 0.15
    assert distance(one, water()) == float("inf")
    cell = silicon()
    moved = cell.copy()
    moved.positions[0] += cell.cell.array[0]
    assert distance(cell, moved) == pytest.approx(0, abs=1e-6)
    moved.positions[0, 0] += 0.1
    assert distance(cell, moved) == pytest.approx(0.1 / np.sqrt(len(cell)), rel=1e-6)


def test_bad_input(posterior) -> None:
    without = dataclasses.replace(TRAIN, energy=np.full(len(TRAIN), np.nan))
    with pytest.raises(InputError, match="has no energies, from which an attack takes what is likely"):
        adversarial(posterior, without)
    with pytest.raises(InputError, match=r"attack\.num_seeds is 0; it must be"):
        Attack(num_seeds=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ensemble", "mean_variance", "evidential", "mixture", "shallow", "dropout"])
def test_every_method_with_a_differentiable_score(method: str) -> None:
    config = Config.from_dict(
        {
            "method": method,
            "model": {"num_blocks": 1, "num_features": 8, "radial_hidden": [8], "std_hidden": [8], "cutoff": 4.0},
            "trainer": {"num_steps": 60, "log_every": 30, "batch_size": 3},
            "ensemble": {"num_members": 2},
            "shallow": {"num_readouts": 3},
            "mixture": {"num_components": 1},
        }
    )
    found = adversarial(fit(TRAIN, None, config), TRAIN, FREE, seed=0)
    assert found.structures and np.isfinite(found.uncertainty).all()
    assert all(isinstance(each, ase.Atoms) for each in found.structures)
