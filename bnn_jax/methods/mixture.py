"""Gaussian mixture on the features of the atoms: how unlike the training set each one is (Tan et al. 2023, 2.1)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.ensemble import absolute_loss, deterministic
from bnn_jax.methods.features import atom_features
from bnn_jax.methods.training import Task, fit_networks
from bnn_jax.model import nequip
from bnn_jax.types import InputError, Params, Potential, Prediction, PRNGKey

REGULARISER = 1e-6
"""Added to the covariances, relative to the mean variance of a feature: above the rounding of features in float32."""
MAX_ATOMS = 2_000
"""That the silhouette score looks at; it takes the square of their number."""


def potential(config: Config) -> Potential:
    """A network without stds whose atoms are ranked by minus their log likelihood under the mixture.

    Args:
        config: with the model's data-dependent fields and the number of components filled in.

    Reference: Tan et al. (2023), eq. 10 and 11.
    """
    network = deterministic(nequip(config.model))
    num_components, num_features = config.mixture.num_components, config.model.num_features

    def init(rng_key: PRNGKey, graph: Any) -> Params:
        mixture = {
            "log_weights": jnp.zeros(num_components),
            "means": jnp.zeros((num_components, num_features)),
            "precisions_cholesky": jnp.zeros((num_components, num_features, num_features)),
        }
        return {"network": network.init(rng_key, graph), "mixture": mixture}

    def apply(params: Params, graph: Any, *, rng_key: PRNGKey | None = None) -> Prediction:
        prediction = network.apply(params["network"], graph, rng_key=rng_key)
        assert prediction.features is not None
        return prediction._replace(
            energy_std=jnp.full_like(prediction.energy_std, jnp.nan),
            forces_std=jnp.full_like(prediction.forces_std, jnp.nan),
            score=negative_log_likelihood(params["mixture"], prediction.features),
        )

    return Potential(init, apply)


@jax.default_matmul_precision("float32")
def negative_log_likelihood(
    mixture: Mapping[str, Array], features: Float[Array, "atom feature"]
) -> Float[Array, " atom"]:
    """Of the features of atoms under a mixture of normals (Tan et al. 2023, eq. 11).

    Args:
        mixture: ``log_weights`` [component], ``means`` [component, feature] and ``precisions_cholesky`` [component,
            feature, feature] as scikit-learn has them.
        features: of the atoms.
    """
    cholesky = mixture["precisions_cholesky"]
    standard = jnp.einsum("akf,kfg->akg", features[:, None, :] - mixture["means"], cholesky)
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(cholesky, axis1=1, axis2=2)), axis=1)
    constant = 0.5 * features.shape[1] * jnp.log(2 * jnp.pi)
    log_densities = log_determinant - 0.5 * jnp.sum(standard**2, axis=2) - constant
    return -jax.nn.logsumexp(mixture["log_weights"] + log_densities, axis=1)


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    """Train one network on absolute errors, then fit a mixture to the features of the training atoms.

    Arguments and errors are those of :func:`bnn_jax.methods.training.fit_networks`.

    Raises:
        InputError: there are more components than training atoms, or what :func:`fit_networks` refuses.
    """
    num_atoms = int(train.num_atoms.sum())
    if config.mixture.num_components > num_atoms:
        raise InputError(
            f"mixture.num_components is {config.mixture.num_components} and the training set has {num_atoms} atoms;"
            " lower it."
        )
    trained = fit_networks(rng_key, train, valid, config, _task, **options)
    features = atom_features(trained, train)
    mixture = fit_mixture(features, config.mixture.num_components, config.mixture.max_components, trained.seed)
    found = dataclasses.replace(trained.config.mixture, num_components=int(mixture.n_components))
    dtype = jax.tree.leaves(trained.samples)[0].dtype
    arrays: dict[str, Any] = {
        "log_weights": np.log(np.asarray(mixture.weights_)),
        "means": mixture.means_,
        "precisions_cholesky": mixture.precisions_cholesky_,
    }
    samples = {
        "network": trained.samples,
        "mixture": {name: jnp.asarray(array[None], dtype) for name, array in arrays.items()},
    }
    return dataclasses.replace(trained, config=dataclasses.replace(trained.config, mixture=found), samples=samples)


def _task(config: Config) -> Task:
    network = nequip(config.model)
    return Task(network, absolute_loss(network, config))


def fit_mixture(
    features: Float[np.ndarray, "atom feature"], num_components: int, max_components: int, seed: int
) -> GaussianMixture:
    """Expectation maximisation from k-means, with full covariances.

    Args:
        features: of the training atoms.
        num_components: 0 takes the number, up to ``max_components``, with the largest sum of minus the Bayesian
            information criterion and the silhouette score, each scaled to the range from 0 to 1; the paper weighs the
            two by eye. One component has a silhouette of zero.
        max_components: of that choice.
        seed: of k-means.

    Reference: Tan et al. (2023), section 2.1 and figures S4 and S5.
    """
    regulariser = REGULARISER * float(features.var(axis=0).mean())

    def fitted(number: int) -> GaussianMixture:
        return GaussianMixture(number, reg_covar=regulariser, random_state=seed, max_iter=200).fit(features)

    if num_components:
        return fitted(num_components)
    mixtures = [fitted(number) for number in range(1, min(max_components, len(features) // 2) + 1)]
    chosen = np.random.default_rng(seed).permutation(len(features))[:MAX_ATOMS]
    labels = [mixture.predict(features[chosen]) for mixture in mixtures]
    silhouettes = [silhouette_score(features[chosen], each) if len(set(each)) > 1 else 0.0 for each in labels]
    merits = _scaled([-mixture.bic(features) for mixture in mixtures]) + _scaled(silhouettes)
    return mixtures[int(np.argmax(merits))]


def _scaled(values: Any) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return (values - values.min()) / (np.ptp(values) or 1.0)
