"""Prior, likelihood and the minibatch gradient of their product; receives ``apply`` and knows no network."""

from bnn_jax.posterior.gradient import LogDensity, log_density_estimator, value_and_grad_estimator
from bnn_jax.posterior.likelihood import log_likelihood
from bnn_jax.posterior.prior import normal_log_prior

__all__ = ["LogDensity", "log_density_estimator", "log_likelihood", "normal_log_prior", "value_and_grad_estimator"]
