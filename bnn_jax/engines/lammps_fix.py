"""Forces of a posterior in LAMMPS, through its Python module and ``fix external``; one process, ``units metal``.

A script in Python holds the run: LAMMPS moves the atoms, at every step calls back for energy, forces and virial, and
gets the stds as a per-atom vector for its dumps::

    lmp = lammps.lammps()
    lmp.file("in.start")                                  # units metal; the atoms, with pair_style zero
    attach(lmp, posterior, elements=("H", "N"))           # of LAMMPS's atom types 1, 2, ...
    lmp.command("dump 1 all custom 100 md.dump id type x y z fx fy fz d_forces_std")
    lmp.command("fix move all nve")
    lmp.command("run 1000")
"""

from collections.abc import Sequence
from typing import Any

import ase
import ase.data
import numpy as np

from bnn_jax.following import Following
from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.types import InputError

FIX = "bnn_jax"
STDS = "forces_std"
"""Of the per-atom vector ``d_forces_std``: the largest std of each atom's force components, in eV/Angstrom."""


def attach(lmp: Any, posterior: Posterior | Predictor, elements: Sequence[str]) -> Following:
    """Let a posterior move the atoms of LAMMPS: its mean energy, forces and virial, and its stds as ``d_forces_std``.

    Args:
        lmp: of LAMMPS's Python module, with the atoms in it, in one process.
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        elements: chemical symbols of atom types 1, 2 and so on.

    Returns:
        What predicts; ``posterior`` and the object must live as long as LAMMPS runs.

    Raises:
        InputError: there are several processes, the units are not ``metal``, or types have no element.
    """
    predictor = posterior.predictor
    if lmp.extract_setting("world_size") != 1:
        raise InputError("LAMMPS runs in several processes; fix external with all atoms needs one.")
    if (style := lmp.extract_global("units")) != "metal":
        raise InputError(f"LAMMPS has units {style}; take units metal, which are eV and Angstrom.")
    num_types = lmp.extract_setting("ntypes")
    if len(elements) != num_types or any(name not in ase.data.atomic_numbers for name in elements):
        raise InputError(f"elements are {list(elements)}; name the chemical symbols of the {num_types} atom types.")
    numbers = np.array([0, *(ase.data.atomic_numbers[name] for name in elements)])
    following = Following(predictor)
    lmp.command(f"fix {FIX}_stds all property/atom d_{STDS}")
    lmp.command(f"fix {FIX} all external pf/callback 1 1")
    lmp.command(f"fix_modify {FIX} energy yes virial yes")

    def callback(
        lmp: Any, _step: int, num_local: int, tags: np.ndarray, positions: np.ndarray, forces: np.ndarray
    ) -> None:
        order = np.argsort(tags[:num_local])
        types = lmp.numpy.extract_atom("type")[:num_local]
        cell, pbc = _box(lmp)
        atoms = ase.Atoms(numbers[types[order]], positions[:num_local][order], cell=cell, pbc=pbc)
        predictive = following(atoms)
        forces[order] = predictive.forces
        lmp.numpy.extract_atom(f"d_{STDS}")[order] = predictive.forces_std.max(axis=1)
        lmp.fix_external_set_energy_global(FIX, float(predictive.energy[0]))
        if predictive.stress is not None and pbc.all():
            virial = -predictive.stress[0] * atoms.get_volume()
            lmp.fix_external_set_virial_global(
                FIX, [virial[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
            )

    lmp.set_fix_external_callback(FIX, callback, lmp)
    return following


def _box(lmp: Any) -> tuple[np.ndarray, np.ndarray]:
    """Lattice vectors as rows in Angstrom, and which are periods."""
    low, high, xy, yz, xz, periods, _ = lmp.extract_box()
    lengths = np.subtract(high, low)
    cell = np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])
    pbc = np.array(periods, bool)
    return np.where(pbc.any(), cell, 0.0), pbc
