"""A picture of the atoms of one structure coloured by their local prediction rigidity."""

import ase
import numpy as np
from ase.data import covalent_radii
from ase.visualize.plot import plot_atoms
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from bnn_jax.report._figure import new_figure

ROTATION = "-80x,20y,10z"


def coloured_atoms(atoms: ase.Atoms, rigidities: Float[np.ndarray, " atom"]) -> Figure:
    """Atoms as discs, dark where the training set holds their energy least.

    Args:
        atoms: the structure.
        rigidities: of its atoms' energies, in 1/eV^2, positive; infinite ones have the colour of the largest.

    Reference: Chong et al. (2024), figure 9.
    """
    figure, (axes,) = new_figure(6.4, 5.6)
    finite = rigidities[np.isfinite(rigidities) & (rigidities > 0)]
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 1.0)
    norm = LogNorm(low, max(high, low * 1.001))
    colours = colormaps["cividis"](norm(np.clip(rigidities, low, high)))
    plot_atoms(atoms, axes, radii=0.6 * covalent_radii[atoms.numbers], colors=colours, rotation=ROTATION)
    axes.grid(False)
    axes.set_axis_off()
    figure.colorbar(ScalarMappable(norm, "cividis"), ax=axes, label="Local prediction rigidity (1/eV²)", shrink=0.8)
    return figure
