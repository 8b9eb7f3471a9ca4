"""Losses against SciPy's distributions on a batch whose labels are partly missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bnn_jax.atoms import Dataset
from bnn_jax.posterior import log_likelihood
from bnn_jax.training import losses
from bnn_jax.training.losses import Evidence
from bnn_jax.units import EV_PER_KCAL_PER_MOL
from tests.posterior.labelled import NUM_NODES, batch_of, random_prediction, structures

pytestmark = pytest.mark.usefixtures("x64")

ALL = np.arange(6)


def labelled_errors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energy errors in kcal/mol, force errors [atom, 3] in kcal/mol/Angstrom, and the indices of those atoms."""
    data = Dataset.from_atoms(structures())
    prediction = random_prediction(7)
    energy = np.asarray(prediction.energy)[:6] - data.energy
    atoms = np.flatnonzero(np.isfinite(data.forces).all(axis=1))
    forces = np.asarray(prediction.forces)[atoms] - data.forces[atoms]
    return energy[np.isfinite(energy)] / EV_PER_KCAL_PER_MOL, forces / EV_PER_KCAL_PER_MOL, atoms


def evidence() -> Evidence:
    rng = np.random.default_rng(3)
    nu, alpha, beta = rng.uniform(0.2, 3, size=(3, NUM_NODES))
    return Evidence(jnp.asarray(nu), jnp.asarray(1 + alpha), jnp.asarray(beta * EV_PER_KCAL_PER_MOL**2))


def test_absolute_error_by_hand() -> None:
    energy, forces, _ = labelled_errors()
    expected = 0.1 * np.abs(energy).mean() + 2.0 * np.abs(forces).mean()
    assert losses.absolute_error(random_prediction(7), batch_of(ALL), 0.1, 2.0) == pytest.approx(expected, rel=1e-12)


def test_mean_variance_equals_scipy() -> None:
    energy, forces, atoms = labelled_errors()
    std = np.asarray(random_prediction(7).forces_std)[atoms, None] / EV_PER_KCAL_PER_MOL
    expected = 0.1 * np.abs(energy).mean() - 1.5 * stats.norm.logpdf(forces, 0, std).mean()
    assert losses.mean_variance(random_prediction(7), batch_of(ALL), 0.1, 1.5) == pytest.approx(expected, rel=1e-12)


def test_mean_variance_of_a_tiny_std_is_that_of_the_smallest_variance() -> None:
    energy, forces, _ = labelled_errors()
    tiny = random_prediction(7)._replace(forces_std=jnp.full(NUM_NODES, 1e-7))
    expected = 0.1 * np.abs(energy).mean() - stats.norm.logpdf(forces, 0, np.sqrt(losses.MIN_VARIANCE)).mean()
    assert losses.mean_variance(tiny, batch_of(ALL), 0.1, 1.0) == pytest.approx(expected, rel=1e-12)


def test_a_batch_without_labels_has_no_loss() -> None:
    """The last structure has a stress only, which is not used."""
    prediction, batch = random_prediction(2), batch_of(np.array([5]))
    assert losses.absolute_error(prediction, batch, 0.1, 2.0) == 0
    assert losses.mean_variance(prediction, batch, 0.1, 2.0) == 0
    assert losses.evidential(prediction, evidence(), batch, 0.1, 1.0, 0.2) == 0


def test_mean_variance_of_the_code_takes_norms() -> None:
    energy, forces, atoms = labelled_errors()
    std = np.asarray(random_prediction(7).forces_std)[atoms] / EV_PER_KCAL_PER_MOL
    expected = 0.1 * np.abs(energy).mean() - stats.norm.logpdf(np.linalg.norm(forces, axis=1), 0, std).mean()
    assert losses.mean_variance(random_prediction(7), batch_of(ALL), 0.1, 1.0, "code") == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_evidential_is_a_student_t_and_a_regulariser(variant) -> None:
    energy, forces, atoms = labelled_errors()
    nu, alpha, beta = (np.asarray(value)[atoms, None] for value in evidence())
    beta = beta / EV_PER_KCAL_PER_MOL**2
    error = forces if variant == "paper" else np.linalg.norm(forces, axis=1, keepdims=True)
    likelihood = -stats.t.logpdf(error, df=2 * alpha, scale=np.sqrt(beta * (1 + nu) / (nu * alpha)))
    total = (likelihood + 0.2 * np.abs(error) * (2 * nu + alpha)).mean()
    found = losses.evidential(random_prediction(7), evidence(), batch_of(ALL), 0.1, 1.0, 0.2, variant)
    assert found == pytest.approx(0.1 * np.abs(energy).mean() + total, rel=1e-10)


def test_likelihood_is_the_mean_over_real_structures() -> None:
    expected = -float(np.sum(log_likelihood(random_prediction(7), batch_of(ALL), 0.02))) / 6
    assert losses.negative_log_likelihood(random_prediction(7), batch_of(ALL), 0.02) == pytest.approx(
        expected, rel=1e-12
    )
    more_padding = batch_of(np.array([*ALL, -1, -1]))
    prediction = random_prediction(7)
    padded = prediction._replace(
        energy=jnp.concatenate([prediction.energy[:6], jnp.zeros(3)]),
        energy_std=jnp.concatenate([prediction.energy_std[:6], jnp.ones(3)]),
        stress=jnp.concatenate([prediction.stress[:6], jnp.zeros((3, 3, 3))]),
    )
    assert losses.negative_log_likelihood(padded, more_padding, 0.02) == pytest.approx(expected, rel=1e-12)


def test_gradients_are_finite_where_an_error_is_zero() -> None:
    """The norm of a zero error, and the padding, have no derivative of their root."""
    batch = batch_of(np.array([0]))
    exact = random_prediction(2)
    exact = exact._replace(forces=batch.labels.forces, energy=batch.labels.energy)

    def loss(forces, nu):
        values = evidence()._replace(nu=nu)
        return losses.evidential(exact._replace(forces=forces), values, batch, 0.1, 1.0, 0.2, "code")

    gradients = jax.grad(loss, (0, 1))(exact.forces, evidence().nu)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
