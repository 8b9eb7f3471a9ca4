r"""How sure a loop may be that no force is wrong by more than is allowed, from the errors that its labels have shown.

Stds of an active learner are not calibrated on what it meets next. An unknown factor c corrects them all: errors are
normal with standard deviation :math:`c \sigma`, and what is known of c is an inverse gamma distribution of its square,

.. math:: c^2 \sim \mathrm{InvGamma}(a, b), \qquad a \to a + 1 / 2, \quad b \to b + z^2 / 2

after a label whose error is z stds. The error of one component is then Student's t with 2a degrees of freedom and scale
:math:`\sigma \sqrt{b / a}`. All components of a structure share one c, so that the probability that none exceeds the
allowed error is the mean over c of a product.

Reference: Rensmeyer et al. (2026), the criterion of their on-the-fly learning, whose code starts at a = 1.5, b = 10: a
factor of some 2.6 until labels say otherwise.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr
from scipy.stats import invgamma

NUM_NODES = 200
"""Quantiles of the distribution of c that are averaged over."""


class Factor(NamedTuple):
    """What is known of the square of the factor on stds: an inverse gamma distribution."""

    shape: float = 1.5
    """a."""
    rate: float = 10.0
    """b."""

    @property
    def scale(self) -> float:
        """Of Student's t, in stds: the factor that errors are taken to have."""
        return float(np.sqrt(self.rate / self.shape))

    def updated(self, errors: Float[np.ndarray, " component"], stds: Float[np.ndarray, " component"]) -> "Factor":
        """After a label.

        The components of a structure depend on one another; together they count as one observation, of their mean
        square.

        Args:
            errors: of the forces of one structure, in eV/Angstrom.
            stds: that were predicted of them.
        """
        return Factor(self.shape + 0.5, self.rate + 0.5 * float(np.mean((errors / stds) ** 2)))

    def confidence(self, stds: Float[np.ndarray, " component"], allowed: float) -> float:
        """Probability that no error of a structure's components is larger than allowed.

        Args:
            stds: of the components, in eV/Angstrom; one that is not a number makes the confidence zero.
            allowed: in eV/Angstrom.
        """
        if not np.isfinite(stds).all():
            return 0.0
        factors = np.sqrt(invgamma.ppf((np.arange(NUM_NODES) + 0.5) / NUM_NODES, self.shape, scale=self.rate))
        with np.errstate(divide="ignore"):
            inside = 2 * ndtr(allowed / (factors[:, None] * np.maximum(stds.reshape(-1), 1e-300))) - 1
        return float(np.mean(np.prod(inside, axis=1)))
