"""Draws of a posterior go to ArviZ by name and chain, whose diagnostics are ours."""

import numpy as np
import pytest
import systems
from posteriors import random_posterior

from bnn_jax.evaluation import convergence_of

arviz = pytest.importorskip("arviz")


def test_arviz_has_the_same_rhat():
    data = systems.labelled_series(systems.water(), 6)
    posterior = random_posterior(data, num_samples=8, num_chains=2)
    found = arviz.from_dict(posterior=posterior.draws(data))
    assert found.posterior["energy"].shape == (2, 8, 6) and found.posterior["forces"].shape == (2, 8, 18, 3)
    ours = convergence_of(posterior.predict(data), 2, posterior.statistics.labels)["rhat"]
    theirs = arviz.rhat(found, method="rank")
    of_forces = theirs["forces"].to_numpy().reshape(-1)
    theirs = np.concatenate([theirs["energy"].to_numpy(), of_forces])
    # The distances of an even number of draws from their median come in ties, which single precision breaks.
    assert np.mean(np.isclose(ours, theirs, rtol=1e-4)) > 0.7
    np.testing.assert_allclose(ours, theirs, rtol=0.05)
