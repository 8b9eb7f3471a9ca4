"""Features that a linear potential is made of: SOAP power spectra, each element of the symmetric ones once."""

from collections.abc import Sequence
from typing import NamedTuple

import ase
import numpy as np
from jaxtyping import Float, Int

from bnn_jax.types import InputError


class Basis(NamedTuple):
    """Of the expansion of the neighbours' density."""

    cutoff: float
    """In Angstrom."""
    num_radial: int = 6
    """Gaussian-type orbitals."""
    max_angular: int = 4
    density_width: float = 0.4
    """Of the Gaussian that stands for a neighbour, in Angstrom."""
    smoothing_width: float = 0.5
    """Over which the cut-off function falls to zero, in Angstrom."""


class AtomFeatures(NamedTuple):
    """Power spectra of the atoms of some structures, of all structures one after another."""

    values: Float[np.ndarray, "atom feature"]
    """Zero where a feature belongs to another species than the atom's."""
    num_atoms: Int[np.ndarray, " structure"]

    def means(self) -> Float[np.ndarray, "structure feature"]:
        """Mean over the atoms of each structure: derivative of the energy per atom by the weights."""
        firsts = np.concatenate([[0], np.cumsum(self.num_atoms)[:-1]])
        return np.add.reduceat(self.values, firsts) / self.num_atoms[:, None]


def atom_features(frames: Sequence[ase.Atoms], basis: Basis, species: Sequence[int]) -> AtomFeatures:
    """Power spectra of all atoms; the energy of an atom is linear in them.

    Where both neighbours are of one species, those of radial channels (a, b) and (b, a) are equal; one is left out and
    the other multiplied by the root of two, which leaves all scalar products as they are.

    Args:
        frames: the structures.
        basis: of the expansion.
        species: atomic numbers that there may be, which say which features there are.

    Raises:
        InputError: featomic is not installed.
    """
    try:
        import metatensor  # comes with featomic
        from featomic import SoapPowerSpectrum
    except ImportError as error:
        raise InputError("featomic is not installed; install the extra: pip install 'bnn_jax[experiments]'.") from error
    calculator = SoapPowerSpectrum(
        cutoff={"radius": basis.cutoff, "smoothing": {"type": "ShiftedCosine", "width": basis.smoothing_width}},
        density={"type": "Gaussian", "width": basis.density_width},
        basis={
            "type": "TensorProduct",
            "max_angular": basis.max_angular,
            "radial": {"type": "Gto", "max_radial": basis.num_radial - 1},
        },
    )
    numbers = sorted(species)
    names = ["center_type", "neighbor_1_type", "neighbor_2_type"]
    triples = np.array([(i, j, k) for i in numbers for j in numbers for k in numbers if j <= k], np.int32)
    spectrum = calculator.compute(list(frames), selected_keys=metatensor.Labels(names, triples))
    num_atoms = np.array([len(frame) for frame in frames])
    firsts = np.cumsum(num_atoms) - num_atoms
    columns = []
    for key, block in spectrum.items():
        channels = block.properties.values
        is_kept, factor = np.ones(len(channels), bool), np.ones(len(channels))
        if key["neighbor_1_type"] == key["neighbor_2_type"]:
            is_kept = channels[:, 1] <= channels[:, 2]
            factor = np.where(channels[:, 1] < channels[:, 2], np.sqrt(2), 1.0)
        values = np.zeros((num_atoms.sum(), is_kept.sum()))
        values[firsts[block.samples["system"]] + block.samples["atom"]] = (block.values * factor)[:, is_kept]
        columns.append(values)
    return AtomFeatures(np.hstack(columns), num_atoms)
