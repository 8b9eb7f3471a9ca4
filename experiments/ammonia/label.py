"""Makes the built-in ammonia set: ``pip install 'bnn_jax[dft]'``, then ``python experiments/ammonia/label.py``.

The README beside this file says what the set is; a killed run resumes from the labels in the cache.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses
from ase.io import iread, write
from ase.optimize import BFGS
from dft import LEVEL, Labeller
from geometries import Frame, fill_bins, hessian, modes, must, pyramid, umbrella_path
from tqdm import tqdm

from bnn_jax.units import EV_PER_KCAL_PER_MOL

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SYMBOLS = ["N", "H", "H", "H"]
MASSES = atomic_masses[[7, 1, 1, 1]]
NUM_TRAIN, TRAIN_TOP = 78, 5.0 * EV_PER_KCAL_PER_MOL
NUM_TEST_BINS, PER_TEST_BIN = 100, 2
NUM_IMAGES = 21


class _Oracle(Calculator):
    """The labeller as an ASE calculator, for the optimiser."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's own attribute)

    def __init__(self, labeller: Labeller) -> None:
        super().__init__()
        self.labeller = labeller  # "label" means a file name to ASE

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces = must(self.labeller, atoms.positions)
        self.results = {"energy": energy, "forces": forces}


def optimise(label: Labeller) -> Atoms:
    """The minimum, to 1 meV/Angstrom, from a pyramid of C3v symmetry."""
    atoms = Atoms(SYMBOLS, pyramid(1.02, np.radians(112.0), MASSES), calculator=_Oracle(label))
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=50)
    atoms.positions = np.round(atoms.positions, 8)
    return atoms


def labelled_atoms(frame: Frame, energy_min: float, **info: float) -> Atoms:
    """An ASE structure that carries the label of a frame; ``relative_energy`` is in eV above the minimum."""
    positions, energy, forces = frame
    atoms = Atoms(SYMBOLS, np.asarray(positions) + 0.0)
    atoms.info |= {"relative_energy": round(energy - energy_min, 8)} | info
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.asarray(forces) + 0.0)
    return atoms


def compare(label: Labeller, published: Path) -> dict[str, float] | None:
    """Relabel every 16th frame of the published training set; None where it is absent."""
    if not published.exists():
        print(f"{published} is absent: the labels are not compared with the published set.")
        return None
    frames = list(iread(published, "::16"))
    results = [must(label, atoms.positions) for atoms in frames]
    shifts = [result[0] - atoms.get_potential_energy() for result, atoms in zip(results, frames, strict=True)]
    errors = [result[1] - atoms.get_forces() for result, atoms in zip(results, frames, strict=True)]
    figures = {
        "frames": len(frames),
        "energy_difference_std_mev": round(1e3 * float(np.std(shifts, ddof=1)), 3),
        "forces_rms_mev_per_angstrom": round(1e3 * float(np.sqrt(np.mean(np.square(errors)))), 3),
    }
    print("Against the published set:", figures)
    return figures


def make(label: Labeller, seed: int) -> tuple[dict[str, list[Atoms]], dict[str, object]]:
    """The three files' structures and what the provenance says of them."""
    atoms = optimise(label)
    minimum, energy_min = atoms.positions, atoms.get_potential_energy()
    wavenumbers, vectors = modes(hessian(label, minimum), MASSES)
    bonds = minimum[1:] - minimum[0]
    length = np.linalg.norm(bonds, axis=1).mean()
    angle = np.arccos((bonds[:, 2] / np.linalg.norm(bonds, axis=1)).mean())
    angle = max(angle, np.pi - angle)
    path = umbrella_path(label, angle, length, MASSES, NUM_IMAGES)
    sets = {"path": [labelled_atoms(frame, energy_min, umbrella_angle=round(a, 6)) for a, frame in path]}
    jobs = (("train", TRAIN_TOP / NUM_TRAIN, NUM_TRAIN, 1), ("test", EV_PER_KCAL_PER_MOL, NUM_TEST_BINS, PER_TEST_BIN))
    for stream, (name, width, num_bins, per_bin) in enumerate(jobs):
        frames = fill_bins(
            label,
            minimum,
            vectors,
            width=width,
            num_bins=num_bins,
            per_bin=per_bin,
            rng=np.random.default_rng([seed, stream]),
        )
        found = sorted(tqdm(frames, name, num_bins * per_bin), key=lambda item: (item[0], item[1][1]))
        sets[name] = [labelled_atoms(frame, energy_min, bin=index) for index, frame in found]
    facts = {
        "energy_min_ev": energy_min,
        "positions_min_angstrom": minimum.tolist(),
        "wavenumbers_per_cm": [round(float(w), 1) for w in wavenumbers],
        "inversion_barrier_mev": round(1e3 * (path[NUM_IMAGES // 2][1][1] - energy_min), 2),
    }
    return sets, facts


def main() -> None:
    """Label, write the files and their provenance, and print the comparison."""
    data = Path(os.environ.get("BNN_JAX_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=2023)
    parser.add_argument("--out", type=Path, default=ROOT / "bnn_jax" / "atoms" / "builtin")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache" / "labels.jsonl")
    arguments = parser.parse_args()

    label = Labeller(SYMBOLS, arguments.cache)
    comparison = compare(label, data / "ammonia" / "train.xyz.gz")
    sets, facts = make(label, arguments.seed)
    files = {}
    for name, structures in sets.items():
        path = arguments.out / f"ammonia_{name}.xyz"
        write(path, structures, format="extxyz")
        files[path.name] = {"frames": len(structures), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    provenance = {
        "level": LEVEL,
        "versions": {name: importlib.metadata.version(name) for name in ("pyscf", "pyscf-dispersion", "ase", "numpy")},
        "command": f"python experiments/ammonia/label.py --seed {arguments.seed}",
        "date": datetime.date.today().isoformat(),
        "units": {"energy": "eV", "forces": "eV/Angstrom", "positions": "Angstrom"},
        **facts,
        "failed_scf": label.failed,
        "comparison_with_published": comparison,
        "files": files,
    }
    (arguments.out / "ammonia.json").write_text(json.dumps(provenance, indent=2) + "\n")
    print(f"{label.num_computed} labels computed, {len(label.failed)} did not converge; files in {arguments.out}.")


if __name__ == "__main__":
    main()
