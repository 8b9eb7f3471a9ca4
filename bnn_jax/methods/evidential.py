"""Deep evidential regression of forces: one network and its evidence (Amini et al. 2020; Tan et al. 2023)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.training import Task, fit_networks
from bnn_jax.model import MLP, draw, nequip
from bnn_jax.training import losses
from bnn_jax.training.losses import MIN_EVIDENCE, Evidence
from bnn_jax.types import Batch, Params, Potential, Prediction, PRNGKey


def _head(config: Config) -> MLP:
    return MLP((*config.model.std_hidden, 3), use_bias=True, zero_last=True)


def _evidence(head: Mapping[str, Any], features: Float[Array, "atom feature"] | None, config: Config) -> Evidence:
    """Parameters of the evidential distribution, in units of the scale: softplus of a network of the features."""
    outputs: Any = _head(config).apply({"params": head}, features)
    nu, alpha, beta = jax.nn.softplus(outputs.T) + MIN_EVIDENCE
    return Evidence(nu, alpha + 1, config.model.scale**2 * beta)


def _with_head(network: Potential, config: Config) -> Potential:
    """The initial weights of both."""

    def init(rng_key: PRNGKey, graph: Any) -> Params:
        features = jnp.zeros((1, config.model.num_features))
        head = draw(_head(config), jax.random.fold_in(rng_key, 1), features)
        return {"network": network.init(rng_key, graph), "evidence": head}

    return Potential(init, network.apply)


def potential(config: Config) -> Potential:
    r"""The network with both parts of the std of its forces; of the error of its energies it says nothing.

    .. math:: \sigma_\mathrm{aleatoric}^2 = \frac{\beta}{\alpha - 1}, \qquad
              \sigma_\mathrm{epistemic}^2 = \frac{\beta}{\nu (\alpha - 1)}

    Atoms are ranked by the epistemic part.

    Args:
        config: with the model's data-dependent fields filled in.

    Reference: Tan et al. (2023), eq. 8, 9 and section 2.4.
    """
    network = nequip(config.model)

    def apply(params: Params, graph: Any, *, rng_key: PRNGKey | None = None) -> Prediction:
        prediction = network.apply(params["network"], graph, rng_key=rng_key)
        nu, alpha, beta = _evidence(params["evidence"], prediction.features, config)
        epistemic = jnp.sqrt(beta / (nu * (alpha - 1)))
        return prediction._replace(
            energy_std=jnp.full_like(prediction.energy_std, jnp.nan),
            forces_std=jnp.sqrt(beta / (alpha - 1)),
            forces_std_epistemic=jnp.broadcast_to(epistemic[:, None], prediction.forces.shape),
            score=epistemic,
        )

    return Potential(_with_head(network, config).init, apply)


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    """Train one network on absolute errors of energies and evidence about forces (Tan et al. 2023, SI eq. 5 to 9).

    Arguments and errors are those of :func:`bnn_jax.methods.training.fit_networks`.
    """
    return fit_networks(rng_key, train, valid, config, _task, **options)


def _task(config: Config) -> Task:
    network, settings = nequip(config.model), config.evidential
    weights = config.trainer.energy_weight, config.trainer.forces_weight, settings.regulariser

    def loss_fn(params: Params, batch: Batch, rng_key: PRNGKey | None) -> tuple[Any, Prediction]:
        prediction = network.apply(params["network"], batch.graph, rng_key=rng_key)
        evidence = _evidence(params["evidence"], prediction.features, config)
        return losses.evidential(prediction, evidence, batch, *weights, settings.variant), prediction

    return Task(_with_head(network, config), loss_fn)
