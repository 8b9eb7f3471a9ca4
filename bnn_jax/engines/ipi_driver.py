"""A driver for i-PI (version 3.3 or newer), in whose process it runs or from which it is called by a socket.

In i-PI's input, with the path of this file (``python -m bnn_jax.engines.path ipi`` prints it)::

    <ffdirect name='posterior' pbc='false'>
      <pes> custom </pes>
      <pes_path> .../bnn_jax/engines/ipi_driver.py </pes_path>
      <parameters> { run: runs/first, template: start.xyz } </parameters>
    </ffdirect>

or ``i-pi-driver-py -m custom -P .../ipi_driver.py -o runs/first,start.xyz``. Every sample is a member of a committee:
``committee_pot``, ``committee_force`` and ``committee_virial``, nested by member, in Hartree and Bohr, go along as
extras, for ``<ffcommittee>`` with its error bars, baselines and reweighting. In batched mode all replicas or beads are
one call.
"""

import json
from typing import Any

import ase
import ase.io
import numpy as np
from ipi.pes.dummy import Dummy_driver  # pyright: ignore[reportMissingImports]  (not installed by the package itself)

from bnn_jax.following import Following
from bnn_jax.methods import load_predictor
from bnn_jax.predict import GrowingSizes, Predictor
from bnn_jax.types import Predictive
from bnn_jax.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

__DRIVER_NAME__ = "bnn_jax"
__DRIVER_CLASS__ = "PosteriorDriver"


class PosteriorDriver(Dummy_driver):
    """What i-PI asks for forces.

    Args:
        run: run folder, posterior file or exported file; a posterior or predictor from Python.
        template: a file of ASE's formats with the atoms in i-PI's order; says which directions are periodic.
    """

    def __init__(self, run: Any, template: str, *args: Any, **kwargs: Any):
        self.run, self.template = run, template
        super().__init__(*args, **kwargs)

    def check_parameters(self) -> None:
        """Read both."""
        is_named = isinstance(self.run, str)
        self.predictor: Predictor = load_predictor(self.run) if is_named else self.run.predictor
        self.atoms: ase.Atoms = ase.io.read(self.template, index=0)  # pyright: ignore[reportAttributeAccessIssue]
        self.following, self.sizes = Following(self.predictor), GrowingSizes()

    def compute_structure(self, cell: np.ndarray, pos: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, str]:
        """Energy, forces, virial and extras of one structure, in atomic units.

        Args:
            cell: lattice vectors as columns, in Bohr.
            pos: positions [atom, 3] in Bohr.
        """
        atoms = self._atoms(cell, pos)
        return _in_atomic_units(self.following(atoms), atoms)

    def compute(self, cell: Any, pos: Any) -> Any:
        """The same; of lists of structures, a list, from one call.

        Args:
            cell: one or a list.
            pos: one or a list.
        """
        if not isinstance(cell, list):
            return self.compute_structure(cell, pos)
        many = [self._atoms(*each) for each in zip(cell, pos, strict=True)]
        predictive = self.predictor.predict(many, self.sizes)
        return [_in_atomic_units(predictive.take(np.array([i])), atoms) for i, atoms in enumerate(many)]

    def _atoms(self, cell: np.ndarray, pos: np.ndarray) -> ase.Atoms:
        positions = np.asarray(pos).reshape(-1, 3) * ANGSTROM_PER_BOHR
        atoms = ase.Atoms(self.atoms.numbers, positions, cell=self.atoms.cell, pbc=self.atoms.pbc)
        if atoms.pbc.any():
            atoms.set_cell(np.asarray(cell).reshape(3, 3).T * ANGSTROM_PER_BOHR)
        return atoms


def _in_atomic_units(predictive: Predictive, atoms: ase.Atoms) -> tuple[float, np.ndarray, np.ndarray, str]:
    """A structure's energy, forces, virial (minus stress times volume) and committee."""
    per_length, num_samples = ANGSTROM_PER_BOHR / EV_PER_HARTREE, len(predictive.energy_samples)
    virials = np.zeros((num_samples, 3, 3))
    if predictive.stress_samples is not None and atoms.cell.rank == 3:
        virials = -predictive.stress_samples[:, 0] * atoms.get_volume() / EV_PER_HARTREE
    extras = {
        "committee_pot": (predictive.energy_samples[:, 0] / EV_PER_HARTREE).tolist(),
        "committee_force": (predictive.forces_samples * per_length).reshape(num_samples, -1).tolist(),
        "committee_virial": virials.reshape(num_samples, 9).tolist(),
    }
    energy, forces = float(predictive.energy[0] / EV_PER_HARTREE), predictive.forces * per_length
    return energy, forces, virials.mean(axis=0), json.dumps(extras)
