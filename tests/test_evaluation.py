"""Figures of merit against plain formulas, and convergence in function space."""

import math

import jax
import numpy as np
import pytest
from ase import Atoms
from posteriors import molecular_posterior
from scipy.stats import norm
from systems import ammonia, labelled_series

from bnn_jax import Dataset, InputError, evaluate, metrics
from bnn_jax.evaluation import convergence, score


@pytest.fixture(scope="module")
def posterior():
    return molecular_posterior(ammonia(), num_samples=4, num_chains=2)


@pytest.fixture(scope="module")
def unseen():
    return Dataset.from_atoms(labelled_series(ammonia(), 5, seed=100))


@pytest.fixture(scope="module")
def predictive(posterior, unseen):
    return posterior.predict(unseen)


def without(dataset, **changes):
    """A copy with labels taken away."""
    fields = {name: np.array(getattr(dataset, name)) for name in dataset.__dataclass_fields__}
    for name, rows in changes.items():
        fields[name][rows] = np.nan
    return Dataset(**fields)


def test_figures_are_their_definitions(posterior, unseen, predictive):
    scores = evaluate(posterior, unseen)
    for name, target in (("energy", unseen.energy), ("forces", unseen.forces)):
        mean, std = getattr(predictive, name), getattr(predictive, f"{name}_std")
        aleatoric = getattr(predictive, f"{name}_std_aleatoric")
        aleatoric = aleatoric[:, None] if name == "forces" else aleatoric
        assert scores[f"{name}_mae"] == pytest.approx(np.abs(mean - target).mean(), rel=1e-5)
        assert scores[f"{name}_rmse"] == pytest.approx(np.sqrt(np.mean((mean - target) ** 2)), rel=1e-5)
        assert scores[f"{name}_mll"] == pytest.approx(norm.logpdf(target, mean, std).mean(), rel=1e-4)
        assert scores[f"{name}_mll_aleatoric"] == pytest.approx(norm.logpdf(target, mean, aleatoric).mean(), rel=1e-4)
        samples, stds = getattr(predictive, f"{name}_samples"), getattr(predictive, f"{name}_std_samples")
        stds = stds[..., None] if name == "forces" else stds
        mixture = np.log(np.exp(norm.logpdf(target, samples, stds)).mean(axis=0)).mean()
        assert scores[f"{name}_mll_mixture"] == pytest.approx(mixture, rel=1e-4)
    assert (scores["num_samples"], scores["num_structures"]) == (8, 5)
    assert 0 < scores["seconds"] < 600


def test_figures_beside_newer_papers(posterior, unseen, predictive):
    scores = evaluate(posterior, unseen)
    errors, std = predictive.forces - unseen.forces, predictive.forces_std
    assert scores["forces_rms_z"] == pytest.approx(np.sqrt(np.mean((errors / std) ** 2)), rel=1e-5)
    assert scores["energy_coverage_95"] == np.mean(
        np.abs(predictive.energy - unseen.energy) <= 2 * predictive.energy_std
    )
    assert scores["forces_crps"] == pytest.approx(
        metrics.gaussian_crps(predictive.forces, std, unseen.forces), rel=1e-5
    )
    assert scores["forces_rll"] == pytest.approx(metrics.relative_log_likelihood(errors, std), rel=1e-4)
    assert scores["forces_auroc_swept"] == pytest.approx(metrics.swept_auroc(errors, std), rel=1e-4)
    samples, stds = predictive.forces_samples, predictive.forces_std_samples
    whole = metrics.mixture_energy_score(samples, stds, unseen.forces)
    assert scores["forces_energy_score"] == pytest.approx(whole, rel=1e-5)
    part = score(predictive, without(unseen, forces=[3]), posterior.num_samples)  # one atom without labels
    kept = np.delete(np.arange(20), 3)
    rest = metrics.mixture_energy_score(samples[:, kept], stds[:, kept], unseen.forces[kept])
    assert part["forces_energy_score"] == pytest.approx(rest, rel=1e-5)


def test_auroc_counts_pairs_in_the_right_order(posterior, predictive, unseen):
    """Errors of 1 and of 0 eV/Å: the AUROC is the share of pairs in which the larger error has the larger std."""
    wrong = np.random.default_rng(3).random(unseen.forces.shape) < 0.5
    labels = predictive.forces + wrong
    fields = {name: getattr(unseen, name) for name in unseen.__dataclass_fields__} | {"forces": labels}
    scores = score(predictive, Dataset(**fields), posterior.num_samples)
    std = predictive.forces_std
    pairs = np.sign(std[wrong][:, None] - std[~wrong][None, :])
    assert scores["forces_auroc"] == pytest.approx((pairs.mean() + 1) / 2)
    exact = score(predictive, Dataset(**(fields | {"forces": predictive.forces})), posterior.num_samples)
    assert math.isnan(exact["forces_auroc"]) and exact["forces_mae"] == 0


def test_missing_labels_are_left_out(posterior, predictive, unseen):
    no_energy = without(unseen, energy=slice(None))
    scores = score(predictive, no_energy, posterior.num_samples)
    assert "energy_mae" not in scores and scores["forces_mae"] > 0
    no_forces = without(unseen, forces=slice(None))
    assert "forces_mae" not in score(predictive, no_forces, posterior.num_samples)
    part = score(predictive, without(unseen, energy=[0, 1], forces=[3]), posterior.num_samples)
    kept = np.delete(np.arange(20), 3)
    assert part["energy_mae"] == pytest.approx(np.abs(predictive.energy - unseen.energy)[2:].mean())
    assert part["forces_mae"] == pytest.approx(np.abs(predictive.forces - unseen.forces)[kept].mean())


def test_a_unseen_without_labels_is_refused(posterior):
    with pytest.raises(InputError, match=r"test set has no energy and no forces; give labelled structures"):
        evaluate(posterior, Dataset.from_atoms([ammonia()]))


def test_an_unknown_element_is_refused(posterior):
    water = Dataset.from_atoms(labelled_series(Atoms("OH", [[0, 0, 0], [1, 0, 0]]), 2))
    with pytest.raises(InputError, match=r"Structure 0 holds O, which the potential does not know"):
        evaluate(posterior, water)


def test_convergence_has_a_value_for_each_energy_and_force(posterior, unseen):
    result = convergence(posterior, unseen)
    assert result["rhat"].shape == result["ess"].shape == (5 + 3 * 20,)
    assert np.isfinite(result["rhat"]).all() and (result["rhat"] > 0.5).all()


def test_convergence_sees_chains_that_disagree(unseen):
    """Two chains that sample different functions, against one set of draws dealt out to both."""
    mixed = molecular_posterior(ammonia(), num_samples=12, num_chains=2)
    largest = []
    for order in (np.arange(24), np.argsort(mixed.predict(unseen).energy_samples[:, 0])):
        samples = jax.tree.map(lambda leaf, order=order: leaf[order], mixed.samples)
        posterior = type(mixed)(mixed.config, mixed.statistics, samples, 2, 0)
        largest.append(float(convergence(posterior, unseen)["rhat"][0]))
    assert largest[1] > 1.5 > largest[0]


def test_too_few_samples_give_nan(unseen):
    few = molecular_posterior(ammonia(), num_samples=3)
    assert np.isnan(convergence(few, unseen)["rhat"]).all()


def test_a_prediction_that_overflows_is_named(posterior, predictive, unseen):
    stds = predictive.forces_std.copy()
    stds[2 * 4 + 1, 0] = np.inf
    with pytest.raises(InputError, match=r"prediction for structure 2 of the test set is not finite \(1 such"):
        score(predictive._replace(forces_std=stds), unseen, posterior.num_samples)


def test_a_part_of_a_predictive_is_that_of_the_part(posterior):
    mixed = Dataset.from_atoms([*labelled_series(ammonia(), 2, seed=1), Atoms("N"), *labelled_series(ammonia(), 2)])
    whole, chosen = posterior.predict(mixed), np.array([1, 2, 4])
    part, expected = whole.take(chosen), posterior.predict(mixed.take(chosen))
    assert whole.beyond_validated is None
    for name, value in expected._asdict().items():
        if value is None:
            assert getattr(part, name) is None
        else:
            np.testing.assert_allclose(getattr(part, name), value, rtol=1e-4, atol=1e-5, err_msg=name)
    beyond = np.arange(13) % 3 == 0
    marked = whole._replace(beyond_validated=beyond).take(np.array([3]))
    np.testing.assert_array_equal(marked.beyond_validated, beyond[9:13])
