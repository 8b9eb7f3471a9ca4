"""Phonon dispersion of every sample, by phonopy's supercells, all of which are predicted in one call."""

import importlib
from typing import Any, NamedTuple

import ase
import numpy as np
from jaxtyping import Float

from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.properties.propagate import Propagated, collected
from bnn_jax.types import InputError


class Dispersion(NamedTuple):
    """Frequencies along a path of wave vectors."""

    distances: Float[np.ndarray, " point"]
    """Along the path, in 1/Angstrom."""
    frequencies: Propagated
    """[point, band] in THz, ascending; imaginary ones are negative."""
    labels: tuple[tuple[float, str], ...]
    """Distances of the special points, and their names."""
    points: Float[np.ndarray, "point 3"]
    """Wave vectors, in units of the reciprocal lattice of ``atoms``."""


def phonons(
    posterior: Posterior | Predictor,
    atoms: ase.Atoms,
    supercell: tuple[int, int, int] = (3, 3, 3),
    path: str | None = None,
    num_points: int = 100,
    displacement: float = 0.02,
) -> Dispersion:
    """The dispersion at the lattice and places of atoms that are given, of every sample.

    Relax them with the mean force first (:func:`relax`). What forces a sample still has there are taken off.

    Args:
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        atoms: a primitive cell, periodic in three directions.
        supercell: repeats of it; its width should be twice the reach of the forces.
        path: special points such as ``GXWGL``, as ASE names them; the lattice's usual path if None.
        num_points: along the path.
        displacement: of an atom, in Angstrom.

    Raises:
        InputError: phonopy is not installed, or the structure is not periodic in three directions.
    """
    if not atoms.pbc.all():
        raise InputError("Phonons are of crystals; molecules have bnn_jax.properties.frequencies.")
    phonon = _phonopy(atoms, supercell)
    phonon.generate_displacements(distance=displacement)
    perfect, displaced = _ase_of(phonon.supercell), [_ase_of(each) for each in phonon.supercells_with_displacements]
    forces = posterior.predict([perfect, *displaced]).forces_samples
    forces = np.asarray(forces, np.float64).reshape(len(forces), 1 + len(displaced), len(perfect), 3)
    forces = forces[:, 1:] - forces[:, :1]
    band = atoms.cell.bandpath(path, npoints=num_points)
    distances, places, names = band.get_linear_kpoint_axis()
    draws = []
    for of_sample in forces:
        phonon.forces = of_sample
        phonon.produce_force_constants()
        phonon.symmetrize_force_constants()
        phonon.run_qpoints(band.kpts)
        draws.append(np.sort(phonon.qpoints.frequencies, axis=1))
    labels = tuple((float(place), str(name)) for place, name in zip(places, names, strict=True))
    return Dispersion(distances, collected(np.stack(draws)), labels, band.kpts)


def _phonopy(atoms: ase.Atoms, supercell: tuple[int, int, int]) -> Any:
    try:
        phonopy, structure = (importlib.import_module(name) for name in ("phonopy", "phonopy.structure.atoms"))
    except ImportError as error:
        raise InputError("Phonons need phonopy; pip install 'bnn_jax[phonons]'.") from error
    cell = structure.PhonopyAtoms(
        numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions()
    )
    return phonopy.Phonopy(cell, supercell_matrix=np.diag(supercell), primitive_matrix=np.eye(3))


def _ase_of(cell: Any) -> ase.Atoms:
    return ase.Atoms(cell.symbols, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True)
