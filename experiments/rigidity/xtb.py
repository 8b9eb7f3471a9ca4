"""Energies by GFN2-xTB (Bannwarth et al. 2019, doi:10.1021/acs.jctc.8b01176), the oracle of the experiments here."""

import importlib.util
import os
from collections.abc import Sequence

# Molecules this small lose time to threads; the choice must precede the library.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import ase
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from bnn_jax import InputError


def check_installed() -> None:
    """Refuse to begin without tblite.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("tblite") is None:
        raise InputError("tblite, which labels the structures, is not installed; pip install 'bnn_jax[experiments]'.")


def energies(structures: Sequence[ase.Atoms], electronic_temperature: float) -> Float[np.ndarray, " structure"]:
    """Total energies in eV, of singlets, without a box; the electronic free energy where the temperature is above zero.

    Args:
        structures: whose boxes, if any, are not looked at.
        electronic_temperature: in K.
    """
    from tblite.ase import TBLite

    calculator = TBLite(method="GFN2-xTB", electronic_temperature=electronic_temperature, verbosity=0)
    found = []
    for structure in tqdm(structures, desc="GFN2-xTB", unit="structure", delay=5, disable=None):
        free = ase.Atoms(structure.numbers, structure.positions)
        found.append(calculator.get_potential_energy(free))
    return np.array(found)
