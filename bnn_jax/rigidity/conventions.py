"""What the sections of the paper, by their published code, take for the loss, the regulariser and what is judged.

The text leaves this open, and no two sections agree; the regularisers are in the units of each section's features.
"""

from typing import NamedTuple

import numpy as np

from bnn_jax.rigidity.loss import SquareLoss


class Convention(NamedTuple):
    """Of one section."""

    loss: SquareLoss
    """Whose Hessian is taken; ``per_atom`` says whether rows of energies are means over atoms."""
    zeta: float
    """Absolute: its square is added to the diagonal."""
    per_atom: bool
    """Whether the energies that are judged are means over atoms; those of single atoms are what they are."""


CONVENTIONS = {
    "3": Convention(SquareLoss(energy=1.0), 5e-6, per_atom=False),
    "3, MACE": Convention(SquareLoss(energy=1.0, per_atom=True), 5e-6, per_atom=False),
    "4.1": Convention(SquareLoss(energy=1.0), float(np.sqrt(1e-5)), per_atom=False),
    "4.2": Convention(SquareLoss(energy=1.0, per_atom=True), float(np.sqrt(1e-5)), per_atom=False),
    "5.1": Convention(SquareLoss(energy=1.0, per_atom=True), float(np.sqrt(1e-3)), per_atom=True),
    "5.2": Convention(SquareLoss(energy=1.0, per_atom=True), float(np.sqrt(1e-11)), per_atom=True),
    "6": Convention(SquareLoss(energy=0.0, forces=1.0), 5e-6, per_atom=True),
}
"""By section of Chong et al. (2024); section 3 is that of PaiNN and SOAP-BPNN, whose rows are sums over atoms."""
