"""Whether predicted distributions are as wide as the errors: likelihoods, error densities and coverage."""

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, ndtr
from scipy.stats import norm

from bnn_jax.metrics._arrays import broadcast_float64


def gaussian_log_likelihood(
    mean: Float[np.ndarray, "*#element"],
    std: Float[np.ndarray, "*#element"],
    target: Float[np.ndarray, "*#element"],
) -> float:
    r"""Mean log likelihood (MLL) of scalar targets under one normal each.

    With the mean and the total standard deviation of a mixture, this is the likelihood of its moment-matched normal.

    Args:
        mean: predicted means.
        std: predicted standard deviations, same unit.
        target: reference values, same unit. A force is three elements.

    Returns:
        The mean over elements of :math:`\log N(t | \mu, \sigma^2)`, in nats. It depends on the unit u: in ``c * u``
        it is larger by ``log(c)``.

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, or a std is not positive.

    Reference:
        Rensmeyer et al. (2024), section 4.2.
    """
    mean, std, target = broadcast_float64(mean=mean, std=std, target=target)
    return float(norm.logpdf(target, mean, std).mean())


def mixture_log_likelihood(
    means: Float[np.ndarray, "sample *#element"],
    stds: Float[np.ndarray, "sample *#element"],
    targets: Float[np.ndarray, "*#element"],
) -> float:
    r"""Mean log likelihood (MLL) of scalar targets under the equal mixture of the samples' normals.

    .. math:: \frac{1}{n} \sum_i \log \frac{1}{K} \sum_{k=1}^{K} N(t_i | \mu_{ki}, \sigma_{ki}^2)

    Args:
        means: mean of each sample, with the sample axis first.
        stds: standard deviation of each sample, same unit.
        targets: reference values, without the sample axis. A force is three elements: give stds of one value an
            atom a last axis of length one.

    Returns:
        The mean over elements, in nats; larger by ``log(c)`` in a unit ``c`` times as large.

    Raises:
        ValueError: the numbers of samples or the shapes differ, a value is missing or not finite, or a std is not
            positive.

    Reference:
        Rensmeyer et al. (2024), sections 3.1 and 4.2.
    """
    means, stds, targets = broadcast_float64(means=means, stds=stds, targets=np.asarray(targets)[None])
    return float((logsumexp(norm.logpdf(targets, means, stds), axis=0) - np.log(len(means))).mean())


def relative_log_likelihood(errors: Float[np.ndarray, "*#element"], stds: Float[np.ndarray, "*#element"]) -> float:
    r"""Log likelihood on a scale from one std for all (0) to stds that know every error (1).

    .. math:: \frac{\sum_i \ell(e_i, \sigma_i) - \ell(e_i, s)}{\sum_i \ell(e_i, |e_i|) - \ell(e_i, s)}

    with :math:`\ell(e, \sigma) = \log N(e | 0, \sigma^2)` and s the root mean square error. Below zero one number for
    all would have been better.

    Args:
        errors: predictions minus references. Those that are exactly zero, which no std can know, are left out.
        stds: predicted standard deviations, same unit.

    Returns:
        Dimensionless, at most 1; NaN where all errors are of one size, which leaves nothing to know.

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, a std is not positive, or every error
            is zero.

    Reference:
        Kellner and Ceriotti (2024), doi:10.1088/2632-2153/ad594a, for the idea.
    """
    errors, stds = broadcast_float64(errors=errors, stds=stds)
    kept = errors != 0.0
    if not kept.any():
        raise ValueError("Every error is zero; are the references predictions?")
    errors, stds = errors[kept], stds[kept]
    constant, known = (norm.logpdf(errors, scale=scale).sum() for scale in (_rms(errors), np.abs(errors)))
    if np.ptp(np.abs(errors)) == 0.0:
        return float("nan")
    return float((norm.logpdf(errors, scale=stds).sum() - constant) / (known - constant))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def mean_squared_z_score(errors: Float[np.ndarray, "*#element"], stds: Float[np.ndarray, "*#element"]) -> float:
    """Mean of ``(errors / stds)**2``: one if the spreads are right on average, above one if overconfident.

    Args:
        errors: predictions minus references.
        stds: predicted standard deviations, same unit.

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, or a std is not positive.

    Reference:
        Pernot (2024), arXiv:2402.10043 (there ZMS).
    """
    errors, stds = broadcast_float64(errors=errors, stds=stds)
    return float(np.square(errors / stds).mean())


def ence(
    errors: Float[np.ndarray, "*#element"],
    stds: Float[np.ndarray, "*#element"],
    num_bins: int = 15,
) -> float:
    r"""Expected normalised calibration error over bins of elements with similar standard deviations.

    .. math:: \frac{1}{B} \sum_b |\mathrm{RMSE}_b - \mathrm{RMV}_b| / \mathrm{RMV}_b

    Args:
        errors: predictions minus references.
        stds: predicted standard deviations, same unit. RMV is the root of the mean predicted variance.
        num_bins: bins, of equal counts as nearly as possible; no more than there are elements.

    Returns:
        A dimensionless number, zero when each bin's errors are as large as predicted.

    Raises:
        ValueError: as for :func:`mean_squared_z_score`, or the number of bins does not suit the number of elements.

    Reference:
        Levi et al. (2022), Sensors 22, 5540.
    """
    errors, stds = (array.ravel() for array in broadcast_float64(errors=errors, stds=stds))
    if not 1 <= num_bins <= errors.size:
        raise ValueError(f"num_bins is {num_bins}; choose it between 1 and the number of elements, {errors.size}.")
    bins = np.array_split(np.argsort(stds, kind="stable"), num_bins)
    ratios = [np.sqrt(np.square(errors[index]).mean() / np.square(stds[index]).mean()) for index in bins]
    return float(np.abs(np.asarray(ratios) - 1.0).mean())


def average_cdf(
    points: Float[np.ndarray, " point"],
    stds: Float[np.ndarray, "*#element"],
    means: Float[np.ndarray, "*#element"] | float = 0.0,
) -> Float[np.ndarray, " point"]:
    """Predicted probability that an element, drawn at random, lies below each point.

    Args:
        points: where to evaluate, in the unit of the stds.
        stds: standard deviations of the predicted normals. Every entry weighs the same, so that a leading sample
            axis gives the equal mixture.
        means: their means.

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, or a std is not positive.
    """
    stds, means = (array.ravel() for array in broadcast_float64(stds=stds, means=means))
    reach = np.abs(means) + 8.3 * stds  # farther from zero, the CDF is 0 or 1 to rounding
    total = np.zeros(len(points))
    for block in np.array_split(np.argsort(reach), -(-stds.size // 512)):  # small enough for the processor's cache
        near = np.abs(points) <= reach[block[-1]]
        total[near] += ndtr((points[near, None] - means[block]) / stds[block]).sum(axis=1)
        total[~near & (points > 0.0)] += block.size
    return total / stds.size


def nece(
    errors: Float[np.ndarray, "*error"],
    stds: Float[np.ndarray, "*#element"],
    means: Float[np.ndarray, "*#element"] | float = 0.0,
    bin_width: float | None = None,
) -> float:
    r"""Normalised expected calibration error (NECE): observed against predicted density of the errors.

    .. math:: \sum_i \frac{f_i}{\delta} |f_i - e_i|

    The errors y fall into bins of width :math:`\delta` with edges at its multiples: a fraction :math:`f_i` of them
    into bin i, where the predicted distributions, averaged over elements and samples, expect :math:`e_i`. It
    estimates :math:`E_{p(y)} |p(y) - p_\mathrm{pred}(y)|`, a density: in a unit c times as large it is c times as
    large, so name the unit beside it (the paper's tables have kcal/mol/Angstrom). Empty bins weigh nothing, hence no
    range to choose.

    Args:
        errors: observed errors, prediction minus reference.
        stds: predicted standard deviations, same unit, with a leading sample axis for a mixture.
        means: predicted means of the errors: zero for one normal about its own mean; for a mixture
            ``mean - samples``, shape ``[sample, ...]``. (With ``errors=targets, means=means`` it compares the
            densities of the targets themselves.)
        bin_width: :math:`\delta`, same unit. The paper does not print its own. The default is Freedman and Diaconis'
            rule on the errors, 2 IQR / n^(1/3): it narrows with n slowly enough that counting noise vanishes too.
            Give one width to all when comparing models.

    Returns:
        The NECE, in one over the unit of the errors; NaN when the default width is zero (half of the errors equal).

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, or a std or the width is not
            positive.

    Reference:
        Rensmeyer et al. (2024), section 4.2 and figure 4.
    """
    (errors,) = broadcast_float64(errors=errors)
    try:
        np.broadcast_shapes(np.shape(stds), errors.shape)
    except ValueError as error:
        shapes = f"errors {errors.shape}, stds {np.shape(stds)}"
        raise ValueError(f"Shapes do not broadcast: {shapes}; give one std per error and sample.") from error
    if bin_width is None:
        bin_width = float(2.0 * np.subtract(*np.percentile(errors, [75, 25])) / np.cbrt(errors.size))
        if bin_width == 0.0:
            return float("nan")
    if not (np.isfinite(bin_width) and bin_width > 0.0):
        raise ValueError(f"bin_width is {bin_width}; give a positive width, in the unit of the errors.")
    bins, counts = np.unique(np.floor(errors / bin_width), return_counts=True)
    edges = np.union1d(bins, bins + 1.0)
    cdf = average_cdf(edges * bin_width, stds, means)
    expected = cdf[np.searchsorted(edges, bins + 1.0)] - cdf[np.searchsorted(edges, bins)]
    observed = counts / errors.size
    return float(np.sum(observed / bin_width * np.abs(observed - expected)))


def calibration_curve(
    mean: Float[np.ndarray, "*#element"],
    std: Float[np.ndarray, "*#element"],
    target: Float[np.ndarray, "*#element"],
    levels: Float[np.ndarray, " level"],
) -> Float[np.ndarray, " level"]:
    """Observed coverage of the central intervals of the predicted normals.

    Args:
        mean: predicted means.
        std: predicted standard deviations, same unit.
        target: reference values, same unit.
        levels: expected coverages, between zero and one.

    Returns:
        Fraction of the targets inside the interval of each level: below the level means overconfident.

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, a std is not positive, or a level
            is not a probability.

    Reference:
        Tran et al. (2020), doi:10.1088/2632-2153/ab7e1a; Tan et al. (2023), section 2.3.
    """
    mean, std, target = broadcast_float64(mean=mean, std=std, target=target)
    levels = np.asarray(levels, dtype=np.float64)
    if not np.all((levels >= 0.0) & (levels <= 1.0)):
        raise ValueError("A level lies outside the range from 0 to 1; give coverages as probabilities.")
    z_scores = np.sort((np.abs(mean - target) / std).ravel())
    return np.searchsorted(z_scores, norm.ppf(0.5 + levels / 2.0), side="right") / z_scores.size


def miscalibration_area(
    mean: Float[np.ndarray, "*#element"],
    std: Float[np.ndarray, "*#element"],
    target: Float[np.ndarray, "*#element"],
    num_levels: int = 100,
) -> float:
    """Area between the calibration curve and the diagonal: 0 is calibrated, 0.5 the worst.

    Args:
        mean: predicted means.
        std: predicted standard deviations, same unit.
        target: reference values, same unit.
        num_levels: equally spaced levels from zero to one; the curve is linear between them.

    Raises:
        ValueError: as for :func:`calibration_curve`, or there are fewer than two levels.

    Reference:
        Tran et al. (2020), doi:10.1088/2632-2153/ab7e1a; as uncertainty-toolbox's ``miscalibration_area``.
    """
    if num_levels < 2:
        raise ValueError(f"num_levels is {num_levels}; the area needs at least 2.")
    levels = np.linspace(0.0, 1.0, num_levels)
    gap = calibration_curve(mean, std, target, levels) - levels
    left, right = gap[:-1], gap[1:]
    total = np.abs(left) + np.abs(right)
    # Where the curve crosses the diagonal the two triangles add up instead of cancelling.
    crossing = (np.square(left) + np.square(right)) / np.where(total > 0.0, total, 1.0)
    return float(np.sum(np.where(left * right < 0.0, crossing, total)) / (2 * (num_levels - 1)))
