"""``bnn-jax predict``: structures in, the same with energies, forces and standard deviations out."""

import io
import os
from pathlib import Path

import ase
import ase.io
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.sources import load
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.cli.commands import Predict
from bnn_jax.methods import load_predictor
from bnn_jax.report import beyond_note
from bnn_jax.types import InputError, Predictive


def run(command: Predict) -> None:
    """Predict and write.

    Raises:
        InputError: the run or the structures cannot be used, or OUT exists or cannot be written.
    """
    out = checked_output(command.out, command.overwrite)
    predictor = load_predictor(command.run)
    structures = load(command.structures, use_labels=False)
    predictive = predictor.predict(structures)
    frames = predicted_structures(structures, predictive)
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    write_text_atomic(out, text.getvalue())
    print(f"{out}: {len(frames)} structures, {predictor.num_samples} samples; energies in eV, forces in eV/Angstrom.")
    beyond = predictive.structures_beyond_validated
    if beyond is not None and (note := beyond_note(int(beyond.sum()), len(beyond))):
        print(note)


def checked_output(name: str, overwrite: bool) -> Path:
    """The file to write, before any work.

    Raises:
        InputError: it is a folder or in none, or exists and is not to be replaced.
    """
    out = Path(name)
    if os.path.isdir(out):
        raise InputError(f"{out} is a folder; name a file.")
    if os.path.exists(out) and not overwrite:
        raise InputError(f"{out} exists already; give --overwrite to replace it, or choose another name.")
    if not os.path.isdir(out.parent):
        raise InputError(f"There is no folder {out.parent} to write {out.name} into; make it or choose another.")
    return out


def predicted_structures(structures: Dataset, predictive: Predictive) -> list[ase.Atoms]:
    """Structures with the predicted means as results and the standard deviations in ``info`` and ``arrays``.

    Args:
        structures: what was predicted; their labels are left out.
        predictive: of these structures.
    """
    return [_predicted_structure(structures, predictive, i) for i in range(len(structures))]


def _predicted_structure(structures: Dataset, predictive: Predictive, i: int) -> ase.Atoms:
    rows = slice(structures.offsets[i], structures.offsets[i + 1])
    atoms = ase.Atoms(
        structures.numbers[rows], structures.positions[rows], cell=structures.cell[i], pbc=structures.pbc[i]
    )
    results = {"energy": float(predictive.energy[i]), "forces": predictive.forces[rows]}
    if predictive.stress is not None and atoms.cell.rank == 3:
        results["stress"] = full_3x3_to_voigt_6_stress(predictive.stress[i])
    atoms.calc = SinglePointCalculator(atoms, **results)
    for name in ("energy_std", "energy_std_aleatoric", "energy_std_epistemic", "energy_half_width"):
        if (values := getattr(predictive, name)) is not None:
            atoms.info[name] = float(values[i])
    for name in (
        "forces_std",
        "forces_std_aleatoric",
        "forces_std_epistemic",
        "forces_half_width",
        "score",
        "beyond_validated",
    ):
        if (values := getattr(predictive, name)) is not None:
            atoms.set_array(name, values[rows])
    return atoms
