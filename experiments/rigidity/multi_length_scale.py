"""Short-range and long-range features of molecules: SOAP and LODE power spectra, the latter with its range separated.

LODE expands, around each atom, the potential 1 / r^p of all atoms of a periodic system. *Range-separated*, the atoms
within the short-range cutoff of the centre, and the centre itself, are left out of it. The expansion is linear in the
atoms, so that it is enough to subtract the expansion of a system of those atoms alone, in the same box.

Reference: Grisafi and Ceriotti (2019), doi:10.1063/1.5128375; Huguenin-Dumittan et al. (2023),
doi:10.1021/acs.jpclett.3c02375; Chong et al. (2024), section 5.2.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any

import ase
import numpy as np
from jaxtyping import Float

from bnn_jax import InputError

Array = np.ndarray

CUTOFF = 2.8
"""Å; of SOAP, of the radial basis of LODE, and of what is near when the range is separated."""
NUM_RADIAL, L_MAX = 4, 3
SOAP_WIDTH, SMOOTHING = 0.3, 0.25
"""Å."""
LODE_WIDTH = 1.2
"""Å."""
ELEMENTS = (1, 8)
FOURIER_ACCURACY, REAL_ACCURACY = 1e-8, 1e-4
"""Of the splines of the radial integrals; those in real space are slow to make."""
NUM_SHORT, NUM_LONG = 384, 512
"""Features: (3 pairs of elements) 4 x 4 radial, 4 angular, 2 elements of the centre; and (2 x 4)^2 x 4 x 2."""

Expansion = list[Float[Array, "atom component channel"]]
"""Coefficients by angular momentum; channels are elements of the neighbours, then radial functions."""


def check_installed() -> None:
    """Refuse to begin without featomic.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("featomic") is None:
        raise InputError("featomic, which computes the features, is not installed; pip install 'bnn_jax[experiments]'.")


def short_range(systems: Sequence[ase.Atoms]) -> Float[Array, "structure feature"]:
    """SOAP power spectra, means over the atoms of each structure."""
    import featomic

    calculator = featomic.SoapPowerSpectrum(
        cutoff={"radius": CUTOFF, "smoothing": {"type": "ShiftedCosine", "width": SMOOTHING}},
        density={"type": "Gaussian", "width": SOAP_WIDTH},
        basis={
            "type": "TensorProduct",
            "max_angular": L_MAX,
            "radial": {"type": "Gto", "max_radial": NUM_RADIAL - 1},
        },
    )
    names = ["neighbor_1_type", "neighbor_2_type", "center_type"]
    spectra = calculator.compute(list(systems)).keys_to_properties(names).block()
    return means(np.asarray(spectra.values), systems)


def long_range(expansion: Expansion, systems: Sequence[ase.Atoms]) -> Float[Array, "structure feature"]:
    """Power spectra of an expansion, with weights of their own for each element of the centre; means over atoms."""
    of_atoms = np.concatenate(
        [np.einsum("amc,amd->acd", each, each).reshape(len(each), -1) / np.sqrt(each.shape[1]) for each in expansion],
        axis=1,
    )
    numbers = np.concatenate([system.numbers for system in systems])
    by_element = [np.where((numbers == element)[:, None], of_atoms, 0.0) for element in ELEMENTS]
    return means(np.concatenate(by_element, axis=1), systems)


def means(of_atoms: Float[Array, "atom feature"], systems: Sequence[ase.Atoms]) -> Float[Array, "structure feature"]:
    """Means over the atoms of each structure."""
    return np.array([each.mean(axis=0) for each in np.split(of_atoms, _starts(systems)[1:])])


def lode(systems: Sequence[ase.Atoms], exponent: int) -> Expansion:
    """Expansion of the potential of all atoms, by a sum in reciprocal space.

    Args:
        systems: in periodic boxes.
        exponent: p of the potential 1 / r^p; up to 3 its mean over the box is left out, as it must be.
    """
    return _dense(_fourier(exponent).compute(list(systems)), systems)


def range_separated_lode(systems: Sequence[ase.Atoms], exponent: int) -> Expansion:
    """Expansion of the potential of the atoms beyond :data:`CUTOFF` of each centre, and of their periodic images.

    Arguments are those of :func:`lode`; the near atoms must be nearest as they are written, not as images.
    """
    from metatensor import Labels

    near, centres = [], []
    for system in systems:
        for distances in system.get_all_distances():
            chosen = np.flatnonzero(distances < CUTOFF)
            centres.append([len(near), int(np.flatnonzero(chosen == np.argmin(distances))[0])])
            near.append(system[chosen])
    of_near = _fourier(exponent).compute(near, selected_samples=Labels(["system", "atom"], np.array(centres)))
    every = lode(systems, exponent)
    # One sample of each system of near atoms, which are in the order of the centres.
    return [all_atoms - subtracted for all_atoms, subtracted in zip(every, _dense(of_near, near, 1), strict=True)]


def approximately_separated_lode(systems: Sequence[ase.Atoms], exponent: int) -> Expansion:
    """The same by subtraction of integrals in real space, as in the published code.

    The periodic images of the near atoms, and what the sums in reciprocal space lack, are left in.
    """
    near = _dense(_real(exponent).compute(list(systems)), systems)
    return [all_atoms - subtracted for all_atoms, subtracted in zip(lode(systems, exponent), near, strict=True)]


def _starts(systems: Sequence[ase.Atoms]) -> Array:
    return np.cumsum([0, *(len(system) for system in systems[:-1])])


def _dense(found: Any, systems: Sequence[ase.Atoms], rows_each: int | None = None) -> Expansion:
    """Coefficients by angular momentum, zero where a structure lacks an element.

    Args:
        found: by featomic.
        systems: of which.
        rows_each: samples of each system; all atoms if None.
    """
    num_rows = rows_each * len(systems) if rows_each else sum(len(system) for system in systems)
    expansion = [np.zeros((num_rows, 2 * degree + 1, len(ELEMENTS) * NUM_RADIAL)) for degree in range(L_MAX + 1)]
    for key, block in found.items():
        system, atom = np.asarray(block.samples["system"]), np.asarray(block.samples["atom"])
        rows = system if rows_each else _starts(systems)[system] + atom
        first = NUM_RADIAL * ELEMENTS.index(int(key["neighbor_type"]))
        expansion[int(key["o3_lambda"])][rows, :, first : first + NUM_RADIAL] = np.asarray(block.values)
    return expansion


def _radial_basis(accuracy: float) -> Any:
    """Monomials, for which the potential of far atoms needs the fewest functions."""
    from featomic import basis

    of_degree = {
        degree: basis.Monomials(radius=CUTOFF, angular_channel=degree, max_radial=NUM_RADIAL - 1)
        for degree in range(L_MAX + 1)
    }
    return basis.Explicit(by_angular=of_degree, spline_accuracy=accuracy)


@cache
def _fourier(exponent: int) -> Any:
    import featomic

    density = featomic.density.SmearedPowerLaw(smearing=LODE_WIDTH, exponent=exponent)
    spliner = featomic.splines.LodeSpliner(basis=_radial_basis(FOURIER_ACCURACY), density=density)
    return featomic.LodeSphericalExpansion(**spliner.get_hypers())


@cache
def _real(exponent: int) -> Any:
    import featomic

    spliner = featomic.splines.SoapSpliner(
        cutoff=featomic.cutoff.Cutoff(radius=CUTOFF, smoothing=None),
        basis=_radial_basis(REAL_ACCURACY),
        density=featomic.density.SmearedPowerLaw(smearing=LODE_WIDTH, exponent=exponent),
    )
    return featomic.SphericalExpansion(**spliner.get_hypers())
