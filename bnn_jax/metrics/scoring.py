"""Proper scores in the unit of the targets, of normals and their mixtures: for numbers, and for whole force vectors."""

import numpy as np
from jaxtyping import Float
from scipy.special import erf

from bnn_jax.metrics._arrays import broadcast_float64


def gaussian_crps(
    mean: Float[np.ndarray, "*#element"],
    std: Float[np.ndarray, "*#element"],
    target: Float[np.ndarray, "*#element"],
) -> float:
    r"""Mean continuous ranked probability score (CRPS) of scalar targets under one normal each.

    .. math:: \int (F(y) - 1\{y \ge t\})^2 dy = E|Y - t| - \frac{1}{2} E|Y - Y'|

    with Y and Y' drawn from the predicted distribution F. Smaller is better, and best on average if the prediction is
    the truth. It forgives one wild error more than the log likelihood does, and becomes the absolute error as the std
    goes to zero.

    Args:
        mean: predicted means.
        std: predicted standard deviations, same unit.
        target: reference values, same unit. A force is three elements.

    Returns:
        The mean over elements, in the unit of the arguments.

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, or a std is not positive.

    Reference:
        Gneiting et al. (2005), doi:10.1175/MWR2904.1, eq. 5.
    """
    mean, std, target = broadcast_float64(mean=mean, std=std, target=target)
    return float((_expected_size(mean - target, std) - std / np.sqrt(np.pi)).mean())


def mixture_crps(
    means: Float[np.ndarray, "sample *#element"],
    stds: Float[np.ndarray, "sample *#element"],
    targets: Float[np.ndarray, "*#element"],
) -> float:
    r"""Mean CRPS of scalar targets under the equal mixture of the samples' normals.

    .. math:: \frac{1}{K} \sum_k A(t - \mu_k, \sigma_k^2)
        - \frac{1}{2 K^2} \sum_{k, l} A(\mu_k - \mu_l, \sigma_k^2 + \sigma_l^2)

    where :math:`A(\mu, \sigma^2)` is the mean of :math:`|N(\mu, \sigma^2)|`. The time grows with the square of the
    number of samples.

    Args:
        means: mean of each sample, with the sample axis first.
        stds: standard deviation of each sample, same unit.
        targets: reference values, without the sample axis. A force is three elements: give stds of one value an
            atom a last axis of length one.

    Returns:
        The mean over elements, in the unit of the arguments.

    Raises:
        ValueError: the numbers of samples or the shapes differ, a value is missing or not finite, or a std is not
            positive.

    Reference:
        Grimit et al. (2006), doi:10.1256/qj.05.235, eq. 5.
    """
    means, stds, targets = broadcast_float64(means=means, stds=stds, targets=np.asarray(targets)[None])
    num_samples = len(means)
    to_target = _expected_size(means - targets, stds).mean(axis=0)
    between = stds.sum(axis=0) / np.sqrt(np.pi)  # half of the pairs of a sample with itself
    for k in range(num_samples - 1):  # all pairs at once would not fit into memory
        shift, width = means[k + 1 :] - means[k], np.hypot(stds[k + 1 :], stds[k])
        between += _expected_size(shift, width).sum(axis=0)
    return float((to_target - between / num_samples**2).mean())


def mixture_energy_score(
    means: Float[np.ndarray, "sample atom 3"],
    stds: Float[np.ndarray, "sample atom"],
    targets: Float[np.ndarray, "atom 3"],
) -> float:
    r"""Mean energy score of vectors under the equal mixture of the samples' isotropic normals.

    .. math:: E\|Y - t\| - \tfrac{1}{2} E\|Y - Y'\|

    with Y and Y' drawn from the mixture: the CRPS of vectors, which sees whether their components are right together.
    For :math:`Y \sim N(\mu, \sigma^2 I)` in three dimensions, with :math:`m = \|\mu\|`,

    .. math:: E\|Y\| = \sigma \sqrt{2 / \pi}\, e^{-m^2 / 2 \sigma^2}
        + \left(m + \sigma^2 / m\right) \operatorname{erf}(m / \sqrt{2} \sigma)

    Args:
        means: mean of each sample, with the sample axis first.
        stds: one standard deviation of each sample and atom for its three components, same unit.
        targets: reference vectors.

    Returns:
        The mean over atoms, in the unit of the arguments: one number a vector, not a component.

    Raises:
        ValueError: the numbers of samples or the shapes differ, a value is missing or not finite, or a std is not
            positive.

    Reference:
        Gneiting and Raftery (2007), doi:10.1198/016214506000001437, section 4.3.
    """
    means, stds, targets = broadcast_float64(
        means=means, stds=np.asarray(stds)[..., None], targets=np.asarray(targets)[None]
    )
    num_samples, stds = len(means), stds[..., 0]
    to_target = _expected_length(means - targets, stds).mean(axis=0)
    between = _expected_length(np.zeros_like(means), np.sqrt(2.0) * stds).sum(axis=0) / 2.0
    for k in range(num_samples - 1):  # all pairs at once would not fit into memory
        between += _expected_length(means[k + 1 :] - means[k], np.hypot(stds[k + 1 :], stds[k])).sum(axis=0)
    return float((to_target - between / num_samples**2).mean())


def _expected_length(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """E|Y| of an isotropic normal Y in three dimensions."""
    ratio = np.linalg.norm(mean, axis=-1) / std
    gaussian = np.sqrt(2.0 / np.pi) * np.exp(-0.5 * np.square(ratio))
    # erf(x / sqrt 2) / x, whose limit at zero is sqrt(2 / pi).
    safe = np.maximum(ratio, 1e-8)
    quotient = np.where(ratio > 1e-8, erf(safe / np.sqrt(2.0)) / safe, np.sqrt(2.0 / np.pi))
    return std * (gaussian + (np.square(ratio) + 1.0) * quotient)


def _expected_size(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """E|Y| of a normal Y."""
    z_score = mean / std
    return std * np.sqrt(2.0 / np.pi) * np.exp(-0.5 * np.square(z_score)) + mean * erf(z_score / np.sqrt(2.0))
